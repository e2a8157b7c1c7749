"""Taps: what a model computes inside, by name."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from backlight.engine.inside.taps import Taps, layers, tap
from backlight.engine.runtime.session import Session
from backlight.errors import UsageError

from ..models import images, parsed, tiny


class TestTaps:
    def test_gives_what_the_whole_model_computes(self) -> None:
        proto, x = tiny(), images(3, 3, 8, 8)
        whole = tiny()
        whole.graph.output.append(onnx.helper.make_empty_tensor_value_info("r"))
        want = Session(whole, "cpu", 1).run({"x": x}, ["r", "prob"])
        before = proto.SerializeToString(deterministic=True)
        got = Taps(proto, ["r"], providers="cpu", threads=1)(x)
        assert list(got) == ["r"]
        np.testing.assert_array_equal(got["r"], want["r"])
        kept = Taps(proto, ["r"], keep=True, providers="cpu", threads=1)(x)
        np.testing.assert_array_equal(kept["prob"], want["prob"])
        assert proto.SerializeToString(deterministic=True) == before

    def test_leaves_out_what_the_tensor_does_not_need(self) -> None:
        tapped, names = tap(tiny(), ["h"])
        assert names == ("h",)
        assert [n.op_type for n in tapped.graph] == ["Conv"]

    def test_the_input_itself_can_be_asked_for(self) -> None:
        x = images(2, 3, 8, 8)
        got = Taps(tiny(), ["x"], providers="cpu", threads=1)(x)
        assert list(got) == ["x"]
        np.testing.assert_array_equal(got["x"], x)

    def test_a_fixed_batch_is_filled_up(self) -> None:
        x = images(3, 3, 8, 8)
        want = Taps(tiny(), ["r"], providers="cpu", threads=1)(x)["r"]
        fixed = tiny(shape="2,3,8,8", output="float[2,5] prob")
        got = Taps(fixed, ["r"], providers="cpu", threads=1)(x)["r"]
        # Another batch may be summed in another order.
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize(
        ("name", "want"),
        [
            ("score", "nearest: scores"),
            ("R", "nearest: r"),
            ("w", "'w' is a weight of the model, not a tensor it computes"),
            ("zzzzzz", "for instance"),
        ],
    )
    def test_a_mistake_is_met_with_the_nearest_names(self, name: str, want: str) -> None:
        with pytest.raises(UsageError, match=want):
            tap(tiny(), [name])

    def test_nodes_go_by_their_names_too(self) -> None:
        proto = tiny()
        proto.graph.node[1].name = "/features/act"
        assert tap(proto, ["/features/act"])[1] == ("r",)

    def test_layers_are_listed_with_their_fields(self) -> None:
        found = {x.name: x for x in layers(tiny())}
        assert found["h"].weights == (4, 3, 3, 3)
        assert found["h"].strides == (1, 1)
        assert found["h"].dims == (4, 8, 8)
        assert found["h"].field.size == (3, 3)
        assert found["p"].field.is_whole
        assert [x.name for x in layers(tiny(), convolutions=True)] == ["h"]

    @pytest.mark.parametrize(
        ("trips", "size"), [("few", 8), ("turns", None), ("far", None), ("asked", None)]
    )
    def test_a_loop_that_may_turn_for_ever_is_not_run_to_list_layers(self, trips, size) -> None:
        """A billion turns took hours; a few say what shape comes behind."""
        proto = parsed(
            f"""<ir_version: 8, opset_import: ["": 18]>
g (float[N,3,H,W] x) => (float[N,5] y) {{
    h = Conv<pads=[1,1,1,1]>(x, w)
    m = ReduceMax<keepdims=0>(x)
    t = Cast<to=7>(m)
    asked = Mul(t, far)
    l = Loop({trips if trips != "turns" else "few"}, go, h) <body = b
        (int64 i, bool c, float[a,e,d,f] q) => (bool c, float[a,e,d,f] z) {{
            {"z = Loop(far, go, q) <body = o (int64 j, bool k, float[a,e,d,f] r) => "
             "(bool k, float[a,e,d,f] s) { s = Mul(r, one) }>" if trips == "turns"
             else "z = Mul(q, one)"}
        }}>
    p = GlobalAveragePool(l)
    f = Flatten(p)
    y = Gemm<transB=1>(f, v)
}}""",
            {
                "w": np.ones((4, 3, 3, 3), np.float32), "v": np.ones((5, 4), np.float32),
                "few": np.array(3), "far": np.array(10**9), "go": np.array(True),
                "one": np.float32(1),
            },
        )  # fmt: skip
        found = {x.name: x.dims for x in layers(proto, (8, 8))}
        assert found["h"] == (4, 8, 8)
        assert found["y"] == (5,) and (size is None or found["l"] == (4, 8, 8))
