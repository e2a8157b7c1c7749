"""ONNX Runtime: providers that are asked for, models that it refuses, an install without it."""

from __future__ import annotations

import sys

import pytest

import backlight
from backlight.engine.runtime import onnxruntime, session
from backlight.errors import ModelError, UsageError

from .. import models


def test_providers_are_never_silently_replaced(monkeypatch):
    with pytest.raises(UsageError, match=r"provider 'nope'.*it has:.*cpu"):
        backlight.Explainer(models.tiny(), providers="nope")
    assert backlight.Explainer(models.tiny(), providers="auto").session.provider == "cpu"
    assert backlight.Explainer(models.tiny(), providers=["cpu"]).notes == []

    class Pretends:
        """A runtime that lists CUDA and then falls back, as one without a GPU does."""

        def __init__(self, real: object) -> None:
            self.real = real

        def __getattr__(self, name: str) -> object:
            return getattr(self.real, name)

        def get_available_providers(self) -> list[str]:
            return ["CUDAExecutionProvider", "CPUExecutionProvider"]

        def preload_dlls(self, **_: object) -> None: ...

        def InferenceSession(self, source, settings, providers):  # noqa: N802
            return self.real.InferenceSession(source, settings, providers=providers[-1:])

    real = session.runtime()
    monkeypatch.setattr(onnxruntime, "runtime", lambda: Pretends(real))
    with pytest.raises(UsageError, match="provider 'cuda' can't start.*got cpu"):
        session.Session(models.tiny(), "cuda")
    assert "running on cpu" in session.Session(models.tiny(), None).notes[0]


def test_without_onnxruntime(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UsageError, match=r"backlight\[cpu\].*backlight\[gpu\]"):
        backlight.Explainer(models.tiny())
    backlight.export(models.tiny())  # needs none


def test_a_model_that_the_runtime_refuses():
    body = models.BODY.replace("r = Relu(h)", "g = Relu(h)\n r = Identity(g)")
    tail = "prob = Softmax(scores)\n side = com.example.Odd(f)"
    model = models.tiny(body=body, tail=tail, output="float[N,5] prob, float[N,4] side")
    with pytest.raises(ModelError, match="onnxruntime refuses.*Odd"):
        backlight.Explainer(model, of="scores")


def test_a_provider_that_is_none_names_those_that_are():
    """Of both runtimes, and not the one that every wheel has and nobody can run on."""
    with pytest.raises(UsageError, match="it has: .*cpu.*'openvino' is a runtime") as err:
        session.Session(models.tiny(), "openvno")
    assert "Azure" not in str(err.value)
    assert str(err.value).endswith("nearest: openvino")
