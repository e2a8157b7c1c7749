"""What `method="auto"` costs where it stays with dense occlusion, and what it brings elsewhere.

    python -m benchmarks.auto [NAME …] [--pairs 5] [--threads 2] [--json FILE]

End to end, in alternation with `method="dense"`: loading the model, planning, compiling and all
windows of one photo, from a new `Occlusion` in each run. Jobs from a handful of windows to
hundreds, small windows, where boxes pay, and large ones, where they don't. NAME: squeezenet,
resnet18, mobilenet_v2, alexnet (torchvision's, random weights, but for the bundled SqueezeNet).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

from backlight import Occlusion
from backlight.engine.cli.options import BUNDLED
from backlight.engine.masked.occlusion import Occluded
from backlight.engine.runtime.machine import device

from .incremental import image_shape, network

NAMES = ("squeezenet", "resnet18", "mobilenet_v2", "alexnet")
JOBS = ((64, 64), (64, 32), (112, 5), (16, 12), (16, 5))  # window, stride
AIM = 1.03
Method = Literal["auto", "dense"]
METHODS: tuple[Method, ...] = ("dense", "auto")


def once(
    path: str, method: Method, window: int, stride: int, threads: int, x: Any
) -> tuple[float, Occluded]:
    started = time.perf_counter()
    occlusion = Occlusion(
        path, window=window, stride=stride, score="logit", method=method, threads=threads
    )
    found = occlusion.measure(x, 3)
    return time.perf_counter() - started, found


def measure(name: str, path: str, shape: tuple[int, ...], args: argparse.Namespace) -> list[Any]:
    x = np.random.default_rng(0).standard_normal((1, *shape)).astype(np.float32)
    rows = []
    for window, stride in JOBS:
        taken: dict[Method, list[float]] = {"dense": [], "auto": []}
        found: dict[Method, Occluded] = {}
        for turn in range(args.pairs + 1):
            for method in METHODS[:: -1 if turn % 2 else 1]:
                seconds, found[method] = once(path, method, window, stride, args.threads, x)
                if turn:  # the first pair warms up
                    taken[method].append(seconds)
        ratios = [a / d for a, d in zip(taken["auto"], taken["dense"], strict=True)]
        choice = found["auto"].choice
        rows.append(
            {
                "model": name,
                "window": window,
                "stride": stride,
                "windows": len(found["auto"].plan),
                "dense_s": statistics.median(taken["dense"]),
                "auto_s": statistics.median(taken["auto"]),
                "ratio": statistics.median(ratios),
                "spread": [min(ratios), max(ratios)],
                "method": choice.method,
                "why": choice.why,
            }
        )
        row = rows[-1]
        print(
            f"{name:13}{window:4}{stride:4}{row['windows']:6}{row['dense_s']:8.2f} s"
            f"{row['auto_s']:8.2f} s  x{row['ratio']:5.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            f"{'' if row['ratio'] <= AIM else ' MISSED'}  {choice.method}: {choice.why}",
            flush=True,
        )
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    unknown = sorted(set(args.names) - set(NAMES))
    if unknown:
        parser.error(f"unknown: {unknown[0]}; one of {', '.join(NAMES)}")
    rows: list[Any] = []
    if args.json and args.json.exists():
        kept = json.loads(args.json.read_text())["rows"]
        rows = [r for r in kept if args.names and r["model"] not in args.names]
    print(f"{device()}; model, window, stride, windows, dense, auto, auto / dense (aim {AIM})")
    with tempfile.TemporaryDirectory() as folder:
        for name in args.names or NAMES:
            path = str(BUNDLED)
            if name != "squeezenet":
                path = str(Path(folder) / f"{name}.onnx")
                onnx.save(network(name), path)
            rows += measure(name, path, image_shape(onnx.load(path)), args)
            if args.json:
                found = {"device": device(), "threads": args.threads, "rows": rows}
                args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
