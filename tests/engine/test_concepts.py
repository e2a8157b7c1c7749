"""Concepts (TCAV): exact cases, planted concepts, too few images, what can't be used."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import backlight
from backlight.engine.cli import run
from backlight.engine.inside.significance import welch
from backlight.errors import ImageError, OutputError, UsageError

from .. import models

# Class 0 is the mean red of the photo, class 1 its mean green; blue is no class.
PLANTED = """<ir_version: 8, opset_import: ["": 18]>
planted (float[N,3,8,8] x) => (float[N,2] prob) {
    h = Relu(x)
    q = Mul(h, h)
    p = GlobalAveragePool(q)
    f = Flatten(p)
    scores = Gemm(f, m)
    prob = Softmax(scores)
}"""


RED_GREEN = {"m": np.array([[1, -1], [-1, 1], [0, 0]], np.float32)}


def planted() -> onnx.ModelProto:
    return models.parsed(PLANTED, RED_GREEN)


def drawn(channel: int | None, count: int, seed: int) -> np.ndarray:
    """Noise, with one channel lit."""
    x = np.random.default_rng(seed).uniform(0, 1, (count, 3, 8, 8)).astype(np.float32)
    if channel is not None:
        x[:, channel] += 1
    return x


class TestConcepts:
    def found(self, count=20, of_class=12, random=60, positions="mean", cav="mean", **given):
        test = backlight.Concepts(planted(), "h", positions=positions, cav=cav, providers="cpu")
        concepts = {
            "red": drawn(0, count, 1), "green": drawn(1, count, 2), "blue": drawn(2, count, 3),
            "nothing": drawn(None, count, 4),
        }  # fmt: skip
        others = drawn(None, random, 5) if isinstance(random, int) else random
        given = {"concepts": concepts, "random": others} | given
        return test, test(drawn(0, of_class, 6), **given)

    @pytest.mark.parametrize("positions", ["mean", "all"])
    def test_planted(self, positions):
        """Red makes the class, green unmakes it, blue and noise are nothing to it."""
        _, found = self.found(positions=positions)
        assert found.target == 0 and found.images == found.of_class == 12
        assert found.tests == 4 and found.sets == (6,) * 10
        by_name = {one.concept: one for one in found.scores}
        red, green, blue, nothing = (by_name[n] for n in ("red", "green", "blue", "nothing"))
        assert red.significant and red.score == 1 and red.deviation == 0 and red.accuracy == 1
        assert green.significant and green.score == 0 and green.magnitude < 0 < red.magnitude
        assert blue.accuracy == 1 and not blue.significant, "seen by the layer, used by no class"
        assert blue.note == "no more than random sets do"
        assert not nothing.significant
        for one in found.scores:
            assert len(one.scores) == len(one.parts) == 10 and len(one.random) == 45
            assert one.score == one.scores.mean()
            assert one.p == welch(one.scores, one.random)
            assert one.p_parts == welch(one.parts, one.random)
            assert one.p_bonferroni == min(1, 4 * max(one.p, one.p_parts))
            assert one.significant == (one.note is None)

    def test_by_classifiers(self):
        pytest.importorskip("sklearn")
        for cav in ("sgd", "logistic", "svm"):
            _, found = self.found(cav=cav)
            assert [one.significant for one in found.scores[:2]] == [True, True], cav
            assert found.scores[0].score > 0.9 > 0.1 > found.scores[1].score

    def test_noise_gets_no_star(self):
        """A concept of anything, against random sets of the same anything, over many draws. The
        plain test alone takes one in five for a concept."""
        test = backlight.Concepts(planted(), "h", providers="cpu")
        plain = stars = 0
        for seed in range(50):
            found = test(
                drawn(0, 6, 6),
                concepts={"x": drawn(None, 20, 100 + seed)},
                random=drawn(None, 40, 200 + seed),
            ).scores[0]
            plain += found.p is not None and found.p < 0.05
            stars += found.significant
        assert stars <= 2 and plain >= 6  # at a level of 5 in 100

    def test_too_few_is_said_and_gets_no_star(self):
        for few, what in (
            ({"count": 4}, "4 of the concept"), ({"of_class": 3}, "3 of the class"),
            ({"random": 12}, "4 random sets"),
        ):  # fmt: skip
            _, found = self.found(**few)
            for one in found.scores:
                assert not one.significant
                assert one.note is not None and one.note.startswith("too few images: ")
                assert what in one.note
        _, found = self.found(count=2, of_class=1, random=2)
        assert found.sets == (2,) and [one.p for one in found.scores] == [None] * 4

    def test_the_same_seed_says_the_same(self):
        (_, one), (_, two) = self.found(), self.found()
        assert [s.as_dict() for s in one.scores] == [s.as_dict() for s in two.scores]

    def test_the_class_is_the_commonest_unless_told(self):
        test, _ = self.found()
        more = {"concepts": {"red": drawn(0, 9, 1)}, "random": drawn(None, 60, 5)}
        mixed = np.concatenate([drawn(0, 3, 1), drawn(1, 8, 2)])
        assert test(mixed, **more).target == 1
        assert test(mixed, 0, **more).of_class == 3
        own = test(mixed, -1, **more)
        # Each image's own class: red speaks for 3 of 11.
        assert own.target == -1 and own.scores[0].score == pytest.approx(3 / 11)

    def test_an_input_besides_the_image(self):
        text = PLANTED.replace("8,8] x)", "8,8] x, float[N,2] k)").replace(
            "prob = Softmax(scores)", "sum = Add(scores, k)\n    prob = Softmax(sum)"
        )
        net = models.parsed(text, RED_GREEN)
        given = {"concepts": {"red": drawn(0, 9, 1)}, "random": drawn(None, 60, 5)}
        test = backlight.Concepts(net, "h", inputs={"k": 0.0}, providers="cpu")
        assert test(drawn(0, 9, 6), **given).scores[0].significant
        with pytest.raises(UsageError, match="--input k="):
            backlight.Concepts(net, "h", providers="cpu")

    def test_likeness(self):
        _, found = self.found(concepts={"red": drawn(0, 9, 1), "green": drawn(1, 9, 1)})
        likeness = found.likeness["h"]
        assert likeness["red"].shape == (12,) and (likeness["red"] > likeness["green"]).all()

    def test_no_gradient_is_said(self):
        """Behind a layer that no class reads: blue alone."""
        net = models.parsed(PLANTED, {"m": np.zeros((3, 2), np.float32)})
        found = backlight.Concepts(net, "h", providers="cpu")(
            drawn(0, 10, 1), 0, concepts={"red": drawn(0, 10, 2)}, random=drawn(None, 60, 3)
        )
        assert found.scores[0].note is not None and "no gradient" in found.scores[0].note

    def test_a_fixed_batch_and_half_precision(self):
        fixed = models.parsed(PLANTED.replace("N,", "4,"), RED_GREEN)
        half = models.parsed(
            PLANTED.replace("float[N,3", "float16[N,3").replace("float[N,2", "float16[N,2"),
            {"m": RED_GREEN["m"].astype(np.float16)},
        )
        for net, dtype in ((fixed, np.float32), (half, np.float16)):
            found = backlight.Concepts(net, "h", providers="cpu")(
                drawn(0, 10, 6).astype(dtype),
                concepts={"red": drawn(0, 10, 1).astype(dtype)},
                random=drawn(None, 60, 5).astype(dtype),
            )
            assert found.scores[0].significant and found.images == 10

    def test_several_layers_and_the_one_before_the_head(self):
        test = backlight.Concepts(planted(), ["h", "q"], providers="cpu")
        found = test(drawn(0, 9, 1), concepts={"red": drawn(0, 9, 2)}, random=drawn(None, 60, 3))
        assert found.layers == ("h", "q") and found.tests == 2
        assert [one.layer for one in found.scores] == ["h", "q"]
        chosen = backlight.Concepts(models.tiny(), providers="cpu")
        assert [layer.name for layer in chosen.layers] == ["r"]
        assert chosen.notes[0].startswith("layer 'r': the last rectified tensor")

    @pytest.mark.parametrize(
        ("given", "says"),
        [
            ({"layer": "nope"}, "no tensor 'nope'"),
            ({"positions": "some"}, "accepted: mean, all"),
            ({"cav": "lda"}, "accepted: mean, sgd, logistic, svm"),
            ({"runs": 1}, "expected 2 or more"), ({"batch": 0}, "expected 1 or more"),
            ({"layer": 3}, "layer is 3"),
        ],
    )  # fmt: skip
    def test_wrong_arguments(self, given, says):
        with pytest.raises(UsageError, match=says):
            backlight.Concepts(planted(), **{"layer": "h", "providers": "cpu"} | given)

    def test_wrong_sets(self):
        test = backlight.Concepts(planted(), "h", providers="cpu")
        good = {"concepts": {"red": drawn(0, 9, 2)}, "random": drawn(None, 9, 3)}
        for change, says in (
            ({"concepts": {}}, "no concept given"),
            ({"concepts": {"red": drawn(0, 1, 2)}}, "concept 'red': one image; expected 2"),
            ({"concepts": {"red": drawn(0, 3, 2)[:, :2]}}, "expected float32"),
            ({"random": drawn(None, 1, 2)}, "random: one image"),
            ({"random": "no/such"}, "random: no/such: no such file"),
            ({"target": 2}, "class 2 is out of range"), ({"target": 0.5}, "target is 0.5"),
        ):  # fmt: skip
            with pytest.raises((UsageError, ImageError), match=says):
                test(drawn(0, 2, 1), **good | change)


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, str]:
    """Photos of 8 pixels, coloured as the concepts of `drawn`, and the planted model."""
    onnx.save(planted(), tmp_path / "m.onnx")
    for name, channel, count in (("red", 0, 12), ("blue", 2, 12), ("any", None, 60), ("of", 0, 9)):
        (tmp_path / name).mkdir()
        for at, one in enumerate(drawn(channel, count, len(name) + count)):
            pixels = np.clip(one.transpose(1, 2, 0) * 120, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{at:02}.png")
    return {"d": str(tmp_path)}


LINE = (
    "concepts {d}/m.onnx --concept red={d}/red --concept blue={d}/blue --random {d}/any "
    "--images {d}/of --layer h --preprocess unit -o {d}/out"
)


class TestCommand:
    def test_planted(self, folders, tmp_path, capsys):
        assert run(LINE.format(**folders).split()) == 0
        said = capsys.readouterr()
        assert said.err == ""
        red, blue, last = said.out.splitlines()
        assert red.startswith("red ") and " * p 0.00028 accuracy 100.0 %" in red
        assert blue.startswith("blue ") and "no more than random sets do" in blue
        assert last == f"9 of 9 images are taken for class 0 -> {tmp_path}/out/concepts.html"
        summary = json.loads((tmp_path / "out" / "summary.json").read_bytes())
        assert summary["command"] == "concepts" and summary["images"] == []
        assert (summary["target_class"], summary["class_images"], summary["read"]) == (0, 9, 93)
        assert summary["random_sets"] == [6] * 10 and summary["tests"] == 2
        told = summary["concepts"][0]
        assert told["concept"] == "red" and told["significant"] and told["score"] == 1
        assert len(told["scores"]) == len(told["accuracies"]) == 10 and told["images"] == 12
        page = (tmp_path / "out" / "concepts.html").read_text(encoding="utf-8")
        assert page.count("<img") == 2 and "★" in page and "Pictures, by h" in page
        assert Image.open(tmp_path / "out" / "concepts.png").width > 900

    def test_json_several_random_folders_and_no_page(self, folders, tmp_path, capsys):
        files = sorted((tmp_path / "any").iterdir())
        for number in range(5):
            (tmp_path / f"any{number}").mkdir()
            for file in files[number::5]:
                file.rename(tmp_path / f"any{number}" / file.name)
        line = LINE.format(**folders).replace(
            f"--random {tmp_path}/any", " ".join(f"--random {tmp_path}/any{n}" for n in range(5))
        )
        assert run([*line.split(), "--no-html", "--json", "--target-class", "top1"]) == 0
        summary = json.loads(capsys.readouterr().out)
        assert summary["random_sets"] == [12] * 5 and summary["target_class"] == "top1"
        assert {f.name for f in (tmp_path / "out").iterdir()} == {"concepts.png", "summary.json"}

    def test_too_few(self, folders, tmp_path, capsys):
        for name, left in (("red", 2), ("any", 8)):
            for file in sorted((tmp_path / name).iterdir())[left:]:
                file.unlink()
        assert run(LINE.format(**folders).split()) == 0
        said = capsys.readouterr().out
        assert "too few images: 2 of the concept (8 needed), 2 random sets (5 needed)" in said
        assert "*" not in said
        assert "★" not in (tmp_path / "out" / "concepts.html").read_text(encoding="utf-8")

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            (("--concept blue={d}/blue", "--concept {d}/blue"), "expected NAME=FOLDER"),
            (("--concept blue=", "--concept red="), "--concept 'red' is given twice"),
            (("blue={d}/blue", "blue={d}/no"), "concept 'blue': {d}/no: no such file"),
            (("blue={d}/blue", "blue={d}/empty"), "{d}/empty: a folder without images"),
            (("blue={d}/blue", "blue={d}/one"), "{d}/one: one image; expected 2 or more"),
            (("blue={d}/blue", "blue={d}/bad"), "{d}/bad: one image that can be read"),
            (("--random {d}/any", ""), "no --random given"),
            (("--images {d}/of", ""), "no --images given"),
            (("--random {d}/any", "--random {d}/one"), "random: {d}/one: one image"),
            (("--layer h", "--layer hh"), "no tensor 'hh' in the model; nearest: h"),
            (("--layer h", "--layer prob"), "prob"),
            (("--images", "--target-class 7 --images"), "class 7 is out of range"),
            (("--images", "--labels {d}/names --target-class rd --images"), "nearest: red"),
            (("--images", "--cav lda --images"), "accepted: mean, sgd"),
            (("--images", "--runs 1 --images"), "runs 1; expected 2"),
            (("{d}/m.onnx", "{d}/of/00.png"), "00.png"),
        ],
    )
    def test_what_cannot_be_used(self, change, says, folders, tmp_path, capsys):
        (tmp_path / "empty").mkdir()
        (tmp_path / "names").write_text("red\ngreen\n")
        for name, files in (("one", ["a.png"]), ("bad", ["a.png", "b.png"])):
            (tmp_path / name).mkdir()
            for file in files:
                (tmp_path / name / file).write_bytes((tmp_path / "of" / "00.png").read_bytes())
        (tmp_path / "bad" / "b.png").write_bytes(b"none")
        assert run(LINE.replace(*change).format(**folders).split()) == 2
        said = capsys.readouterr()
        assert said.out == "" and said.err.count("\n") == 1
        assert says.format(**folders) in said.err
        assert not (tmp_path / "out").exists()

    def test_a_broken_photo_is_left_out(self, folders, tmp_path, capsys):
        (tmp_path / "red" / "99.png").write_bytes(b"no photo")
        assert run(LINE.format(**folders).split()) == 2
        said = capsys.readouterr().err.splitlines()
        assert "99.png: not an image" in said[0] and said[-1] == "backlight: 1 skipped, 93 read"
        summary = json.loads((tmp_path / "out" / "summary.json").read_bytes())
        assert [Path(s["file"]).name for s in summary["skipped"]] == ["99.png"]

    def test_the_model_is_read_and_loaded_once(self, folders, monkeypatch):
        graph = sys.modules["backlight.export.graph"]
        calls: list[str] = []
        for name in ("read_message", "check_nodes"):
            inner = getattr(graph, name)
            monkeypatch.setattr(
                graph, name, lambda *a, n=name, f=inner: (calls.append(n), f(*a))[1]
            )
        assert run(LINE.format(**folders).split()) == 0
        assert sorted(calls) == ["check_nodes", "read_message"]

    def test_results_that_are_there(self, folders, tmp_path, capsys):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "concepts.png").write_bytes(b"mine")
        assert run(LINE.format(**folders).split()) == 2
        assert "exists already; --force" in capsys.readouterr().err
        assert (tmp_path / "out" / "concepts.png").read_bytes() == b"mine"


def test_a_stopped_run_goes_on(folders, tmp_path, capsys):
    """A picture of each kind can't be read; it is broken off in each of its looks."""

    class StoppedError(Exception):
        pass

    def make(**given: object) -> backlight.Concepts:
        return backlight.Concepts(
            tmp_path / "m.onnx", "h", preprocess="unit", batch=4, providers="cpu", **given
        )  # fmt: skip

    def stopping(most: int) -> Callable[[int], None]:
        done = [0]

        def stop(count: int) -> None:
            done[0] += count
            if done[0] >= most:
                raise StoppedError

        return stop

    for name in ("red", "any", "of"):
        (tmp_path / name / "05-.png").write_bytes(b"no picture")
    sets = {
        "concepts": {"red": tmp_path / "red", "blue": tmp_path / "blue"},
        "random": tmp_path / "any",
    }
    want = make()(tmp_path / "of", **sets)
    assert want.resumed == 0 and len(want.skipped) == 3
    # Of 13 + 12 + 61 + 10 + 10 looks, in fours.
    for stop_at, kept in ((8, 4), (30, 25), (90, 86), (103, 100), (106, 104)):
        state = tmp_path / f"state{stop_at}"
        with pytest.raises(StoppedError):
            make()(tmp_path / "of", **sets, state=state, every=0, progress=stopping(stop_at))
        again = make()(tmp_path / "of", **sets, state=state)
        assert kept <= again.resumed <= stop_at + 4
        for got, one in zip(again.scores, want.scores, strict=True):
            np.testing.assert_array_equal(got.scores, one.scores)
            assert got.as_dict() == one.as_dict()
        assert (again.class_files, again.files) == (want.class_files, want.files)
        assert [s.as_dict() for s in again.skipped] == [s.as_dict() for s in want.skipped]
    with pytest.raises(OutputError, match="other seed"):
        make(seed=1)(tmp_path / "of", **sets, state=state)
    with pytest.raises(StoppedError):  # as the command calls it, killed
        make()(
            tmp_path / "of", **sets, state=tmp_path / "out/.concepts-state", every=0,
            progress=stopping(27),
        )  # fmt: skip
    line = [*LINE.format(**folders).split(), "--batch", "4"]
    assert run([*line, "--seed", "1"]) == 2
    assert "the state of a pass with other seed" in capsys.readouterr().err
    assert run(line) == 2
    assert "went on from image 29, where a run was stopped" in capsys.readouterr().err
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "concepts.html", "concepts.png", "summary.json"
    }  # fmt: skip
    assert run([*line, "--force"]) == 2
    assert "went on" not in capsys.readouterr().err


def test_batches_go_on_too(tmp_path):
    """Arrays are told apart by what is in them; a set that is no good leaves nothing."""
    test = backlight.Concepts(planted(), "h", providers="cpu", batch=4)
    sets = {"concepts": {"red": drawn(0, 9, 2)}, "random": drawn(None, 30, 3)}
    want = test(drawn(0, 6, 1), **sets, state=tmp_path / "state")
    again = test(drawn(0, 6, 1), **sets, state=tmp_path / "state")
    assert again.resumed == 9 + 30 + 6 + 6 and want.resumed == 0
    np.testing.assert_array_equal(again.scores[0].scores, want.scores[0].scores)
    with pytest.raises(OutputError, match="other files"):
        test(drawn(0, 6, 9), **sets, state=tmp_path / "state")
    (tmp_path / "bad").mkdir()
    for name in ("a", "b"):
        (tmp_path / "bad" / f"{name}.png").write_bytes(b"no picture")
    test = backlight.Concepts(planted(), "h", preprocess="unit", providers="cpu", batch=4)
    with pytest.raises(ImageError, match="no image that can be read"):
        test(drawn(0, 6, 1), **sets | {"random": tmp_path / "bad"}, state=tmp_path / "b")
    assert not (tmp_path / "b").exists()
