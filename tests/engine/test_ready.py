"""A model is readied once, in one place, whatever is made of it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import backlight
from backlight.engine.inside import deconvnet, objective
from backlight.engine.runtime import session
from backlight.engine.runtime.session import default_lowering

from .. import models

CPU, CUDA, TENSORRT = (f"{n}ExecutionProvider" for n in ("CPU", "CUDA", "Tensorrt"))


@pytest.mark.parametrize(
    ("providers", "there", "want"),
    [
        (None, [CPU], "cpu"),
        ("auto", [CUDA, CPU], "cuda"),
        (["auto"], [CUDA, CPU], "cuda"),
        ("cpu", [CUDA, CPU], "cpu"),
        ("cuda", [CUDA, CPU], "cuda"),
        (["cpu", "cuda"], [CUDA, CPU], "cuda"),
        ("tensorrt", [TENSORRT, CUDA, CPU], "tensorrt"),
        (["cuda", "tensorrt"], [TENSORRT, CUDA, CPU], "cuda"),
        (["openvino", "cpu"], [CPU], "cpu"),
    ],
)
def test_the_form_of_a_graph_follows_from_where_it_will_run(monkeypatch, providers, there, want):
    monkeypatch.setattr(
        session, "runtime", lambda: SimpleNamespace(get_available_providers=lambda: there)
    )
    assert default_lowering(providers) == want


@pytest.mark.parametrize(
    ("room", "made"),
    [
        ("direct.explainer", lambda m: backlight.Explainer(m, ["vanilla"], providers="cpu")),
        ("inside.objective", lambda m: objective.Objective(m, None, "product", providers="cpu")),
        ("inside.objective", lambda m: objective.Objective(m, "h", "distance", providers="cpu")),
        ("inside.deconvnet", lambda m: deconvnet.Projector(m, "h", providers="cpu")),
    ],
)
def test_every_backward_pass_that_runs_here_has_that_form(monkeypatch, room, made):
    module = __import__(f"backlight.engine.{room}", fromlist=["explain_graph"])
    inner, forms = module.explain_graph, []

    def explain_graph(*args, **options):
        forms.append(options.get("lowering"))
        return inner(*args, **options)

    monkeypatch.setattr(module, "explain_graph", explain_graph)
    made(models.tiny())
    assert forms == ["cpu"]
