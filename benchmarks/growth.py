"""How long export and check take of a graph of many nodes: seconds of the processor.

    python -m benchmarks.growth [--nodes 20000 100000] [--json FILE]

A chain of residual blocks (Conv, Relu, Add) of 3 channels: the nodes' own price, and no weights'.
Each is a process of its own; twice the nodes should take twice the time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from backlight.engine.runtime.machine import device, versions

WAYS = {
    "check": "backlight.check(model)",
    "export, vanilla": "backlight.export(model, ('vanilla',))",
    "export, three rules": "backlight.export(model)",
}
ONE = """
import sys, time, backlight
model, way = sys.argv[1:]
backlight.export, backlight.check
import backlight.export.saliency, backlight.export.check
start = time.process_time()
{way}
print(time.process_time() - start)
"""


def chain(count: int) -> onnx.ModelProto:
    """A model of `count` nodes or so."""
    rng = np.random.default_rng(0)
    nodes, weights, x = [], [], "x"
    for i in range((count - 4) // 3):
        weights.append(numpy_helper.from_array(rng.normal(size=(3, 3, 1, 1)).astype("f"), f"w{i}"))
        nodes += [
            helper.make_node("Conv", [x, f"w{i}"], [f"c{i}"], name=f"conv{i}"),
            helper.make_node("Relu", [f"c{i}"], [f"r{i}"], name=f"relu{i}"),
            helper.make_node("Add", [f"r{i}", x], [f"h{i}"], name=f"add{i}"),
        ]
        x = f"h{i}"
    weights.append(numpy_helper.from_array(rng.normal(size=(3, 5)).astype("f"), "v"))
    nodes += [
        helper.make_node("GlobalAveragePool", [x], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "v"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["prob"]),
    ]
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)]
        for name, shape in (("x", ["N", 3, 8, 8]), ("prob", ["N", 5]))
    ]
    graph = helper.make_graph(nodes, "chain", *ends, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="+", default=[20_000, 100_000])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    print(device(), *(f"{k} {v}" for k, v in versions().items()), sep=", ", flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for count in given.nodes:
            file = Path(folder) / f"{count}.onnx"
            onnx.save(chain(count), file)
            for name, way in WAYS.items():
                run = [sys.executable, "-c", ONE.format(way=way), str(file), name]
                taken = float(subprocess.run(run, check=True, capture_output=True).stdout)
                rows.append({"nodes": count, "what": name, "seconds": round(taken, 2)})
                print(f"{count:7} nodes  {name:20} {taken:6.1f} s", flush=True)
    if given.json:
        told = {"device": device(), "versions": versions(), "rows": rows}
        given.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
