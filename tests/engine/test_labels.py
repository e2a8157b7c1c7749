"""Names for classes, from the files and the metadata that people have."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from PIL import Image

import backlight
from backlight.engine.classifier import labels
from backlight.engine.cli import run
from backlight.engine.direct.explainer import Explainer
from backlight.engine.inside.taps import Taps
from backlight.errors import ModelError, UsageError
from backlight.export.preprocess import Preprocess, of_metadata

from .. import models

FISH = ["tench", "goldfish, Carassius auratus", "great white shark"]
WRITTEN = {
    "a list": '["tench", "goldfish, Carassius auratus", "great white shark"]',
    "a map": '{"0": "tench", "1": "goldfish, Carassius auratus", "2": "great white shark"}',
    "in any order": '{"2": "great white shark", "0": "tench", "1": "goldfish, Carassius auratus"}',
    "class_index.json": '{"0": ["n01440764", "tench"], "1": ["n01443537", '
    '"goldfish, Carassius auratus"], "2": ["n01484850", "great white shark"]}',
    "as Python prints it": "{0: 'tench',\n 1: 'goldfish, Carassius auratus',\n "
    "2: 'great white shark'}",
    "without braces": '"0": "tench",\n"1": "goldfish, Carassius auratus",\n'
    '"2": "great white shark"\n',
    "YAML": "0: tench\n1: goldfish, Carassius auratus\n2: great white shark\n",
    "config.json": '{"architectures": ["X"], "id2label": {"0": "tench", '
    '"1": "goldfish, Carassius auratus", "2": "great white shark"}}',
    "data.yaml as JSON": '{"nc": 3, "names": ["tench", "goldfish, Carassius auratus", '
    '"great white shark"]}',
    "text": "tench\ngoldfish, Carassius auratus\ngreat white shark\n",
    "text with a mark": "\ufefftench\ngoldfish, Carassius auratus\ngreat white shark",
    "Windows' lines": "tench\r\ngoldfish, Carassius auratus\r\ngreat white shark\r\n",
}


def test_names_behind_their_synsets(tmp_path):
    """ImageNet's synset.txt; not where some line is another's. A number may be of a name."""
    file = tmp_path / "synset.txt"
    for text, names in (
        ("n01440764 tench, Tinca tinca\nn01443537 goldfish\n", ["tench, Tinca tinca", "goldfish"]),
        ("n01440764 tench\nnone\n", ["n01440764 tench", "none"]),
        ("zone 0\nzone 1\n", ["zone 0", "zone 1"]),
    ):
        file.write_text(text)
        assert labels.load_labels(str(file)) == names


@pytest.mark.parametrize("kind", WRITTEN)
def test_files_of_names(kind, tmp_path):
    file = tmp_path / "names"
    file.write_bytes(WRITTEN[kind].encode())
    assert labels.load_labels(str(file)) == FISH


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"tench": 0, "goldfish": 1}', "names no class"),
        ('{"0": "tench", "2": "shark"}', "2 classes, but not class 1"),
        ('{"1": "tench"}', "1 class, but not class 0"),
        ('{"0": "tench", "0": "goldfish"}', "named twice"),
        ("0: tench\n0: goldfish\n", "named twice"),
        ('{"0": {"name": "tench"}}', "names no class"),
        ('{"0": ["n01440764", "tench", "fish"]}', "names no class"),
        ("[1, 2, 3]", "no JSON list of names"),
        ("[]", "no JSON list of names"),
        ("{}", "0 classes"),
        ("", "no labels"),
        ("{0: __import__('os')}", "not JSON"),
        ("{" * 5000, "not JSON"),
        ("0: tench\ngoldfish\n", "line 2"),
        ("0 tench\n1 goldfish\n", "more than names"),
        ("0\ttench\n1\tgoldfish\n", "more than names"),
        ("0,tench\n1,goldfish\n", "more than names"),
        ("0=tench\n1=goldfish\n", "more than names"),
        ("tench,0\ngoldfish,1\n", "more than names"),
        ("tench\t0\ngoldfish\t1\n", "more than names"),
        ("- tench\n- goldfish\n", "more than names"),
        ('item {\n id: 1\n name: "tench"\n}\n', "more than names"),
        ('["tench"', "not JSON"),
    ],
)
def test_what_names_no_classes_is_refused_in_a_line(text, says, tmp_path):
    file = tmp_path / "names"
    file.write_text(text)
    with pytest.raises(UsageError, match=says) as err:
        labels.load_labels(str(file))
    assert str(file) in str(err.value) and len(str(err.value)) < 500


def marked(model: onnx.ModelProto, **metadata: str) -> onnx.ModelProto:
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    return model


NAMES = "{0: 'ant', 1: 'bee', 2: 'cat', 3: 'dog', 4: 'elk'}"
FIVE = ["ant", "bee", "cat", "dog", "elk"]


def test_ultralytics_metadata_names_classes_and_feeds_photos_as_it_does(tmp_path):
    """The short side to imgsz, bilinear, the centre, in 0..1, as torchvision's Resize and
    CenterCrop make it of a picture."""
    model = marked(
        models.tiny(), names=NAMES, imgsz="[8, 8]", stride="1", task="classify",
        author="Ultralytics", channels="3",
    )  # fmt: skip
    explain = Explainer(model, ("vanilla",))
    assert explain.labels == FIVE == Taps(model, ["scores"]).labels
    assert explain.preprocess == Preprocess(
        scale=1 / 255, size=(8, 8), crop=1.0, interpolation="bilinear"
    )
    y, x = np.mgrid[:40, :56]
    smooth = np.stack([4 * y, 3 * x, 2 * (x + y)], axis=2).astype(np.uint8)
    for pixels in (smooth, smooth[:, :40]):
        photo = Image.fromarray(pixels)
        photo.save(tmp_path / "photo.png")
        wide = 8 * pixels.shape[1] // 40
        left = round((wide - 8) / 2)
        seen = photo.resize((wide, 8), Image.Resampling.BILINEAR).crop((left, 0, left + 8, 8))
        want = np.asarray(seen, np.float32).transpose(2, 0, 1) / 255
        got = explain.load([tmp_path / "photo.png"])[0]
        # Ours cuts and scales in one step: the sides may lie half a pixel apart.
        steps = 0.5 * np.abs(np.diff(want, axis=2)).max() if wide != 8 else 0
        np.testing.assert_allclose(got, want, rtol=0, atol=steps + 1.1 / 255)
    exported = Explainer(backlight.export(model, ("vanilla",)), ("vanilla",))
    assert exported.labels == FIVE and exported.preprocess == explain.preprocess


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"names": NAMES, "imgsz": "[64, 32]", "stride": "32"}, (64, 32, "stretch")),
        ({"names": NAMES, "imgsz": "224", "stride": "32"}, (224, 224, "crop")),
        ({"names": NAMES, "imgsz": "[64, 64]", "stride": "32", "task": "detect"}, None),
        ({"names": NAMES, "imgsz": "large", "stride": "32"}, None),
        ({"names": NAMES}, None),
    ],
)
def test_what_else_ultralytics_writes(metadata, expected):
    found = of_metadata(metadata, "m")
    assert (found and (*found.size, found.resize)) == expected


@pytest.mark.parametrize(
    "metadata",
    [
        {"id2label": json.dumps(dict(enumerate(FIVE)))},
        {"names": json.dumps(FIVE)},
        {"backlight.labels": json.dumps(dict(enumerate(FIVE))), "names": "{0: 'x'}"},
    ],
)
def test_metadata_names_classes(metadata):
    assert Explainer(marked(models.tiny(), **metadata), ("vanilla",)).labels == FIVE


@pytest.mark.parametrize("names", ["{0: 'person'}", "the names", "[" * 9999, "{'a': 0}"])
def test_another_programs_metadata_that_fits_nothing_is_left_alone(names):
    assert Explainer(marked(models.tiny(), names=names), ("vanilla",)).labels is None


def test_names_that_begin_with_a_number_are_names(tmp_path):
    file = tmp_path / "names"
    for names in (["1 euro", "2 euro"], ["0", "1", "2"], ["0 km/h", "30 km/h", "50 km/h"]):
        file.write_text("\n".join(names))
        assert labels.load_labels(str(file)) == names


def test_one_name_is_that_of_the_one_logits_class_1():
    assert labels.fitting(["crack"], 2, "m") == ["not crack", "crack"]
    with pytest.raises(ModelError, match="names 1 class; the model has 3"):
        labels.fitting(["crack"], 3, "m")


def test_imagenet_with_a_background():
    assert labels.load_labels("imagenet", 1001)[:2] == ["background", labels.bundled()[0]]
    assert len(labels.load_labels("imagenet", 1000)) == 1000


@pytest.mark.parametrize(
    ("given", "near"), [("expresso", "espresso"), ("goldfsh", "goldfish"), ("Tabby cta", "tabby")]
)
def test_a_class_that_is_mistyped(given, near):
    with pytest.raises(UsageError, match=f"nearest: .*{near}"):
        labels.class_number(given, labels.bundled())


WINDOWS = {"explain": [], "occlude": ["--window", "4", "--stride", "4"]}


@pytest.mark.parametrize("command", ["explain", "occlude"])
def test_a_model_of_a_thousand_classes_hints_at_their_names(command, tmp_path, capsys):
    onnx.save(models.thousand(), tmp_path / "m.onnx")
    photo = models.noise_photo(tmp_path)
    arguments = [command, "-m", str(tmp_path / "m.onnx"), str(photo), "--preprocess", "unit",
                 "--force", "-o", str(tmp_path / "out"),
                 *WINDOWS[command]]  # fmt: skip
    assert run(arguments) == 0
    assert "--labels imagenet" in capsys.readouterr().err
    assert run([*arguments, "--labels", "imagenet"]) == 0
    assert "--labels" not in capsys.readouterr().err


def test_maximize_hints_at_names_of_a_thousand_classes(tmp_path, capsys):
    onnx.save(models.thousand(), tmp_path / "m.onnx")
    arguments = ["maximize", str(tmp_path / "m.onnx"), "--target-class", "7", "--steps", "1",
                 "--preprocess", "unit", "--force", "-o", str(tmp_path / "out")]  # fmt: skip
    assert run(arguments) == 0
    assert "--labels imagenet" in capsys.readouterr().err
    assert run([*arguments, "--labels", "imagenet"]) == 0
    assert "--labels" not in capsys.readouterr().err


@pytest.mark.parametrize("command", ["explain", "occlude"])
def test_a_named_layer_has_channels_not_classes(command, tmp_path, capsys):
    onnx.save(marked(models.tiny(), **{"backlight.labels": json.dumps(FIVE)}), tmp_path / "m.onnx")
    photo = models.noise_photo(tmp_path)
    out = tmp_path / "out"
    arguments = [command, "-m", str(tmp_path / "m.onnx"), str(photo), "--preprocess", "unit",
                 "--of", "f", "-o", str(out), *WINDOWS[command]]  # fmt: skip
    assert run([*arguments, "--target-class", "2"]) == 0
    printed = capsys.readouterr()
    assert "channel 2 of f" in printed.out and "names" not in printed.err
    if command == "explain":
        entry = json.loads((out / "summary.json").read_text())["images"][0]
        assert entry["name"] is None and entry["probability"] is None


def test_labels_of_another_head_are_left_alone(tmp_path, capsys):
    """The metadata's five names are those of the first head."""
    model = models.tiny(
        tail="prob = Softmax(scores) two = Slice(scores, zero, end, one) p2 = Softmax(two)",
        output="float[N,5] prob, float[N,2] p2",
    )
    for name, value in (("zero", 0), ("end", 2), ("one", 1)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([value]), name))
    onnx.save(marked(model, **{"backlight.labels": json.dumps(FIVE)}), tmp_path / "m.onnx")
    photo = str(models.noise_photo(tmp_path))
    common = ["explain", "-m", str(tmp_path / "m.onnx"), photo, "--preprocess", "unit", "--force"]
    assert run([*common, "--of", "prob", "-o", str(tmp_path / "a")]) == 0
    printed = capsys.readouterr().out
    assert any(name in printed for name in FIVE)
    assert run([*common, "--of", "p2", "-o", str(tmp_path / "b")]) == 0
    assert "class " in capsys.readouterr().out
