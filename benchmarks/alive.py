"""What lies in memory while an explaining graph runs: the tensors alive at most, and the process.

    python -m benchmarks.alive MODEL.onnx [--batch 8] [--rule vanilla ...] [--show 20] [--arena]

The runtime's profile gives the order of its nodes and the shapes of what they make; a tensor lives
from the node that makes it to the last that reads it. Printed: their sum at its largest, by the
operators that made them, and the largest of them. Then the peak of a process of its own that loads
the graph and runs it twice, with the arena that the runtime takes by itself. --arena: also with one
that grows by what is asked for (OrtArenaCfg), which all sessions of a process would share. The
graph is that of `--for cpu`, sessions as the engine sets them (no memory pattern). MiB throughout.
"""

from __future__ import annotations

import argparse
import collections
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from backlight.export.saliency import explain_graph

MIB = 2**20
WIDTH = {"float": 4, "double": 8, "int64": 8, "int32": 4, "float16": 2}  # bytes; else 1
RULES = ("vanilla", "deconv", "guided")


def options(threads: int) -> Any:
    found = ort.SessionOptions()
    found.intra_op_num_threads = threads
    found.enable_mem_pattern = False
    found.log_severity_level = 3
    return found


def feeds(session: Any, batch: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    image = session.get_inputs()[0]
    side = [d if isinstance(d, int) else 224 for d in image.shape[1:]]
    return {image.name: rng.normal(size=(batch, *side)).astype(np.float32)}


def traced(path: Path, batch: int, threads: int) -> list[tuple[onnx.NodeProto, dict[str, int]]]:
    """The nodes as the runtime ran them, each with the bytes of what it made."""
    settings = options(threads)
    settings.optimized_model_filepath = str(path.with_suffix(".run.onnx"))
    settings.enable_profiling = True
    settings.profile_file_prefix = str(path.with_suffix(""))
    session = ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    session.run(None, feeds(session, batch))
    events = json.loads(Path(session.end_profiling()).read_text())
    graph = onnx.load(settings.optimized_model_filepath, load_external_data=False).graph
    nodes = {node.name: node for node in graph.node}
    end = "_kernel_time"
    found = []
    for event in sorted((e for e in events if e["name"].endswith(end)), key=lambda e: e["ts"]):
        node = nodes[event["name"][: -len(end)]]
        made = event["args"]["output_type_shape"]
        sizes = [
            WIDTH.get(kind, 1) * int(np.prod(dims))
            for shape in made
            for kind, dims in shape.items()
        ]
        names = [name for name in node.output if name]
        found.append((node, dict(zip(names, sizes, strict=False))))
    return found


def alive(steps: list[tuple[onnx.NodeProto, dict[str, int]]]) -> tuple[str, dict[str, int]]:
    """The node at which most bytes live, and the tensors that do."""
    last = {name: at for at, (node, _) in enumerate(steps) for name in node.input}
    now: dict[str, int] = {}
    worst: tuple[str, dict[str, int]] = ("", {})
    for at, (node, made) in enumerate(steps):
        now |= made
        if sum(now.values()) > sum(worst[1].values()):
            worst = f"{node.op_type} '{node.name}'", dict(now)
        now = {name: size for name, size in now.items() if last.get(name, at) > at}
    return worst


def peak(path: Path, batch: int, threads: int, arena: bool) -> float:
    """Of a process that loads and runs a file twice; the code runs there."""
    settings = options(threads)
    if arena:
        kind, memory = ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, ort.OrtMemType.DEFAULT
        strategy = {"max_mem": 0, "arena_extend_strategy": 1, "initial_chunk_size_bytes": -1,
                    "max_dead_bytes_per_chunk": 1}  # fmt: skip
        info = ort.OrtMemoryInfo("Cpu", kind, 0, memory)
        ort.create_and_register_allocator(info, ort.OrtArenaCfg(strategy))
        settings.add_session_config_entry("session.use_env_allocators", "1")
    session = ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    for _ in range(2):
        session.run(None, feeds(session, batch))
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rule", action="append", choices=RULES)
    parser.add_argument("--show", type=int, default=20)
    parser.add_argument("--arena", action="store_true")
    parser.add_argument("--peak", choices=("own", "grown"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peak:
        print(peak(given.model, given.batch, given.threads, given.peak == "grown"))
        return
    rules = given.rule or ["vanilla"]
    with tempfile.TemporaryDirectory(prefix="backlight-") as folder:
        path = Path(folder) / "explaining.onnx"
        explain_graph(given.model, rules, target_class="top1", lowering="cpu").save(path)
        steps = traced(path, given.batch, given.threads)
        where, found = alive(steps)
        per = MIB * given.batch
        print(f"{given.model.name}, {' + '.join(rules)}, batch {given.batch}: at most "
              f"{sum(found.values()) / per:.1f} MiB per image alive, at {where}")  # fmt: skip
        makers = {name: node.op_type for node, made in steps for name in made}
        by: collections.Counter[str] = collections.Counter()
        for name, size in found.items():
            by[makers[name]] += size
        print("  by " + ", ".join(f"{op} {size / per:.1f}" for op, size in by.most_common()))
        readers = collections.defaultdict(list)
        for node, _ in steps:
            for name in node.input:
                readers[name].append(node.name)
        for name, size in sorted(found.items(), key=lambda item: -item[1])[: given.show]:
            print(f"  {size / per:6.2f} {makers[name]:12} read by {', '.join(readers[name][:4])}")
        for kind in ("own", "grown") if given.arena else ("own",):
            command = [sys.executable, "-m", "benchmarks.alive", str(path), "--peak", kind,
                       "--batch", str(given.batch), "--threads", str(given.threads)]  # fmt: skip
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            told = "its own arena" if kind == "own" else "an arena that grows by what is asked for"
            print(f"  the process, with {told}: {float(done.stdout):.0f} MiB")


if __name__ == "__main__":
    main()
