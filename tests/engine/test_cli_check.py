"""`backlight check --for cuda|tensorrt`: what that runtime would not take, and whose it is."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import onnx
import pytest

from backlight.engine.cli import run
from backlight.engine.cli.options import BUNDLED

from .. import models


@pytest.mark.parametrize("target", ["cuda", "tensorrt"])
def test_the_bundled_model_is_taken_whole(target, capsys):
    assert run(["check", str(BUNDLED), "--for", target]) == 0
    out = capsys.readouterr().out
    assert "takes the whole graph" in out and "Nothing stands in the way" in out


def saved(tmp_path: Path, pool: str, opset: int = 18) -> str:
    file = tmp_path / "pool.onnx"
    onnx.save(models.tiny(body=models.BODY.replace("Relu(h)", pool), opset=opset), file)
    return str(file)


def test_tensorrt_rejects(tmp_path, capsys):
    file = saved(tmp_path, "MaxPool<kernel_shape=[3,3],dilations=[2,2]>(h)")
    assert run(["check", file, "--for", "tensorrt"]) == 2
    out, err = capsys.readouterr()
    assert "the model's own" in out and "in the backward pass" not in out
    assert "Nothing stands in the way" not in out
    assert err.count("\n") == 1 and "MaxPool" in err and "accepted: dilations of 1" in err


def test_cuda_hands_back(tmp_path, capsys):
    file = saved(tmp_path, "LpPool<kernel_shape=[3,3],strides=[2,2]>(h)", opset=22)
    assert run(["check", file, "--for", "cuda"]) == 0
    out = capsys.readouterr().out
    own, ours = out.index("the model's own"), out.index("in the backward pass")
    assert own < out.index("LpPool '") < ours < out.index("ConvTranspose '")
    assert "runs on the CPU" in out


def test_many_obstacles_are_counted(tmp_path, capsys):
    """A file of thousands doesn't flood the screen; as JSON they are all there."""
    model = models.tiny()
    at = next(i for i, node in enumerate(model.graph.node) if node.op_type == "Relu")
    read, made = model.graph.node[at].input[0], model.graph.node[at].output[0]
    names = [read, *(f"a{i}" for i in range(49)), made]
    chain = [
        onnx.helper.make_node("Foreign", [a], [b], name=f"n{i}", domain="com.example")
        for i, (a, b) in enumerate(pairwise(names))
    ]
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*rest[:at], *chain, *rest[at + 1 :]])
    model.opset_import.add(domain="com.example", version=1)
    file = tmp_path / "many.onnx"
    onnx.save(model, file)
    assert run(["check", str(file)]) == 2
    out, err = capsys.readouterr()
    assert out.count("Foreign 'n") == 20 and err.count("\n") == 1
    assert run(["check", str(file), "--json"]) == 2
    findings = json.loads(capsys.readouterr().out)["findings"]
    found = sum(f["kind"] == "obstacle" for f in findings)
    assert found >= 50 and f"and {found - 20} more; --json has all" in out


def test_as_json(tmp_path, capsys):
    file = saved(tmp_path, "MaxPool<kernel_shape=[3,3],dilations=[2,2]>(h)")
    assert run(["check", file, "--for", "tensorrt", "--json"]) == 2
    data = json.loads(capsys.readouterr().out)
    (refusal,) = data["refused"]
    assert data["target"] == "tensorrt" and refusal["operator"] == "MaxPool"
    assert refusal["ours"] is False and refusal["accepted"] == "dilations of 1"
    assert run(["check", file, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["refused"] == []
