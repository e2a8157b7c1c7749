"""Options of targeted explanations that no asked method takes, or can't take together: one line
and exit code 2, in every command that has them, and nothing written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import backlight
from backlight.engine.cli import run
from backlight.errors import UsageError
from backlight.export.methods import METHODS
from backlight.export.saliency import explain_graph

from .. import models

pytest.importorskip("onnxruntime")
COMMANDS = {
    "export": "export {m} -o {o}",
    "explain": "explain -m {m} {p} -o {o} --preprocess unit",
    "batch": "batch -m {m} {p} -o {o} --preprocess unit --no-isolate --workers 1",
    "check": "check {m}",
    "bench": "bench {m} --runs 1 --batch 1",
}
ALL = tuple(COMMANDS)
MAPPED = ("export", "explain", "batch")
# What is asked, by which commands, and what the line says.
MISTAKES = [
    ("--method gradkam", ALL, "nearest: gradcam"),
    ("--method rollout", ALL, "no attention between"),
    ("--method lime", ("export", "batch", "check", "bench"), "which no graph holds"),
    ("--method gradcam --layer nope", (*MAPPED, "check"), "no tensor 'nope' in the model"),
    ("--method gradcam --layer scores", (*MAPPED, "check"), "no rows and columns"),
    ("--method gradcam --layer p", (*MAPPED, "check"), "has one position"),
    ("--method vanilla --layer r", (*MAPPED, "check"), "signed are of class activation maps"),
    ("--method vanilla --size layer", MAPPED, "signed are of class activation maps"),
    ("--method vanilla --signed", MAPPED, "signed are of class activation maps"),
    ("--method gradcam --fuse", MAPPED, "fuse needs two layers"),
    ("--method gradcam --size Layer", MAPPED, "size 'Layer'; accepted: input, layer"),
    ("--method guided_gradcam --size layer", MAPPED, "shaped like the image"),
    ("--method causalcam --contrast 1", MAPPED, "'causalcam' takes no contrast"),
    ("--method gradcam --contrast 99", MAPPED, "contrast 99 is out of range"),
    ("--method gradcam --contrast bogus", MAPPED, "--contrast 'bogus'; accepted: second, a class"),
    ("--method gradcam --contrast top1", MAPPED, "'top1'; accepted: second, a class number"),
    ("--method gradcam --contrast-form logits", MAPPED, "accepted: loss, logit"),
    ("--method gradcam --contrast-form logit", MAPPED, "is of a contrast, and gradcam has none"),
    (
        "--method gradcam --contrast 1 --target-class 1 --contrast-form logit", MAPPED,
        "difference is 0 everywhere",
    ),
    (
        "--method gradcam --contrast 1 --target-class 1", MAPPED,
        "the target itself; its maps would say what keeps it from certainty",
    ),
    ("--method contrastcam --versus 1 --target-class 1", MAPPED, "keeps it from certainty"),
    ("--method smoothgrad --samples 0", MAPPED, "samples 0; expected 1 to 4096"),
    ("--method integrated_gradients --steps -3", MAPPED, "steps -3; expected 1 to 4096"),
    ("--method vanilla --samples 3", MAPPED, "of methods that vary the image"),
    ("--method smoothgrad --steps 3", MAPPED, "take a way to the image: integrated"),
    ("--method squaregrad --baseline 0", MAPPED, "take a way to the image: integrated"),
    ("--method integrated_gradients --noise 1", MAPPED, "take noise around the image: smooth"),
    ("--method smoothgrad --noise nan", MAPPED, "--noise 'nan'; expected a number"),
    ("--method smoothgrad --noise inf", MAPPED, "--noise 'inf'; expected a number"),
    ("--method integrated_gradients --baseline nan", MAPPED, "baseline 'nan'; accepted"),
    ("--method integrated_gradients --baseline 1e999", MAPPED, "a finite number"),
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("asks")
    models.noise_photo(made)
    onnx.save(models.tiny(), made / "tiny.onnx")
    return made


def call(command: str, folder: Path, words: str, model: str = "tiny") -> int:
    line = COMMANDS[command].format(
        m=folder / f"{model}.onnx", p=folder / "photo.png", o=folder / "out"
    )
    return run([*line.split(), *words.split()])


def refused(command: str, folder: Path, words: str, says: str, capsys, model: str = "tiny") -> None:
    before = sorted(os.walk(folder))
    assert call(command, folder, words, model) == 2
    said = capsys.readouterr()
    assert says in said.err and len(said.err.splitlines()) == 1
    assert command == "check" or not said.out  # it reports what there is
    assert sorted(os.walk(folder)) == before


@pytest.mark.parametrize(
    ("words", "command", "says"), [(w, c, says) for w, cs, says in MISTAKES for c in cs]
)
def test_one_line(words: str, command: str, says: str, folder: Path, capsys):
    refused(command, folder, words, says, capsys)


def test_the_engine_s_methods_are_checked_alike(folder: Path, capsys):
    """What no graph holds takes no contrast either, and no form of one."""
    for more in ("--contrast-form logit", "--contrast-form nonsense", "--contrast 1"):
        refused("explain", folder, f"--method scorecam {more}", "contrast", capsys)


def test_a_contrast_with_itself_says_what_its_map_means(folder: Path, tmp_path, capsys):
    """Asked for by name it is a mistake. In Python, of a loss, it is "why not P with certainty?",
    with a note; and so it is of a photo's own top class."""
    graph = explain_graph(models.tiny(), ["gradcam"], contrast=1, target_class=1)
    assert graph.notes == (
        "contrast 1 is the target itself: the maps say what keeps it from certainty",
    )
    # A head that a Sigmoid closes has no softmax to be uncertain by.
    sigmoid = models.tiny(tail="prob = Sigmoid(scores)")
    with pytest.raises(UsageError, match="difference is 0 everywhere"):
        explain_graph(sigmoid, ["gradcam"], contrast=1, target_class=1)
    top = str(backlight.Explainer(folder / "tiny.onnx", methods=("vanilla",))(
        np.zeros((1, 3, 8, 8), np.float32)
    ).target[0])  # fmt: skip
    (tmp_path / "dark").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "dark" / "dark.png")
    ask = f"explain -m {folder}/tiny.onnx {tmp_path}/dark -o {tmp_path}/o --preprocess unit"
    assert run([*ask.split(), "--method", "gradcam", "--contrast", top]) == 0
    assert "the contrast is the class itself" in capsys.readouterr().out


def test_second_by_its_number(folder: Path, tmp_path, capsys):
    line = f"export {folder}/tiny.onnx -o {tmp_path}/e.onnx --method vanilla --contrast -1"
    assert run(line.split()) == 0
    held = onnx.load(tmp_path / "e.onnx")
    assert {p.key: p.value for p in held.metadata_props}["backlight.contrast"] == "second"


def multilayer() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    return models.parsed(
        """<ir_version: 8, opset_import: ["": 18]>
m (float[N,3,8,8] x) => (float[N,5] y) {
    f = Flatten(x)
    h = MatMul(f, w)
    r = Relu(h)
    y = MatMul(r, v)
}""",
        {
            "w": rng.standard_normal((192, 6)).astype(np.float32),
            "v": rng.standard_normal((6, 5)).astype(np.float32),
        },
    )


NETWORKS: dict[str, Callable[[], onnx.ModelProto]] = {
    "tiny": models.tiny,
    "fixed batch": lambda: models.tiny(shape="1,3,8,8", output="float[1,5] prob"),
    "sigmoid": lambda: models.tiny(tail="prob = Sigmoid(scores)"),
    "no places": multilayer,
    "class token": models.transformer,
    "pooled tokens": lambda: models.transformer(reading="pooled"),
}
OPTIONS = (
    "", "--signed", "--size layer", "--contrast second", "--contrast 1 --contrast-form logit",
    "--samples 3", "--steps 3", "--target-class 2", "--layer nope", "--fuse",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("network", NETWORKS)
def test_every_method_on_every_network(network: str, name: str, tmp_path: Path, capsys):
    """A map of each, named for its method and of its shape, or one line and nothing written."""
    onnx.save(NETWORKS[network](), tmp_path / "tiny.onnx")
    models.noise_photo(tmp_path)
    row = METHODS[name]
    for options in OPTIONS:
        words = f"--method {name} {options}"
        if name in ("lime", "kernelshap"):
            words += " --segments grid:2x2 --masks 8"
        before = sorted(os.walk(tmp_path))
        code = call("explain", tmp_path, words)
        said = capsys.readouterr()
        if code == 2:
            assert len(said.err.splitlines()) == 1 and sorted(os.walk(tmp_path)) == before, words
        else:
            assert code == 0, words
            out = tmp_path / "out"
            found = np.load(next(out.glob(f"*{name}*.npy")))
            wide = row.shaped_as_image("none")
            assert found.ndim == (3 if wide else 2), words
            if "size layer" not in options:
                assert found.shape[-2:] == (8, 8), words
            for file in sorted(out.iterdir()):
                file.unlink()
            out.rmdir()
        if row.held == "engine":
            continue
        code = call("export", tmp_path, words)
        said = capsys.readouterr()
        file = tmp_path / "out"
        assert code == (0 if file.exists() else 2), words
        if code == 0:
            outputs = [o.name for o in onnx.load(file).graph.output]
            assert f"saliency_{name}" in outputs, words
            file.unlink()
        else:
            assert len(said.err.splitlines()) == 1, words
