"""What a newcomer meets first: the bundled names, results that are there already, a quiet start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from backlight.engine.cli import run
from backlight.engine.cli.options import BUNDLED, PHOTOS, model_path, photo_paths

from .commands import SRC

CHELSEA = str(PHOTOS / "chelsea.jpg")


def test_what_bundled_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert model_path(None) == model_path("bundled") == str(BUNDLED)
    assert photo_paths([]) == photo_paths(["bundled"]) == [str(PHOTOS)]
    assert photo_paths(["a.jpg", "bundled"]) == ["a.jpg", str(PHOTOS)]
    (tmp_path / "bundled").mkdir()  # what has the name itself goes first
    assert model_path("bundled") == "bundled" and photo_paths(["bundled"]) == ["bundled"]


@pytest.mark.parametrize(
    "words",
    [
        "check bundled",
        "export bundled -o {o}/e.onnx --rule vanilla --compare {c} --reference bundled",
        "bench bundled --runs 1 --batch 1 --rule vanilla",
        "filters bundled -o {o}/f",
        "filters --list",
        "activations bundled {c} -l relu -o {o}/a --list",
        "explain -m bundled {c} -o {o}/e --rule vanilla",
        "occlude -m bundled {c} -o {o}/o --window 110 --stride 110 --necessity 0",
        "rise -m bundled {c} -o {o}/r --masks 4",
        "segment bundled {c} -o {o}/g",
        "cem bundled {c} -o {o}/c --steps 1",
        "patches bundled bundled -l fire2 -o {o}/p --list",
        "reconstruct bundled bundled -o {o}/i --list",
        "embed bundled bundled -o {o}/s",
    ],
)
def test_bundled_is_a_model_in_every_command(words: str, tmp_path: Path, capsys):
    if words.startswith("embed"):
        pytest.importorskip("pyarrow")
    assert run(words.format(o=tmp_path, c=CHELSEA).split()) == 0, capsys.readouterr().err


def test_bundled_photos(tmp_path: Path, tiny: Path, capsys):
    words = ["explain", "-m", str(tiny), "bundled", "-o", str(tmp_path / "o"), "--json"]
    assert run([*words, "--preprocess", "unit", "--rule", "vanilla"]) == 0
    found = json.loads(capsys.readouterr().out)["images"]
    assert [i["file"] for i in found] == sorted(str(p) for p in PHOTOS.iterdir())


# What each command writes always; {m}: the model, {p}: photos, {o}: the output.
WRITES = {
    "explain -m {m} {p} -o {o}": "two.png",
    "occlude -m {m} {p} -o {o}": "summary.json",
    "rise -m {m} {p} -o {o}": "three.npy",
    "segment {p} -m {m} -o {o}": "two-mask.png",
    "cem {p} -m {m} -o {o}": "two-negative.npy",
    "filters {m} -o {o}": "filters.json",
    "activations {m} {p} -l h -o {o}": "activations.json",
    "patches {m} {p} -l h -o {o}": "h.png",
    "reconstruct {m} {p} -l h -o {o}": "reconstruct.json",
    "reconstruct {m} {p} -l h --method inversion -o {o}": "inversion.png",
    "reconstruct {m} -l h --method maximize -o {o}": "maximize.json",
}


@pytest.mark.parametrize("words", WRITES)
def test_what_is_there_already_is_said_before_the_model_is_loaded(
    words: str, tmp_path: Path, photos: Path, capsys
):
    """The model's file is no model: whoever loads it first says so."""
    (tmp_path / "m.onnx").write_bytes(b"no model")
    out = tmp_path / "out"
    out.mkdir()
    (out / WRITES[words]).write_text("mine")
    arguments = words.format(m=tmp_path / "m.onnx", p=photos, o=out).split()
    assert run(arguments) == 2
    said = capsys.readouterr().err
    assert f"{out / WRITES[words]}: exists already; --force" in said
    assert run([*arguments, "--force"]) == 2
    assert "not an ONNX model" in capsys.readouterr().err
    assert [f.name for f in out.iterdir()] == [WRITES[words]]


def test_neighbours_look_before_they_load(tmp_path: Path, tiny: Path, photos: Path, capsys):
    pytest.importorskip("pyarrow")
    store, out = tmp_path / "store", tmp_path / "out"
    assert run(["embed", str(tiny), str(photos), "-o", str(store), "--preprocess", "unit"]) == 0
    tiny.unlink()
    out.mkdir()
    (out / "neighbors.json").write_text("mine")
    capsys.readouterr()
    assert run(["neighbors", str(store), str(photos), "-o", str(out)]) == 2
    assert "neighbors.json: exists already" in capsys.readouterr().err


@pytest.mark.parametrize("words", WRITES)
def test_a_folder_that_cannot_be_is_said_before_the_model_is_loaded(
    words: str, tmp_path: Path, photos: Path, capsys
):
    (tmp_path / "m.onnx").write_bytes(b"no model")
    (tmp_path / "file").write_text("mine")
    for out, why in ((tmp_path / "file", "a file"), (tmp_path / "file" / "x", "is no folder")):
        assert run(words.format(m=tmp_path / "m.onnx", p=photos, o=out).split()) == 2
        assert f"{out}: " in (said := capsys.readouterr().err) and why in said


def test_skipped_neighbours_are_objects(tmp_path: Path, tiny: Path, photos: Path, capsys):
    pytest.importorskip("pyarrow")
    store, out = tmp_path / "store", tmp_path / "out"
    assert run(["embed", str(tiny), str(photos), "-o", str(store), "--preprocess", "unit"]) == 0
    (photos / "broken.png").write_bytes(b"no picture")
    assert run(["neighbors", str(store), str(photos), "gone.png", "-o", str(out)]) == 2
    skipped = json.loads((out / "neighbors.json").read_text())["skipped"]
    assert [set(one) for one in skipped] == [{"file", "error"}] * 2
    assert [Path(one["file"]).name for one in skipped] == ["gone.png", "broken.png"]
    assert "not an image" in skipped[1]["error"]


def test_the_runtime_starts_quietly_and_keeps_nothing(tmp_path: Path):
    """onnxruntime's Linux wheels have telemetry: a device id in the home folder, a warning where
    that can't be written, uploads."""
    (tmp_path / "file").write_text("")
    home = tmp_path / "home"
    home.mkdir()
    off = ("ORT_DISABLE_TELEMETRY", "CI", "GITHUB_ACTIONS", "XDG_CACHE_HOME")
    kept = {k: v for k, v in os.environ.items() if k not in off}
    code = "from backlight.engine.runtime.session import runtime; runtime()"
    for folder in (home, tmp_path / "file" / "none"):  # the second can't be made, even by root
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True,
            env=kept | {"PYTHONPATH": SRC, "HOME": str(folder)},
        )  # fmt: skip
        assert done.stderr == "" and done.stdout == ""
    assert not list(home.rglob("*icrosoft*"))


def test_embed_looks_before_it_loads(tmp_path: Path, photos: Path, capsys):
    (tmp_path / "m.onnx").write_bytes(b"no model")
    (tmp_path / "file").write_text("mine")
    for out, why in ((photos, "a folder with other files"), (tmp_path / "file", "a file")):
        assert run(["embed", str(tmp_path / "m.onnx"), str(photos), "-o", str(out)]) == 2
        assert f"{out}: {why}" in capsys.readouterr().err


def test_embed_says_that_a_picture_was_written_to_since(
    tmp_path: Path, tiny: Path, photos: Path, capsys
):
    """A store knows a picture by its path: what is in it now is another matter, and said."""
    pytest.importorskip("pyarrow")
    words = ["embed", str(tiny), str(photos), "-o", str(tmp_path / "s"), "--preprocess", "unit"]
    words.append("--json")
    assert run(words) == 0 and run(words) == 0
    assert "newer" not in capsys.readouterr().err
    one = photos / "one.png"
    Image.new("RGB", (9, 9)).save(one)
    os.utime(one, (one.stat().st_atime, one.stat().st_mtime + 5))
    assert run(words) == 0
    told = capsys.readouterr()
    assert "1 picture is newer than the vectors" in told.err and "--force" in told.err
    summary = json.loads(told.out)
    assert (summary["added"], summary["known"], summary["newer"]) == (0, 3, 1)
    for part in (tmp_path / "s").glob("part-*"):
        os.utime(part, (one.stat().st_atime, one.stat().st_mtime + 5))
    assert run([*words, "--force"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["added"], summary["newer"]) == (3, 0)
