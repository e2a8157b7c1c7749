"""`backlight occlude` and `backlight rise`, as a person or a script meets them."""

from __future__ import annotations

import io
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import backlight
from backlight.engine.cli import run
from backlight.engine.cli.options import BUNDLED, PHOTOS
from backlight.engine.masked.scoring import Scorer
from backlight.engine.pictures import heat as colours

CHELSEA = str(PHOTOS / "chelsea.jpg")
QUICK = ["--window", "64", "--stride", "64", "--threads", "1"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three whose order is that of their names."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        Image.fromarray(rng.integers(0, 255, (20, 30, 3), np.uint8)).save(folder / f"{name}.png")
    return folder


def on_tiny(command: str, tiny: Path, photos: Path, out: Path, *more: str) -> list[str]:
    size = ["--window", "4", "--stride", "2"] if command == "occlude" else ["--masks", "30"]
    return [
        command, str(photos), "-m", str(tiny), "-o", str(out), "--preprocess", "unit", *size, *more,
    ]  # fmt: skip


def test_occlude_a_photo(tmp_path, capsys):
    out = tmp_path / "out"
    assert run(["occlude", CHELSEA, str(PHOTOS / "coffee.jpg"), "-o", str(out), *QUICK]) == 0
    printed = capsys.readouterr().out
    assert "espresso (967)" in printed and " pt" in printed and "2 images" in printed
    assert sorted(f.name for f in out.iterdir()) == [
        "chelsea.npy", "chelsea.png", "coffee.npy", "coffee.png", "summary.json",
    ]  # fmt: skip
    summary = json.loads((out / "summary.json").read_text())
    assert summary["windows"] == 16 and summary["score"] == "probability"
    cat = summary["images"][0]
    heat = np.load(out / "chelsea.npy")
    assert heat.shape == (227, 227) and heat.dtype == np.float32
    occlude = backlight.Occlusion(BUNDLED, window=64, stride=64, threads=1)
    x = backlight.Explainer(BUNDLED, ("vanilla",)).load([CHELSEA])
    # The same windows in other batches: float32 probabilities.
    np.testing.assert_allclose(heat, occlude(x)[0], rtol=0, atol=1e-5)
    # Windows that don't overlap: the map's largest value is the largest drop.
    entry = cat["classes"][0]
    assert entry["largest_drop"] == pytest.approx(heat.max(), abs=1e-6)
    box = entry["largest_drop_window"]
    assert heat[box["y"], box["x"]] == heat.max() and box["width"] == 64
    assert entry["score"] == pytest.approx(entry["probability"], abs=1e-6)
    need = cat["necessity"]
    assert need["predicted"]["class"] == entry["class"] == cat["top"][0]["class"]
    assert need["changes_class"] == (need["class_after"]["class"] != entry["class"])
    assert 0 < need["share_hidden"] <= 1 and need["windows"]


def test_the_panel_shows_photo_map_and_necessity(tmp_path):
    out = tmp_path / "out"
    assert run(["occlude", CHELSEA, "-o", str(out), *QUICK]) == 0
    with Image.open(out / "chelsea.png") as panel:
        three = panel.width
    assert three > 3 * 227 + colours.BAR
    assert run(["occlude", CHELSEA, "-o", str(out), "--force", "--necessity", "0", *QUICK]) == 0
    with Image.open(out / "chelsea.png") as panel:
        assert panel.width < three - 227
    assert json.loads((out / "summary.json").read_text())["images"][0]["necessity"] is None


def test_several_classes_and_all(tmp_path, tiny, photos):
    out = tmp_path / "out"
    assert run(on_tiny("occlude", tiny, photos, out, "--target-class", "all")) == 0
    every = np.load(out / "a.npy")
    assert every.shape == (5, 8, 8)
    arguments = ["--target-class", "3", "--target-class", "1", "--force"]
    assert run(on_tiny("occlude", tiny, photos, out, *arguments)) == 0
    np.testing.assert_array_equal(np.load(out / "a.npy"), every[[3, 1]])
    summary = json.loads((out / "summary.json").read_text())
    assert [c["class"] for c in summary["images"][0]["classes"]] == [3, 1]


@pytest.mark.parametrize("command", ["occlude", "rise"])
def test_a_terminal_sees_a_bar_with_the_time_left(command, tmp_path, tiny, photos, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    seen = Terminal()
    monkeypatch.setattr("sys.stderr", seen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert run(on_tiny(command, tiny, photos, tmp_path / "out")) == 0
    assert re.search(r"100%.*0:00:00", seen.getvalue()), seen.getvalue()[-200:]


def test_windows_with_channels(tmp_path, tiny, photos):
    out = tmp_path / "out"
    assert run(on_tiny("occlude", tiny, photos, out, "--window", "1x4x4", "--score", "logit")) == 0
    assert np.load(out / "a.npy").shape == (3, 8, 8)


def test_baselines_from_files(tmp_path, tiny, photos):
    """A picture is prepared as the photo is; an .npy file is taken as it is."""
    black = tmp_path / "black.png"
    Image.new("RGB", (50, 50)).save(black)
    np.save(tmp_path / "black.npy", np.zeros((3, 8, 8), np.float32))
    maps = []
    for baseline in ("zero", str(black), str(tmp_path / "black.npy"), "0,0,0"):
        out = tmp_path / f"out{len(maps)}"
        assert run(on_tiny("occlude", tiny, photos, out, "--baseline", baseline)) == 0
        maps.append(np.load(out / "b.npy"))
    for other in maps[1:]:  # `unit` takes black to 0
        np.testing.assert_array_equal(other, maps[0])
    out = tmp_path / "pixels"
    more = ["--baseline", "255", "--baseline-space", "pixels"]
    assert run(on_tiny("occlude", tiny, photos, out, *more)) == 0
    assert run(on_tiny("occlude", tiny, photos, tmp_path / "one", "--baseline", "1")) == 0
    # 255 / 255, through a scale of 1/255 in float64.
    np.testing.assert_allclose(
        np.load(out / "b.npy"), np.load(tmp_path / "one" / "b.npy"), atol=1e-6
    )


def test_rise_a_photo(tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["rise", CHELSEA, "-o", str(out), "--masks", "24", "--seed", "5", "--threads", "1"]
    assert run(arguments) == 0
    assert "24 masks" in capsys.readouterr().out
    heat = np.load(out / "chelsea.npy")
    x = backlight.Explainer(BUNDLED, ("vanilla",)).load([CHELSEA])
    want = backlight.Rise(BUNDLED, masks=24, seed=5, threads=1)(x)[0]
    np.testing.assert_allclose(heat, want, rtol=0, atol=1e-5)  # float32, the same masks
    entry = json.loads((out / "summary.json").read_text())["images"][0]
    assert entry["masks"] == 24 and entry["standard_error"] > 0
    assert entry["classes"][0]["highest"] == pytest.approx(heat.max())
    with Image.open(out / "chelsea.png") as panel:
        assert panel.width > 2 * 227
    arguments[arguments.index("24")] = "1"  # one mask has no error to state
    assert run([*arguments, "--force"]) == 0
    assert "1 masks (error unknown)" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["occlude", "rise"])
def test_json_is_the_summary(command, tmp_path, tiny, photos, capsys):
    out = tmp_path / "out"
    assert run(on_tiny(command, tiny, photos, out, "--json")) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed) == json.loads((out / "summary.json").read_text())
    assert len(json.loads(printed)["images"]) == 3


@pytest.mark.parametrize("command", ["occlude", "rise"])
def test_a_bad_photo_does_not_stop_the_others(command, tmp_path, tiny, photos, capsys):
    (photos / "b.png").write_bytes(b"no picture")
    out = tmp_path / "out"
    assert run(on_tiny(command, tiny, photos, out)) == 2
    assert "skipped" in capsys.readouterr().err
    summary = json.loads((out / "summary.json").read_text())
    assert [Path(i["file"]).stem for i in summary["images"]] == ["a", "c"]
    assert "b.png" in summary["skipped"][0]["file"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["occlude", "--window", "9"], "window 9x9 is larger than the image, 8x8"),
        (["occlude", "--window", "4x9x4"], "larger than the image, 3x8x8"),
        (["occlude", "--window", "wide"], "--window 'wide'; accepted: such as 16"),
        (["occlude", "--stride", "0"], "stride 0; accepted: 1 or more"),
        (["occlude", "--edges", "wrap"], "edges 'wrap'"),
        (["occlude", "--overlap", "max"], "accepted: mean, sum"),
        (["occlude", "--score", "loss"], "accepted: probability"),
        (["occlude", "--method", "magic"], "accepted: auto, dense, incremental, drilldown"),
        (["occlude", "--necessity", "-1"], "--necessity -1"),
        (["occlude", "--baseline", "pink"], "baseline 'pink'"),
        (["occlude", "--baseline", "gone.png"], "--baseline 'gone.png': no such file"),
        (["occlude", "--baseline", "1,2"], "baseline has shape [2]"),
        (["occlude", "--baseline", "noise:-1"], "noise seed -1"),
        (["occlude", "--baseline", "TMP/small.npy"], "baseline has shape [3, 4, 4]"),
        (["occlude", "--baseline", "TMP/text.npy"], "no .npy file"),
        (["occlude", "--baseline", "TMP/text.png"], "text.png"),
        (["occlude", "--baseline-space", "lab"], "accepted: input, pixels"),
        (["occlude", "--memory", "1kB"], "too small for one variant: accepted:"),
        (["occlude", "--memory", "lots"], "memory 'lots'; accepted"),
        (["occlude", "--batch", "0"], "batch 0"),
        (["occlude", "--provider", "tpu"], "provider 'tpu'"),
        (["occlude", "--target-class", "5"], "0 to 4"),
        (["occlude", "--target-class", "all", "--target-class", "1"], "goes alone"),
        (["rise", "--masks", "0"], "0 masks"),
        (["rise", "--cells", "9"], "cells; accepted"),
        (["rise", "--cells", "1x2x3"], "cells (1, 2, 3)"),
        (["rise", "--probability", "2"], "mask probability 2"),
        (["rise", "--tolerance", "0"], "tolerance 0"),
        (["rise", "--memory", "1kB"], "too small for one variant: accepted:"),
    ],
)
def test_bad_usage(tmp_path, tiny, photos, capsys, arguments, says):
    """One line, exit code 2, nothing written."""
    (tmp_path / "text.npy").write_text("hello")
    (tmp_path / "text.png").write_text("hello")
    np.save(tmp_path / "small.npy", np.zeros((3, 4, 4), np.float32))
    command, *more = [a.replace("TMP", str(tmp_path)) for a in arguments]
    out = tmp_path / "out"
    base = [command, str(photos), "-m", str(tiny), "-o", str(out), "--preprocess", "unit"]
    sizes = ["--window", "4"] if command == "occlude" and "--window" not in more else []
    assert run([*base, *sizes, *more]) == 2
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 1 and says in err[0], err
    assert not out.exists()


def test_a_gpu_that_is_not_there(tmp_path, tiny, photos, capsys):
    from backlight.engine.runtime.session import runtime

    if "CUDAExecutionProvider" in runtime().get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    out = tmp_path / "out"
    for command in ("occlude", "rise"):
        assert run(on_tiny(command, tiny, photos, out, "--provider", "cuda")) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and "provider 'cuda'" in err and "it has: " in err
    assert not out.exists()


@pytest.mark.parametrize("command", ["occlude", "rise"])
@pytest.mark.parametrize("when", ["running", "writing"])
def test_ctrl_c_leaves_whole_files_only(command, when, tmp_path, tiny, photos, monkeypatch, capsys):
    """Interrupted at the second photo: the first one's files are whole, and nothing else is there
    but what the same command goes on from."""
    count = [0]
    if when == "running":
        variants = Scorer.variants

        def interrupted(self, *arguments):
            for found in variants(self, *arguments):
                count[0] += 1
                if count[0] > first_runs:
                    raise KeyboardInterrupt
                yield found

        # Of the first photo: its plan in one run, and what necessity needs (counted once, dry).
        first_runs = 10**9
        monkeypatch.setattr(Scorer, "variants", interrupted)
        assert run(on_tiny(command, tiny, photos / "a.png", tmp_path / "dry")) == 0
        first_runs, count[0] = count[0], 0
    else:
        replace = os.replace

        def interrupted(*arguments):
            count[0] += 1
            if str(arguments[1]).endswith("b.png"):  # the .npy beside it is there
                raise KeyboardInterrupt
            replace(*arguments)

        monkeypatch.setattr(os, "replace", interrupted)
    out = tmp_path / "out"
    assert run(on_tiny(command, tiny, photos, out)) == 130
    assert capsys.readouterr().err == "backlight: interrupted\n"
    names = sorted(f.name for f in out.iterdir())
    assert names == [f".{command}-state", "a.npy", "a.png"]
    assert np.load(out / "a.npy").shape == (8, 8)
    with Image.open(out / "a.png") as panel:
        panel.load()
    monkeypatch.undo()
    assert run(on_tiny(command, tiny, photos, out)) == 0
    assert "went on from photo 1" in capsys.readouterr().err
    names = sorted(f.name for f in out.iterdir())
    assert names == [*(f"{n}{end}" for n in "abc" for end in (".npy", ".png")), "summary.json"]


def test_existing_outputs_are_kept_unless_forced(tmp_path, tiny, photos, capsys):
    out = tmp_path / "out"
    assert run(on_tiny("occlude", tiny, photos, out)) == 0
    (out / "a.npy").write_bytes(b"mine")
    assert run(on_tiny("occlude", tiny, photos, out)) == 2
    assert "--force" in capsys.readouterr().err
    assert (out / "a.npy").read_bytes() == b"mine"
    assert run(on_tiny("occlude", tiny, photos, out, "--force")) == 0


def test_colours():
    """White at 0, red above, blue below; lightness falls evenly to both sides."""
    zero, most, least = colours.diverging(np.array([0.0, 2.0, -2.0]), 2.0)
    assert zero.min() == zero.max() > 240
    assert most[0] > 150 and most[1:].max() < 60
    assert least[2] > 150 and least[0] < 60
    np.testing.assert_array_equal(colours.diverging(np.zeros(3), 0.0), [zero] * 3)
    low, high = colours.sequential(np.array([5.0, 7.0]), 5.0, 7.0)
    # RISE's lowest is a value as well: a colour, told apart from white and from a grey photo.
    assert low[0] - low[2] > 100 and low.sum() > 550 and high.sum() < most.sum()
    for table in (colours._LOSS, colours._GAIN, colours._RISING):
        linear = (np.array(table) / 255.0) ** 2.2  # near enough to sRGB for a slope
        light = 116 * np.cbrt(linear @ (0.2126, 0.7152, 0.0722)) - 16
        steps = -np.diff(light)
        assert steps.min() > 0.8 * steps.mean() and steps.max() < 1.25 * steps.mean()


def test_a_bar_stands_beside_the_picture():
    picture = np.full((227, 227, 3), 90, np.uint8)
    bar = colours.diverging(np.linspace(-1, 1, 256), 1)
    made = colours.with_bar(picture, bar, [(0.0, "-1"), (1.0, "+1")])
    assert made.shape == (227, 227 + colours.GAP + colours.BAR + colours.LABELS, 3)
    np.testing.assert_array_equal(made[:, :227], picture)
    middle = 227 + colours.GAP + colours.BAR // 2
    assert made[10, middle, 0] > made[10, middle, 2]  # red on top
    assert made[215, middle, 2] > made[215, middle, 0]  # blue below
    # A small map is enlarged before the bar comes beside it.
    assert colours.with_bar(picture[:8, :8], bar, []).shape[0] == 200


def test_an_outline_goes_around_the_union():
    picture = np.zeros((227, 227, 3), np.uint8)
    boxes = np.array([[0, 3, 10, 30, 10, 30], [0, 3, 10, 30, 20, 40]], np.int32)
    made = colours.outlined(picture, boxes).any(axis=-1)
    assert made[10, 10:40].all() and made[29, 10:40].all() and made[15, 11] and made[15, 38]
    assert not made[20, 15:35].any()  # no line between the two
    assert made.sum() == 30 * 20 - 26 * 16  # two pixels deep
