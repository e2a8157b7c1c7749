"""A model of an image and a second input: in every command and class that runs models."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image
from typer.main import get_command

import backlight
from backlight.engine.cli import COMMANDS as ALL
from backlight.engine.cli import _app, run
from backlight.errors import UsageError

from .nets import two

# Commands and functions that run no model, or one whose inputs come with each request.
RUNS_NONE = {"filters", "methods", "map", "triton", "serve"}
COMMANDS: dict[str, str] = {
    "activations": "MODEL PHOTO -l r",
    "batch": "-m MODEL PHOTOS --method vanilla",
    "bench": "MODEL --runs 1 --batch 1 --method vanilla",
    "bias": "MODEL PHOTOS --tests 0 --object none",
    "cem": "-m MODEL PHOTO --steps 2 --rounds 1",
    "check": "MODEL",
    "concepts": "-m MODEL --images PHOTOS --target-class 1 --concept c=PHOTOS -l r "
    "--random PHOTOS --random MORE",
    "counterfactual": "-m MODEL PHOTO --class 3 --distractors MORE",
    "deconvnet": "MODEL PHOTOS -l r",
    "embed": "MODEL PHOTOS -l s",
    "explain": "-m MODEL PHOTO --method gradcam",
    "export": "MODEL --compare PHOTO",
    "graph": "MODEL PHOTOS -l r --no-html",
    "invert": "-m MODEL PHOTO -l s --steps 2",
    "maximize": "-m MODEL --target-class 1 --steps 2",
    "neighbors": "",
    "occlude": "-m MODEL PHOTO --window 4",
    "patches": "MODEL PHOTOS -l r",
    "rise": "-m MODEL PHOTO --masks 8 --cells 3",
    "segment": "-m MODEL PHOTO",
}
NEEDS = {
    "bias", "batch", "cem", "concepts", "counterfactual", "embed", "explain", "export", "invert",
    "maximize", "occlude", "rise", "segment",
}  # fmt: skip


def needed(name: str) -> None:
    """What a command stands on beside the dev extra."""
    if name == "batch":
        pytest.importorskip("pyarrow")
    if name == "graph":
        pytest.importorskip("networkx")
    if name == "segment":
        pytest.importorskip("cv2")


@pytest.fixture
def words(tmp_path: Path) -> Any:
    onnx.save(two(), tmp_path / "two.onnx")
    (tmp_path / "how.json").write_text('{"preset": "unit", "crop": 1}')
    np.save(tmp_path / "meta.npy", np.array([1, 0.5], np.float32))
    rng = np.random.default_rng(0)
    for folder in ("photos", "more"):
        (tmp_path / folder).mkdir()
        for at in range(8):
            noise = rng.integers(0, 255, (8, 6, 3), np.uint8)
            Image.fromarray(noise).save(tmp_path / folder / f"{at}.png")

    def made(name: str, *more: str) -> list[str]:
        line = COMMANDS[name].replace("MODEL", f"{tmp_path}/two.onnx")
        line = line.replace("PHOTOS", f"{tmp_path}/photos").replace("MORE", f"{tmp_path}/more")
        line = line.replace("PHOTO", f"{tmp_path}/photos/0.png")
        end = ".onnx" if name == "export" else ""
        out = [] if name in ("check", "bench") else ["-o", f"{tmp_path}/{name}{end}"]
        how = [] if name in ("check", "bench") else ["--preprocess", f"{tmp_path}/how.json"]
        return [name, *line.split(), *out, *how, *more]

    return made


def test_every_command_takes_them() -> None:
    commands = get_command(_app()).commands  # type: ignore[attr-defined]
    assert set(COMMANDS) == set(ALL) - RUNS_NONE
    for name in COMMANDS:
        flags = {flag for parameter in commands[name].params for flag in parameter.opts}
        assert {"--input", "--shape"} <= flags, name


@pytest.mark.parametrize("name", [n for n in COMMANDS if n != "neighbors"])
def test_a_command(
    name: str, words: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needed(name)
    if name in NEEDS:
        assert run(words(name)) == 2
        error = capsys.readouterr().err
        assert "takes 'meta'" in error and "--input meta=FILE.npy" in error
        assert len(error.strip().splitlines()) == 1
    assert run(words(name, "--input", "mata=1")) == 2
    assert "nearest: meta" in capsys.readouterr().err
    assert run(words(name, "--input", f"meta={tmp_path}/meta.npy")) == 0, capsys.readouterr().err


def test_a_comparison_feeds_both(
    words: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same on both sides; what the second input says counts."""
    assert run(words("export", "--input", "meta=3", "--json")) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["largest_score_difference"] < 1e-6
    assert all(row["cosine"] > 0.9999 for row in told["images"])
    assert (
        run(["export", f"{tmp_path}/two.onnx", "-o", f"{tmp_path}/b.onnx", "--input", "a=1"]) == 2
    )
    assert "--compare" in capsys.readouterr().err
    again = words("export", "--force", "--input", "x=1")
    assert run(again) == 2
    assert "--wrt names another image" in capsys.readouterr().err


def test_a_comparison_of_an_open_shape(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: Any
) -> None:
    """--shape is the model's on both sides."""
    model = two()
    del model.graph.input[0].type.tensor_type.shape.dim[:]
    model.graph.input[0].type.tensor_type.ClearField("shape")
    onnx.save(model, tmp_path / "two.onnx")
    assert run(words("export", "--input", "meta=1", "--shape", "x=1,3,8,6")) == 0, (
        capsys.readouterr().err
    )


def test_check_looks_at_the_other_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ..models import parsed

    pair = """<ir_version: 8, opset_import: ["": 18]>
pair (float[N,3,8,6] left, float[N,3,8,6] right) => (float[N,3] y) {
    d = Sub(left, right)
    r = Relu(d)
    p = GlobalAveragePool(r)
    y = Flatten(p)
}"""
    onnx.save(parsed(pair, {}), tmp_path / "pair.onnx")
    for more, image in (([], "left"), (["--input", "left=0.5"], "right")):
        assert run(["check", f"{tmp_path}/pair.onnx", "--json", *more]) == 0
        assert json.loads(capsys.readouterr().out)["wrt"] == image


PYTHON: dict[str, Any] = {
    "AblationCam": lambda made, x: made(layer="r")(x),
    "BiasFinder": lambda made, x: made(preprocess="unit", object="none", tests=0),
    "Cem": lambda made, x: made(preprocess="unit", steps=2, rounds=1)(x),
    "ExplanatoryGraph": lambda made, x: made(["r"], preprocess="unit"),
    "KernelShap": lambda made, x: made(segments="grid:2")(x),
    "Lime": lambda made, x: made(segments="grid:2", masks=9)(x),
    "ScoreCam": lambda made, x: made(layer="r")(x),
    "Segment": lambda made, x: made(preprocess="unit")(x, 1),
}


@pytest.mark.parametrize("name", PYTHON)
def test_a_class(name: str) -> None:
    needed({"Segment": "segment", "ExplanatoryGraph": "graph"}.get(name, ""))
    x = np.random.default_rng(0).random((2, 3, 8, 6), np.float32)

    def made(*words: Any, **more: Any) -> Any:
        return getattr(backlight, name)(two(), *words, inputs={"meta": [1, 0.5]}, **more)

    PYTHON[name](made, x)
    with pytest.raises(UsageError, match="nearest: meta"):
        getattr(backlight, name)(two(), *([["r"]] if "Graph" in name else []), inputs={"mata": 1})


def test_every_class_takes_them() -> None:
    for name in backlight.__all__:
        made = getattr(backlight, name)
        known = inspect.signature(made).parameters if callable(made) else {}
        if name in ("export", "check", "filters") or not {"model", "shapes"} <= set(known):
            continue
        assert "inputs" in known, name
