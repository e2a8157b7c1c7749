"""Drill-down against the exact map: how near, and how much faster than dense occlusion.

    python -m benchmarks.drilldown [MODEL.onnx ...] [--share auto 0.3 ...] [--photos 5]
        [--score probability] [--window 16] [--stride 4] [--speed] [--json FILE]

On the bundled photos; default: the bundled SqueezeNet. share "auto": the
default, as each map needs. SSIM and the recall of the top 1% and 5% of pixels are of the heat map.
The exact map is method="incremental"; dense time is that of every 20th window, scaled up. Planning
and compiling come before the clock. "scored": of the windows, on average. "speed-up": of all photos
together; "estimated": the same by the cost model, from shapes and what was scored. The files of
benchmarks.fetch come with their preprocessing.
--speed: no exact map (for random weights, whose map means nothing).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from backlight.engine.cli.options import BUNDLED, PHOTOS
from backlight.engine.masked.occlusion import Occlusion
from backlight.engine.masked.scoring import Scorer
from backlight.engine.photos import images
from backlight.engine.pictures.likeness import ssim, top_overlap
from backlight.export.preprocess import Preprocess, from_json

from .fetch import SOURCES

KNOWN = {kept: s.preprocess for s in SOURCES.values() for kept in s.files.values() if s.preprocess}


def record_of(model: str, given: str | None) -> Preprocess | str | None:
    """The preprocessing: as given, or as benchmarks.fetch knows it of its files."""
    known = KNOWN.get(Path(model).name)
    return from_json(json.dumps(known), model) if known and given is None else given


def measure(model: str, args: argparse.Namespace) -> list[dict[str, object]]:
    scorer = Scorer(model, preprocess=record_of(model, args.preprocess), threads=args.threads)
    record = images.fitted(scorer.preprocess, scorer.input)
    settings = {"window": args.window, "stride": args.stride, "score": args.score}
    exact = Occlusion(scorer, method="incremental", **settings)
    near = {s: Occlusion(scorer, method="drilldown", share=s, **settings) for s in args.share}
    rows: list[dict[str, object]] = []
    for file in sorted(PHOTOS.glob("*.jpg"))[: args.photos]:
        x = images.prepare(images.decode(file), record, scorer.input).tensor[None]
        plan = exact.plan(scorer.plan_shape(x.shape[1:]))
        image = scorer.planar(x[0])
        base = scorer.baseline(image, "mean")
        few = plan.select(np.arange(0, len(plan), 20))
        list(scorer.variants(image, {}, few.select(np.arange(8)), base))
        start = time.perf_counter()
        list(scorer.variants(image, {}, few, base))
        dense = (time.perf_counter() - start) * len(plan) / len(few)
        want = None if args.speed else exact.measure(x).heat[0, 0]
        for share, occlude in near.items():
            if not rows or share not in [r["share"] for r in rows]:
                occlude._ways(plan, len(plan))  # plans and compiles
            start = time.perf_counter()
            found = occlude.measure(x)
            took = time.perf_counter() - start
            scored = float(found.scored.mean())
            row: dict[str, object] = {
                "model": Path(model).stem, "photo": file.stem, "share": share, "scored": scored,
                "method": found.choice.method,
                "seconds": took, "dense_seconds": dense, "speedup": dense / took,
                "estimated": (found.choice.speedup or 1.0) / scored,
            }  # fmt: skip
            if want is not None:
                heat = found.heat[0, 0]
                row |= {"ssim": ssim(heat, want), "top1": top_overlap(heat, want, 0.01),
                        "top5": top_overlap(heat, want, 0.05)}  # fmt: skip
            rows.append(row)
    return rows


def _share(text: str) -> float | None:
    return None if text == "auto" else float(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=[str(BUNDLED)])
    parser.add_argument("--share", type=_share, nargs="+", default=[None])
    parser.add_argument("--photos", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--preprocess")
    parser.add_argument("--score", default="probability")
    parser.add_argument("--window", type=int, default=16)
    parser.add_argument("--stride", type=int, default=4)
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    report = []
    columns = ("share", "scored", "speed-up", "estimated", "SSIM", "least", "top 1%", "top 5%")
    print(f"{'':16}" + "".join(f"{name:>10}" for name in columns))
    for model in args.models:
        rows = measure(model, args)
        report += rows
        for share in args.share:
            some = [r for r in rows if r["share"] == share]
            values = {k: [float(r[k]) for r in some if k in r] for k in  # type: ignore[arg-type]
                      ("scored", "speedup", "estimated", "ssim", "top1", "top5")}  # fmt: skip
            line = f"{Path(model).stem:16}{share or 'auto':>10}{np.mean(values['scored']):10.3f}"
            for k in ("speedup", "estimated"):  # of all photos together
                line += f"{1 / np.mean(1 / np.array(values[k])):10.1f}"
            if values["ssim"]:
                shown = (np.mean(values["ssim"]), min(values["ssim"]))
                shown += (np.mean(values["top1"]), np.mean(values["top5"]))
                line += "".join(f"{value:10.3f}" for value in shown)
            print(line, flush=True)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
