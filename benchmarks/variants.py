"""Integrated gradients of 16 steps beside 16 explaining passes, by the processor's seconds.

    python -m benchmarks.variants [NAME …] [--batch 1 4] [--rounds 7] [--json FILE]

On one thread, whose seconds neighbours change little, in turn: 16 passes of vanilla at the same
batch, the file that holds all steps as one batch, and `backlight.Explainer`, which runs two rows of
224 x 224 at a time, and the image's own pass once. Random weights, `--for cpu`; each figure is the
median of its ratios to the 16 passes of the same round. Rows of networks and batches that weren't
asked for stay in FILE as they are.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import backlight
from backlight.engine.runtime.session import Session
from backlight.export.saliency import explain_graph

from .peers import LAYERS, Run, built, keep, said

RESULTS = Path(__file__).resolve().parent / "results" / "variants.json"
NAMES = ("squeezenet1_1", "mobilenet_v2", "resnet50")
STEPS, SIZE, MOST = 16, 224, 1.05
METHOD = "integrated_gradients"


def subjects(path: Path, x: Any) -> dict[str, Run]:
    """The three, by name."""

    def held(method: str) -> Run:
        graph = explain_graph(path, [method], target_class="top1", lowering="cpu")
        session = Session(graph.model, "cpu", 1)
        return lambda: session.run({graph.input: x})

    one, file = held("vanilla"), held(METHOD)
    engine = backlight.Explainer(path, methods=(METHOD,), providers="cpu", threads=1, steps=STEPS)
    return {
        "passes": lambda: [one() for _ in range(STEPS)],
        "file": file,
        "engine": lambda: engine(x),
    }


def examined(name: str, batches: list[int], rounds: int, folder: Path) -> list[dict[str, Any]]:
    """A row per batch: processor seconds, and ratios."""
    from tests.networks import nets

    path = folder / f"{name}.onnx"
    nets.export(built(name), nets.Net(name), "legacy", path)
    rows = []
    for batch in batches:
        x = np.random.default_rng(0).standard_normal((batch, 3, SIZE, SIZE)).astype(np.float32)
        runs = subjects(path, x)
        taken: dict[str, list[float]] = {subject: [] for subject in runs}
        for at in range(rounds + 1):
            for subject, run in runs.items():
                start = time.process_time()
                run()
                if at:  # the first warms up
                    taken[subject].append(time.process_time() - start)
        base = np.array(taken["passes"])
        ratios = {s: round(float(np.median(np.array(taken[s]) / base)), 3) for s in taken}
        seconds = {s: round(float(np.median(v)), 3) for s, v in taken.items()}
        for subject in ("file", "engine"):
            missed = "" if ratios[subject] <= MOST else f"over {MOST}"
            said_of = f"{subject} {ratios[subject]:.2f} x {STEPS} passes {missed}"
            print(f"{name}, batch {batch}: {said_of}", flush=True)
        rows.append({"network": name, "batch": batch, "rounds": rounds, "seconds": seconds,
                     "ratios": ratios})  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, default=RESULTS)
    given = parser.parse_args()
    if unknown := sorted(set(given.names) - set(LAYERS)):
        parser.error(f"unknown: {unknown[0]}; one of {', '.join(LAYERS)}")
    found = said()
    with tempfile.TemporaryDirectory(prefix="backlight-") as folder:
        for name in given.names or NAMES:
            keep(given.json, examined(name, given.batch, given.rounds, Path(folder)), found)


if __name__ == "__main__":
    main()
