"""`backlight check --for cuda|tensorrt`: what that runtime would not take, and whose it is."""

from __future__ import annotations

import json
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


def test_as_json(tmp_path, capsys):
    file = saved(tmp_path, "MaxPool<kernel_shape=[3,3],dilations=[2,2]>(h)")
    assert run(["check", file, "--for", "tensorrt", "--json"]) == 2
    data = json.loads(capsys.readouterr().out)
    (refusal,) = data["refused"]
    assert data["target"] == "tensorrt" and refusal["operator"] == "MaxPool"
    assert refusal["ours"] is False and refusal["accepted"] == "dilations of 1"
    assert run(["check", file, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["refused"] == []
