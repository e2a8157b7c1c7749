"""What `auto` takes: ONNX Runtime, unless a bench of this model here said otherwise."""

from __future__ import annotations

import json
from dataclasses import replace

import onnx
import pytest

import backlight
from backlight.engine.classifier.ready import Ready
from backlight.engine.cli import run
from backlight.engine.inside.deconvnet import Projector
from backlight.engine.inside.objective import Objective
from backlight.engine.inside.taps import Taps
from backlight.engine.measure import processes
from backlight.engine.runtime.choice import Choice, file_beside
from backlight.engine.runtime.digest import model_hash
from backlight.engine.runtime.machine import device
from backlight.engine.runtime.openvino import OpenVino

from .. import models
from .nets import two

pytest.importorskip("onnxruntime")


X = models.images(2, 3, 8, 8)


@pytest.fixture
def stored(tiny):
    """A model with a choice beside it."""
    openvino = ("openvino", 1.5, "cpu", ("cpu", "openvino"))
    choice = Choice(*openvino, device(), model_hash(str(tiny)))
    file_beside(tiny).write_text(choice.to_json())
    return tiny, choice


def test_a_stored_choice_is_followed_and_said_wherever_a_model_runs(stored):
    pytest.importorskip("openvino")
    path, _ = stored
    model = str(path)
    made = [
        backlight.Explainer(model, ["vanilla"]),
        backlight.Occlusion(model, window=3, providers="auto").scorer,
        Taps(model, ["r"]),
        Projector(model, "r"),
        Objective(model, "r", "distance"),
    ]
    for one in made:
        assert one.session.provider == "openvino", one
        assert any("running on openvino: 1.50 times as fast as cpu" in n for n in one.notes)
    assert made[0](X).scores.shape == (2, 5)
    # What is given goes first; a model without a file beside it has no choice.
    assert backlight.Explainer(model, ["vanilla"], providers="cpu").session.provider == "cpu"
    assert backlight.Explainer(models.tiny(), ["vanilla"]).session.provider == "cpu"
    explain = backlight.Explainer(model, ["vanilla"], for_="cpu")
    assert explain.session.provider == "cpu" and "wrong maps" in explain.notes[-1]


def test_what_is_fed_beside_the_images_is_no_other_model(tmp_path):
    """A bench measures a file; a choice is of that file, with whatever inputs it is run."""
    pytest.importorskip("openvino")
    path = tmp_path / "two.onnx"
    onnx.save(two(), path)
    choice = Choice("openvino", 1.5, "cpu", ("cpu", "openvino"), device(), model_hash(str(path)))
    file_beside(path).write_text(choice.to_json())
    ready = Ready(str(path), inputs={"meta": 0.5})
    assert ready.placed(None)[0] == "openvino"
    assert ready.hash != ready.file_hash == Ready(str(path)).hash


def changed(choice, **fields):
    return replace(choice, **fields).to_json()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (lambda c: changed(c, device="another"), "that was measured on another"),
        (lambda c: changed(c, model="0" * 64), "that was of another model"),
        (lambda c: "{", "no choice that"),
        (lambda c: "[1]", "no choice that"),
        (lambda c: "[" * 60000, "no choice that"),
        (lambda c: " " * 70000 + c.to_json(), "no choice that"),
        (lambda c: changed(c, times="fast"), "no choice that"),
        (lambda c: changed(c, measured=(1, 2)), "no choice that"),
        # A stranger's file neither writes folders nor changes numbers.
        (lambda c: changed(c, provider="openvino,cache=/tmp/theirs"), "no choice that"),
        (lambda c: changed(c, provider="openvino,precision=bf16"), "no choice that"),
        (lambda c: changed(c, provider="cpu,spin=perhaps"), "no choice that"),
    ],
)
def test_a_choice_that_is_not_followed_says_why(stored, text, why):
    path, choice = stored
    file_beside(path).write_text(text(choice))
    providers, (note,) = Ready(str(path)).placed(None)
    assert providers is None
    assert why in note and str(file_beside(path)) in note
    assert note.endswith("running as without it")


def test_one_that_is_not_installed_is_not_followed(stored, monkeypatch):
    monkeypatch.setattr(OpenVino, "describe", lambda self: {})
    explain = backlight.Explainer(str(stored[0]), ["vanilla"])
    assert explain.session.provider == "cpu"
    assert "openvino is not installed; running as without it" in explain.notes[-1]


def test_what_goes_first_anyway_needs_no_note(stored):
    path, choice = stored
    file_beside(path).write_text(changed(choice, provider="cpu"))
    assert Ready(str(path)).placed("auto") == ("auto", [])


def test_the_bench_prints_both_recommends_and_stores(tmp_path, monkeypatch, capsys):
    pytest.importorskip("openvino")
    monkeypatch.setattr(processes, "peak", lambda *a: 100.0)  # seconds each
    monkeypatch.setattr(processes, "loads", lambda files, *a: dict.fromkeys(files, 1.0))
    model = tmp_path / "tiny.onnx"
    onnx.save(models.tiny(), model)
    given = ["bench", str(model), "--provider", "cpu", "--provider", "openvino", "--runs", "3",
             "--batch", "2", "--threads", "1", "--method", "guided"]  # fmt: skip
    assert run([*given, "--json", "--store", "--contended"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [(r["provider"], r["subject"]) for r in report["rows"]] == [
        ("cpu", "score"), ("cpu", "score + guided"),
        ("openvino", "score"), ("openvino", "score + guided"),
    ]  # fmt: skip
    assert report["contended"] is True
    assert [r["drift"] is None for r in report["rows"]] == [True, True, False, False]
    assert all(r["drift"] < 1e-4 for r in report["rows"][2:])
    assert min(r["fastest_ratio"] for r in report["rows"] if r["subject"] == "score") == 1
    assert report["recommended"]["provider"] in ("cpu", "openvino")
    kept = Choice.read(file_beside(model))
    assert kept.provider == report["recommended"]["provider"]
    assert report["stored"] == str(file_beside(model))
    assert "openvino" in report["versions"]
    assert run(given) == 0
    assert "recommended: --provider " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--store"], "expected two or more --provider"),
        (["--store", "--provider", "cpu", "--provider", "cpu"], "expected two or more"),
        (
            ["--store", "--provider", "cpu", "--provider", "openvino,precision=bf16"],
            "accepted: providers without precision and cache",
        ),
        (["--provider", "openvino", "--for", "cpu"], "for cpu gives wrong maps on openvino"),
    ],
)
def test_bad_use_of_the_bench(given, says, tiny, capsys):
    assert run(["bench", str(tiny), "--runs", "1", *given]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line
    assert not file_beside(tiny).exists()
