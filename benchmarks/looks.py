"""What concepts, cem and graph take beside the runs of the model that they can't do without.

    pip install '.[bench]'
    python -m benchmarks.looks [NAME …] [--only concepts cem graph] [--photos 24] [--steps 50]
                               [--seconds 10] [--json FILE]

Everything in one process and in turn, two threads, 224x224, random weights and pictures. concepts:
three sets of images, five random parts, scikit-learn's SGD, beside the forward passes of all images
and the walks of the class's, and captum's TCAV. cem: both kinds of four photos, one round without
an early stop, beside as many explaining passes. graph: two layers of 20 filters, beside the
forward passes of the photos. Figures are medians. A peer that is not installed, or fails, is left
out and says why.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from backlight.engine.classifier.ready import Ready
from backlight.engine.inside.concepts import Concepts
from backlight.engine.inside.explanatory import ExplanatoryGraph
from backlight.engine.runtime.session import Session
from backlight.engine.targeted.cem import Cem
from backlight.export.saliency import explain_graph

from .peers import LAYERS, Run, built, keep, measured, said, spread

RESULTS = Path(__file__).resolve().parent / "results" / "looks.json"
NAMES = ("squeezenet1_1", "resnet50", "mobilenet_v2")
THREADS, SIZE, BATCH, RUNS, FEW = 2, 224, 8, 5, 4
FORWARD, WALK, TCAV = "forward", "explaining passes", "captum, TCAV"

Array = np.ndarray[Any, Any]


def in_batches(path: Path | str, x: Array, size: int, repeats: int = 1) -> Run:
    """A session's runs over a set of images."""
    session = Session(str(path), "cpu", THREADS)
    name = session.inputs[0].name
    parts = [x[at : at + size] for at in range(0, len(x), size)]
    return lambda: [session.run({name: part}) for _ in range(repeats) for part in parts]


def walking(path: Path, folder: Path) -> Path:
    """The model with the gradient of its top class."""
    made = folder / f"{path.stem}-vanilla.onnx"
    explain_graph(path, ("vanilla",), target_class="top1", lowering="cpu").save(made)
    return made


def captum_tcav(network: Any, layer: Any, sets: list[Array], folder: Path) -> Run:
    """captum's, with its own classifier, of the same sets. Raises ImportError."""
    import torch
    from captum.concept import TCAV, Concept

    name = next(n for n, module in network.named_modules() if module is layer)
    one, random, images = (torch.from_numpy(x) for x in sets)
    parts = [one, *torch.chunk(random, RUNS)]

    def run() -> Any:
        shutil.rmtree(folder / "cav", ignore_errors=True)  # it keeps what it has computed
        given = [
            Concept(at, f"c{at}", torch.utils.data.DataLoader(part, batch_size=BATCH))
            for at, part in enumerate(parts)
        ]
        tcav = TCAV(network, [name], save_path=str(folder / "cav"))
        pairs = [[given[0], other] for other in given[1:]]
        return tcav.interpret(images, pairs, target=0)

    return run


def concepts(
    name: str, network: Any, path: Path, folder: Path, given: argparse.Namespace
) -> dict[str, Run]:
    """A concept, random pictures and a class's images: ours, the model's own runs, captum."""
    rng = np.random.default_rng(0)
    sets = [rng.standard_normal((given.photos, 3, SIZE, SIZE)).astype(np.float32) for _ in range(3)]
    ours = Concepts(str(path), cav="sgd", runs=RUNS, providers="cpu", threads=THREADS, batch=BATCH)
    one, random, images = sets
    found: dict[str, Run] = {
        "concepts": lambda: ours(images, 0, concepts={"one": one}, random=random),
        FORWARD: in_batches(path, np.concatenate(sets), BATCH),
        WALK: in_batches(walking(path, folder), images, BATCH),
    }
    try:
        found[TCAV] = captum_tcav(network, LAYERS[name](network), sets, folder)
    except ImportError as err:
        print(f"without captum: {err}")
    return found


def cem(
    name: str, network: Any, path: Path, folder: Path, given: argparse.Namespace
) -> dict[str, Run]:
    """Both kinds of four photos, and as many walks."""
    x = np.random.default_rng(0).standard_normal((FEW, 3, SIZE, SIZE)).astype(np.float32)
    ours = Cem(
        str(path), on="blur", rounds=1, steps=given.steps, patience=given.steps,
        preprocess="imagenet-torch", providers="cpu", threads=THREADS,
    )  # fmt: skip
    return {
        "cem": lambda: ours(x),
        FORWARD: in_batches(path, x, FEW),
        WALK: in_batches(walking(path, folder), x, FEW, 2 * given.steps),
    }


def graph(
    name: str, network: Any, path: Path, folder: Path, given: argparse.Namespace
) -> dict[str, Run]:
    """Two layers over photos of noise."""
    photos = folder / "photos"
    photos.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for at in range(given.photos):
        coarse = rng.integers(0, 255, (14, 14, 3)).astype(np.uint8)
        Image.fromarray(coarse).resize((SIZE, SIZE)).save(photos / f"{at:03}.png")
    loaded = Ready(str(path)).loaded
    maps = [
        v.name
        for node in loaded.graph
        for v in node.outputs
        if node.op_type == "Relu" and v.shape is not None and len(v.shape) == 4
    ]
    made = ExplanatoryGraph(
        str(path),
        maps[-2:],
        preprocess="imagenet-torch",
        providers="cpu",
        threads=THREADS,
        batch=BATCH,
    )
    x = rng.standard_normal((given.photos, 3, SIZE, SIZE)).astype(np.float32)
    return {"graph": lambda: made(photos), FORWARD: in_batches(path, x, BATCH)}


PARTS: dict[str, Callable[..., dict[str, Run]]] = {"concepts": concepts, "cem": cem, "graph": graph}


def examined(name: str, given: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """A row for each part."""
    import torch

    from tests.networks import nets

    torch.set_num_threads(THREADS)
    network = built(name)
    path = folder / f"{name}.onnx"
    nets.export(network, nets.Net(name), "legacy", path)
    rows = []
    for part in given.only:
        times = spread(measured(PARTS[part](name, network, path, folder, given), given.seconds))
        middle = times["median_ms"]
        least = middle[FORWARD] + middle.get(WALK, 0) if part != "cem" else middle[WALK]
        ratios = {part: round(middle[part] / least, 2)}
        print(f"\n{name}, {part}, {times['runs']} runs", flush=True)
        for side, took in middle.items():
            print(f"  {side:24}{took:10.0f} ms", flush=True)
        print(f"  {part}: {ratios[part]} times the model's own runs", flush=True)
        if TCAV in middle:
            ratios[TCAV] = round(middle[TCAV] / middle[part], 2)
            print(f"  {TCAV}: {ratios[TCAV]} times ours", flush=True)
        rows.append({"network": f"{name}, {part}", "batch": BATCH, **times, "ratios": ratios,
                     "photos": given.photos, "steps": given.steps})  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--photos", type=int, default=24)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--json", type=Path, default=RESULTS)
    given = parser.parse_args()
    if unknown := sorted(set(given.names) - set(NAMES)):
        parser.error(f"unknown: {unknown[0]}; one of {', '.join(NAMES)}")
    found = said()
    with tempfile.TemporaryDirectory(prefix="backlight-") as folder:
        for name in given.names or NAMES:
            keep(given.json, examined(name, given, Path(folder)), found)


if __name__ == "__main__":
    main()
