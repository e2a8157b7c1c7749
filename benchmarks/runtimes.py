"""What an explanation costs on each runtime over the faster of their plain models: five networks.

    python -m benchmarks.runtimes [NAME …] [--json FILE] [--runs 12] [--batch 1 4] [--contended]
                                  [--provider cpu --provider openvino] [--occlusion]

Plain model, one rule (vanilla) and all three on ONNX Runtime and on OpenVINO, each in its own
form: sessions of one process, in turn, two threads. --contended: all of it quiet, and then once
more while a second process keeps two cores busy; what that costs is the quotient of the two ratios.
--provider: others, such as cpu,spin=off. --occlusion: instead, one photo's occlusion, whole and on
boxes. Results of networks that weren't asked for stay in FILE as they are.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from backlight import Occlusion
from backlight.engine.measure.contention import busy
from backlight.engine.runtime.machine import device, versions
from backlight.engine.runtime.session import Session, default_lowering, numpy_dtype
from backlight.export.saliency import explain_graph

from .saliency import NETWORKS, network

THREADS = 2
SIZE = 224
RULES = {"one": ("vanilla",), "three": ("vanilla", "deconv", "guided")}
# Of one rule over the faster plain model, at batch 4; three rules cost at most twice that.
AIMS = {"resnet50": 2.2, "vgg16": 2.2, "mobilenet_v2": 2.8, "efficientnet-lite0": 2.8,
        "squeezenet": 3.2}  # fmt: skip
# Small networks at batch 1; under contention, of the quiet ratio.
AIM_ONE, AIM_BUSY = 3.5, 1.3
BLOCK, PAUSE = 4, 0.05  # runs in a row of one session; seconds, longer than threads spin

Key = tuple[str, str]


def aim(name: str, batch: int, what: str) -> float:
    """What a ratio should stay below."""
    one = AIM_ONE if batch == 1 and AIMS[name] > 2.5 else AIMS[name]
    return one * (2 if what == "three" else 1)


def sessions_of(model: Path, providers: Sequence[str], folder: Path) -> dict[Key, Session]:
    """By provider and what is measured: score, one, three."""
    made: dict[Key, Session] = {}
    for provider in providers:
        made[provider, "score"] = Session(str(model), provider, THREADS)
        for what, rules in RULES.items():
            form = default_lowering(provider)
            file = folder / f"{form}-{what}.onnx"
            if not file.exists():
                explain_graph(str(model), rules, target_class="top1", lowering=form).save(file)
            made[provider, what] = Session(str(file), provider, THREADS)
    return made


def noise(inputs: Sequence[Any], batch: int) -> dict[str, np.ndarray]:
    """In the shape of each of a session's inputs."""
    rng = np.random.default_rng(0)
    return {
        given.name: rng.standard_normal(
            [batch, *(d if isinstance(d, int) else SIZE for d in given.shape[1:])]
        ).astype(numpy_dtype(given.type))
        for given in inputs
    }


def timed(sessions: Mapping[Key, Session], batch: int, runs: int) -> dict[Key, dict[str, float]]:
    """Milliseconds of a run, the median and the least of all; sessions take turns in blocks."""
    feeds = {key: noise(session.inputs, batch) for key, session in sessions.items()}
    taken: dict[Key, list[float]] = {key: [] for key in sessions}
    while min(map(len, taken.values())) < runs:
        for key, session in sessions.items():
            time.sleep(PAUSE)
            session.run(feeds[key])  # the first of a block is free
            for _ in range(min(BLOCK, runs - len(taken[key]))):
                start = time.perf_counter()
                session.run(feeds[key])
                taken[key].append(1e3 * (time.perf_counter() - start))
    return {
        key: {"median": round(float(np.median(all_)), 2), "least": round(min(all_), 2)}
        for key, all_ in taken.items()
    }


def row(
    name: str, batch: int, kind: str, times: Mapping[Key, Mapping[str, float]]
) -> dict[str, Any]:
    """A network at a batch: every time, and per number of rules the best of the runtimes over the
    faster plain model."""
    providers = list(dict.fromkeys(provider for provider, _ in times))
    found: dict[str, Any] = {"network": name, "batch": batch, "kind": kind}
    found["ms"] = {p: {what: times[p, what] for what in ("score", *RULES)} for p in providers}
    for by in ("median", "least"):
        faster = min(times[p, "score"][by] for p in providers)
        ratios = {p: {w: round(times[p, w][by] / faster, 2) for w in RULES} for p in providers}
        best = {w: min(ratios[p][w] for p in providers) for w in RULES}
        found[by] = {"ratios": ratios, "best": best}
    return found


def show(found: Mapping[str, Any]) -> None:
    """Lines for a row: medians, and the ratios against the aims."""
    name, batch, kind = found["network"], found["batch"], found["kind"]
    for provider, ms in found["ms"].items():
        cells = "  ".join(f"{what} {ms[what]['median']:8.1f}" for what in ms)
        ratios = found["median"]["ratios"][provider]
        print(f"{name:19}{batch:2} {kind:9} {provider:14} ms: {cells}  over the faster score: "
              f"{ratios['one']:.2f}, {ratios['three']:.2f}", flush=True)  # fmt: skip
    best = found["median"]["best"]
    words = [
        f"{what} {best[what]:.2f} of {aim(name, batch, what):.1f}"
        f"{'' if best[what] <= aim(name, batch, what) else ' MISSED'}"
        for what in RULES
    ]
    if kind == "quiet":
        print(f"{name:19}{batch:2} {kind:9} the better of them: {'; '.join(words)}", flush=True)


def show_busy(quiet: Mapping[str, Any], loaded: Mapping[str, Any]) -> None:
    """What other work on the cores costs an explanation beyond what it costs the score."""
    name, batch = quiet["network"], quiet["batch"]
    for provider in quiet["ms"]:
        parts = []
        for what in RULES:
            own = [r["ms"][provider] for r in (quiet, loaded)]
            before, after = (ms[what]["median"] / ms["score"]["median"] for ms in own)
            parts.append(f"{what} {before:.2f} -> {after:.2f}, x{after / before:.2f} of {AIM_BUSY}")
        print(f"{name:19}{batch:2} explain/score on {provider}: {'; '.join(parts)}", flush=True)


def occluded(name: str, providers: Sequence[str]) -> list[dict[str, Any]]:
    """Seconds of one photo's occlusion, whole and on boxes, and what `auto` takes."""
    model, rows = network(name), []
    for provider in providers:
        for method in ("dense", "incremental", "auto"):
            occlude = Occlusion(str(model), window=32, stride=16, method=method,
                                providers=provider, threads=THREADS)  # fmt: skip
            height, width = occlude.scorer.input.size
            x = np.random.default_rng(0).standard_normal((1, 3, height or SIZE, width or SIZE))
            batch = x.astype(np.float32)
            taken, took = [], ""
            for _ in range(3):
                start = time.perf_counter()
                took = occlude.measure(batch).choice.method
                taken.append(time.perf_counter() - start)
            # The first plans and compiles.
            one = {"network": name, "provider": provider, "method": method, "took": took,
                   "first_s": round(taken[0], 3), "s": round(min(taken[1:]), 3)}  # fmt: skip
            print(*(f"{k} {v}" for k, v in one.items()), sep=", ", flush=True)
            rows.append(one)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NETWORKS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--runs", type=int, default=12)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--provider", action="append")
    parser.add_argument("--contended", action="store_true")
    parser.add_argument("--occlusion", action="store_true")
    given = parser.parse_args(arguments)
    if unknown := sorted(set(given.names) - set(NETWORKS)):
        parser.error(f"unknown: {unknown[0]}; one of {', '.join(NETWORKS)}")
    providers = given.provider or ["cpu", "openvino"]
    told = {"device": device(), "versions": versions(), "threads": THREADS}
    print(told["device"], *(f"{k} {v}" for k, v in versions().items()), sep=", ", flush=True)
    kept: dict[str, Any] = {}
    if given.json and given.json.exists():
        kept = json.loads(given.json.read_text())
    for name in given.names or NETWORKS:
        if given.occlusion:
            kept[f"occlusion {name}"] = told | {"rows": occluded(name, providers)}
        else:
            with tempfile.TemporaryDirectory() as folder:
                kept[name] = told | {"rows": measured(name, providers, given, Path(folder))}
        if given.json:
            given.json.write_text(json.dumps(kept, indent=1) + "\n")


def measured(
    name: str, providers: Sequence[str], given: argparse.Namespace, folder: Path
) -> list[dict[str, Any]]:
    """A network's rows, per batch quiet and, if asked for, contended."""
    sessions, rows = sessions_of(network(name), providers, folder), []
    for batch in given.batch:
        for kind in ("quiet", "contended") if given.contended else ("quiet",):
            with busy(THREADS) if kind == "contended" else nullcontext():
                rows.append(row(name, batch, kind, timed(sessions, batch, given.runs)))
            show(rows[-1])
        if given.contended:
            show_busy(*rows[-2:])
    return rows


if __name__ == "__main__":
    sys.exit(main())
