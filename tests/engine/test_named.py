"""Names that people type, and scores that are no numbers: one line, never a guess."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

import backlight
from backlight.engine.cli import run
from backlight.engine.direct.explainer import Explainer
from backlight.engine.inside.taps import Taps
from backlight.engine.masked.occlusion import Occlusion
from backlight.engine.masked.rise import Rise
from backlight.engine.masked.segments import Segments
from backlight.engine.photos.plain import as_json
from backlight.errors import ImageError, UsageError, nearest
from backlight.export.check import check

from .. import models

X = models.images(2, 3, 8, 8)
MISTYPED = {
    "preset of an Explainer": (
        lambda: Explainer(models.tiny()).load(["no.png"], "imagenet-torhc"), "imagenet-torch",
    ),
    "preset of a Taps": (lambda: Taps(models.tiny(), ["r"]).settled("untit"), "unit"),
    "preset of an Occlusion": (
        lambda: Occlusion(models.tiny(), window=4, preprocess="imagenet-caffee"), "imagenet-caffe",
    ),
    "rule": (lambda: backlight.export(models.tiny(), ("guidde",)), "guided"),
    "target": (lambda: backlight.export(models.tiny(), for_="tensorrrt"), "tensorrt"),
    "dtype": (lambda: backlight.export(models.tiny(), dtype="flaot16"), "float16"),
    "reduce": (lambda: backlight.export(models.tiny(), reduce="maxab"), "maxabs"),
    "cotangent": (lambda: backlight.export(models.tiny(), cotangent="clas"), "class"),
    "of": (lambda: backlight.export(models.tiny(), of="scorse"), "scores"),
    "layer": (lambda: Taps(models.tiny(), ["scorse"]), "scores"),
    "provider": (lambda: Explainer(models.tiny(), providers="tensort"), "tensorrt"),
    "score": (lambda: Occlusion(models.tiny(), window=4, score="probabilty"), "probability"),
    "overlap": (lambda: Occlusion(models.tiny(), window=4, overlap="maen"), "mean"),
    "method": (lambda: Occlusion(models.tiny(), window=4, method="incremetal"), "incremental"),
}  # fmt: skip


@pytest.mark.parametrize("what", MISTYPED)
def test_a_mistyped_name_is_refused_with_the_nearest(what):
    call, near = MISTYPED[what]
    with pytest.raises(UsageError, match=f"nearest: [^;]*{near}"):
        call()


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        (["explain", "--preprocess", "imagenet-torhc"], "imagenet-torch"),
        (["explain", "--rule", "vanila"], "vanilla"),
        (["explain", "--target-class", "expresso"], "espresso"),
        (["occlude", "--score", "probabilty"], "probability"),
        (["occlude", "--baseline-space", "pixel"], "pixels"),
        (["explain", "--provider", "cpuu"], "cpu"),
    ],
)
def test_on_the_command_line(arguments, near, tmp_path, capsys):
    assert run([*arguments, "-o", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert "nearest: " in err and near in err.partition("nearest: ")[2] and err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["explain", "--target-class", "expresso"],
        ["explain", "--contrast", "expresso"],
        ["occlude", "--target-class", "expresso"],
        ["rise", "--target-class", "expresso"],
        ["cem", "--target-class", "expresso"],
        ["segment", "--target-class", "expresso"],
    ],
)
def test_a_class_is_looked_up_before_the_model_is_loaded(arguments, tmp_path, capsys, monkeypatch):
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("backlight.engine.classifier.ready.load", never)
    assert run([*arguments, "-o", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert "nearest: espresso" in err and err.count("\n") == 1


def test_nearest_stays_quick_and_knows_no_capitals():
    assert nearest("ESPRESO", ["Espresso", "tench"]) == ["Espresso"]
    assert nearest("x" * 10**6, ["tench"] * 1000) == []


def test_segment_skips_a_photo_with_a_class_that_is_no_number(tmp_path, capsys):
    from PIL import Image

    pytest.importorskip("skimage", reason="extra 'segments'")
    model = models.tiny(tail="t = Add(scores, off) prob = Softmax(t)")
    off = np.array([0, 0, 0, 0, np.nan], np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(off, "off"))
    onnx.save(model, tmp_path / "m.onnx")
    Image.fromarray(np.uint8(255 * X[0].transpose(1, 2, 0))).save(tmp_path / "a.png")
    words = ["segment", "-m", str(tmp_path / "m.onnx"), str(tmp_path / "a.png"), "--target-class"]
    words += ["0", "--method", "vanilla", "--preprocess", "unit", "-o", str(tmp_path / "out")]
    assert run(words) == 2
    printed = capsys.readouterr()
    assert "a.png: the model's scores of it are NaN or infinite" in printed.err
    assert "nan" not in printed.out and not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_explain_says_which_map_has_no_numbers(tmp_path, capsys):
    """The root's slope at 0 is infinite; scores are numbers all the same."""
    from PIL import Image

    body = models.BODY.replace("r = Relu(h)", "q = Mul(h, nil) r = Sqrt(q)")
    model = models.tiny(body=body)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(0), "nil"))
    onnx.save(model, tmp_path / "m.onnx")
    Image.fromarray(np.uint8(255 * np.clip(X[0], 0, 1).transpose(1, 2, 0))).save(tmp_path / "a.png")
    words = ["explain", "-m", str(tmp_path / "m.onnx"), str(tmp_path / "a.png"), "--preprocess"]
    assert run([*words, "unit", "--method", "vanilla", "-o", str(tmp_path / "out")]) == 0
    assert "a.png: the vanilla map has NaN or infinite values" in capsys.readouterr().err


def broken(how: str) -> onnx.ModelProto:
    """`tiny` whose scores are no numbers where the picture's mean is below a half."""
    model = models.tiny(
        tail=f"""m = ReduceMean<keepdims=0>(x, axes) d = Less(m, half) u = Unsqueeze(d, one)
        t = Where(u, {how}, scores) prob = Softmax(t)"""
    )
    values = {"axes": np.array([1, 2, 3]), "one": np.array([1]), "half": np.float32(0.5),
              "nan": np.float32("nan"), "inf": np.float32("inf")}  # fmt: skip
    for name, value in values.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    return model


@pytest.mark.parametrize("how", ["nan", "inf"])
@pytest.mark.parametrize("command", ["explain", "explain --method lime", "occlude", "rise"])
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_photo_whose_scores_are_no_numbers_is_skipped(command, how, tmp_path, capsys):
    from PIL import Image

    onnx.save(broken(how), tmp_path / "m.onnx")
    for name, level in (("dark", 20), ("light", 230)):
        Image.new("RGB", (8, 8), (level, level, level)).save(tmp_path / f"{name}.png")
    words, lime = command.split(), ["--segments", "grid:1x2", "--hide", "1", "--masks", "4"]
    more = {"explain": lime * (len(words) > 1), "occlude": ["--window", "2", "--baseline", "1"],
            "rise": ["--masks", "8", "--baseline", "1"]}[words[0]]  # fmt: skip
    arguments = [*words, "-m", str(tmp_path / "m.onnx"), "--preprocess", "unit", *more]
    both = [str(tmp_path / "dark.png"), str(tmp_path / "light.png")]
    out = tmp_path / "out"
    assert run([*arguments, *both, "-o", str(out), "--json"]) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1 and "dark.png" in printed.err and "NaN" in printed.err
    for text in (printed.out, (out / "summary.json").read_text()):
        summary = json.loads(text, parse_constant=pytest.fail)
        assert [e["file"] for e in summary["images"]] == both[1:]
        assert [s["file"] for s in summary["skipped"]] == both[:1]
    assert run([*arguments, both[0], "-o", str(tmp_path / "none"), "--json"]) == 2
    json.loads(capsys.readouterr().out, parse_constant=pytest.fail)


@pytest.mark.parametrize("engine", [Occlusion, Rise, Segments])
def test_python_says_which_image(engine):
    options = {Occlusion: {"window": 4}, Rise: {"masks": 8}, Segments: {}}[engine]
    made = engine(broken("nan"), **options)
    x = np.stack([np.ones((3, 8, 8)), np.zeros((3, 8, 8))]).astype(np.float32)
    rest = [np.zeros((8, 8), int), np.ones((2, 1), int)] if engine is Segments else []
    with pytest.raises(ImageError, match="scores of image 1 are NaN"):
        made(x, *rest)


def test_variants_that_are_no_numbers():
    x = np.full((1, 3, 8, 8), 0.6, np.float32)
    with pytest.raises(ImageError, match="with a window hidden are NaN"):
        Occlusion(broken("nan"), window=8, baseline="zero")(x)


def test_classes_that_are_masked_out_for_good_are_no_reason_to_stop():
    model = models.tiny(tail="t = Add(scores, mask) prob = Softmax(t)")
    mask = np.array([0, -np.inf, 0, 0, -np.inf], np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(mask, "mask"))
    found = Occlusion(model, window=4).measure(X, classes="all")
    assert np.isfinite(found.heat).all() and (found.score[:, [1, 4]] == 0).all()


def test_json_has_no_numbers_that_are_none():
    text = as_json({"a": [float("nan"), 1.5, (float("inf"),)]})
    assert json.loads(text, parse_constant=pytest.fail) == {"a": [None, 1.5, [None]]}


def test_check_has_one_line_for_all_gating_clips(tmp_path, capsys):
    gates = " ".join(f"g{i} = Clip(g{i - 1 if i else ''}, low, high)" for i in range(28))
    model = models.tiny(tail=f"g = Identity(scores) {gates} prob = Softmax(g27)")
    for name, value in (("low", -3), ("high", 3)):
        tensor = onnx.numpy_helper.from_array(np.array(value, np.float32), name)
        model.graph.initializer.append(tensor)
    clips = [n for n in check(model).notes if n.operator == "Clip"]
    assert len(clips) == 1 and "28 nodes" in clips[0].reason


def test_check_counts_one_class(tmp_path, capsys):
    model = models.tiny(tail="one = Slice(scores, zero, end, end)", output="float[N,1] one")
    for name, value in (("zero", [0]), ("end", [1])):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value), name))
    onnx.save(model, tmp_path / "m.onnx")
    assert run(["check", str(tmp_path / "m.onnx")]) == 0
    assert "(1 class)" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["explain", "occlude", "rise", "cem", "segment", "batch"])
def test_words_are_looked_up_before_a_model_is_loaded(command, tmp_path, capsys, monkeypatch):
    """A large model takes seconds, and a mistyped word is known at once."""

    def loaded(*given, **options):
        raise AssertionError("a model is loaded")

    monkeypatch.setattr("backlight.export.graph.read", loaded)
    monkeypatch.setattr("backlight.engine.runtime.session.Session.__init__", loaded)
    words = [("--labels", "imagnet", "imagenet"), ("--preprocess", "untit", "unit")]
    if command in ("occlude", "rise", "cem"):
        words += [("--baseline", "zeros", "zero")]
    if command in ("occlude", "rise"):
        words += [("--score", "probabilty", "probability"), ("--baseline-space", "pixel", "pixels")]
    if command == "occlude":
        words += [("--overlap", "maen", "mean"), ("--edges", "vallid", "valid")]
    for option, word, near in words:
        assert run([command, option, word, "-o", str(tmp_path / "out")]) == 2
        err = capsys.readouterr().err
        assert near in err.partition("nearest: ")[2] and err.count("\n") == 1, err


@pytest.mark.parametrize("command", ["explain", "check", "export", "embed", "graph", "filters"])
def test_a_mistyped_model_and_photo(command, tmp_path, capsys, monkeypatch):
    """The nearest: of the files beside it, as it was given, and the word for the bundled one."""
    monkeypatch.chdir(tmp_path)
    onnx.save(models.tiny(), tmp_path / "resnet50.onnx")
    option = "-o" if command in ("check", "filters") else "--output"
    out = [] if command == "check" else [option, str(tmp_path / "out")]
    for given, near in (("resnet5.onnx", "resnet50.onnx"), ("bundeld", "bundled"),
                        (f"{tmp_path}/resnet.onnx", f"{tmp_path}/resnet50.onnx")):  # fmt: skip
        place = ["-m", given] if command in ("explain", "filters") else [given]
        assert run([command, *place, *out]) == 2
        err = capsys.readouterr().err
        assert err.rstrip().endswith(f"nearest: {near}") and err.count("\n") == 1, err
    (tmp_path / "photo.png").write_bytes(b"")
    if command == "explain":
        assert run(["explain", "foto.png", *out]) == 2
        assert capsys.readouterr().err.rstrip().endswith("nearest: photo.png")
