"""Constants in every spelling, of every rank, where windows are hidden: as nodes, as weights."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.helper
import pytest

from backlight.engine.masked.occlusion import Occlusion
from backlight.engine.masked.rise import Rise

from .nets import BODY, X, net

MEAN = np.array([0.5, -0.2, 0.1], np.float32).reshape(1, 3, 1, 1)
# `forward` that normalises, as PyTorch's older exporter and Paddle2ONNX write it.
HEAD = "x = Sub(image, mean)"


def made(name: str, **attribute: object) -> onnx.NodeProto:
    """A Constant node; an array as `value` becomes its tensor."""
    if isinstance(attribute.get("value"), np.ndarray):
        attribute["value"] = onnx.numpy_helper.from_array(attribute["value"], name)
    return onnx.helper.make_node("Constant", [], [name], name=f"{name}_node", **attribute)


def spelled(kind: str) -> tuple[list[onnx.NodeProto], np.ndarray]:
    """Nodes that make `mean` by themselves, and what they make."""
    node = onnx.helper.make_node
    if kind == "rank 4":
        return [made("mean", value=MEAN)], MEAN
    if kind == "rank 3":
        return [made("mean", value=MEAN[0])], MEAN[0]
    if kind == "scalar":
        return [made("mean", value=np.array(0.5, np.float32))], np.float32(0.5)
    if kind == "value_float":
        return [made("mean", value_float=0.5)], np.float32(0.5)
    if kind == "value_floats":
        return [made("mean", value_floats=[0.5] * 17)], np.full(17, 0.5, np.float32)
    if kind == "a map":  # as large as the image: nothing folds it
        whole = np.random.default_rng(0).standard_normal((1, 3, 20, 17)).astype(np.float32)
        return [made("mean", value=whole)], whole
    if kind == "folded":
        return [
            made("flat", value=MEAN.reshape(-1)),
            made("shape", value_ints=[1, 3, 1, 1]),
            node("Reshape", ["flat", "shape"], ["mean"], name="r"),
        ], MEAN
    assert kind == "filled"
    shape = made("shape", value=np.array([1, 3, 20, 17], np.int64))
    fill = onnx.numpy_helper.from_array(np.array([0.5], np.float32))
    return [shape, node("ConstantOfShape", ["shape"], ["mean"], name="f", value=fill)], np.full(
        (1, 3, 20, 17), 0.5, np.float32
    )


KINDS = "rank 4|rank 3|scalar|value_float|value_floats|a map|folded|filled".split("|")


def with_mean(nodes: list[onnx.NodeProto], weight: np.ndarray | None = None) -> onnx.ModelProto:
    model = net(head=HEAD, body=BODY)
    for node in reversed(nodes):
        model.graph.node.insert(0, node)
    if weight is not None:
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(weight), "mean"))
    return model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["auto", "dense", "incremental"])
def test_a_constant_node_is_a_weight(kind: str, method: str) -> None:
    """auto weighs the boxes by what every node costs: a Constant costs nothing."""
    nodes, value = spelled(kind)
    settings = {"window": 5, "stride": 3, "threads": 1, "method": method}
    found = Occlusion(with_mean(nodes), **settings).measure(X)
    twin = Occlusion(with_mean([], value), **{**settings, "method": "dense"}).measure(X)
    assert np.abs(twin.drops).max() > 1e-3
    span = float(np.ptp(twin.drops))
    np.testing.assert_allclose(found.drops, twin.drops, rtol=0, atol=1e-5 * span)


@pytest.mark.parametrize("kind", KINDS)
def test_rise(kind: str) -> None:
    nodes, value = spelled(kind)
    settings = {"masks": 30, "cells": 3}
    found = Rise(with_mean(nodes), **settings)(X)
    np.testing.assert_allclose(found, Rise(with_mean([], value), **settings)(X), atol=5e-6)


@pytest.mark.parametrize("kind", ["weight", "transposed"])
@pytest.mark.parametrize("method", ["auto", "incremental"])
def test_weights_of_a_convolution_that_nodes_make(kind: str, method: str) -> None:
    """PyTorch's exporter under `do_constant_folding=False`, and all of Paddle's weights."""
    model = net()
    (index,) = (i for i, t in enumerate(model.graph.initializer) if t.name == "u")
    u = onnx.numpy_helper.to_array(model.graph.initializer[index])
    del model.graph.initializer[index]
    if kind == "weight":
        model.graph.node.insert(0, made("u", value=u))
    else:
        back = onnx.helper.make_node("Transpose", ["ut"], ["u"], name="t", perm=[1, 0, 2, 3])
        model.graph.node.insert(0, back)
        model.graph.node.insert(0, made("ut", value=u.transpose(1, 0, 2, 3)))
    settings = {"window": 5, "stride": 3, "threads": 1}
    found = Occlusion(model, method=method, **settings).measure(X)
    twin = Occlusion(net(), method="dense", **settings).measure(X)
    span = float(np.ptp(twin.drops))
    np.testing.assert_allclose(found.drops, twin.drops, rtol=0, atol=1e-5 * span)
