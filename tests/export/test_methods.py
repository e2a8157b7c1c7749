"""Every row of the registry: its exact cases, and what all methods promise."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import pytest

import backlight
from backlight.errors import UsageError
from backlight.export import choose
from backlight.export.methods import METHODS, RULES, Method, asked

from .. import models
from .cases import CASES, Case
from .harness import run_reference, run_runtime
from .held import by_engine

ROOT = Path(__file__).parents[2]
NAMES = list(METHODS)
GRAPH = [m.name for m in METHODS.values() if m.held == "graph"]
ENGINE = [m.name for m in METHODS.values() if m.held == "engine"]
X = models.images(3, 3, 8, 8)


def fed(proto, feeds, target) -> dict[str, np.ndarray]:
    """The feeds, with the target and, where the file takes one, a contrast: the second class."""
    names = {i.name for i in proto.graph.input}
    given = {"target": np.asarray(target), "contrast": np.full(len(target), -1)}
    return {**feeds, **{k: v for k, v in given.items() if k in names}}


def model_of(name: str, dark: bool = False):
    """A small model that a method can explain. dark: one whose last rectifiers are all off."""
    if METHODS[name].needs == "attention":
        return models.transformer(dark=-1000.0 if dark else 0.0)
    if not dark:
        return models.tiny()
    return models.tiny(body=models.BODY.replace("Relu(h)", "Relu(dark)").replace(
        "r = Relu", "m = Constant<value_float = -1000.0>()\n    dark = Add(h, m)\n    r = Relu"
    ))  # fmt: skip


def maps(proto: object, feeds: dict[str, np.ndarray], run=run_runtime) -> dict[str, np.ndarray]:
    found = run(proto, feeds)
    return {k: v for k, v in found.items() if k.startswith("saliency_")}


@pytest.mark.parametrize("run", [run_reference, run_runtime])
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_exact_cases(case: Case, run):
    if case.method in ENGINE:
        if run is run_reference:
            pytest.skip("the engine runs on ONNX Runtime")
        (found,) = by_engine(case.method, case.model(), case.feeds["x"], case.target, case.options)
        np.testing.assert_allclose(found, np.asarray(case.want)[0], rtol=case.rtol, atol=case.atol)
        return
    proto = backlight.export(case.model(), methods=[case.method], **case.options)
    count = len(next(iter(case.feeds.values())))
    feeds = fed(proto, case.feeds, np.full(count, case.target, np.int64))
    found = run(proto, feeds)[METHODS[case.method].output]
    np.testing.assert_allclose(found, np.asarray(case.want), rtol=case.rtol, atol=case.atol)


def test_every_method_has_an_exact_case():
    assert {c.method for c in CASES} == set(METHODS)


@pytest.mark.parametrize("lowering", ["portable", "cpu", "tensorrt"])
@pytest.mark.parametrize("name", GRAPH)
def test_a_batch_equals_its_rows_alone(name: str, lowering: str):
    proto = backlight.export(model_of(name), methods=[name], for_=lowering)
    target = np.array([0, -1, 4])
    together = maps(proto, fed(proto, {"x": X}, target))
    assert together
    for row in range(len(X)):
        alone = maps(proto, fed(proto, {"x": X[row : row + 1]}, target[row : row + 1]))
        for key, values in together.items():
            np.testing.assert_allclose(values[row], alone[key][0], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ENGINE)
def test_a_batch_equals_its_rows_alone_in_the_engine(name: str):
    """Images in a batch and the same ones alone, each with its own class."""
    target = np.array([0, 3, 4])
    together = by_engine(name, model_of(name), X, target)
    for row in range(len(X)):
        (alone,) = by_engine(name, model_of(name), X[row : row + 1], target[row])
        np.testing.assert_allclose(together[row], alone, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ENGINE)
def test_the_target_is_respected_in_the_engine(name: str):
    signed = {"signed": True} if METHODS[name].takes_layer else {}  # not cut off at 0
    found = [by_engine(name, model_of(name), X[:1], target, signed)[0] for target in (0, 1)]
    assert np.abs(found[0]).max() > 0
    assert np.allclose(*found) != METHODS[name].by_class


@pytest.mark.parametrize("name", ENGINE)
def test_no_evidence_is_no_nan_in_the_engine(name: str):
    (found,) = by_engine(name, model_of(name, dark=True), X[:1], 1)
    assert not found.any() and np.isfinite(found).all()


@pytest.mark.parametrize("name", ENGINE)
def test_what_no_graph_holds_is_refused_with_what_does(name: str, tmp_path, capsys):
    from backlight.engine.cli import run

    says = f"method '{name}' .*backlight explain --method {name}'.*backlight.{METHODS[name].python}"
    for refusing in (
        lambda: backlight.export(models.tiny(), methods=["gradcam", name]),
        lambda: backlight.check(models.tiny(), methods=[name]),
        lambda: backlight.Explainer(models.tiny(), methods=[name]),
        lambda: backlight.Explainer(backlight.export(models.tiny()), methods=[name]),
    ):
        with pytest.raises(UsageError, match=says):
            refusing()
    for command in (
        ["export", "bundled", "-o", str(tmp_path / "out.onnx")], ["check", "bundled"],
        ["bench", "bundled"],
    ):  # fmt: skip
        assert run([*command, "--method", name]) == 2
        told = capsys.readouterr()
        assert re.search(says, told.err) and told.err.count("\n") == 1 and not told.out
    assert not list(tmp_path.iterdir())


def test_the_engine_has_a_builder_for_every_row_it_holds():
    from backlight.engine.masked.methods import BUILDERS

    assert list(BUILDERS) == ENGINE
    for name in ENGINE:
        made = getattr(backlight, METHODS[name].python)
        assert made.__doc__ and callable(made)
    assert all(METHODS[name].python == "Explainer" for name in GRAPH)


@pytest.mark.parametrize("name", GRAPH)
def test_the_target_is_respected(name: str):
    """Asked for one class or for another; -1 is the top one, baked in or not. A row says where its
    map is the same for every class."""
    proto = backlight.export(model_of(name), methods=[name])
    found = run_runtime(proto, fed(proto, {"x": X}, np.full(3, -1)))
    top = found["prob"].argmax(axis=1)
    named = run_runtime(proto, fed(proto, {"x": X}, top))
    other = run_runtime(proto, fed(proto, {"x": X}, (top + 1) % 5))
    file = backlight.export(model_of(name), methods=[name], target_class="top1")
    baked = run_runtime(file, fed(file, {"x": X}, np.full(3, -1)))
    key = METHODS[name].output
    np.testing.assert_array_equal(found[key], named[key])
    np.testing.assert_allclose(found[key], baked[key], rtol=1e-6, atol=1e-8)
    assert np.allclose(found[key], other[key]) != METHODS[name].by_class
    assert METHODS[name].by_class or "the same for every class" in METHODS[name].about


@pytest.mark.parametrize("name", GRAPH)
def test_no_gradient_is_no_nan(name: str):
    """All rectifiers off: an all-zero map, never NaN. Three say something without a gradient
    through the rectifiers: deconv lets it pass them, the others look at values and attention."""
    proto = backlight.export(model_of(name, dark=True), methods=[name])
    for values in maps(proto, fed(proto, {"x": X}, np.full(3, 1))).values():
        assert np.isfinite(values).all()
        assert name in ("deconv", "reciprocam", "rollout") or not values.any()


@pytest.mark.parametrize("name", NAMES)
def test_a_row_says_what_it_is(name: str):
    row = METHODS[name]
    assert row.name == name and row.output == f"saliency_{name}"
    assert row.about and re.search(r"\d{4}", row.source), "what it says, and who described it"


def test_the_rules_are_rows_and_nothing_else_lists_them():
    assert RULES == ("vanilla", "deconv", "guided")
    listed = re.compile(r"""["']vanilla["'],\s*["']deconv["']""")
    places = [
        str(f.relative_to(ROOT))
        for folder in ("export", "engine", "src")
        for f in (ROOT / folder).rglob("*.py")
        if not f.is_symlink() and listed.search(f.read_text(encoding="utf-8"))
    ]
    # Docstrings of the public functions name them for people.
    assert set(places) <= {"export/saliency.py", "engine/direct/explainer.py"}


def test_nothing_else_lists_methods():
    """Three names or more in one collection would be another registry."""
    found = []
    for folder in ("export", "engine", "src"):
        for file in (f for f in (ROOT / folder).rglob("*.py") if not f.is_symlink()):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                parts = node.keys if isinstance(node, ast.Dict) else getattr(node, "elts", [])
                named = {p.value for p in parts if isinstance(p, ast.Constant)} & set(METHODS)
                # VARIANTS: the rules' own maps, which the rows name.
                if len(named) > 2 and named != set(RULES):
                    found.append(str(file.relative_to(ROOT)))
    assert found == ["engine/masked/methods.py"]  # what draws those that the engine holds


def test_metadata_names_the_methods():
    proto = backlight.export(models.tiny(), methods=["input_x_gradient", "guided"])
    meta = {p.key: p.value for p in proto.metadata_props}
    assert meta["backlight.methods"] == "input_x_gradient,guided"
    assert meta["backlight.rules"] == "guided"
    assert choose.exported(meta) == ("input_x_gradient", "guided")
    assert choose.exported({"backlight.rules": "vanilla"}) == ("vanilla",)
    assert choose.exported({}) is None


def test_names_are_looked_up():
    assert asked(None, None) is None
    assert asked(["guided"], ["input_x_gradient"]) == ("guided", "input_x_gradient")
    assert asked("guided", None) == ("guided",)
    with pytest.raises(UsageError, match="rule 'input_x_gradient'.*vanilla"):
        asked(["input_x_gradient"], None)
    with pytest.raises(UsageError, match="method 'guidde'.*nearest: [^;]*guided"):
        backlight.export(models.tiny(), methods=["guidde"])
    with pytest.raises(UsageError, match="no method given"):
        backlight.export(models.tiny(), methods=[])


def test_the_readme_has_every_method():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = [f"| `{m.name}` | {m.about} | {m.source} |" for m in METHODS.values()]
    assert "\n".join(lines) in text, "README.md's table:\n" + "\n".join(lines)


def test_rows_are_frozen():
    with pytest.raises(AttributeError):
        METHODS["vanilla"].name = "other"  # type: ignore[misc]
    assert all(isinstance(m, Method) for m in METHODS.values())
