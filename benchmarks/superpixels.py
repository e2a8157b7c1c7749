"""LIME and KernelSHAP beside lime, shap and captum: the same segments, as many masks, one run.

    pip install '.[bench]'
    python -m benchmarks.superpixels [NAME …] [--masks 1000] [--classes 1 10] [--rounds 3]
        [--only lime shap captum]

Everything in one process and in turn, two threads, 224x224, random weights, 49 segments of a grid,
hidden by their mean colour, batches of 64. Each peer runs twice over: on PyTorch, as its
documentation has it, and on our own session, which leaves what it does besides running the model.
lime fits every class anew, captum runs all masks anew for each, shap and we do neither. "forward":
as many pictures through the model and no more, on both: what a peer takes over the forward on our
session ("bound") is the most that anybody who runs as many masks could be faster by. One photo;
figures are medians over rounds. A peer that is not installed, or fails, is left out and says why.
The whole table takes hours: it can be run in parts, by network, number of classes and peer, each
beside ours in one run; the JSON file collects them.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from backlight.engine.masked.attributed import segment_means
from backlight.engine.masked.kernelshap import KernelShap
from backlight.engine.masked.lime import Lime
from backlight.engine.masked.scoring import Scorer
from backlight.engine.masked.superpixels import as_superpixels

from .peers import Run, built, keep, said

RESULTS = Path(__file__).resolve().parent / "results" / "superpixels.json"
NAMES = ("squeezenet1_1", "resnet50", "mobilenet_v2")
THREADS, SIZE, ROWS, CELLS = 2, 224, 64, 7
PEERS = ("lime", "shap", "captum")
LEAST = 3.0  # times as fast as each peer
OURS = {"lime": "Backlight, Lime", "shap": "Backlight, KernelShap"}
# Runs of the model alone, by where.
FORWARD = {"PyTorch": "forward, PyTorch", "our session": "forward, our session"}

Array = np.ndarray[Any, Any]
Predict = Callable[[Array], Array]  # float32 [n, 3, H, W] -> probabilities [n, K]


def ours(scorer: Scorer, x: Array, labels: Array, masks: int, classes: list[int]) -> dict[str, Run]:
    """Both methods on one session."""
    lime = Lime(scorer, segments=labels, masks=masks)
    shap = KernelShap(scorer, segments=labels, masks=masks)
    return {
        OURS["lime"]: lambda: lime.measure(x, classes=classes),
        OURS["shap"]: lambda: shap.measure(x, classes=classes),
    }


def forward(predict: Predict, x: Array, masks: int) -> Run:
    """The model alone on as many pictures: what no method does without."""
    some = np.repeat(x, ROWS, axis=0)

    def run() -> Any:
        return [predict(some[: min(ROWS, masks - at)]) for at in range(0, masks, ROWS)]

    return run


def peers(
    predict: Predict, where: str, x: Array, labels: Array, masks: int, classes: list[int]
) -> dict[str, Run]:
    """The others on one way of running the model. where: its name."""
    found: dict[str, Run] = {}
    image = np.ascontiguousarray(x[0].transpose(1, 2, 0)).astype(np.float64)
    hidden = segment_means(x[0], labels, "nchw")
    segments = int(labels.max()) + 1
    try:
        from lime.lime_image import LimeImageExplainer

        def by_lime() -> Any:
            with contextlib.redirect_stderr(io.StringIO()):  # its bar
                return LimeImageExplainer(random_state=0).explain_instance(
                    image, lambda some: predict(np.stack(some).transpose(0, 3, 1, 2)),
                    labels=tuple(classes), top_labels=None, num_samples=masks, batch_size=ROWS,
                    segmentation_fn=lambda _: labels, random_seed=0,
                )  # fmt: skip

        found[f"lime, {where}"] = by_lime
    except ImportError as err:
        print(f"without lime: {err}")
    try:
        import shap

        def masked(rows: Array) -> Array:
            made = []
            for at in range(0, len(rows), ROWS):
                keep = rows[at : at + ROWS][:, labels][:, None] != 0
                made.append(predict(np.where(keep, x[0], hidden))[:, classes])
            return np.concatenate(made)

        def by_shap() -> Any:
            explainer = shap.KernelExplainer(masked, np.zeros((1, segments)))
            return explainer.shap_values(
                np.ones((1, segments)), nsamples=masks, l1_reg=False, silent=True
            )

        found[f"shap, {where}"] = by_shap
    except ImportError as err:
        print(f"without shap: {err}")
    try:
        import captum.attr
        import torch

        tensor, base = torch.from_numpy(x), torch.from_numpy(hidden[None])
        mask = torch.from_numpy(labels.astype(np.int64))[None, None]

        def run(rows: Any) -> Any:
            return torch.from_numpy(predict(rows.numpy()))

        for name in ("Lime", "KernelShap"):
            method = getattr(captum.attr, name)(run)
            found[f"captum {name}, {where}"] = lambda m=method: [
                m.attribute(
                    tensor, base, target=k, feature_mask=mask, n_samples=masks,
                    perturbations_per_eval=ROWS,
                )
                for k in classes
            ]  # fmt: skip
    except ImportError as err:
        print(f"without captum: {err}")
    return found


def measured(runs: dict[str, Run], rounds: int) -> dict[str, list[float]]:
    """Seconds of each side, turn by turn; the first round is free."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for turn in range(rounds + 1):
            for name in list(taken):
                start = time.perf_counter()
                try:
                    runs[name]()
                except Exception as err:  # a peer's failure is its own
                    print(f"without {name}: {' '.join(str(err).split())[:120]}")
                    del taken[name]
                    continue
                if turn:
                    taken[name].append(time.perf_counter() - start)
    return taken


def examined(
    name: str, masks: int, classes: list[int], rounds: int, only: list[str], folder: Path
) -> list[dict[str, Any]]:
    """A row for each number of classes."""
    import torch

    from tests.networks import nets

    torch.set_num_threads(THREADS)
    model = built(name)
    path = folder / f"{name}.onnx"
    nets.export(model, nets.Net(name), "legacy", path)
    scorer = Scorer(str(path), providers="cpu", threads=THREADS, batch=ROWS)
    x = np.random.default_rng(0).standard_normal((1, 3, SIZE, SIZE)).astype(np.float32)
    labels = as_superpixels(f"grid:{CELLS}").cut(np.zeros((SIZE, SIZE, 3), np.uint8))

    def softmax(scores: Array) -> Array:
        power = np.exp(scores - scores.max(axis=1, keepdims=True))
        return power / power.sum(axis=1, keepdims=True)

    def by_torch(rows: Array) -> Array:
        with torch.no_grad():
            found = model(torch.from_numpy(np.ascontiguousarray(rows, np.float32)))
        return softmax(found.numpy())

    def by_session(rows: Array) -> Array:
        feeds = {scorer.input.name: np.ascontiguousarray(rows, np.float32)}
        return softmax(scorer.session.run(feeds)[scorer.output])

    beside = "" if set(only) == set(PEERS) else f", beside {' and '.join(only)}"
    made = []
    for count in classes:
        some = list(range(count))
        runs = ours(scorer, x, labels, masks, some)
        for predict, where in ((by_torch, "PyTorch"), (by_session, "our session")):
            found = peers(predict, where, x, labels, masks, some)
            runs |= {side: run for side, run in found.items() if side.startswith(tuple(only))}
            runs[FORWARD[where]] = forward(predict, x, masks)
        taken = measured(runs, rounds)
        middle = {side: statistics.median(t) for side, t in taken.items()}
        print(f"\n{name}, {masks} masks, {count} class{'es' * (count > 1)}", flush=True)
        alone = middle[FORWARD["our session"]]
        ratios, bounds = {}, {}
        for side, took in middle.items():
            bounds[side] = round(took / alone, 2)
            if side in OURS.values() or side in FORWARD.values():
                print(f"  {side:32}{took:8.2f} s: {bounds[side]} times the forward")
                continue
            own = OURS["lime" if "lime" in side.lower() else "shap"]
            ratios[side] = round(took / middle[own], 2)
            missed = "" if ratios[side] >= LEAST else "MISSED"
            print(f"  {side:32}{took:8.2f} s: {ratios[side]} times ours"
                  f" (at least {LEAST:g}; bound {bounds[side]}) {missed}", flush=True)  # fmt: skip
        made.append({
            "network": f"{name}, {masks} masks, {count} classes{beside}",
            "batch": 1, "rounds": rounds,
            "median_s": {side: round(t, 3) for side, t in middle.items()},
            "range_s": {side: [round(min(t), 3), round(max(t), 3)] for side, t in taken.items()},
            "ratios": ratios, "bounds": bounds,
        })  # fmt: skip
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--masks", type=int, default=1000)
    parser.add_argument("--classes", nargs="+", type=int, default=[1, 10])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--json", type=Path, default=RESULTS)
    given = parser.parse_args()
    if unknown := sorted(set(given.names) - set(NAMES)):
        parser.error(f"unknown: {unknown[0]}; one of {', '.join(NAMES)}")
    found = said()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="backlight-") as folder:
        for name in given.names or NAMES:
            rows += examined(
                name, given.masks, given.classes, given.rounds, given.only, Path(folder)
            )
            keep(given.json, rows, found)


if __name__ == "__main__":
    main()
