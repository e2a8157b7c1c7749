"""One grammar: what is spelled the same in every command."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from PIL import Image

from backlight.engine.cli import run
from backlight.errors import UsageError

from .. import models

# {m}: MODEL as a word; what comes after it; {p}: a photo, {o}: the output.
AFTER_THE_MODEL = {
    "export": "-o {o}/e.onnx --rule vanilla",
    "explain": "{p} -o {o}/x --preprocess unit --rule vanilla",
    "occlude": "{p} -o {o}/x --preprocess unit --window 4 --stride 4",
    "rise": "{p} -o {o}/x --preprocess unit --masks 8",
    "segment": "{p} -o {o}/x --preprocess unit --method vanilla",
    "cem": "{p} -o {o}/x --preprocess unit --steps 2",
    "check": "--rule vanilla",
    "bench": "--runs 1 --batch 1 --rule vanilla --size 8",
    "filters": "-o {o}/x --preprocess unit",
    "activations": "{p} -l h -o {o}/x --preprocess unit",
    "patches": "{p} -l h -o {o}/x --preprocess unit",
    "deconvnet": "{p} -l h -o {o}/x --preprocess unit",
    "invert": "{p} -l h -o {o}/x --preprocess unit --steps 2",
    "maximize": "--target-class 1 -o {o}/x --preprocess unit --steps 2",
    "counterfactual": "{p} --distractors {p} -l r -o {o}/x --preprocess unit",
    "concepts": "--concept a=bundled --random bundled --images bundled -l h -o {o}/x "
    "--preprocess unit",
    "bias": "{p} -o {o}/x --preprocess unit",
    "graph": "{p} --layers r,h -o {o}/x --preprocess unit",
    "embed": "{p} -o {o}/x --preprocess unit",
    "batch": "{p} -o {o}/x --preprocess unit --rule vanilla",
    "triton": "-o {o}/x --preprocess unit --rule vanilla",
}


@pytest.fixture
def words(tmp_path: Path) -> dict[str, str]:
    onnx.save(models.tiny(), tmp_path / "m.onnx")
    found = {"m": tmp_path / "m.onnx", "p": models.noise_photo(tmp_path), "o": tmp_path}
    return {k: str(v) for k, v in found.items()}


@pytest.mark.parametrize("command", AFTER_THE_MODEL)
@pytest.mark.parametrize("place", ["{m} {rest}", "-m {m} {rest}", "{rest} --model {m}"])
def test_the_model_is_the_first_word_or_an_option(command, place, words, tmp_path, capsys):
    if command in ("embed", "batch"):
        pytest.importorskip("pyarrow")
    line = f"{command} {place}".replace("{rest}", AFTER_THE_MODEL[command]).format(**words)
    assert run(line.split()) == 0, capsys.readouterr().err
    summary = tmp_path / "x" / "summary.json"
    if summary.exists():
        about = json.loads(summary.read_bytes())
        assert about["model"] == words["m"] and about["command"] == command
        keys = {"backlight", "command", "model", "notes", "read", "images", "skipped"}
        assert keys <= set(about) and about["skipped"] == []
        for image in about["images"]:
            assert image.get("file", words["p"]) == words["p"]


def test_every_command_with_a_model_is_tried():
    from backlight.engine.cli import COMMANDS

    assert set(COMMANDS) - set(AFTER_THE_MODEL) == {"methods", "neighbors", "map", "serve"}


@pytest.mark.parametrize("place", ["{m}", "-m {m}", "{m} -m bundled", "--model {m} -m bundled"])
def test_a_server_takes_several_models(place, words, capsys, monkeypatch):
    pytest.importorskip("starlette")
    pytest.importorskip("uvicorn")
    from backlight.engine.serve import models as served

    taken = []

    def sources(names):
        taken.extend(names)
        raise UsageError("enough")

    monkeypatch.setattr(served, "sources", sources)
    assert run(["serve", *place.format(**words).split()]) == 2
    assert "enough" in capsys.readouterr().err
    assert taken[0] == words["m"] and len(taken) == 1 + ("bundled" in place)


def test_a_server_without_a_model_says_so(capsys):
    assert run(["serve"]) == 2
    said = capsys.readouterr().err
    assert "no MODEL" in said and said.count("\n") == 1


@pytest.mark.parametrize("command", ["export -o {o}/e.onnx", "check", "maximize -l h -o {o}/x"])
def test_two_models_are_one_too_many(command, words, capsys):
    name, *rest = command.format(**words).split()
    assert run([name, words["m"], *rest, "-m", "bundled"]) == 2
    said = capsys.readouterr().err
    assert "two models" in said and said.count("\n") == 1


def test_a_second_model_is_no_image(words, capsys):
    for command in ("explain -m bundled {m} {p}", "activations {m} -m bundled -l relu"):
        assert run([*command.format(**words).split(), "-o", words["o"] + "/x"]) == 2
        assert "a model where an image is expected" in capsys.readouterr().err


def test_no_model_is_said_in_a_line(words, capsys):
    for command in ("check", "export -o {o}/e.onnx", "activations -l h", "maximize -l h"):
        assert run(command.format(**words).split()) == 2
        said = capsys.readouterr().err
        assert said.startswith("backlight: no model given; MODEL") and said.count("\n") == 1


def test_bundled_in_front_of_photos_is_the_model(words, tmp_path, capsys):
    """As in `activations bundled photo.png`; behind -m it is the bundled photos."""
    line = "explain bundled {p} -o {o}/x --json --rule vanilla".format(**words)
    assert run(line.split()) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["model"].endswith("squeezenet1_1.onnx")
    assert [i["file"] for i in about["images"]] == [words["p"]]


def test_a_folder_of_a_model_s_name_holds_photos(words, tmp_path, capsys):
    (tmp_path / "photos.onnx").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "photos.onnx" / "one.png")
    line = "explain {o}/photos.onnx -m {m} -o {o}/x --preprocess unit --json".format(**words)
    assert run(line.split()) == 0
    assert len(json.loads(capsys.readouterr().out)["images"]) == 1
    line = "explain {o}/photos.onnx -o {o}/y --json --rule vanilla".format(**words)
    assert run(line.split()) == 0
    assert "squeezenet" in json.loads(capsys.readouterr().out)["model"]


def test_export_takes_a_class_by_its_name(words, tmp_path, capsys):
    """By --labels, else by the names that the model carries; nearest names on a miss."""
    (tmp_path / "names.txt").write_text("cat\ndog\nespresso\ncup\nowl\n")
    line = "export {m} -o {o}/one.onnx --rule vanilla --labels {o}/names.txt".format(**words)
    assert run([*line.split(), "--target-class", "Espresso"]) == 0
    carried = str(tmp_path / "one.onnx")

    def baked(file: str) -> str:
        props = onnx.load(file, load_external_data=False).metadata_props
        return {p.key: p.value for p in props}["backlight.target_class"]

    assert baked(carried) == "2"
    capsys.readouterr()
    proto = models.tiny()
    onnx.helper.set_model_props(proto, {"backlight.labels": '["a", "b", "c", "dog", "e"]'})
    onnx.save(proto, words["m"])
    line = "export {m} -o {o}/two.onnx --rule vanilla --target-class".format(**words)
    assert run([*line.split(), "dog"]) == 0
    assert baked(str(tmp_path / "two.onnx")) == "3"
    capsys.readouterr()
    assert run([*line.replace("two", "three").split(), "dogs"]) == 2
    said = capsys.readouterr().err
    assert "nearest: dog" in said and said.count("\n") == 1
    assert not (tmp_path / "three.onnx").exists()


def test_threads_mean_the_same_everywhere():
    import typer

    from backlight.engine.cli import _app

    app = typer.main.get_command(_app())
    told = {
        name: option.help
        for name, command in app.commands.items()
        for option in command.params
        if "--threads" in option.opts
    }
    assert {"explain", "occlude", "patches", "embed", "map", "bench"} <= set(told)
    for name, text in told.items():
        assert text.startswith("Threads that compute, in all"), name


# What a mode can't use is refused in a line that names it, never ignored: nothing is written.
REFUSED = [
    ("explain {m} {p} -o {o}/x --rule vanilla", "--contrast-form logit"),
    ("explain {m} {p} -o {o}/x --method lime --segments grid:2x2", "--contrast-form logit"),
    ("explain {m} {p} -o {o}/x --rule vanilla", "--target-class input"),
    ("explain {m} {p} -o {o}/x --method smoothgrad", "--steps 3"),
    ("explain {m} {p} -o {o}/x --method vargrad", "--baseline white"),
    ("export {m} -o {o}/x --method integrated_gradients", "--samples 3"),
    ("export {m} -o {o}/x --method integrated_gradients", "--noise 0.3"),
    ("export {m} -o {o}/x --rule vanilla", "--contrast-form logit"),
    ("check {m}", "--isolate-seconds 5"),
    ("check {m}", "--isolate-memory 1GB"),
    ("batch {m} {p} -o {o}/x --no-isolate", "--isolate-seconds 5"),
    ("batch {m} {p} -o {o}/x --maps png", "--grid 4"),
    ("occlude {m} {p} -o {o}/x", "--baseline-space pixels"),
    ("rise {m} {p} -o {o}/x --baseline blur:2", "--baseline-space pixels"),
    ("rise {m} {p} -o {o}/x --baseline {p}", "--baseline-space pixels"),
    ("cem {m} {p} -o {o}/x", "--baseline-space pixels"),
    ("cem {m} {p} -o {o}/x --on pixels", "--most 2"),
    ("cem {m} {p} -o {o}/x --kind positive", "--most 2"),
    ("segment {m} {p} -o {o}/x --method vanilla", "--window 2"),
    ("segment {m} {p} -o {o}/x --method vanilla --way random-walker", "--seed 3"),
    ("segment {m} {p} -o {o}/x --method vanilla --way random-walker", "--iterations 3"),
    ("maximize {m} -o {o}/x", "--target-class top1"),
    ("explain {m} {p} -o {o}/x --method gradcam", "--wrt h"),
    ("export {m} -o {o}/x --method gradcam", "--wrt h"),
    ("check {m} --method gradcam", "--wrt h"),
    ("export {m} -o {o}/x --rule vanilla --cotangent input", "--target-class 3"),
    ("batch {m} {p} -o {o}/x --rule vanilla", "--column pictures"),
    ("batch {m} {p} -o {o}/x --rule vanilla", "--key name"),
    ("counterfactual {m} {p} -o {o}/x", "--class top1"),
]


@pytest.mark.parametrize(("line", "option"), REFUSED)
def test_an_option_without_effect_is_refused(line, option, words, tmp_path, capsys):
    if "random-walker" in line:
        pytest.importorskip("skimage")
    run_line = line.format(**words).split() + option.split()
    if run_line[0] not in ("check", "export", "batch"):
        run_line += ["--preprocess", "unit"]
    assert run(run_line) == 2
    said = capsys.readouterr().err
    assert option.split()[0].lstrip("-").replace("-", " ") in said.replace("-", " "), said
    assert said.count("\n") == 1
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("layout", ["pca", "umap"])
def test_a_layout_refuses_what_another_takes(layout, tmp_path, capsys):
    options = ["--perplexity 2"] + ["--seed 3", "--components 2"] * (layout == "pca")
    for option in options:
        assert run(["map", str(tmp_path), "--layout", layout, *option.split()]) == 2
        assert f"{option} with --layout {layout}" in capsys.readouterr().err


# Every command that takes a class; what else than a class it takes.
CLASSES = {
    "explain": "top1",
    "export": "input top1",
    "occlude": "top1",
    "rise": "top1",
    "segment": "top1",
    "cem": "top1",
    "batch": "top1",
    "concepts": "top1",
    "maximize": "",
    "counterfactual": "",
}


def test_every_command_with_a_class_is_tried():
    import typer

    from backlight.engine.cli import _app

    app = typer.main.get_command(_app())
    takes = {
        name
        for name, command in app.commands.items()
        if any("--target-class" in option.opts for option in command.params)
    }
    assert takes == set(CLASSES)


@pytest.mark.parametrize("command", CLASSES)
def test_a_class_is_given_the_same_way_everywhere(command, words, tmp_path, capsys):
    """A number, a name in any case, or a word; nearest names on a miss, and what is taken."""
    if command == "batch":
        pytest.importorskip("pyarrow")
    (tmp_path / "names.txt").write_text("cat\ndog\nespresso\ncup\nowl\n")
    line = f"{command} {{m}} {AFTER_THE_MODEL[command]} --labels {{o}}/names.txt".format(**words)
    own = line.replace("--target-class 1", "").split()
    if command == "counterfactual":
        # A picture of the class is found among those given, or the error names it.
        assert run([*own, "--class", "ESPRESSO"]) == 2
        assert "of espresso (2)" in capsys.readouterr().err
    else:
        for given in ("2", "ESPRESSO", *CLASSES[command].split()):
            assert run([*own, "--target-class", given, "--force"]) == 0, capsys.readouterr().err
    capsys.readouterr()
    accepted = "a class number or name"
    if words_of := CLASSES[command].split():
        accepted = ", ".join([*words_of, "a class number, or a name from the labels"])
    assert run([*own, "--target-class", "espreso", "--force"]) == 2
    said = capsys.readouterr().err
    assert f"'espreso'; accepted: {accepted}; nearest: espresso" in said and said.count("\n") == 1
    assert run([*own, "--target-class", "9", "--force"]) == 2
    said = capsys.readouterr().err
    assert "9 is out of range" in said and "0 to 4" in said and said.count("\n") == 1


# Numbers beyond what anything takes: a line that names the option, wherever they end up.
HUGE = [
    ("explain", "--threads"),
    ("occlude", "--threads"),
    ("rise", "--threads"),
    ("activations", "--threads"),
    ("patches", "--threads"),
    ("deconvnet", "--decoders"),
    ("invert", "--steps"),
    ("invert", "--starts"),
    ("maximize", "--steps"),
    ("maximize", "--starts"),
    ("cem", "--threads"),
    ("cem", "--rounds"),
    ("cem", "--rounds 1000"),
    ("cem", "--steps 2147483647"),
    ("cem", "--weight 1e300"),
    ("cem", "--beta 1e300"),
    ("graph", "--limit"),
    ("graph", "--parents"),
    ("graph", "--candidates"),
    ("graph", "--iterations"),
    ("graph", "--iterations 2147483647"),
    ("graph", "--tau 1e300"),
    ("batch", "--batch"),
    ("bench", "--runs 2147483647"),
    ("bench", "--batch 2147483647"),
    ("bench", "--size 2147483647"),
    ("segment", "--threads"),
    ("segment", "--iterations"),
]


@pytest.mark.parametrize(("command", "option"), HUGE)
def test_a_number_beyond_all_is_a_line(command, option, words, capsys):
    if "iterations" in option:
        pytest.importorskip("cv2")
    line = f"{command} {{m}} {AFTER_THE_MODEL[command]} {option}".format(**words).split()
    if " " not in option:
        line.append("9" * 30)
    assert run(line) == 2
    said = capsys.readouterr().err
    assert option.split()[0].strip("-") in said and "at most" in said
    assert said.count("\n") == 1


def test_filters_hold_their_shapes_against_the_model(words, capsys):
    line = "filters {m} -o {o}/x --preprocess unit --shape nothing=1,3,8,8".format(**words)
    assert run(line.split()) == 2
    said = capsys.readouterr().err
    assert "'nothing'" in said and said.count("\n") == 1
