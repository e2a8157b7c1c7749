"""What an exported file promises to other people's programs: the names, types and shapes of its
inputs and outputs and what its metadata say, of every method, as declared and as they come out."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import backlight
from backlight.export.methods import METHODS

from .. import models
from .harness import run_runtime

FLOAT, INT = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
IMAGE, WIDE = ["N", 3, 8, 8], ["N", 8, 8]
HELD = [name for name, row in METHODS.items() if row.held == "graph"]
OF_LAYERS = [name for name in HELD if METHODS[name].by == "layer" and not METHODS[name].needs]
TWO_HEADS = """prob = Softmax(scores)
    other = Gemm<transB=1>(f, v, c)"""


def declared(values: Any) -> list[tuple[str, int, list[int | str]]]:
    return [
        (
            v.name,
            v.type.tensor_type.elem_type,
            [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim],
        )
        for v in values
    ]


def held(
    asked: dict[str, Any],
    outputs: dict[str, list[Any]],
    inputs: tuple[str, ...] = ("target",),
    meta: dict[str, str] | None = None,
    model: onnx.ModelProto | None = None,
    methods: tuple[str, ...] = (),
) -> None:
    """The file holds these inputs and outputs behind the model's own, in this order, and runs."""
    model = models.tiny() if model is None else model
    made = backlight.export(model, methods=methods, **asked)
    own, given = declared(model.graph.output), declared(model.graph.input)
    assert declared(made.graph.input) == [*given, *((n, INT, ["N"]) for n in inputs)]
    found = declared(made.graph.output)
    assert found == [*own, *((name, FLOAT, shape) for name, shape in outputs.items())]
    said = {p.key.removeprefix("backlight."): p.value for p in made.metadata_props}
    assert said["inputs"] == ",".join(inputs) and said["version"] == backlight.__version__
    for key, value in (meta or {}).items():
        assert said[key] == value
    x = models.images(2, 3, 8, 8)
    got = run_runtime(made, {"x": x, **dict.fromkeys(inputs, np.array([1, -1]))})
    for name, kind, shape in found:
        wanted = np.float32 if kind == FLOAT else np.int64
        assert got[name].dtype == wanted, name
        assert got[name].shape == tuple(2 if d == "N" else d for d in shape), name
    for name, _, _ in own if said["dtype"] == "float32" else ():
        np.testing.assert_array_equal(got[name], run_runtime(model, {"x": x})[name])


def shaped(name: str, small: bool = False) -> list[Any]:
    if METHODS[name].by != "layer":
        return IMAGE
    return ["N", 4, 4] if small else WIDE


def beside(name: str) -> dict[str, list[Any]]:
    return {"gap_integrated_gradients": ["N"]} if name == "integrated_gradients" else {}


def network(name: str) -> onnx.ModelProto:
    return models.transformer() if METHODS[name].needs else models.tiny(body=POOLED)


# The layer is smaller than the image.
POOLED = """h = Conv<pads=[1,1,1,1]>(x, w, b)
    r = Relu(h)
    s = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)
    p = GlobalAveragePool(s)
    f = Flatten(p)
    scores = Gemm<transB=1>(f, v, c)"""


@pytest.mark.parametrize("name", HELD)
@pytest.mark.parametrize("target", ["input", "top1", 2])
def test_every_method(name: str, target: Any):
    second = ("contrast",) if name == "contrastcam" else ()
    inputs = ("target", *second) if target == "input" else second
    meta = {"methods": name, "of": "scores", "wrt": "x", "input": "x",
            "target_class": str(target), "reduce": "none", "for": "portable", "dtype": "float32",
            "score_output": "prob", "classes": "5"}  # fmt: skip
    outputs = {f"saliency_{name}": shaped(name), **beside(name)}
    held({"target_class": target}, outputs, inputs, meta, network(name), (name,))


@pytest.mark.parametrize("name", [n for n in HELD if METHODS[n].by == "layer"])
def test_as_small_as_the_layer(name: str):
    inputs = ("target", "contrast") if name == "contrastcam" else ("target",)
    small = ["N", 2, 4] if METHODS[name].needs else ["N", 4, 4]
    meta = {"size": "layer", "signed": "true", "fuse": "false"}
    held(
        {"size": "layer", "signed": True}, {f"saliency_{name}": small}, inputs, meta,
        network(name), (name,),
    )  # fmt: skip


@pytest.mark.parametrize("name", [n for n in OF_LAYERS if n not in ("cam", "reciprocam")])
def test_several_layers(name: str):
    inputs = ("target", "contrast") if name == "contrastcam" else ("target",)
    model = models.tiny(body=POOLED)
    both = {f"saliency_{name}_{i}": WIDE for i in (0, 1)}
    meta = {"layer": "s,r", "size": "input", "fuse": "false"}
    held({"layer": ["s", "r"]}, both, inputs, meta, model, (name,))
    meta["fuse"] = "true"
    held({"layer": ["s", "r"], "fuse": True}, {f"saliency_{name}": WIDE}, inputs, meta, model,
         (name,))  # fmt: skip


@pytest.mark.parametrize("name", [n for n in HELD if METHODS[n].by == "image"])
def test_reduced(name: str):
    outputs = {f"saliency_{name}": WIDE, **beside(name)}
    held({"reduce": "maxabs"}, outputs, meta={"reduce": "maxabs"}, methods=(name,))


@pytest.mark.parametrize("name", [n for n in HELD if METHODS[n].contrasts])
@pytest.mark.parametrize("contrast", ["input", "second", 1])
def test_a_contrast(name: str, contrast: Any):
    inputs = ("target", "contrast") if contrast == "input" else ("target",)
    meta = {"contrast": str(contrast), "contrast_form": "logit", "contrasted": name}
    outputs = {f"saliency_{name}": shaped(name), **beside(name)}
    asked = {"contrast": contrast, "contrast_form": "logit"}
    held(asked, outputs, inputs, meta, network(name), (name,))


def test_all_classes_at_once():
    for size, shape in (("input", [8, 8]), ("layer", [4, 4])):
        held({"target_class": "all", "size": size}, {"saliency_cam": ["N", 5, *shape]}, (),
             {"target_class": "all"}, models.tiny(body=POOLED), ("cam",))  # fmt: skip


def test_half_keeps_the_outer_types():
    names = ("guided", "gradcam", "contrastcam")
    held({"dtype": "float16"}, {f"saliency_{n}": shaped(n) for n in names},
         ("target", "contrast"), {"dtype": "float16"}, models.tiny(body=POOLED), names)  # fmt: skip


def test_many_methods_keep_their_order_and_share_inputs():
    names = ("vanilla", "gradcam", "contrastcam", "guided_gradcam", "smoothgrad")
    held({}, {f"saliency_{n}": shaped(n) for n in names}, ("target", "contrast"),
         {"methods": ",".join(names), "rules": "vanilla", "contrasted": "contrastcam"},
         methods=names)  # fmt: skip


def test_several_heads():
    """One class of one head each, or of both together."""
    model = models.tiny(tail=TWO_HEADS, output="float[N,5] prob, float[N,5] other")
    for of, said in (("other", "other"), (["scores", "other"], "scores,other")):
        for name in ("vanilla", "gradcam"):
            held({"of": of}, {f"saliency_{name}": shaped(name)}, meta={"of": said}, model=model,
                 methods=(name,))  # fmt: skip
