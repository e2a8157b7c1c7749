"""Masks from saliency seeds against masks that are known: mean IoU for each kind of seed.

    apt-get install tuxpaint-stamps-default
    python -m benchmarks.segment [MODEL.onnx] [--stamps /usr/share/tuxpaint/stamps] [--limit N]
        [--method vanilla gradcam occlusion] [--way grabcut random-walker] [--json FILE]

The pictures are stamps of Tux Paint (photos cut out by hand, GPL-2) laid over the bundled photos,
at a size and place that the stamp's number gives: a stamp's alpha, at half, is the object's mask.
Those are taken whose name is a class of ImageNet; that class is explained, whatever the model's
own first guess is ("known": the share of pictures where it is that). "seeds": the
pixels that start as the object, by themselves. "all": the whole picture. Default: the bundled
SqueezeNet. IoU of boxes is given beside that of masks.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from backlight.engine.cli.options import BUNDLED, PHOTOS
from backlight.engine.masked.segmentation import METHODS, Segment
from backlight.engine.photos import images

STAMPS = Path("/usr/share/tuxpaint/stamps")
# Under its animals/ and the like -> the class's first name.
KNOWN = {
    "animals/birds/drake": "drake", "animals/birds/hen": "hen", "animals/birds/magpie": "magpie",
    "animals/birds/ostrich": "ostrich", "animals/birds/peacock": "peacock",
    "animals/birds/pelican": "pelican", "animals/birds/tucan": "toucan",
    "animals/birds/vulture": "vulture", "animals/fish/lionfish": "lionfish",
    "animals/insects/fly": "fly", "animals/insects/grasshopper": "grasshopper",
    "animals/insects/mantis": "mantis", "animals/lizards/iguana": "common iguana",
    "animals/mammals/apes/chimp": "chimpanzee", "animals/mammals/apes/gorilla": "gorilla",
    "animals/mammals/aquatic/orca": "killer whale", "animals/mammals/aquatic/otter": "otter",
    "animals/mammals/aquatic/sea_lion": "sea lion", "animals/mammals/badger": "badger",
    "animals/mammals/bovines/bison": "bison", "animals/mammals/bovines/ram": "ram",
    "animals/mammals/camel/dromedary": "Arabian camel", "animals/mammals/cats/lion": "lion",
    "animals/mammals/cats/lion-2": "lion", "animals/mammals/cats/tiger": "tiger",
    "animals/mammals/dogs/dingo": "dingo", "animals/mammals/equines/zebra": "zebra",
    "animals/mammals/ferret": "black-footed ferret", "animals/mammals/pig": "hog",
    "animals/mammals/hippopotamus": "hippopotamus", "animals/mammals/rodents/beaver": "beaver",
    "animals/mammals/rodents/marmot": "marmot", "animals/marsupials/koala": "koala",
    "animals/marsupials/wombat": "wombat", "food/pizza": "pizza",
    "food/vegetables/broccoli": "broccoli", "food/vegetables/corn": "corn",
    "hobbies/music/string/violin": "violin", "sports/basketball": "basketball",
    "sports/soccer": "soccer ball", "vehicles/emergency/firetruck": "fire engine",
    "vehicles/flight/balloon360": "balloon",
}  # fmt: skip
# A stamp's longer side, in parts of the picture's.
LEAST, MOST = 0.45, 0.75


def composed(
    stamp: Image.Image, photo: Image.Image, number: int
) -> tuple[Image.Image, np.ndarray[Any, np.dtype[np.bool_]]]:
    """A stamp somewhere on a photo, and where it is: Boolean [H, W]."""
    rng = np.random.default_rng(number)
    wide, tall = photo.size
    factor = min(wide, tall) * rng.uniform(LEAST, MOST) / max(stamp.size)
    size = tuple(max(round(s * factor), 1) for s in stamp.size)
    small = stamp.convert("RGBA").resize(size, Image.Resampling.LANCZOS)
    # Within what a centre crop to a square keeps.
    side = min(wide, tall)
    left = (wide - side) // 2 + int(rng.integers(side - size[0] + 1))
    top = (tall - side) // 2 + int(rng.integers(side - size[1] + 1))
    alpha = small.getchannel("A")
    made = photo.convert("RGB")
    made.paste(small.convert("RGB"), (left, top), alpha)
    inside = np.zeros((tall, wide), bool)
    inside[top : top + size[1], left : left + size[0]] = np.asarray(alpha) > 127
    return made, inside


def squared(image: Image.Image, size: tuple[int, int], filter_: Any) -> Image.Image:
    """The centre square at the model's size."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.resize(size[::-1], filter_, (left, top, left + side, top + side))


def pictures(stamps: Path, size: tuple[int, int], limit: int | None) -> list[tuple[str, Any, Any]]:
    """For each stamp its class, the picture uint8 [H, W, 3] and the mask Boolean [H, W]."""
    found = []
    backs = [images.opened(p) for p in sorted(PHOTOS.glob("*.jpg"))]
    for number, (name, label) in enumerate(list(KNOWN.items())[:limit]):
        with Image.open(stamps / f"{name}.png") as stamp:
            made, inside = composed(stamp, backs[number % len(backs)], number)
        mask = squared(Image.fromarray(inside), size, Image.Resampling.NEAREST)
        picture = squared(made, size, Image.Resampling.BICUBIC)
        found.append((label, np.asarray(picture), np.asarray(mask)))
    return found


def overlap(one: Any, other: Any) -> float:
    """Intersection over union of two masks."""
    union = int((one | other).sum())
    return float((one & other).sum() / union) if union else 0.0


def boxed(mask: Any) -> Any:
    """The bounds of a mask, filled."""
    made = np.zeros_like(mask)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows):
        made[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return made


def measure(model: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each method and way."""
    rows: list[dict[str, Any]] = []
    shown: list[tuple[str, Any, Any]] = []
    for method in args.method:
        for way in args.way:
            segment = Segment(model, method=method, way=way, preprocess=args.preprocess,
                              threads=args.threads)  # fmt: skip
            record = segment.record
            assert record is not None and record.size is not None
            labels = [text.split(",")[0] for text in segment.labels or ()]
            if not shown:
                shown = pictures(args.stamps, record.size, args.limit)
            masks, boxes, seeds, known = [], [], [], 0
            for label, picture, want in shown:
                x = images.to_tensor(picture, record, segment.input)[None]
                number = labels.index(label)
                found = segment(x, number)
                assert found.probabilities is not None
                known += int(found.probabilities[0].argmax() == number)
                masks.append(overlap(found.mask[0], want))
                boxes.append(overlap(boxed(found.mask[0]), boxed(want)))
                seeds.append(overlap(found.seeds[0] > 0, want))
            row = {
                "model": Path(model).stem, "method": method, "way": way, "pictures": len(shown),
                "known": known / len(shown), "iou": float(np.mean(masks)),
                "median": float(np.median(masks)), "box": float(np.mean(boxes)),
                "seeds": float(np.mean(seeds)),
                "all": float(np.mean([want.mean() for _, _, want in shown])),
            }  # fmt: skip
            rows.append(row)
            line = "".join(f"{row[k]:9.3f}" for k in ("iou", "median", "box", "seeds", "all"))
            print(f"{method:<12}{way:<16}{line}{row['known']:9.2f}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default=str(BUNDLED))
    parser.add_argument("--stamps", type=Path, default=STAMPS)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--method", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--way", nargs="+", default=["grabcut", "random-walker"])
    parser.add_argument("--preprocess")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    missing = [n for n in list(KNOWN)[: args.limit] if not (args.stamps / f"{n}.png").is_file()]
    if missing:
        sys.exit(f"{args.stamps}: no {missing[0]}.png; apt-get install tuxpaint-stamps-default, "
                 "or --stamps")  # fmt: skip
    columns = ("IoU", "median", "box", "seeds", "all", "known")
    print(f"{'seeds':<12}{'way':<16}" + "".join(f"{name:>9}" for name in columns))
    rows = measure(args.model, args)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
