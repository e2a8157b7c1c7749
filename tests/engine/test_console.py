"""Names that act on a terminal: none reaches one, whatever they are the names of."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from backlight.engine.cli import COMMANDS, run
from backlight.engine.cli.console import lasted
from backlight.engine.cli.options import PHOTOS
from backlight.engine.photos.plain import as_json
from backlight.errors import ModelError, cleaned

from .. import models

CLI = Path(__file__).parent.parent.parent / "engine" / "cli"
# Clears the screen; sets the window's title; the same begun in 8 bits; turns the text around.
EVIL = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202e\u200f"
ACTS = re.compile(
    r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]"
)
# What people look at with cat: all that is written and is text.
TEXTS = {".json", ".html", ".graphml", ".csv", ".txt", ".pbtxt", ".sh", ".md"}


@pytest.fixture
def evil(tmp_path: Path) -> Path:
    """A model whose tensors, nodes, labels and file name act on a terminal, and two photos."""
    model = models.tiny()
    names = {n for node in model.graph.node for n in (*node.input, *node.output)} | {"x", "prob"}
    text = {n: f"{n}{EVIL}" for n in names}
    for node in model.graph.node:
        node.name = f"{node.op_type}{EVIL}"
        node.input[:] = [text[n] for n in node.input]
        node.output[:] = [text[n] for n in node.output]
    for held in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        held.name = text[held.name]
    labels = json.dumps([f"{c}{EVIL}" for c in "abcde"])
    preprocess = json.dumps({"preset": "unit"})
    onnx.helper.set_model_props(
        model, {"backlight.labels": labels, "backlight.preprocess": preprocess}
    )
    (tmp_path / "photos").mkdir()
    for number, photo in enumerate(sorted(PHOTOS.glob("*.jpg"))[:2] * 2):
        (tmp_path / "photos" / f"{number % 2}{EVIL}").mkdir(exist_ok=True)
        shutil.copy(photo, tmp_path / "photos" / f"{number % 2}{EVIL}" / f"{number}{EVIL}.jpg")
    file = tmp_path / f"m{EVIL}.onnx"
    onnx.save(model, file)
    return file


def test_no_command_lets_a_name_act(
    evil: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """stdout and stderr of every command that reads a model or a store, as text and as JSON."""
    photos, out, layer = str(tmp_path / "photos"), str(tmp_path / "out"), f"h{EVIL}"
    mapped = str(tmp_path / f"map{EVIL}")
    photo = str(next((tmp_path / "photos").rglob("0*.jpg")))
    store, model = str(tmp_path / f"store{EVIL}"), str(evil)
    given = {
        "check": [model],
        "export": [model, "-o", out + EVIL],
        "explain": [photos, "-m", model, "-o", out + "1"],
        "occlude": [photo, "-m", model, "-o", out + "2", "--window", "4"],
        "rise": [photo, "-m", model, "-o", out + "3", "--masks", "20"],
        "segment": [photo, "-m", model, "-o", out + "12", "--method", "vanilla"],
        "cem": [photo, "-m", model, "-o", out + "11", "--steps", "2"],
        "bench": [model, "--runs", "1", "--batch", "1", "--size", "8"],
        "filters": [model, "-l", layer, "-o", out + "4"],
        "activations": [model, photo, "-l", layer, "-o", out + "5"],
        "patches": [model, photos, "-l", layer, "-o", out + "6"],
        "embed": [model, photos, "-o", store],
        "neighbors": [store, photo, "-o", out + "7"],
        "map": [store, "--layout", "pca", "--html", "-o", mapped],
        "deconvnet": [model, photo, "-l", layer, "-o", out + "8"],
        "invert": [model, photo, "-l", layer, "-o", out + "9", "--steps", "2"],
        "maximize": [model, "-l", layer, "-o", out + "10", "--steps", "2"],
        "concepts": [model, "-l", f"r{EVIL}", "--concept", f"a{EVIL}={photos}", "--random", photos,
                     "--images", photos, "--runs", "2", "-o", out + "13"],
        "counterfactual": [photo, "-m", model, "-l", f"r{EVIL}", "--distractors", photos,
                           "-o", out + "14"],
        "bias": [model, photos, "-o", out + "15"],
        "graph": [model, photos, "-l", f"r{EVIL}", "--iterations", "2", "-o", out + "16"],
        "batch": [photos, "-m", model, "--no-isolate", "-o", out + "17"],
        "triton": [model, "-o", out + "18"],
    }  # fmt: skip
    assert {*COMMANDS} - {*given} == {"methods", "serve"}
    seen = 0
    for command, arguments in given.items():
        for more in ([], ["--json"]):
            if more and command in ("export",):
                continue
            run([command, *arguments, *more, *(["--force"] if more else [])])
            said = capsys.readouterr()
            assert not ACTS.search(said.out + said.err), (command, more, said)
            assert "Traceback" not in said.err
            if more and said.out:
                seen += (
                    EVIL
                    in json.dumps(json.loads(said.out), ensure_ascii=False).encode("utf-8").decode()
                    or "\\u001b[2J" in said.out
                )
    for command in ("filters", "patches", "embed"):
        run([command, model, "--list"])
        said = capsys.readouterr()
        assert not ACTS.search(said.out + said.err), command
    run(["check", model, "--of", EVIL])
    run(["explain", "-m", model, f"no{EVIL}.jpg", "--target-class", EVIL])
    run([f"--{EVIL}"])
    run([EVIL])
    said = capsys.readouterr()
    assert said.err.count("\n") == 4 and not ACTS.search(said.out + said.err)
    assert seen > 5
    kinds = set()
    for file in (f for f in tmp_path.rglob("*") if f.suffix in TEXTS):
        text = file.read_text(encoding="utf-8")
        assert not ACTS.search(text.replace("\t", " ")), file.name
        kinds.add(file.suffix)
        if file.suffix == ".json":
            json.loads(text)
    assert kinds >= {".json", ".html", ".graphml", ".txt", ".pbtxt"}


def test_json_says_the_same() -> None:
    for value in (EVIL, "é中\U0001f600", {"a\x9b": ["\u2028", "\x7f", 1.5, None]}):
        assert json.loads(as_json(value)) == value
    assert as_json("é中") == '"é中"'


def test_messages_are_clean_for_python_too() -> None:
    assert str(ModelError(f"a{EVIL}\nb")) == "a?[2J?]0;owned??31m?? b"
    assert cleaned("é中 \U0001f600") == "é中 \U0001f600"


def test_only_one_module_prints() -> None:
    """A `print` or a rich Console of a command's own would be a way around it."""
    for file in sorted(CLI.glob("*.py")):
        if file.name == "console.py":
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            assert not (isinstance(node.func, ast.Name) and name == "print"), file.name
            # The progress bar's titles are ours.
            assert name != "Console" or file.name == "progress.py", file.name
            assert ast.unparse(node.func) not in ("sys.stdout.write", "typer.echo"), file.name
    assert set(COMMANDS) <= {f.stem for f in CLI.glob("*.py")}


def test_libraries_write_to_no_terminal(tmp_path: Path) -> None:
    """libtiff tells of a broken photo past Python: what a person reads is our line."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)
    file = tmp_path / "a.tif"
    Image.fromarray(noise).save(file, compression="tiff_lzw")
    broken = bytearray(file.read_bytes())
    broken[100:300] = b"\xff" * 200
    file.write_bytes(bytes(broken))
    (tmp_path / "m.onnx").write_bytes(models.tiny().SerializeToString())
    command = ["explain", "-m", "m.onnx", "a.tif", "--preprocess", "unit"]
    for more in ([], ["--isolate"]):
        done = subprocess.run(
            [sys.executable, "-m", "backlight", *command, *more], capture_output=True, text=True,
            check=False, cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 2
        assert done.stderr.startswith("backlight: skipped: a.tif: can't be read:")
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("ms", "said"), [(3.04, "3.0 ms"), (9999.9, "9999.9 ms"), (114_376, "114.4 s")]
)
def test_a_long_time_is_told_in_seconds(ms: float, said: str):
    assert lasted(ms) == said
