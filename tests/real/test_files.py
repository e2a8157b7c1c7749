"""Classifiers that people have packaged, as they are: vanilla maps against finite differences.

    pytest -m real tests/real/test_files.py

The files are fetched once (`python -m benchmarks.fetch`). Each is run whole in float64 by ONNX's
reference evaluator, with nothing of Backlight in it, along directions whose every pixel is +1 or
-1: for a map that is off by e, what two runs differ by is off by e's norm on average, wherever in
the picture it is off.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

import backlight
from backlight.engine.cli.options import PHOTOS
from backlight.export.preprocess import from_json

torch = pytest.importorskip("torch")
import torch.nn.functional as F  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.real]

# float32 against float64: where a rectifier within rounding of zero flips, one photo's map moves
# by some 5e-3. So the middle of three photos is asked; a wrong map is off by 0.1 and more.
LIMIT = 2e-3
DIRECTIONS = 3
STEP = 1e-7  # of the input's own spread


@dataclass(frozen=True)
class File:
    """A file of a source; the height and width that it leaves open; which of several outputs
    has the scores; the class that is explained."""

    source: str
    name: str
    size: tuple[int, int] | None = None
    of: str | None = None
    target: int = 1


FILES = [
    File("nsfw-tf2onnx", "nsfw-tf2onnx.onnx"),
    File("nsfw-casts", "nsfw-casts.onnx"),
    File("vgg16", "vgg16-tumor.onnx"),
    File("malware", "malware.onnx"),
    File("deskew", "deskew.onnx"),
    File("docorient", "docorient.onnx", target=0),
    File("orientation", "orientation.onnx"),
    File("text-direction", "text-direction.onnx", size=(48, 192)),
    File("age-gender", "age.onnx"),
    File("age-gender", "gender.onnx"),
    File("meter-digits", "meter-digits.pt"),
    File("mtcnn", "rnet.onnx", of="softmax_1"),
    File("mtcnn", "onet.onnx", of="softmax_2"),
]


class Conv(OpRun):
    """PyTorch's convolution, double: the evaluator's own takes minutes on these networks."""

    op_domain = ""

    def _run(self, x: Any, w: Any, b: Any = None, **a: Any) -> tuple[Any]:
        from .interpreter import _conv

        given = {k: v for k, v in a.items() if v is not None}
        given["auto_pad"] = str(given.get("auto_pad", "NOTSET")).encode()
        x, w, b = (None if t is None else torch.from_numpy(np.array(t)) for t in (x, w, b))
        return (_conv(x, w, b, **given).numpy(),)


class MaxPool(OpRun):
    """PyTorch's, without padding of the ceiling's kind."""

    op_domain = ""

    def _run(self, x: Any, **a: Any) -> tuple[Any]:
        from .interpreter import _max_pool

        given = {k: v for k, v in a.items() if v is not None}
        given["auto_pad"] = str(given.get("auto_pad", "NOTSET")).encode()
        return (_max_pool(torch.from_numpy(np.array(x)), **given).numpy(),)


class BatchNormalization(OpRun):
    """By the given statistics. The evaluator's own, of opset 9, takes the batch's instead wherever
    a momentum is written down (onnx 1.23)."""

    op_domain = ""

    def _run(self, x: Any, s: Any, b: Any, m: Any, v: Any, **a: Any) -> tuple[Any]:
        s, b, m, v = (np.reshape(t, (-1, *[1] * (x.ndim - 2))) for t in (s, b, m, v))
        return (s * (x - m) / np.sqrt(v + a["epsilon"]) + b,)


def doubled(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with every float32 a float64: weights, constants, Casts and declared types."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    assert not any(a.g.node or a.graphs for n in graph.node for a in n.attribute)

    def double(tensor: onnx.TensorProto) -> None:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            array = onnx.numpy_helper.to_array(tensor).astype(np.float64)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))

    for tensor in graph.initializer:
        double(tensor)
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
            value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                double(attribute.t)
            if node.op_type == "Cast" and attribute.i == onnx.TensorProto.FLOAT:
                attribute.i = onnx.TensorProto.DOUBLE
    return made


def before_the_end(model: onnx.ModelProto, output: str) -> str:
    """The tensor that the closing Softmax, wherever Identities and Casts follow it, normalises."""
    made_by = {o: n for n in model.graph.node for o in n.output}
    while made_by[output].op_type in ("Identity", "Cast", "Softmax"):
        node = made_by[output]
        output = node.input[0]
        if node.op_type == "Softmax":
            break
    return output


class Digits(torch.nn.Module):
    """The network that the digits' weights belong to, as its package has it."""

    def __init__(self) -> None:
        super().__init__()
        self.batchnorm = torch.nn.BatchNorm2d(3)
        self.conv1 = torch.nn.Conv2d(3, 64, 3)
        self.conv2 = torch.nn.Conv2d(64, 64, 3)
        self.conv3 = torch.nn.Conv2d(64, 128, 3)
        self.conv4 = torch.nn.Conv2d(128, 128, 3)
        self.fc1 = torch.nn.Linear(5 * 2 * 128, 256)
        self.fc2 = torch.nn.Linear(256, 128)
        self.fc3 = torch.nn.Linear(128, 11)

    def forward(self, x: Any) -> Any:
        x = F.relu(self.conv1(self.batchnorm(x)))
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.conv3(x))
        x = F.max_pool2d(F.relu(self.conv4(x)), 2)
        x = F.relu(self.fc1(x.view(-1, 5 * 2 * 128)))
        return self.fc3(F.relu(self.fc2(x)))


def exported(path: Path) -> onnx.ModelProto:
    """The digits' network by PyTorch's exporter, with the package's weights."""
    net = Digits().eval()
    net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    file = io.BytesIO()
    torch.onnx.export(
        net, (torch.zeros(2, 3, 32, 20),), file, dynamo=False, input_names=["image"],
        dynamic_axes={"image": {0: "N"}},
    )  # fmt: skip
    return onnx.load_from_string(file.getvalue())


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_vanilla(file: File, tmp_path: Path) -> None:
    from benchmarks.fetch import SOURCES, fetch

    path = fetch(file.source) / file.name
    preprocess = from_json(json.dumps(SOURCES[file.source].preprocess), file.source)
    if path.suffix == ".pt":
        onnx.save(exported(path), tmp_path / "exported.onnx")
        path = tmp_path / "exported.onnx"
    if file.size:
        preprocess = replace(preprocess, size=file.size)
    explain = backlight.Explainer(path, ("vanilla",), of=file.of)
    x = explain.load(sorted(PHOTOS.iterdir())[:3], preprocess)
    found = explain(x, target=[file.target] * len(x)).saliency["vanilla"]

    model = doubled(onnx.load(path))
    names = {t.name for t in model.graph.initializer}
    fed = next(i.name for i in model.graph.input if i.name not in names)
    score = before_the_end(model, file.of or model.graph.output[0].name)
    double = onnx.helper.make_tensor_value_info(score, onnx.TensorProto.DOUBLE, None)
    del model.graph.output[:]
    model.graph.output.append(double)
    evaluator = ReferenceEvaluator(model, new_ops=[Conv, MaxPool, BatchNormalization])
    rng = np.random.default_rng(11)
    step = STEP * x.std()

    def scores(image: Any) -> Any:
        rows = np.asarray(evaluator.run(None, {fed: image})[0])
        assert rows.dtype == np.float64
        return rows.reshape(len(x), -1)[:, file.target]

    off = []
    for _ in range(DIRECTIONS):
        way = rng.choice([-1.0, 1.0], x.shape)
        want = (scores(x + step * way) - scores(x - step * way)) / (2 * step)
        got = (found.astype(np.float64) * way).sum(axis=(1, 2, 3))
        off.append(got - want)
    norms = np.linalg.norm(found.astype(np.float64).reshape(len(x), -1), axis=1)
    errors = np.sqrt(np.mean(np.square(off), axis=0)) / norms
    assert norms.min() > 0
    assert np.median(errors) <= LIMIT, f"{errors}"
