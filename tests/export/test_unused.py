"""What nothing reads is taken out as onnx-ir's own pass does."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest
from onnx_ir.passes.common import RemoveUnusedNodesPass

from backlight.engine.cli.options import BUNDLED
from backlight.export.unused import remove_unused

HEAD = "g (float[N, 3, 8, 8] x, float[3] s, float[2, N, 5] q, bool c) => (float y)"
GRAPHS = {
    "a dead chain": "a = Relu(x) b = Neg(a) d = Neg(b) y = Identity(a)",
    "initializers": "y = Add(x, used)",
    "further outputs": "y, m = MaxPool<kernel_shape=[2, 2]>(x)",
    "a further output alone": "a, m = MaxPool<kernel_shape=[2, 2]>(x) y = Identity(m)",
    "outputs before it": "h, i, j = LSTM<hidden_size=4>(q, used, used) y = Identity(j)",
    "no output": "h, i, j = LSTM<hidden_size=4>(q, used, used) y = Identity(x)",
    "inputs left out": "y = Clip(x, , )",
    "inputs left out between": "y = Clip(x, , used)",
    "not trained": "y = BatchNormalization<training_mode=0>(x, s, s, s, s)",
    "trained": "y, m, v = BatchNormalization<training_mode=1>(x, s, s, s, s)",
    "any number": "y, a = Split<num_outputs=2>(x)",
    "another domain": "y, a = other.Split<num_outputs=2>(x)",
    "a branch": """y = If (c) <
        then_branch = t () => (p) { p, m = Dropout(x) d = Neg(x) },
        else_branch = e () => (r) { r = Identity(x) }
    >""",
}


def read(body: str, opset: int) -> ir.Model:
    text = f'<ir_version: 8, opset_import: ["" : {opset}, "other" : 1]> {HEAD}'
    return ir.from_proto(
        onnx.parser.parse_model(
            f"{text} <float[3] used = {{1, 2, 3}}, float idle = {{1}}> {{{body}}}"
        )
    )


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("name", GRAPHS)
def test_what_onnx_ir_takes_out(name: str, opset: int) -> None:
    made, expected = read(GRAPHS[name], opset), read(GRAPHS[name], opset)
    remove_unused(made)
    RemoveUnusedNodesPass()(expected)
    assert ir.to_proto(made) == ir.to_proto(expected)
    assert "idle" not in made.graph.initializers


def test_of_the_bundled_model_nothing() -> None:
    model = ir.load(BUNDLED)
    before = ir.to_proto(model)
    remove_unused(model)
    assert ir.to_proto(model) == before
