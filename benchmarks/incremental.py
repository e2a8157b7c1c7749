"""Exact incremental occlusion against dense occlusion: the same runtime, threads and windows.

    python -m benchmarks.incremental [MODEL.onnx | NAME ...] [--threads 2] [--pairs 5]
        [--window 16] [--stride 4] [--sample 0.06] [--json FILE | --no-json]

NAME: one of torchvision's networks below, with random weights (speed doesn't depend on them).
A sample of the windows is timed, the same in every pair: every k-th bucket of boxes, ordered by
size, for the incremental graphs; every k-th window for the dense model, at the fastest of some
batch sizes. Runs alternate. Wall time is what counts on a quiet machine; processor time, printed
beside it, is what is left to read on a busy one. The incremental figure contains the indices, the
tail and the clean pass, spread over all windows; planning and compiling are told apart. The error
is of 24 windows' scores on a photo, as a share of their range; the effect is what windows do to a
score, of the same range.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from backlight.export import incremental
from backlight.kernels import apply
from backlight.kernels.families import sliding
from backlight.kernels.plan import WindowPlan
from tests.incremental.photos import PHOTOS, photo

# What the issue asks: Nakandala et al. 2019, theoretical bound with fixed-size boxes; arithmetic
# bound with boxes clipped at the borders.
TARGETS = {
    "alexnet": (2.4, 3.6),
    "vgg16": (6.5, 9.1),
    "resnet18": (2.2, 2.8),
    "resnet50": (2.1, 2.7),
    "mobilenet_v2": (1.8, 2.2),
    "densenet121": (2.0, 2.3),
}
BATCHES = (1, 4, 16)
# Threads that wait for work sleep, as in engine/masked/incremental: other sessions have some.
PATIENT = {"session.intra_op.allow_spinning": "0"}


def compiled(model: onnx.ModelProto, threads: int, settings: Mapping[str, str]) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    for key, value in settings.items():
        options.add_session_config_entry(key, value)
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def call(session: Any, feeds: Mapping[str, Any]) -> dict[str, Any]:
    names = [o.name for o in session.get_outputs()]
    wanted = {i.name: feeds[i.name] for i in session.get_inputs()}
    return dict(zip(names, session.run(None, wanted), strict=True))


def clock(action: Callable[[], Any]) -> tuple[float, float]:
    """Wall and processor seconds."""
    wall, processor = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - wall, time.process_time() - processor


def network(name: str) -> onnx.ModelProto:
    """A model file, or one of torchvision's networks, exported."""
    if name.endswith(".onnx"):
        return onnx.load(name)
    from tests.incremental.nets import calm

    return calm(name)


def image_shape(model: onnx.ModelProto) -> tuple[int, int, int]:
    dims = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    return dims[1], dims[2], dims[3]


class Dense:
    """The model on whole variants, masked by the same kernels that the engine uses."""

    def __init__(self, model: onnx.ModelProto, score: str, threads: int) -> None:
        proto = onnx.ModelProto()
        proto.CopyFrom(model)
        if score not in [o.name for o in proto.graph.output]:
            proto.graph.output.append(onnx.ValueInfoProto(name=score))
        self.score = score
        self.session = compiled(proto, threads, {})
        self.input = self.session.get_inputs()[0].name

    def scores(self, image: Any, base: Any, windows: WindowPlan, batch: int) -> Any:
        found = []
        for start in range(0, len(windows), batch):
            stop = min(start + batch, len(windows))
            variants = apply(image, windows, base, start=start, stop=stop)
            found.append(self.session.run([self.score], {self.input: variants})[0])
        return np.concatenate(found)


def every(items: list[Any], share: float) -> list[Any]:
    """An even sample."""
    count = max(1, round(len(items) * share))
    return [items[int((i + 0.5) * len(items) / count)] for i in range(count)]


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    model = network(name)
    shape = image_shape(model)
    windows = sliding(shape, args.window, args.stride)
    started = time.perf_counter()
    plan = incremental.plan(model, windows.boxes, shape)
    planned = time.perf_counter() - started
    threads = {"clean": args.threads, "patch": 1, "tail": 1}  # as the engine has them: in lanes
    sessions = {part: compiled(getattr(plan, part), threads[part], PATIENT) for part in threads}
    ready = time.perf_counter() - started - planned

    image = photo(PHOTOS[0], shape[1], bgr="squeezenet" in name)
    base = np.zeros(shape, np.float32)
    indices = plan.sampled(args.sample)
    dense = Dense(model, plan.outputs[0], args.threads)
    some = windows.select(every(list(range(len(windows))), args.sample / 4))
    counts = {"dense": len(some), "incremental": len(indices)}

    def run(part: str, feeds: Mapping[str, Any]) -> dict[str, Any]:
        return call(sessions[part], feeds)

    start = plan.start(image, base)
    clean = statistics.median(clock(lambda: run("clean", start))[1] for _ in range(3))
    taps = run("clean", start)

    # A sample's indices cost more per window than the whole pass's: made ahead, and timed whole.
    ahead = list(plan.batches(indices))
    made = min(clock(lambda: sum(1 for _ in plan.batches()))[0] for _ in range(2))

    def incrementally() -> dict[int, Any]:
        found: dict[int, Any] = {}
        for variants, outputs in plan.finish(run, taps, indices, ahead, args.threads):
            found |= dict(zip(variants.tolist(), outputs[plan.outputs[0]], strict=True))
        return found

    ours = incrementally()
    checked = np.array(sorted(ours))[:: max(1, len(ours) // 24)]
    want = dense.scores(image, base, windows.select(checked), 4)
    error = float(np.abs(np.stack([ours[i] for i in checked]) - want).max() / np.ptp(want))
    effect = float(np.ptp(want, axis=0).max() / np.ptp(want))

    few = windows.select(every(list(range(len(windows))), 16 / len(windows)))
    trial = {b: min(clock(lambda b=b: dense.scores(image, base, few, b))) for b in BATCHES}
    batch = min(trial, key=trial.__getitem__)
    actions: dict[str, Callable[[], Any]] = {
        "dense": lambda: dense.scores(image, base, some, batch),
        "incremental": incrementally,
    }
    times: dict[str, list[tuple[float, float]]] = {key: [] for key in actions}
    for _ in range(args.pairs):
        for key, action in actions.items():
            wall, processor = clock(action)
            times[key].append((wall / counts[key], processor / counts[key]))
    row: dict[str, Any] = {
        "model": Path(name).stem,
        "windows": len(windows),
        "sampled": counts,
        "dense_batch": batch,
        "clean_seconds": clean,
        "index_seconds": made,
        "plan_seconds": planned,
        "compile_seconds": ready,
        "nodes_on_boxes": plan.local_nodes,
        "buckets": len(plan.buckets),
        "predicted": plan.estimate.speedup,
        "error": error,
        "effect": effect,
    }
    for at, what in enumerate(("wall", "processor")):
        for key, seen in times.items():
            values = [pair[at] for pair in seen]
            shared = (clean + made) / len(windows) if key == "incremental" else 0.0
            row[f"{what}_ms_{key}"] = 1e3 * (statistics.median(values) + shared)
            row[f"{what}_least_ms_{key}"] = 1e3 * (min(values) + shared)
            row[f"{what}_spread_{key}"] = (max(values) - min(values)) / statistics.median(values)
        row[f"{what}_speedup"] = row[f"{what}_ms_dense"] / row[f"{what}_ms_incremental"]
        row[f"{what}_speedup_of_least"] = (
            row[f"{what}_least_ms_dense"] / row[f"{what}_least_ms_incremental"]
        )
    return row


def processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), "cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(TARGETS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--window", type=int, default=16)
    parser.add_argument("--stride", type=int, default=4)
    parser.add_argument("--sample", type=float, default=0.06)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--no-json", action="store_true")
    args = parser.parse_args()
    cpu = processor_name()
    report = {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "threads": args.threads,
        "window": args.window,
        "stride": args.stride,
        "pairs": args.pairs,
        "versions": {p: metadata.version(p) for p in ("onnxruntime", "onnx", "numpy")},
        "rows": [],
    }
    print(f"{cpu}, {args.threads} threads, window {args.window}, stride {args.stride}")
    print(
        f"{'':14}{'dense ms':>9}{'incr. ms':>9}{'speed-up':>9}{'CPU':>6}{'least':>6}"
        f"{'fixed':>6}{'clipped':>8}  error  effect"
    )
    for name in args.models:
        row = measure(name, args)
        report["rows"].append(row)
        fixed, clipped = TARGETS.get(row["model"], ("", ""))
        print(
            f"{row['model']:14}{row['wall_ms_dense']:9.1f}{row['wall_ms_incremental']:9.2f}"
            f"{row['wall_speedup']:9.2f}{row['processor_speedup']:6.2f}"
            f"{row['processor_speedup_of_least']:6.2f}{fixed:>6}{clipped:>8}  {row['error']:.0e}"
            f"{row['effect']:8.1e}",
            flush=True,
        )
    if not args.no_json:
        slug = "-".join(cpu.lower().replace("(r)", "").replace("(tm)", "").split())
        path = args.json or Path(__file__).parent / "results" / f"incremental-{slug}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=1) + "\n")
        print(f"written to {path}")


if __name__ == "__main__":
    main()
