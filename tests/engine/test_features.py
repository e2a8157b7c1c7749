"""Which tensor is the embedding, found by the graph."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import backlight
from backlight.engine.cli.options import BUNDLED
from backlight.engine.inside.taps import Taps
from backlight.engine.runtime.session import Session
from backlight.engine.similar.features import features
from backlight.errors import UsageError

from ..models import images as random_images
from ..models import parsed, tiny
from .nets import MATMUL, with_body

pytest.importorskip("pyarrow")


CONVOLUTION = """
    h = Conv<pads=[1,1,1,1]>(x, w, b)
    r = Relu(h)
    k = Conv(r, q)
    s = Relu(k)
    g = GlobalAveragePool(s)
    scores = Flatten(g)
"""


BACKBONE = """
    h = Conv<pads=[1,1,1,1]>(x, w, b)
    p = GlobalAveragePool(h)
    scores = Flatten(p)
"""


class TestTensor:
    @pytest.mark.parametrize(
        ("made", "tensor", "pooling"),
        [
            (tiny(), "f", ""),
            (with_body(MATMUL), "p", ""),
            (with_body(CONVOLUTION), "r", "mean over 8 x 8 positions"),
        ],
        ids=["gemm", "matmul, add, dropout", "1x1 convolution"],
    )
    def test_the_one_before_the_classifier(
        self, made: onnx.ModelProto, tensor: str, pooling: str
    ) -> None:
        found = features(made)
        assert (found.tensor, found.pooling, found.width, found.notes) == (tensor, pooling, 4, ())
        x = random_images(3, 3, 8, 8)
        (vectors,) = Session(found.model, "cpu", 1).run({"x": x}).values()
        want = Taps(made, [tensor], providers="cpu", threads=1)(x)[tensor]
        if want.ndim == 4:
            want = want.mean(axis=(2, 3))
        np.testing.assert_allclose(vectors, want.reshape(3, -1), rtol=1e-5, atol=1e-6)  # fp32 mean

    def test_bundled_model(self) -> None:
        found = features(BUNDLED)
        assert (found.tensor, found.width) == ("fire9", 512)

    def test_without_a_classifier_the_output(self) -> None:
        found = features(with_body(BACKBONE, 4))
        assert found.tensor == "scores"
        assert "no linear layer" in found.notes[0]

    def test_an_exported_model_has_the_same(self) -> None:
        found = features(backlight.export(tiny(), rules=("guided",)))
        assert [v.name for v in found.model.graph.inputs] == ["x"]
        assert found.tensor == "f"

    def test_tokens_are_averaged(self) -> None:
        made = parsed(
            """<ir_version: 8, opset_import: ["": 18]>
vit (float[N,3,8,8] x) => (float[N,5] y) {
    e = Conv<strides=[4,4]>(x, w)
    s = Constant<value_ints=[0,6,4]>()
    f = Reshape(e, s)
    t = Transpose<perm=[0,2,1]>(f)
    k = MatMul(t, m)
    a = ReduceMean<keepdims=0>(k, axis)
    y = MatMul(a, v)
}""",
            {
                "w": np.ones((6, 3, 4, 4), np.float32),
                "m": np.eye(6, dtype=np.float32),
                "v": np.ones((6, 5), np.float32),
                "axis": np.array([1]),
            },
        )
        assert features(made).tensor == "a"
        found = features(made, "k")
        assert (found.width, found.pooling) == (6, "mean over 4 tokens")

    def test_the_whole_input_may_be_named(self) -> None:
        found = features(tiny(), "x")
        x = random_images(2, 3, 8, 8)
        (vectors,) = Session(found.model, "cpu", 1).run({"x": x}).values()
        np.testing.assert_allclose(vectors, x.mean(axis=(2, 3)), rtol=1e-5, atol=1e-6)  # fp32 mean

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("sccores", "no tensor 'sccores' in the model; nearest: scores"),
            ("v", "'v' is a weight"),
        ],
    )
    def test_refuses(self, name: str, said: str) -> None:
        with pytest.raises(UsageError, match=said):
            features(tiny(), name)
