"""The bias finder: classes that go by a planted shortcut are named first, clean ones aren't."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import backlight
from backlight.engine.cli import run
from backlight.engine.direct.explainer import Explainer
from backlight.engine.evidence import objects
from backlight.engine.evidence.biasreport import BiasReport
from backlight.errors import ImageError, ModelError, OutputError, UsageError
from backlight.export.preprocess import preset

from .. import models

# The whole photo: its corners too.
WHOLE = replace(preset("unit"), resize="stretch")


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For each classifier of `shortcuts` a folder: m.onnx, photos, masks."""
    pytest.importorskip("torch")
    from .shortcuts import CLASSIFIERS, draw, trained

    folder = tmp_path_factory.mktemp("planted")
    for name, kinds in CLASSIFIERS.items():
        draw(folder / name, kinds)
        onnx.save(trained(kinds), folder / name / "m.onnx")
    return folder


def report(folder: Path, **given: object) -> BiasReport:
    finder = backlight.BiasFinder(
        folder / "m.onnx", preprocess=WHOLE, providers="cpu", threads=1, **given
    )
    return finder(folder / "photos")


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("suspect", ["corner", "snow", "tint", "border", "text"])
def test_a_planted_shortcut_is_named_first(planted, suspect, masks):
    folder = planted / suspect
    found = report(folder, **({"masks": folder / "masks"} if masks else {}))
    assert [one.name for one in found.classes] == [suspect, "plain"]
    assert found.suspects == [suspect]
    one, other = found.classes
    assert one.predicted == other.predicted == 1  # nothing that accuracy would show
    assert one.suspicion > 0.5 and one.alone > 0.9 and one.pull > 0.7
    assert len(one.reasons) >= 3 and "backgrounds alone" in " ".join(one.reasons)
    assert max(other.alone, other.pull, other.loss) < 0.05
    if masks:
        assert one.outside > 0.8 and one.loss > 0.8
        assert found.finder.about()["object_is"] == "given masks"
    else:
        assert "assumed" in found.finder.about()["object_is"]


@pytest.mark.parametrize("masks", [True, False])
def test_a_shortcut_beside_classes_that_need_none(planted, masks):
    """Of a colour: blurred, the background keeps it, and the photo's mean colour is mostly that."""
    folder = planted / "coloured"
    found = report(folder, **({"masks": folder / "masks"} if masks else {}))
    assert found.suspects == ["tint"] and max(c.suspicion for c in found.classes[1:]) < 0.3
    one = found.classes[0]
    assert one.chances["background_blurred"] > 0.9 and one.chances["mean_colour"] > 0.9
    assert one.chances["background_grey"] < 0.3 and one.chances["grey"] < 0.1
    assert any("with the background grey" in reason for reason in one.reasons)


@pytest.mark.parametrize("name", ["clean", "three"])
def test_a_clean_classifier_has_no_suspect(planted, name):
    for given in ({"masks": planted / name / "masks"}, {}, {"object": "none"}):
        found = report(planted / name, **given)
        assert found.suspects == [] and max(c.suspicion for c in found.classes) < 0.25
    assert {"disc", "square"} <= {one.name for one in found.classes}


def test_a_suspect_background_is_a_concept_of_its_class(planted):
    """Patches of it against other backgrounds' (TCAV): the class rises with it, the other falls."""
    rng = np.random.default_rng(3)

    def batch(kind: str, count: int, patches: bool) -> np.ndarray:
        from .shortcuts import photo

        made = [photo(kind, rng)[0] for _ in range(count)]
        made = [np.tile(p[:8, :8], (6, 6, 1)) if patches else p for p in made]
        return np.float32(np.stack(made).transpose(0, 3, 1, 2)) / 255

    sets = {"snow": batch("snow", 20, True)}
    others, photos = batch("plain", 60, True), batch("snow", 20, False)
    concepts = backlight.Concepts(planted / "snow" / "m.onnx", providers="cpu", threads=1)
    (rises,), (falls,) = (
        concepts(photos, number, concepts=sets, random=others).scores for number in (0, 1)
    )
    assert rises.significant and rises.score > 0.9
    assert falls.significant and falls.score < 0.1


@pytest.mark.slow  # a minute and a half: pytest -m slow tests/engine/test_bias.py
@pytest.mark.parametrize("seed", range(1, 5))
@pytest.mark.parametrize("name", ["corner", "snow", "tint", "border", "coloured", "clean", "three"])
def test_other_classifiers_of_the_kind(tmp_path, name, seed):
    """Whatever the training came to: a shortcut is first, and nothing clean is suspected."""
    pytest.importorskip("torch")
    from .shortcuts import CLASSIFIERS, draw, trained

    draw(tmp_path, CLASSIFIERS[name], seed=seed + 1)
    onnx.save(trained(CLASSIFIERS[name], seed), tmp_path / "m.onnx")
    for given in ({"masks": tmp_path / "masks"}, {}):
        found = report(tmp_path, **given)
        if name in ("clean", "three"):
            assert found.suspects == [] and found.classes[0].suspicion < 0.25
        else:
            assert found.suspects[0] == ("tint" if name == "coloured" else name)


def test_without_objects_the_maps_alone_tell_of_a_corner(planted):
    found = report(planted / "corner", object="none")
    assert found.suspects == ["corner"]
    one = found.classes[0]
    assert one.outside is one.alone is one.loss is None
    assert any("in the same place, upper left" in reason for reason in one.reasons)
    json.dumps(found.as_dict(), allow_nan=False)


def test_objects_seeded_by_the_evidence(planted):
    """What docs/bias.md says of it: snow around an object is seen, a patch is taken for it."""
    pytest.importorskip("skimage")
    assert report(planted / "snow", object="seeded").suspects == ["snow"]
    assert report(planted / "corner", object="seeded").suspects == []


def test_seeded_without_scikit_image(linear, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "skimage", None)
    assert cli(linear, tmp_path / "new" / "out", "--object", "seeded") == 2
    said = capsys.readouterr().err
    assert "pip install 'backlight[segments]', or take --masks" in said.splitlines()[-1]
    assert "Traceback" not in said and not (tmp_path / "new").exists()


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that adds up the red of a corner's pixels, 4 x 4, for class 1, and nothing for 0; and
    photos of which half have it red."""
    folder = tmp_path_factory.mktemp("linear")
    weights = np.zeros((3 * 16 * 16, 2), np.float32)
    red = np.zeros((3, 16, 16), np.float32)
    red[0, :4, :4] = 1
    weights[:, 1] = red.ravel()
    model = models.parsed(
        """<ir_version: 8, opset_import: ["": 18]>
linear (float[N,3,16,16] x) => (float[N,2] prob) {
    f = Flatten(x)
    s = Gemm(f, w, b)
    prob = Softmax(s)
}""",
        {"w": weights, "b": np.array([0, -8], np.float32)},
    )
    onnx.save(model, folder / "m.onnx")
    rng = np.random.default_rng(0)
    for number in range(8):
        kind = ("no", "yes")[number % 2]
        pixels = rng.integers(0, 80, (16, 16, 3)).astype(np.uint8)
        if kind == "yes":
            pixels[:4, :4, 0] = 255
        for what in ("photos", "masks"):
            (folder / what / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / "photos" / kind / f"{number}.png")
        mask = np.zeros((16, 16), np.uint8)
        mask[5:13, 5:13] = 255
        Image.fromarray(mask).save(folder / "masks" / kind / f"{number}.png")
    return folder


def test_figures_that_are_known(linear):
    """Of a linear model every figure follows by hand: all evidence for 1 is in the corner."""
    found = report(linear, masks=linear / "masks", tests=2, exchanges=1)
    assert found.finder.method == "input_x_gradient"
    assert any("in place of gradcam" in note for note in found.finder.notes)
    one = found.classes[0]
    assert (one.name, one.outside, one.area) == ("yes", 1.0, 0.25)
    # The corner stays (16 - 8 = 8 logits), or is gone: about 2.5 - 8.
    assert one.chances["background_alone"] == pytest.approx(1 / (1 + np.exp(-8)), abs=1e-4)
    assert one.chances["background_exchanged"] < 0.01
    assert one.pull == 1 and one.follows == 1
    other = found.classes[1]
    assert other.silent == 4 and other.outside is None, "nothing speaks for class 0 anywhere"
    assert len(found.tested.row) == 4
    told = found.as_dict()
    assert told["suspects"] == ["yes"] and told["classes"][0]["clusters"][0]["photos"] > 0


def test_no_photo_is_explained_twice(linear, monkeypatch):
    """What becomes of a photo with another background needs its object, not its map."""
    explained = []
    inner = Explainer.__call__

    def counted(self, inputs, target=None):
        explained.append(len(inputs))
        return inner(self, inputs, target)

    monkeypatch.setattr(Explainer, "__call__", counted)
    found = report(linear, masks=linear / "masks")
    assert len(found.tested.row) == 8 and (found.tested.given >= 0).all()
    assert sum(explained) == 8


def test_unlabelled_photos_go_by_the_predicted_class(linear, tmp_path):
    for file in (linear / "photos").rglob("*.png"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    finder = backlight.BiasFinder(
        linear / "m.onnx", preprocess=WHOLE, masks=linear / "masks", labels=["a", "b"]
    )
    found = finder(tmp_path)  # masks by the photos' names alone
    assert {one.name: len(one.rows) for one in found.classes} == {"a": 4, "b": 4}
    assert found.suspects == ["b"]


def test_backgrounds_of_many_bands_are_not_exchanged():
    """A line, not a shape that doesn't fit."""
    model = models.tiny(shape="N,5,8,8")
    for held in model.graph.initializer:
        if held.name == "w":
            wide = np.zeros((4, 5, 3, 3), np.float32)
            held.CopyFrom(onnx.numpy_helper.from_array(wide, "w"))
    with pytest.raises(UsageError, match=r"5 bands.*--tests 0"):
        backlight.BiasFinder(model, preprocess="none")
    backlight.BiasFinder(model, preprocess="none", tests=0)


def cli(linear: Path, out: Path, *words: str) -> int:
    line = ["bias", str(linear / "m.onnx"), str(linear / "photos"), "-o", str(out)]
    return run([*line, "--preprocess", "unit", *words])


def test_the_command_writes_a_ranked_report(linear, tmp_path, capsys):
    out = tmp_path / "out"
    (tmp_path / "labels.txt").write_text("no\nyes<b>&\n")
    words = ["--masks", str(linear / "masks"), "--labels", str(tmp_path / "labels.txt")]
    assert cli(linear, out, *words, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads((out / "summary.json").read_bytes())
    assert told["command"] == "bias" and told["object"] == "masks" and len(told["images"]) == 8
    ranked = json.loads((out / "bias.json").read_bytes())["classes"]
    assert [one["class"] for one in ranked] == [one["class"] for one in told["classes"]]
    assert sorted(p.name for p in out.iterdir()) == [
        "bias.html", "bias.json", "classes", "summary.json"
    ]  # fmt: skip
    for one in ranked:
        with Image.open(out / one["picture"]) as picture:
            assert picture.width > 400
    page = (out / "bias.html").read_text()
    assert "yes&lt;b&gt;&amp;" in page and "<b>" not in page
    assert cli(linear, out, *words) == 2
    assert "exists already; --force" in capsys.readouterr().err
    assert cli(linear, out, *words, "--force", "--limit", "1", "--no-html") == 0
    assert len(list((out / "classes").iterdir())) == 1
    said = capsys.readouterr()
    assert "object: given masks" in said.out


def test_a_stopped_run_goes_on(linear, tmp_path, capsys):
    class StoppedError(Exception):
        pass

    def make(**given: object) -> backlight.BiasFinder:
        return backlight.BiasFinder(
            linear / "m.onnx", preprocess=WHOLE, masks=linear / "masks", batch=2, threads=1,
            providers="cpu", **given,
        )  # fmt: skip

    want = make()(linear / "photos").as_dict()
    for stop_in, at in (("explaining", 4), ("testing", 3)):
        state = tmp_path / stop_in

        def stop(what: str, done: int, total: int, where: str = stop_in, most: int = at) -> None:
            if what == where and done >= most:
                raise StoppedError

        with pytest.raises(StoppedError):
            make()(linear / "photos", state=state, every=0, progress=stop)
        seen: list[tuple[str, int]] = []
        again = make()(
            linear / "photos", state=state, progress=lambda w, d, t, s=seen: s.append((w, d))
        )
        assert next(s for s in seen if s[0] == stop_in) == (stop_in, at)
        assert again.as_dict() == want
    out = tmp_path / "out"
    finder = backlight.BiasFinder(linear / "m.onnx", preprocess="unit", masks=linear / "masks")
    with pytest.raises(StoppedError):  # as the command calls it, killed
        finder(linear / "photos", state=out / ".bias-state", every=0, progress=stop)
    assert cli(linear, out, "--masks", str(linear / "masks")) == 0
    assert "went on from photo 8, where a run was stopped" in capsys.readouterr().err
    assert sorted(p.name for p in out.iterdir())[0] == "bias.html"
    with pytest.raises(OutputError, match="other tests"):
        make(tests=1)(linear / "photos", state=tmp_path / "testing")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--masks {t}/none", "none: no such file"),
        ("--masks {t}/empty", "empty: a folder without images"),
        ("--masks {t}/file.txt", "a file; expected a folder of masks"),
        ("--masks {t}/other", "no mask in"),
        ("--object masks", "no masks were given; accepted: centre, seeded, none"),
        ("--object middle", "object 'middle'; accepted"),
        ("--masks {m} --object centre", "masks were given"),
        ("--clusters 9", "--clusters 9: the set has 8 photos"),
        ("--clusters 5", "the largest class has 4 photos"),
        ("--clusters 0", "clusters 0; expected 1 or more"),
        ("--tests -1", "tests -1; expected 0 or more"),
        ("--exchanges 0", "exchanges 0"),
        ("--limit -1", "--limit -1"),
        ("--method gradcom", "nearest: gradcam"),
        ("--method vanilla --layer f", "drawn of no layer"),
    ],
)
def test_bad_input_is_a_line(words, says, linear, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    Image.new("L", (16, 16)).save(tmp_path / "other" / "x.png")
    (tmp_path / "file.txt").write_text("x")
    words = words.format(t=tmp_path, m=linear / "masks")
    assert cli(linear, tmp_path / "new" / "out", *words.split()) == 2
    said = capsys.readouterr().err.splitlines()
    assert says in said[-1] and not any("Traceback" in line for line in said)
    assert not (tmp_path / "new").exists()


def test_photos_whose_masks_do_not_fit(linear, tmp_path, capsys):
    """Missing, of another size, empty: each is named and skipped, the others are used."""
    masks = tmp_path / "masks"
    for file in (linear / "masks").rglob("*.png"):
        to = masks / file.relative_to(linear / "masks")
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_bytes(file.read_bytes())
    (masks / "no" / "0.png").unlink()
    Image.new("L", (8, 16), 255).save(masks / "no" / "2.png")
    Image.new("L", (16, 16)).save(masks / "yes" / "3.png")
    assert cli(linear, tmp_path / "out", "--masks", str(masks)) == 2
    said = capsys.readouterr().err
    assert "0.png: no mask in" in said and "expected 0.png" in said
    assert "2.png: 8 x 16; the photo 2.png has 16 x 16" in said
    assert "3.png: no object in what the model sees" in said
    assert "3 skipped, 5 read" in said
    told = json.loads((tmp_path / "out" / "summary.json").read_bytes())
    assert len(told["skipped"]) == 3 and len(told["images"]) == 5


def test_masks_in_colours_of_two_folders_and_as_labels(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    photo = tmp_path / "p.png"
    Image.new("RGB", (6, 4)).save(photo)
    values = np.zeros((4, 6), np.uint8)
    values[1:3, 2:4] = 1  # a map of labels, not of brightness
    Image.fromarray(values).save(tmp_path / "a" / "p.png")
    masks = objects.Masks(tmp_path / "a")
    size = replace(WHOLE, size=(4, 6))
    spec = backlight.engine.photos.images.InputSpec(
        "x", np.dtype(np.float32), "nchw", 3, (4, 6), None
    )
    np.testing.assert_array_equal(masks.region(photo, size, spec), values == 1)
    for name in ("x", "y"):
        (tmp_path / "b" / name).mkdir()
        Image.new("L", (6, 4), 255).save(tmp_path / "b" / name / "p.png")
    with pytest.raises(ImageError, match="two masks in"):
        objects.Masks(tmp_path / "b").of(photo)
    assert objects.Masks(tmp_path / "b").of(Path("x/p.jpg")).parent.name == "x"


def test_models_that_are_no_classifiers(tmp_path, photos):
    single = models.tiny(tail="y = Slice(scores, a, e, x1)", output="float[N,1] y")
    for name, value in (("a", [0]), ("e", [1]), ("x1", [1])):
        single.graph.initializer.append(
            onnx.numpy_helper.from_array(np.array(value, np.int64), name)
        )
    with pytest.raises((UsageError, ModelError), match="single score"):
        backlight.BiasFinder(single, preprocess="unit")


def test_one_photo_alone_and_a_class_alone(tiny, photo, photos):
    finder = backlight.BiasFinder(tiny, preprocess="unit", providers="cpu", threads=1)
    found = finder(photo)
    assert len(found.classes) == 1 and found.classes[0].pull is None
    assert found.classes[0].chances["background_exchanged"] is None
    assert found.picture(0).width > 300
    with pytest.raises(UsageError, match="out of range"):
        found.picture(1)
    (photos / "bad.png").write_bytes(b"no photo")
    found = finder([photos, photos / "gone.png"])
    assert len(found.measured.index) == 3 and len(found.skipped) == 2
