"""Random graphs of a few nodes, with fan-out and broadcasting, against finite differences.

    pytest -m slow tests/export/test_fuzz.py

Each graph is drawn from its number alone, so that a failure repeats.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from backlight.errors import UnsupportedNode

from .drawn import draw
from .harness import run_reference, run_runtime, vjp_graph

GRAPHS = 400


def slopes(model: onnx.ModelProto, x: np.ndarray, v: np.ndarray, ct: np.ndarray) -> list[float]:
    """d<ct, y>/dv at two steps: they differ where a kink or a jump lies between."""
    found = []
    for step in (1e-6, 3e-7):
        up, down = (run_reference(model, {"x": x + s * step * v})["y"] for s in (1, -1))
        found.append(float(np.sum((up - down) * ct)) / (2 * step))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(GRAPHS))
def test_random_graphs(seed: int) -> None:
    model, single, x = draw(seed)
    y = run_reference(model, {"x": x})["y"]
    rng = np.random.default_rng(seed)
    ct = rng.standard_normal(y.shape)
    try:
        graph = vjp_graph(model, ["x"])
        narrow = {how: vjp_graph(single, ["x"], lowering=how) for how in ("portable", "cpu")}
    except UnsupportedNode as err:
        if "dynamic" in str(err):
            pytest.skip(str(err))
        raise
    feeds = {"x": x, "cotangent": ct}
    lesser = {n: v.astype(np.float32) for n, v in feeds.items()}
    maps = {}
    for how, each in narrow.items():
        maps[how] = run_runtime(each, lesser)["saliency_vanilla"]
        again = run_runtime(each, lesser)["saliency_vanilla"]
        np.testing.assert_array_equal(maps[how], again)  # bit for bit
    if not any(n.op_type == "MaxPool" for n in model.graph.node):  # its Indices there are wrong
        maps["reference"] = run_reference(graph, feeds)["saliency_vanilla"]
    scale = max(1.0, float(np.abs(maps["portable"]).max()))
    for _ in range(4):
        v = rng.standard_normal(x.shape)
        first, second = slopes(model, x, v, ct)
        for how, found in maps.items():
            assert found.shape == x.shape
            if abs(first - second) < 1e-4 * scale:
                assert abs(float(np.sum(found * v)) - second) < 5e-3 * scale, how
