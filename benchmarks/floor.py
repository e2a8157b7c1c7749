"""Where an explaining pass spends its time on ONNX Runtime, node by node: what a floor would be.

    python -m benchmarks.floor [NAME …] [--json FILE] [--runs 12] [--batch 1 4]

By the runtime's own profiler, the least of all runs of each node: the plain model, then its
explaining graph (`--for cpu`, two threads) with one rule (vanilla) and with all three. `floor` is
the plain model and the gradients of its convolutions and products of matrices alone, as fast as
this runtime's kernels are: no spelling of the rest goes below it. Results of networks and
batches that weren't asked for stay in FILE as they are.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

from backlight.export.saliency import explain_graph

from .peers import keep, said
from .runtimes import RULES, THREADS, noise
from .saliency import NETWORKS, network

ARITHMETIC = ("Conv", "ConvTranspose", "Gemm", "MatMul", "FusedConv", "FusedGemm", "FusedMatMul")
LAYOUT = ("ReorderInput", "ReorderOutput", "Transpose")
POOLS = ("MaxPool", "MaxUnpool", "ScatterElements", "ScatterND", "Resize", "AveragePool")
END = "_kernel_time"
RESULTS = Path(__file__).resolve().parent / "results" / "floor.json"
Node = tuple[str, str]


def profiled(model: Path, batch: int, runs: int) -> dict[Node, float]:
    """Milliseconds of each node, by its name and operator: the least of all runs."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.enable_profiling = True
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        feeds = noise(session.get_inputs(), batch)
        for _ in range(runs):
            session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text())
    taken: dict[Node, list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(END):
            name = event["name"].removesuffix(END)
            taken[name, event["args"]["op_name"]].append(event["dur"] / 1e3)
    return {node: min(all_) for node, all_ in taken.items()}


def part(node: Node, own: Mapping[str, str]) -> str:
    """What a node of an explaining graph is there for. own: the model's nodes by name, and their
    operators. Gates are told by convolutions too: what is the gradient of one goes by its place."""
    name, operator = node
    if operator in LAYOUT:
        return "layout"
    if "backlight/" not in name:
        return "forward"
    words = name.split("/")[2:]  # backlight/RULE/NODE/…, and a node's name may have slashes
    places = ("/".join(words[:count]) for count in range(len(words), 0, -1))
    of = next((own[place] for place in places if place in own), "")
    if operator in ARITHMETIC and of in ARITHMETIC:
        return "backward arithmetic"
    return "pools" if operator in POOLS or "Pool" in of else "gates and sums"


def parts(nodes: Mapping[Node, float], own: Mapping[str, str]) -> dict[str, float]:
    """Milliseconds by part."""
    found: dict[str, float] = defaultdict(float)
    for node, ms in nodes.items():
        found[part(node, own)] += ms
    return {name: round(ms, 2) for name, ms in sorted(found.items())}


def measured(name: str, batch: int, runs: int, folder: Path) -> dict[str, Any]:
    """A network's row at a batch: the plain model, and per number of rules the parts, what it all
    costs over the plain model, and the floor."""
    model = network(name)
    plain = sum(profiled(model, batch, runs).values())
    row: dict[str, Any] = {"network": name, "batch": batch, "score": round(plain, 2)}
    for what, rules in RULES.items():
        file = folder / f"{name}-{what}.onnx"
        explain_graph(str(model), rules, target_class="top1", lowering="cpu").save(file)
        nodes = profiled(file, batch, runs)
        own = {n.name: n.op_type for n in onnx.load(file).graph.node if "backlight/" not in n.name}
        found = parts(nodes, own)
        slowest = sorted(
            ((ms, *node) for node, ms in nodes.items() if part(node, own) != "forward"),
            reverse=True,
        )
        row[what] = {
            "ms": found,
            "ratio": round(sum(nodes.values()) / plain, 2),
            "floor": round(1 + found["backward arithmetic"] / plain, 2),
            "slowest": [[round(ms, 2), operator, n] for ms, n, operator in slowest[:5]],
        }
        file.unlink()
    return row


def show(row: Mapping[str, Any]) -> None:
    print(f"{row['network']:19}{row['batch']:2} score {row['score']:.1f} ms")
    for what in RULES:
        found = row[what]
        cells = ", ".join(f"{name} {ms:.1f}" for name, ms in found["ms"].items())
        print(
            f"  {what:6} {found['ratio']:.2f} times the score, floor {found['floor']:.2f}: {cells}"
        )
        for ms, operator, name in found["slowest"]:
            print(f"         {ms:6.2f} {operator} {name}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NETWORKS))
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--runs", type=int, default=12)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    given = parser.parse_args(arguments)
    if unknown := sorted(set(given.names) - set(NETWORKS)):
        parser.error(f"unknown: {unknown[0]}; one of {', '.join(NETWORKS)}")
    found = said()
    for name in given.names or NETWORKS:
        rows = []
        for batch in given.batch:
            with tempfile.TemporaryDirectory() as folder:
                rows.append(measured(name, batch, given.runs, Path(folder)))
            show(rows[-1])
        keep(given.json, rows, found)


if __name__ == "__main__":
    main()
