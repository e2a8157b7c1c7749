"""All that needs a GPU, in one command: tests, agreement with the CPU, who runs what, latencies.

    python -m benchmarks.gpu [--model FILE] [--batch 1 16] [--runs 50] [--tensorrt] [--no-tests]

Where there is no GPU it says why in one line and exits with 0. Else it exits with 1 if a test or a
check fails:

- the tests marked `gpu` pass;
- the maps of the `--for cuda` graph, with inputs and outputs in device memory, are the CPU's:
  norm-relative error at most 1e-3 (float32 sums in other orders, and a few rectifiers at
  rounding's distance from 0 flip), with TF32 off, whose 10 bits alone would cost as much in one
  layer;
- no node on tensors runs on the CPU, by the runtime's own profile, and nothing is copied between
  host and device; arithmetic on shapes may stay on the host;
- a replayed CUDA graph gives the maps of the run that it replays, bit for bit or nearly (1e-6:
  atomic additions of overlapping pools come in any order).

Latencies are medians of runs in alternation, inputs and outputs on the device, TF32 as the runtime
has it. They are printed and written to benchmarks/results/gpu.json, and nothing depends on them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx

from backlight.engine.runtime.arrays import run_on_cuda
from backlight.engine.runtime.machine import versions
from backlight.engine.runtime.onnxruntime import bound
from backlight.export.saliency import explain_graph

ROOT = Path(__file__).resolve().parent.parent
BUNDLED = ROOT / "engine" / "assets" / "squeezenet1_1.onnx"
RESULTS = Path(__file__).resolve().parent / "results" / "gpu.json"
TOLERANCE, REPLAYED = 1e-3, 1e-6

CPU, CUDA, TENSORRT = (f"{n}ExecutionProvider" for n in ("CPU", "CUDA", "Tensorrt"))
Arrays = dict[str, Any]


def no_gpu() -> str | None:
    """Why nothing can be run here; None where all is there."""
    try:
        import onnxruntime as ort
    except ImportError:
        return "onnxruntime is not installed; pip install 'backlight[gpu]'"
    if CUDA not in ort.get_available_providers():
        return f"onnxruntime {ort.__version__} has no CUDA provider; pip install 'backlight[gpu]'"
    try:
        import cupy
    except ImportError:
        return "CuPy is not installed; pip install 'backlight[gpu]'"
    if not cupy.is_available():
        return "CuPy finds no CUDA device"
    return None


@dataclass
class Outcome:
    """What was found of one model at one batch size; `failures` in words."""

    model: str
    batch: int
    agreement: dict[str, float]
    nodes: dict[str, int]
    on_cpu: list[str]
    copies: int
    cuda_graph: str
    milliseconds: dict[str, float]
    failures: list[str]


def fixed(model: Path, batch: int) -> onnx.ModelProto | None:
    """The model for batches of one size; None where it fixes another, or leaves more open."""
    proto = onnx.load(model)
    for value in proto.graph.input:
        dims = value.type.tensor_type.shape.dim
        if dims and dims[0].HasField("dim_param"):
            dims[0].dim_value = batch
        if not dims or dims[0].dim_value != batch or any(d.dim_value < 1 for d in dims):
            return None
    del proto.graph.value_info[:]
    for value in proto.graph.output:
        value.type.tensor_type.ClearField("shape")
    return proto


def session(
    proto: onnx.ModelProto, providers: list[Any], profile: Path | None = None
) -> SimpleNamespace:
    """As `backlight.engine.runtime.session.Session`, with options per provider."""
    import onnxruntime as ort

    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls(directory="")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    inner = ort.InferenceSession(proto.SerializeToString(), options, providers=providers)
    wanted = providers[0] if isinstance(providers[0], str) else providers[0][0]
    if inner.get_providers()[0] != wanted:
        raise SystemExit(f"{wanted} can't start: the runtime fell back to {inner.get_providers()}")
    return SimpleNamespace(inner=inner, bind=partial(bound, inner))


def feeds_of(proto: onnx.ModelProto, xp: Any) -> Arrays:
    """Noise, and the top class of each row; in the memory of NumPy or CuPy."""
    rng = np.random.default_rng(0)
    feeds = {}
    for value in proto.graph.input:
        kind = value.type.tensor_type
        shape = [d.dim_value for d in kind.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        whole = np.full(shape, -1, dtype)
        feeds[value.name] = rng.standard_normal(shape).astype(dtype) if dtype.kind == "f" else whole
    return {name: xp.asarray(value) for name, value in feeds.items()}


def run_profiled(inner: Any, run: Callable[[], Any]) -> list[dict[str, Any]]:
    """The events of the nodes that a run executed."""
    run()
    events = json.loads(Path(inner.end_profiling()).read_text())
    return [e for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]


def by_provider(events: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    return dict(Counter(e["args"].get("provider", "?") for e in events))


def tensors_on_cpu(events: Iterable[Mapping[str, Any]]) -> list[str]:
    """The nodes on the CPU that make anything but integers: those work on tensors, not shapes."""
    found = []
    for event in events:
        arguments = event["args"]
        kinds = {kind for made in arguments.get("output_type_shape", []) for kind in made}
        if arguments.get("provider") == CPU and not kinds <= {"int64", "int32"}:
            found.append(f"{arguments.get('op_name')} {event['name'].removesuffix('_kernel_time')}")
    return found


def copies(events: Iterable[Mapping[str, Any]]) -> int:
    """Copies between host and device that the runtime put in."""
    return sum(e["args"].get("op_name", "").startswith("Memcpy") for e in events)


def relative(got: Any, want: Any) -> float:
    """Norm of the difference over the norm of what is wanted."""
    want = np.asarray(want, np.float64)
    return float(np.linalg.norm(np.asarray(got) - want) / max(np.linalg.norm(want), 1e-30))


class Bound:
    """A session on fixed device buffers: what a service would do, and what CUDA graphs ask for."""

    def __init__(self, held: SimpleNamespace, feeds: Arrays, made: Mapping[str, Any]) -> None:
        import cupy

        self.inner, self.kept = held.inner, feeds
        self.made = {name: cupy.empty_like(value) for name, value in made.items()}
        self.binding = held.inner.io_binding()
        for name, x in feeds.items():
            self.binding.bind_input(name, "cuda", 0, x.dtype, x.shape, x.data.ptr)
        for name, y in self.made.items():
            self.binding.bind_output(name, "cuda", 0, y.dtype, y.shape, y.data.ptr)
        cupy.cuda.get_current_stream().synchronize()

    def run(self) -> None:
        self.inner.run_with_iobinding(self.binding)
        self.binding.synchronize_outputs()


def medians(actions: Mapping[str, Callable[[], None]], runs: int) -> dict[str, float]:
    """Milliseconds of each, run in alternation after a warm-up."""
    taken: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(runs + 10):
        for name, action in actions.items():
            start = time.perf_counter()
            action()
            if turn >= 10:
                taken[name].append(1e3 * (time.perf_counter() - start))
    return {name: round(statistics.median(values), 3) for name, values in taken.items()}


def examine(model: Path, batch: int, runs: int, tensorrt: bool) -> Outcome | None:
    """All checks of one model; None where it can't have this batch size."""
    import cupy

    plain = fixed(model, batch)
    if plain is None:
        return None
    portable = explain_graph(plain).to_proto()
    graph = explain_graph(plain, lowering="cuda").to_proto()
    names = [o.name for o in graph.graph.output]
    feeds, host = feeds_of(graph, cupy), feeds_of(graph, np)
    expected = session(portable, [CPU]).inner.run(names, host)
    want = dict(zip(names, expected, strict=True))
    found = Outcome(model.stem, batch, {}, {}, [], 0, "", {}, [])

    def compare(label: str, got: Mapping[str, Any]) -> None:
        for name in names:
            error = relative(cupy.asnumpy(got[name]), want[name])
            found.agreement[f"{label} {name}"] = error
            if not error <= TOLERANCE:
                found.failures.append(f"{label}: {name} is off by {error:.1e}")

    exact = (CUDA, {"use_tf32": "0"})
    with tempfile.TemporaryDirectory(prefix="backlight-") as folder:
        held = session(graph, [exact, CPU], Path(folder) / "profile")
        got: Arrays = {}
        events = run_profiled(held.inner, lambda: got.update(run_on_cuda(held, feeds, names)))
    compare("cuda", got)
    found.nodes, found.on_cpu = by_provider(events), tensors_on_cpu(events)
    found.copies = copies(events)
    found.failures += [f"on the CPU: {node}" for node in found.on_cpu]
    if found.copies:  # of fixed shapes and bound arrays there is nothing to copy
        found.failures.append(f"{found.copies} copies between host and device")
    if tensorrt:
        engine = explain_graph(plain, lowering="tensorrt").to_proto()
        held = session(engine, [TENSORRT, exact, CPU])
        compare("tensorrt", run_on_cuda(held, feeds, names))

    scores = {k: v for k, v in got.items() if not k.startswith("saliency_")}
    inputs = {v.name: feeds[v.name] for v in plain.graph.input}
    actions = {
        "score": Bound(session(plain, [CUDA, CPU]), inputs, scores).run,
        "score + 3 maps": Bound(session(graph, [CUDA, CPU]), feeds, got).run,
    }
    try:
        recorded = Bound(session(graph, [(CUDA, {"enable_cuda_graph": "1"}), CPU]), feeds, got)
        recorded.run()  # captures
        first = {name: value.copy() for name, value in recorded.made.items()}
        recorded.run()  # replays
    except Exception as err:  # the runtime's errors share no base
        found.cuda_graph = f"refused: {' '.join(str(err).split())[:200]}"
        found.failures.append(f"CUDA graph {found.cuda_graph}")
    else:
        error = max(relative(recorded.made[n].get(), first[n].get()) for n in names)
        found.cuda_graph = f"replays, difference {error:.1e}"
        if not error <= REPLAYED:
            found.failures.append(f"CUDA graph: {found.cuda_graph}")
        actions["score + 3 maps, CUDA graph"] = recorded.run
    found.milliseconds = medians(actions, runs)
    return found


def shown(found: Outcome) -> str:
    """A few lines for a person."""
    worst = max(found.agreement.values())
    lines = [
        f"{found.model}, batch {found.batch}",
        f"  agreement with the CPU: {worst:.1e} at worst (at most {TOLERANCE:.0e})",
        f"  nodes: {found.nodes}; copies between host and device: {found.copies}",
        f"  CUDA graph: {found.cuda_graph}",
    ]
    base = found.milliseconds["score"]
    for name, took in found.milliseconds.items():
        lines.append(f"  {name:30}{took:9.3f} ms  {took / base:6.2f} x the scores'")
    return "\n".join([*lines, *(f"  FAILED {failure}" for failure in found.failures)])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="append", type=Path, help="[the bundled SqueezeNet]")
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--tensorrt", action="store_true", help="TensorRT too: minutes to build")
    parser.add_argument("--no-tests", action="store_true", help="not the tests marked gpu")
    parser.add_argument("--json", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    why = no_gpu()
    if why is not None:
        print(f"skipped: {why}")
        return 0
    import cupy

    name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    print(f"{name}; " + ", ".join(f"{k} {v}" for k, v in versions().items()))
    failed = False
    if not given.no_tests:
        tests = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", str(ROOT / "tests")]
        failed = subprocess.run(tests, cwd=ROOT, check=False).returncode != 0
    outcomes = []
    for model in given.model or [BUNDLED]:
        for batch in given.batch:
            found = examine(model, batch, given.runs, given.tensorrt)
            if found is None:
                print(f"{model.stem}, batch {batch}: skipped, the model's shapes don't allow it")
                continue
            outcomes.append(found)
            print(shown(found))
    report = {
        "device": name,
        "versions": versions(),
        "tests": None if given.no_tests else not failed,
        "outcomes": [vars(found) for found in outcomes],
    }
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps(report, indent=1) + "\n")
    return int(failed or any(found.failures for found in outcomes))


if __name__ == "__main__":
    sys.exit(main())
