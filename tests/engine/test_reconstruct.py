"""What had another name before: it works for one version more, and says what to type now."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from backlight.engine.cli import run

from .. import models

OLD = {  # what 0.1 took: what it is now, and the files that 0.1 wrote
    "reconstruct {m} {p} -l h": ("deconvnet {m} {p} -l h", "reconstruct.json"),
    "reconstruct {m} {p} -l h --method inversion --steps 2": (
        "invert {m} {p} -l h --steps 2", "inversion.json",
    ),
    "reconstruct {m} --method maximize --target-class 1 --steps 2": (
        "maximize {m} --target-class 1 --steps 2", "maximize.json",
    ),
}  # fmt: skip


@pytest.fixture
def paths(tmp_path: Path) -> dict[str, Path]:
    onnx.save(models.tiny(), tmp_path / "m.onnx")
    return {"m": tmp_path / "m.onnx", "p": models.noise_photo(tmp_path)}


@pytest.mark.parametrize("old", OLD)
def test_reconstruct_is_three_commands(old, paths, tmp_path, capsys):
    new, file = OLD[old]
    found = []
    for words, out, name in ((old, "old", file), (new, "new", "summary.json")):
        more = ["-o", str(tmp_path / out), "--preprocess", "unit", "--threads", "1"]
        assert run([*words.format(**paths).split(), *more]) == 0
        found.append(json.loads((tmp_path / out / name).read_bytes()))
        said = capsys.readouterr().err
        command = new.split()[0]
        assert (f"is 'backlight {command}'" in said) == (out == "old")
    assert found[0] == found[1]
    assert not (tmp_path / "old" / "summary.json").exists()


def test_what_a_method_cannot_use_is_refused(paths, tmp_path, capsys):
    """`reconstruct --method inversion -k 3 --rule guided` exited with 0."""
    for words, option in (
        ("reconstruct {m} {p} -l h --method inversion -k 3", "-k"),
        ("reconstruct {m} {p} -l h --method inversion --rule guided", "--rule"),
        ("reconstruct {m} {p} -l h --steps 3", "--steps"),
        ("reconstruct {m} {p} -l h --method maximize", "p"),
        ("invert {m} {p} -l h -k 3", "-k"),
        ("invert {m} {p} -l h --rule guided", "--rule"),
        ("invert {m} {p} -l h --target-class 1", "--target-class"),
        ("deconvnet {m} {p} -l h --seed 3", "--seed"),
        ("deconvnet {m} {p} -l h --target-class 1", "--target-class"),
        ("deconvnet {m} {p} -l h --channels 0 --limit 3", "--limit"),
        ("patches {m} {p} -l h --channels 0 --limit 3", "--limit"),
        ("activations {m} {p} -l h --channels 0 --limit 3", "--limit"),
        ("activations {m} {p} -l h --channels 0 --sort", "--sort"),
        ("filters {m} --filters 0 --limit 3", "--limit"),
        ("maximize {m} --target-class 1 --channels 1", "--channels"),
        ("maximize {m} --target-class 1 --limit 1", "--limit"),
        ("maximize {m} --target-class 1 --unit centre", "--unit"),
        ("maximize {m} -l h --channels 1 --limit 3", "--limit"),
        ("maximize {m} -l h --labels imagenet", "--labels"),
        ("maximize {m} -l h -k 3", "-k"),
    ):
        out = tmp_path / "out"
        assert run([*words.format(**paths).split(), "-o", str(out)]) == 2, words
        said = capsys.readouterr().err
        assert option in said and said.count("\n") == 1, (words, said)
        assert not out.exists()


def test_an_old_name_takes_nothing_that_is_there(paths, tmp_path, capsys):
    """A summary of another command stays its own."""
    (tmp_path / "summary.json").write_text("mine")
    words = [str(paths["m"]), str(paths["p"]), "-l", "h", "--preprocess", "unit"]
    assert run(["reconstruct", *words, "-o", str(tmp_path)]) == 2
    assert "summary.json: exists already" in capsys.readouterr().err
    assert (tmp_path / "summary.json").read_text() == "mine"
    assert not (tmp_path / "reconstruct.json").exists()


def test_help_shows_the_new_names_alone(capsys):
    assert run(["--help"]) == 0
    said = capsys.readouterr().out
    assert "deconvnet" in said and "invert" in said and "reconstruct" not in said


def test_method_is_what_backlight_methods_lists(paths, tmp_path, capsys):
    """occlude, neighbors and map had a --method of their own; the older spelling says the new."""
    words = [str(paths["p"]), "-m", str(paths["m"]), "--preprocess", "unit", "--window", "4"]
    found = []
    for option in ("--way", "--method"):
        out = tmp_path / option
        assert run(["occlude", *words, "-o", str(out), option, "dense"]) == 0
        found.append(json.loads((out / "summary.json").read_bytes())["images"][0]["scored"])
        assert ("it is --way now" in capsys.readouterr().err) == (option == "--method")
    assert found[0] == found[1] and found[0]["method"] == "dense"
    both = ["--way", "dense", "--method", "auto"]
    assert run(["occlude", *words, "-o", str(tmp_path / "both"), *both]) == 2
    assert "--method is its older name" in capsys.readouterr().err


def test_older_names_in_a_store(paths, tmp_path, capsys):
    pytest.importorskip("pyarrow")
    from PIL import Image

    (tmp_path / "photos").mkdir()
    for n in range(6):
        Image.new("RGB", (9, 9), (40 * n, 90, 30)).save(tmp_path / "photos" / f"{n}.png")
    store = str(tmp_path / "store")
    words = ["embed", str(paths["m"]), str(tmp_path / "photos"), "-o", store]
    assert run([*words, "--preprocess", "unit"]) == 0
    for command, option, value, more in (
        ("map", "--layout", "pca", []),
        ("neighbors", "--search", "numpy", [str(paths["p"])]),
    ):
        capsys.readouterr()
        for name in (option, "--method"):
            out = tmp_path / f"{command}{name}"
            assert run([command, store, *more, "-o", str(out), name, value]) == 0
            assert (f"it is {option} now" in capsys.readouterr().err) == (name == "--method")
            summary = json.loads((out / "summary.json").read_bytes())
            assert summary["command"] == command and summary["store"] == store
