"""A runtime is one small interface: what holds for each, and that nothing else names them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx

import backlight
from backlight.engine.runtime import session
from backlight.engine.runtime.interface import Compiled, Runtime
from backlight.errors import RunError

from .. import models
from ..export.harness import run_reference

ROOT = Path(__file__).resolve().parents[2]


X = models.images(5, 3, 8, 8)


def named(file: Path) -> Iterator[str]:
    """The modules that a file imports, by name or by text."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (node.module or "").split(".")
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            if called in ("import_module", "__import__", "find_spec"):
                yield str(node.args[0].value).partition(".")[0]


def test_only_the_runtimes_room_imports_one():
    room = ROOT / "engine" / "runtime"
    files = [f for top in ("engine", "export", "kernels") for f in (ROOT / top).rglob("*.py")]
    files += [f for f in (ROOT / "src" / "backlight").glob("*.py")]
    assert len(files) > 100
    outside = [f for f in files if room not in f.parents]
    wrong = [str(f) for f in outside if {"onnxruntime", "openvino"} & set(named(f))]
    assert not wrong
    inside = {f.name for f in room.glob("*.py") if {"onnxruntime", "openvino"} & set(named(f))}
    assert inside == {"onnxruntime.py", "openvino.py", "session.py"}


class Evaluated(Compiled):
    """ONNX's own evaluator."""

    provider, host = "evaluator", True

    def __init__(self, source):
        self.inner, self._source = onnx.load_model_from_string(source.data), source
        self.providers, self.notes = ["evaluator"], []

    @property
    def inputs(self):
        return self._source.inputs

    @property
    def outputs(self):
        return [o.name for o in self.inner.graph.output]

    def run(self, feeds, outputs):
        try:
            found = run_reference(self.inner, dict(feeds))
        except Exception as err:
            raise RunError(f"the evaluator failed: {err}") from err
        return [found[name] for name in outputs]


class Evaluator(Runtime):
    """A third runtime: all of it."""

    name = "evaluator"

    def takes(self, provider):
        return provider.name == self.name

    def check(self, providers):
        providers[0].known({})

    def form(self, providers):
        return "portable"

    def on_cpu(self, providers):
        return True

    def compile(self, source, providers, use, *, auto):
        return Evaluated(source)

    def describe(self):
        return {"evaluator": onnx.__version__}


def test_a_third_runtime_is_one_file(monkeypatch):
    monkeypatch.setattr(session, "RUNTIMES", [Evaluator(), *session.RUNTIMES])
    explain = backlight.Explainer(models.tiny(), providers="evaluator")
    assert explain.session.provider == "evaluator"
    assert session.runtimes()["evaluator"] == onnx.__version__
    found, want = explain(X, 2), backlight.Explainer(models.tiny(), for_="portable")(X, 2)
    for rule, maps in want.saliency.items():
        np.testing.assert_allclose(found.saliency[rule], maps, rtol=1e-5, atol=1e-6)
    heat = backlight.Occlusion(models.tiny(), window=3, stride=2, providers="evaluator")(X)
    want = backlight.Occlusion(models.tiny(), window=3, stride=2)(X)
    np.testing.assert_allclose(heat, want, rtol=1e-4, atol=1e-6)  # probabilities, float32
