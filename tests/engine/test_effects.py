"""No option without effect: given, it changes what a command writes or prints, or is refused, or it
stands below with the reason, and with a line where it has its effect.

The first test reads each command's own code; the last runs every command, in each of its modes,
once with every option:

    python -m pytest tests/engine/test_effects.py -m slow
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib
import inspect
import io
import json
import re
import shutil
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import typer
from PIL import Image

from backlight.engine.cli import COMMANDS, _app, run

from . import nets

APP: Any = typer.main.get_command(_app())

# How a run is done, and not what comes out.
HOW = {
    "--provider", "--threads", "--batch", "--workers", "--decoders", "--memory", "--gpus", "--cpus",
    "--ray", "--isolate", "--isolate-seconds", "--isolate-memory", "--no-isolate", "--verify",
}  # fmt: skip
# What is another place for the same: the output, the model.
WHERE = {"--output", "--model", "--force"}
# What comes after the command; P: how the model wants its pixels.
P = "--preprocess unit"
MODES = {
    "export": [
        "m.onnx -o Oe.onnx --rule vanilla",
        "m.onnx -o Oe.onnx --method gradcam --layer k",
        "m.onnx -o Oe.onnx --method smoothgrad",
        "m.onnx -o Oe.onnx --method integrated_gradients",
        "m.onnx -o Oe.onnx --rule vanilla --contrast second",
        "m.onnx -o Oe.onnx --rule vanilla --target-class 2",
        "m.onnx -o Oe.onnx --rule vanilla --cotangent input",
    ],
    "explain": [
        f"m.onnx p.png -o O {P} --rule vanilla",
        f"m.onnx p.png -o O {P} --method gradcam --layer k",
        f"m.onnx p.png -o O {P} --method smoothgrad",
        f"m.onnx p.png -o O {P} --method integrated_gradients",
        f"m.onnx p.png -o O {P} --method lime --segments grid:4x4 --masks 20",
        f"m.onnx p.png -o O {P} --method vanilla --contrast second",
    ],
    "occlude": [
        *(f"m.onnx p.png -o O {P} --window 4 --stride 4 --way {w}"
          for w in ("dense", "incremental", "drilldown")),
        f"m.onnx p.png -o O {P} --window 4 --stride 4 --target-class all",
    ],
    "rise": [
        f"m.onnx p.png -o O {P} --masks 64",
        f"m.onnx p.png -o O {P} --masks 64 --baseline blur:2",
    ],
    "segment": [
        f"m.onnx p.png -o O {P} --method {m} --way {w}"
        for m in ("vanilla", "gradcam", "occlusion") for w in ("grabcut", "random-walker")
    ],
    "cem": [
        *(f"m.onnx p.png -o O {P} --steps 8 --on {o}"
          for o in ("pixels", "blur", "superpixels --segments grid:2x2")),
        *(f"m.onnx p.png -o O {P} --steps 8 --on blur --kind {k}"
          for k in ("positive", "negative")),
    ],
    "check": ["m.onnx --rule vanilla --json", "m.onnx --method gradcam", "m.onnx --for cuda"],
    "methods": [""],
    "bench": ["m.onnx --runs 1 --batch 1 --rule vanilla --size 20 --json"],
    "filters": [f"m.onnx -o O {P}"],
    "activations": [f"m.onnx p.png -l r -o O {P}"],
    "patches": [f"m.onnx photos -l r -o O {P}"],
    "deconvnet": [f"m.onnx photos -l r -o O {P}"],
    "invert": [f"m.onnx p.png -l r -o O {P} --steps 3"],
    "maximize": [
        f"m.onnx --target-class 1 -o O {P} --steps 3",
        f"m.onnx -l r --channels 0,1 -o O {P} --steps 3",
    ],
    "concepts": [
        f"m.onnx --concept x=a --random r --random i --images i -l r -o O {P} --cav {c}"
        for c in ("sgd", "logistic", "svm")
    ],
    "graph": [f"m.onnx photos --layers h,r -o O {P}"],
    "counterfactual": [
        f"m.onnx p.png --distractors photos -l s -o O {P} --search {s}"
        for s in ("sort", "greedy", "auto")
    ],
    "bias": [
        f"m.onnx photos -o O {P} --masks masks", f"m.onnx photos -o O {P}",
        f"m.onnx photos -o O {P} --object none", f"m.onnx photos -o O {P} --method vanilla",
        f"m.onnx photos -o O {P} --tests 0",
    ],
    "embed": [f"m.onnx photos -o O {P}"],
    "neighbors": ["STORE p.png -k 2 -o O"],
    "map": [f"STORE -o O --layout {layout}" for layout in ("pca", "tsne")],
    "batch": [
        f"m.onnx photos -o O {P} --rule vanilla --no-isolate --workers 1",
        f"m.onnx photos -o O {P} --method gradcam --maps png --no-isolate --workers 1",
        f"m.onnx photos -o O {P} --rule vanilla --maps float16 --no-isolate --workers 1",
    ],
    "triton": [
        f"m.onnx -o O {P} --rule vanilla", f"m.onnx -o O {P} --rule vanilla --backend tensorrt",
        f"m.onnx -o O {P} --rule vanilla --device cpu",
    ],
}  # fmt: skip
# A value that isn't the default, of an option; of one command's where it means another thing there.
VALUES = {
    "--layer": "h", "--size": "layer", "--contrast": "1", "--contrast-form": "logit",
    "--samples": "3", "--noise": "0.4", "--steps": "5", "--baseline": "white",
    "--target-class": "3", "--of": "prob:as-is", "--wrt": "h", "--cotangent": "input",
    "--reduce": "maxabs", "--for": "cpu", "--dtype": "float16", "--shape": "x=1,3,30,17",
    "--preprocess": "imagenet-torch", "--labels": "names.txt", "--compare": "p.png",
    "--reference": "m.onnx", "--input": "q=1", "--bands": "3,2,1", "--segments": "grid:3x3",
    "--hide": "zero", "--masks": "40", "--seed": "7", "--score": "logit", "--window": "3",
    "--stride": "2", "--edges": "valid", "--baseline-space": "pixels", "--overlap": "sum",
    "--necessity": "1", "--way": "dense", "--share": "0.3", "--cells": "3", "--probability": "0.3",
    "--tolerance": "0.9", "--kind": "positive", "--on": "pixels", "--most": "1.5", "--weight": "3",
    "--kappa": "0.5", "--beta": "0.5", "--rate": "0.05", "--rounds": "1", "--patience": "1",
    "--foreground": "0.8", "--background": "0.1", "--iterations": "2", "--filters": "0,1",
    "--channels": "0,1", "--limit": "1", "--per": "layer", "-k": "1", "--starts": "2",
    "--unit": "centre", "--start": "grey", "--concept": "y=i", "--random": "a", "--images": "a",
    "--positions": "all", "--cav": "svm", "--runs": "2", "--layers": "r", "--density": "0.3",
    "--parents": "1", "--candidates": "1", "--tau": "1.0", "--distractors": "a",
    "--search": "greedy", "--edits": "1", "--pairs": "3", "--object": "none", "--tests": "1",
    "--exchanges": "1", "--clusters": "2", "--metric": "l2", "--method": "guided",
    "--rule": "guided", "--layout": "pca", "--perplexity": "2", "--components": "2",
    "--onto": "nowhere", "--maps": "float16", "--grid": "3", "--top": "2", "--shard-size": "2",
    "--column": "q", "--key": "q", "--name": "other", "--backend": "tensorrt", "--device": "cpu",
    "--instances": "2", "--max-batch": "4", "--delay": "5", "--queue": "3", "--timeout": "7",
    "--pictures": "elsewhere",
}  # fmt: skip
OF_COMMAND = {
    ("filters", "--layer"): "k",
    ("filters", "--preprocess"): "imagenet-caffe",
    ("occlude", "--baseline"): "zero", ("rise", "--baseline"): "mean",
    ("cem", "--baseline"): "mean", ("occlude", "--method"): "dense", ("segment", "--method"): "cam",
    ("bias", "--method"): "vanilla", ("bias", "--masks"): "masks", ("bias", "--layer"): "h",
    ("map", "--limit"): "3", ("map", "--method"): "pca", ("neighbors", "--search"): "numpy",
    ("neighbors", "--method"): "numpy", ("graph", "--layer"): "k", ("bench", "--size"): "30",
    ("bias", "--limit"): "0",
    ("check", "--method"): "rollout", ("check", "--for"): "tensorrt",
    ("check", "--dtype"): "bfloat16",
}  # fmt: skip
# What may show no effect in some of these modes, why, and where it has one: a line without the
# option, and the option.
SHOWN = {
    ("segment", "--of"): (
        "occlusion takes the probability of the same class by either name",
        f"m.onnx p.png -o O {P} --method occlusion --way grabcut", "--of f",
    ),
    ("cem", "--of"): (
        "the least change may be the same by scores and by probabilities",
        f"m.onnx p.png -o O {P} --steps 8 --on blur", "--of f",
    ),
    ("check", "--rule"): (
        "a rectifier has a rule under each of the three; a smooth activation keeps its own",
        "elu.onnx --rule vanilla", "--rule guided",
    ),
    ("check", "--dtype"): (
        "of a target that takes the graph narrowed or not", "m.onnx --for cuda", "--dtype bfloat16",
    ),
    ("counterfactual", "--edits"): (
        "the first exchange may do",
        f"m.onnx flat/3.png --distractors flat -l s -o O {P}", "--edits 1",
    ),
    ("counterfactual", "--pairs"): (
        "those that look best may be the best",
        f"m.onnx flat/3.png --distractors flat -l d -o O {P} --search greedy", "--pairs 181",
    ),
    ("concepts", "--runs"): (
        "few random pictures make few sets",
        f"m.onnx --concept x=a --random many --images i -l r -o O {P}", "--runs 2",
    ),
}  # fmt: skip
# Another way to the same result, which says how it was done nowhere; tests/engine/test_neighbors.py
# holds the two to each other.
ALIKE = {("neighbors", "--search"), ("neighbors", "--method")}
# Of the graph whose times and memory are measured, which no two runs have alike.
ALIKE |= {("bench", "--for"), ("bench", "--wrt")}


def options(command: str) -> list[Any]:
    return [p for p in APP.commands[command].params if p.param_type_name == "option"]


def spelled(option: Any) -> str:
    return str(max(option.opts, key=len))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_read_by_its_command(command: str) -> None:
    """A parameter that its function never looks at would be an option without effect."""
    module = importlib.import_module(f"backlight.engine.cli.{command}")
    tree = ast.parse(textwrap.dedent(inspect.getsource(module)))
    found = {f.name: f for f in ast.walk(tree) if isinstance(f, ast.FunctionDef)}
    registered = ast.unparse(found["register"])
    function = found[re.findall(r"\)\((\w+)\)", registered)[-1]]
    taken = [a.arg for a in (*function.args.args, *function.args.kwonlyargs)]
    body = [n for part in function.body for n in ast.walk(part)]
    read = {n.id for n in body if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    assert set(taken) <= read, f"{command} never reads {set(taken) - read}"
    # The others are of those that a decorator adds, and takes away again.
    added = {p.name for p in APP.commands[command].params} - set(taken)
    assert added <= {"model_option", "isolate", "isolate_seconds", "isolate_memory"}


def test_every_command_is_tried() -> None:
    assert set(COMMANDS) - set(MODES) == {"serve"}
    for command in MODES:
        for option in options(command):
            name = spelled(option)
            known = name in VALUES or (command, name) in OF_COMMAND or name in HOW | WHERE
            assert known or option.is_flag, f"no value for {command} {name}"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    onnx.save(nets.net(), "m.onnx")
    rng = np.random.default_rng(0)

    def photo(file: str) -> None:
        small = Image.fromarray(rng.integers(0, 255, (4, 4, 3)).astype(np.uint8))
        small.resize((17, 20)).save(file)

    smooth = nets.net()
    for node in smooth.graph.node:
        node.op_type = node.op_type.replace("Relu", "Elu")
    onnx.save(smooth, "elu.onnx")
    for folder, count in (("photos", 4), ("a", 6), ("r", 8), ("i", 5), ("many", 24)):
        Path(folder).mkdir()
        for k in range(count):
            photo(f"{folder}/{k}.png")
    photo("p.png")
    Path("flat").mkdir()
    for k, colour in enumerate(("black", "red", "lime", "blue", "white", "yellow")):
        Image.new("RGB", (17, 20), colour).save(f"flat/{k}.png")
    Path("masks").mkdir()
    for k in range(4):
        mask = np.zeros((20, 17), np.uint8)
        mask[4:12, 5:12] = 255
        Image.fromarray(mask).save(f"masks/{k}.png")
    Path("names.txt").write_text("cat\ndog\nespresso\ncup\nowl\n", encoding="utf-8")
    return tmp_path


_TIMED = re.compile(
    r"seconds|took|created|(^|_)time|_ms$|duration|per_s|rate_|(^|_)ratio|(^|_)mib|^p\d\d$"
)
_CLOCK = re.compile(r"[0-9.]+ ?m?s\b|[\d.]+ (images|photos)/s")


def _untimed(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _untimed(v) for k, v in value.items() if not _TIMED.search(k)}
    return [_untimed(v) for v in value] if isinstance(value, list) else value


def _content(file: Path) -> bytes:
    """What a file says, without when it was made."""
    if file.suffix == ".onnx":
        return bytes(onnx.load(file).graph.SerializeToString(deterministic=True))
    if file.suffix == ".parquet":
        import pyarrow.parquet as pq

        return repr(pq.read_table(file).replace_schema_metadata(None).to_pydict()).encode()
    if file.suffix == ".json":
        return json.dumps(_untimed(json.loads(file.read_bytes()))).encode()
    if file.suffix == ".html":
        return _CLOCK.sub("", file.read_text(encoding="utf-8")).encode()
    return file.read_bytes()


def outcome(words: list[str]) -> tuple[int, dict[str, str], str]:
    """Exit code; every file written, and what was printed, as hashes; stderr."""
    shutil.rmtree("O", ignore_errors=True)
    for file in Path().glob("Oe.onnx*"):
        file.unlink()
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(words)
    files = [*Path().glob("Oe.onnx"), *(f for f in Path("O").rglob("*") if f.is_file())]
    made = {str(f): hashlib.sha256(_content(f)).hexdigest() for f in files}
    try:
        printed, kind = json.dumps(_untimed(json.loads(out.getvalue()))), "JSON"
    except ValueError:
        printed, kind = _CLOCK.sub("", out.getvalue()), "text"
    made["kind of stdout"] = kind
    made["stdout"] = printed
    made["stderr"] = _CLOCK.sub("", err.getvalue())
    return code, made, err.getvalue()


def test_what_is_excused_is_an_option() -> None:
    for command, name in {*SHOWN, *ALIKE}:
        assert name in map(spelled, options(command)), f"{command} has no {name}: its row can go"


@pytest.mark.parametrize(("command", "name"), SHOWN)
def test_what_is_excused_has_an_effect_elsewhere(command: str, name: str, place: Path) -> None:
    _, without, more = SHOWN[command, name]
    assert more.split()[0] == name
    words = [command, *without.split()]
    code, plain, said = outcome(words)
    assert code == 0, said
    code, made, said = outcome([*words, *more.split()])
    assert code == 0 and made != plain, f"{more}: {code}, {said}"


@pytest.mark.slow
@pytest.mark.parametrize(("command", "mode"), [(c, m) for c, modes in MODES.items() for m in modes])
def test_every_option_has_an_effect_or_is_refused(command: str, mode: str, place: Path) -> None:
    if command in ("neighbors", "map"):
        pytest.importorskip("pyarrow")
        assert outcome(["embed", "m.onnx", "photos", "-o", "STORE", *P.split()])[0] == 0
    words = [command, *mode.split()]
    code, plain, said = outcome(words)
    if code == 2 and "pip install" in said:
        pytest.skip(said)
    assert code == 0, said
    again = outcome(words)[1]
    # Beside what comes out alike twice, nothing can be told.
    same = {name for name in plain if plain[name] == again.get(name)}
    without: list[str] = []
    for option in options(command):
        name = spelled(option)
        if name in HOW | WHERE:
            continue
        if option.is_flag:
            off = (option.secondary_opts or ["--no" + name[1:]])[0]
            more = [off if option.default else name]
        else:
            more = [name, OF_COMMAND.get((command, name), VALUES.get(name, ""))]
        if " ".join(more) in mode:
            continue
        code, made, said = outcome([*words, *more])
        assert code in (0, 2) and (code == 0 or said.count("\n") == 1), f"{more}: {code}, {said}"
        assert f"'{more[-1]}'; accepted: " not in said, f"no value of {name}: {said}"
        told = {f for f in made.keys() | same if f in same or f not in plain}
        changed = {f for f in told if made.get(f) != plain.get(f)}
        if code == 0 and not changed and (command, name) not in {*SHOWN, *ALIKE}:
            without.append(" ".join(more))
    assert not without, f"{command} {mode}: no effect of {without}"
