"""`check`: every node in the way at once, and the judgement calls."""

from __future__ import annotations

import pytest

from backlight.errors import ModelError, UsageError
from backlight.export.check import check

from .. import models


def test_a_plain_model_is_fine():
    report = check(models.tiny())
    assert report.ok and report.of == "scores" and report.wrt == "x" and report.classes == 5
    assert {r.operator: r.count for r in report.operators} == {
        "Conv": 1, "Flatten": 1, "Gemm": 1, "GlobalAveragePool": 1, "Relu": 1,
    }  # fmt: skip
    assert report.nodes == 6
    assert [f.operator for f in report.notes] == ["Softmax"]


def test_rules_that_agree_are_noted_where_rules_are_asked_for():
    """Between the layer and the score of a class activation map there is often no rectifier."""
    linear = models.tiny(body=models.BODY.replace("r = Relu(h)", "r = Identity(h)"))
    same = "no rectifier on the way: the three rules give the same map"
    for asked in (None, ["guided"], ["gradcam", "deconv"]):
        assert same in [f.reason for f in check(linear, methods=asked).notes]
    for asked in (["gradcam"], ["vanilla"]):
        assert same not in [f.reason for f in check(linear, methods=asked).notes]


def test_all_obstacles_are_found_with_reason_and_remedy():
    body = models.BODY.replace(
        "r = Relu(h)",
        """t = Det(h)
    u = Unsqueeze(t, axes)
    d = MaxPool<kernel_shape=[2, 2], dilations=[2, 2], auto_pad="SAME_UPPER">(h)
    a = com.example.Odd(d)
    r = Add(a, u)""",
    )
    model = models.tiny(body=body)
    import numpy as np
    import onnx

    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2, 3]), "axes"))
    report = check(model)
    assert not report.ok
    found = {f.operator: f for f in report.obstacles}
    assert set(found) == {"Odd", "Det", "MaxPool"}
    assert "com.example" in found["Odd"].reason
    assert "no gradient rule" in found["Det"].reason
    assert "auto_pad" in found["MaxPool"].reason
    assert all(f.node and f.accepted for f in report.obstacles)
    assert {r.operator: r.differentiable for r in report.operators}["Conv"]


@pytest.mark.parametrize(
    ("relu", "operator", "says"),
    [
        ("Sigmoid(h)", "Sigmoid", "smooth"),
        ("Gelu(h)", "Gelu", "smooth"),
        ("HardSwish(h)", "HardSwish", "smooth"),
        ("LeakyRelu(h)", "LeakyRelu", "slope"),
        ("Sigmoid(h)", "", "three rules give the same map"),
    ],
)
def test_judgement_calls_are_noted(relu, operator, says):
    report = check(models.tiny(body=models.BODY.replace("Relu(h)", relu), opset=20))
    assert report.ok
    assert any(f.operator == operator and says in f.reason for f in report.notes), report.notes


def test_a_closing_sigmoid_is_noted():
    notes = check(models.tiny(tail="prob = Sigmoid(scores)")).notes
    assert any("--of" in f.reason and f.operator == "Sigmoid" for f in notes)


def test_an_upgrade_is_noted():
    assert any("opset 9 is upgraded to 18" in f.reason for f in check(models.tiny(opset=9)).notes)


def test_uint8_is_noted():
    report = check(models.tiny(dtype="uint8", head="x = Cast<to=1>(image)"))
    assert report.wrt == "x" and report.input == "image"
    assert any("first float tensor" in f.reason for f in report.notes)


def test_nothing_flows():
    report = check(models.tiny(), of="x", wrt="scores")
    assert not report.ok and "no gradient flows" in report.obstacles[0].reason


def test_unknown_names():
    with pytest.raises(UsageError, match="no tensor 'scorse'.*scores"):
        check(models.tiny(), of="scorse")
    with pytest.raises(ModelError, match="no such file"):
        check("absent.onnx")


def test_as_plain_data():
    import json

    data = json.loads(json.dumps(check(models.tiny()).to_dict()))
    assert data["ok"] is True and data["operators"][0]["operator"] == "Conv"
    assert data["findings"][0]["kind"] == "note"
