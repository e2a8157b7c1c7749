"""Outputs of map type (ZipMap's) are left out; what they are made of takes their place."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from backlight.engine.direct.explainer import Explainer
from backlight.engine.masked.occlusion import Occlusion
from backlight.export.check import check
from backlight.export.graph import load
from backlight.export.saliency import explain_graph

from .. import models

X = models.images(2, 3, 8, 8)


def zipped(*, label: bool = True, scores: bool = False, opset: int = 18) -> onnx.ModelProto:
    """As scikit-learn's and ML.NET's exporters end: a label, and a map of probabilities.

    scores: also the probabilities as a tensor.
    """
    model = models.tiny(opset=opset)
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    graph = model.graph
    del graph.output[0]
    made = helper.make_node(
        "ZipMap", ["prob"], ["map"], name="zip", domain="ai.onnx.ml",
        classlabels_int64s=list(range(5)),
    )  # fmt: skip
    graph.node.append(made)
    if label:
        graph.node.append(helper.make_node("ArgMax", ["prob"], ["label"], axis=1, keepdims=0))
        graph.output.append(helper.make_tensor_value_info("label", onnx.TensorProto.INT64, ["N"]))
    if scores:
        graph.output.append(helper.make_tensor_value_info("prob", 1, ["N", 5]))
    one = helper.make_map_type_proto(7, helper.make_tensor_type_proto(1, []))
    graph.output.append(helper.make_value_info("map", helper.make_sequence_type_proto(one)))
    return model


@pytest.mark.parametrize("opset", [11, 18])
@pytest.mark.parametrize("label", [True, False])
@pytest.mark.parametrize("scores", [True, False])
def test_a_map_of_scores(label: bool, scores: bool, opset: int) -> None:
    model = zipped(label=label, scores=scores, opset=opset)
    before = model.SerializeToString()
    found = Explainer(model, ("vanilla",))(X, 2)
    want = Explainer(models.tiny(), ("vanilla",))(X, 2)
    np.testing.assert_allclose(found.saliency["vanilla"], want.saliency["vanilla"], atol=1e-6)
    np.testing.assert_allclose(found.scores, want.scores, atol=1e-6)
    assert model.SerializeToString() == before, "the caller's own"
    names = [v.name for v in load(model).graph.outputs]
    assert names == ["label"] * label + ["prob"]


def test_every_way_in() -> None:
    model = zipped()
    assert check(model).ok
    assert explain_graph(model, of="scores").of == "scores"
    settings = {"window": 3, "stride": 2, "threads": 1}
    found, want = (Occlusion(m, **settings)(X, 1) for m in (model, models.tiny()))
    np.testing.assert_allclose(found, want, atol=1e-6)
