"""A model is readied once, in one place, whatever is made of it."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

import backlight
from backlight.engine.classifier.fed import Fed
from backlight.engine.classifier.ready import Ready
from backlight.engine.cli import run
from backlight.engine.inside import deconvnet, objective
from backlight.engine.inside.taps import Taps
from backlight.engine.runtime import session
from backlight.engine.similar.embed import Embedder

from .. import models


@pytest.mark.parametrize(
    ("room", "made"),
    [
        ("direct.compiled", lambda m: backlight.Explainer(m, ["vanilla"], providers="cpu")),
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


# Of each command: reads of the model's file, and loads (upgrade, folding, inference). An
# export's own files are read too: ONNX Runtime is given nothing that wasn't held to the rules.
COUNTS = {
    "check": (1, 1),
    "check --for cuda": (1, 2),
    "export": (1, 1),
    "export --compare": (3, 2),
    "explain": (1, 1),
    "explain, exported": (1, 0),
    "explain, masked": (1, 1),
    "occlude": (1, 1),
    "rise": (1, 1),
    "cem": (1, 1),
    "segment": (1, 1),
    "filters": (1, 1),
    "activations": (1, 1),
    "activations --list": (1, 1),
    "patches": (1, 1),
    "deconvnet": (1, 1),
    "invert": (1, 1),
    "maximize": (1, 1),
    "graph": (1, 1),
    "bias": (1, 1),
    "embed": (1, 1),
    "neighbors": (1, 1),
    "concepts": (1, 1),
    "counterfactual": (1, 1),
    "bench": (3, 1),
    "batch": (2, 1),
    "triton": (1, 1),
}


ARGUMENTS = {
    "check": "check M",
    "check --for cuda": "check M --for cuda",
    "export": "export M -o new.onnx",
    "export --compare": "export M -o new.onnx --dtype float16 --compare photos --preprocess unit",
    "explain": "explain -m M photos -o out --preprocess unit",
    "explain, exported": "explain -m E photos -o out --preprocess unit",
    "explain, masked": "explain -m M photos -o out --method lime --segments grid:2 "
    "--method gradcam --method scorecam --method ablationcam --preprocess unit",
    "occlude": "occlude -m M photos -o out --window 4 --stride 4 --preprocess unit",
    "rise": "rise -m M photos -o out --masks 8 --preprocess unit",
    "segment": "segment -m M photos -o out --method vanilla --preprocess unit",
    "cem": "cem -m M photos -o out --steps 2 --preprocess unit",
    "filters": "filters M -o out",
    "activations": "activations M photos -l r -o out --preprocess unit",
    "activations --list": "activations M --list --preprocess unit",
    "patches": "patches M photos -l r -o out -k 2 --preprocess unit",
    "deconvnet": "deconvnet M photos -l r -k 1 -o out --channels 0 --preprocess unit",
    "invert": "invert M photos -l r -o out --steps 2 --preprocess unit",
    "maximize": "maximize M --target-class 1 -o out --steps 2 --preprocess unit",
    "bias": "bias M photos -o out --preprocess unit",
    "graph": "graph M photos --layers r -o out --preprocess unit",
    "embed": "embed M photos -o new --preprocess unit",
    "neighbors": "neighbors S photos -o out",
    "concepts": "concepts M --concept a=bundled --random bundled --images photos -l h -o out "
    "--runs 3 --preprocess unit",
    "counterfactual": "counterfactual M photos --distractors photos -l r -o out --preprocess unit",
    "bench": "bench M --runs 1 --batch 1 --rule vanilla --size 8",
    "batch": "batch M photos -o out --rule vanilla --preprocess unit --no-isolate",
    "triton": "triton M -o out --rule vanilla --preprocess unit",
}


@pytest.fixture(scope="module")
def at_hand(tmp_path_factory) -> Path:
    """A folder with a model M, an export E of it, photos, and a store S of these."""
    folder = tmp_path_factory.mktemp("at-hand")
    (folder / "photos").mkdir()
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        pixels = rng.integers(0, 255, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{name}.png")
    onnx.save(models.tiny(), folder / "M.onnx")
    onnx.save(backlight.export(folder / "M.onnx"), folder / "E.onnx")
    backlight.embed(folder / "M.onnx", folder / "photos", folder / "S", preprocess="unit")
    return folder


@pytest.mark.parametrize("command", COUNTS)
def test_a_command_reads_and_loads_its_model_once(command, at_hand, tmp_path, monkeypatch):
    graph = sys.modules["backlight.export.graph"]
    calls: list[str] = []

    def counted(module: Any, name: str) -> None:
        inner = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a: (calls.append(name), inner(*a))[1])

    counted(graph, "read_message")
    counted(session, "read_message")
    counted(graph, "check_nodes")  # of every load, and of nothing else
    places = {"M": at_hand / "M.onnx", "E": at_hand / "E.onnx", "S": at_hand / "S"}
    places |= {"photos": at_hand / "photos"}
    monkeypatch.chdir(tmp_path)
    assert run([str(places.get(word, word)) for word in ARGUMENTS[command].split()]) == 0
    reads, loads = COUNTS[command]
    assert (calls.count("read_message"), calls.count("check_nodes")) == (reads, loads), calls


@pytest.mark.parametrize("command", ["explain", "occlude --window 4", "rise", "cem", "segment"])
def test_a_class_by_name_costs_no_more(command, tmp_path, monkeypatch):
    """The names are in the model, which is read for them and for the rest."""
    graph = sys.modules["backlight.export.graph"]
    model = models.tiny()
    model.metadata_props.add(key="backlight.labels", value='["a", "b", "cat", "dog", "e"]')
    onnx.save(model, tmp_path / "M.onnx")
    Image.new("RGB", (8, 8), "teal").save(tmp_path / "photo.png")
    calls: list[str] = []
    inner = graph.read_message
    monkeypatch.setattr(graph, "read_message", lambda *a: (calls.append("read"), inner(*a))[1])
    monkeypatch.chdir(tmp_path)
    words = [*command.split(), "M.onnx", "photo.png", "--preprocess", "unit", "--target-class"]
    assert run([*words, "cat", "-o", "named"]) == 0 and len(calls) == 1


def test_the_docs_have_these_counts():
    text = (Path(__file__).parents[2] / "docs" / "how-it-works.md").read_text(encoding="utf-8")
    for command, (reads, loads) in COUNTS.items():
        pattern = rf"^\| `{re.escape(command)}` \| (?:\d, \d|new) \| {reads}, {loads} \|$"
        assert re.search(pattern, text, re.MULTILINE), command


def test_what_is_built_of_one_ready_model_is_what_is_built_of_the_file(at_hand, monkeypatch):
    file = at_hand / "M.onnx"
    ready = Ready.of(file)
    assert Ready.of(ready) is ready and ready.name == "M" and ready.exported is None
    x = models.images(2, 3, 8, 8)
    layer = Taps(file, ["r"], providers="cpu")(x)["r"]
    nodes = len(ready.loaded.graph)
    weights = {n: v.const_value for n, v in ready.loaded.graph.initializers.items()}
    loads: list[str] = []
    graph = sys.modules["backlight.export.graph"]
    inner = graph.check_nodes
    monkeypatch.setattr(graph, "check_nodes", lambda *a: (loads.append("load"), inner(*a))[1])
    for make in (
        lambda m: backlight.Explainer(m, ["guided"], providers="cpu")(x).saliency["guided"],
        lambda m: backlight.Occlusion(m, window=4, stride=4, providers="cpu")(x),
        lambda m: backlight.ScoreCam(m, providers="cpu")(x),
        lambda m: Taps(m, ["r"], providers="cpu")(x)["r"],
        lambda m: deconvnet.Projector(m, "r", providers="cpu")(x, layer)["deconv"],
        lambda m: objective.Objective(m, "r", "distance", providers="cpu")(x, layer / 2)[1],
        lambda m: Embedder(m, providers="cpu")(x),
    ):
        got = make(ready)
        assert not loads
        np.testing.assert_array_equal(got, make(file))
        loads.clear()
    assert len(ready.loaded.graph) == nodes, "nobody changes it"
    left = ready.loaded.graph.initializers
    assert all(left[n].const_value is held for n, held in weights.items())
    exported = Ready(at_hand / "E.onnx")
    assert exported.exported == ("vanilla", "deconv", "guided")
    assert exported.image.name == ready.image.name and exported.image.spec == ready.image.spec


@pytest.mark.parametrize("batch", [None, 3])
def test_runs_fill_up_a_batch_that_the_model_fixes(batch):
    fed = Fed("x", (batch, 2), np.dtype(np.float32), 1, ("y", "z"), frozenset("z"))
    feeds = {"x": np.arange(4), "y": np.arange(4) * 10, "z": np.arange(9)}
    runs = list(fed.runs(feeds, 2))
    want = [([0, 1], 2), ([2, 3], 2)] if batch is None else [([0, 1, 2], 3), ([3, 3, 3], 1)]
    assert [(run["x"].tolist(), count) for run, count in runs] == want
    assert all((run["y"] == run["x"] * 10).all() and len(run["z"]) == 9 for run, _ in runs)
