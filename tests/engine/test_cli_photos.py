"""The photo job of the command line: one progress, naming, skipping and summary for all."""

from __future__ import annotations

import io
import json
import re
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
from PIL import Image

from backlight.engine.cli import progress, run

from .. import models

ENGINE = Path(__file__).parents[2] / "engine"

# Every command that goes over images; {m}: the model, {p}: photos, {o}: output.
OVER_IMAGES = {
    "explain": "explain -m {m} {p} -o {o} --preprocess unit",
    "occlude": "occlude -m {m} {p} -o {o} --preprocess unit --window 3 --stride 3",
    "rise": "rise -m {m} {p} -o {o} --preprocess unit --masks 8",
    "segment": "segment -m {m} {p} -o {o} --method vanilla --preprocess unit",
    "cem": "cem -m {m} {p} -o {o} --preprocess unit --steps 2",
    "activations": "activations {m} {p} -l h -o {o} --preprocess unit",
}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two files of one name, and one that is none."""
    folder = tmp_path / "photos"
    (folder / "a").mkdir(parents=True)
    Image.new("RGB", (9, 9), (200, 30, 90)).save(folder / "one.png")
    Image.new("RGB", (9, 9), (20, 130, 90)).save(folder / "a" / "one.png")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "m.onnx"
    onnx.save(models.tiny(), path)
    return path


@pytest.mark.parametrize("command", OVER_IMAGES)
def test_a_bad_photo_is_skipped_alike(command, model, photos, tmp_path, capsys):
    out = tmp_path / "out"
    words = OVER_IMAGES[command].format(m=model, p=photos, o=out).split()
    assert run(words) == 2
    said = capsys.readouterr().err.splitlines()
    assert [s for s in said if s.startswith("backlight: skipped: ") and "broken.png" in s]
    summary = json.loads((out / "summary.json").read_bytes())
    assert summary["command"] == command
    assert summary["read"] == len({e["file"] for e in summary["images"]}) == 2
    (skipped,) = summary["skipped"]
    assert set(skipped) == {"file", "error"} and Path(skipped["file"]).name == "broken.png"
    # Two photos of one name: a number tells their results apart.
    beside = ("-mask", "-cutout")  # what segment writes of each photo besides
    stems = {p.name for p in out.glob("one*.png") if not p.stem.endswith(beside)}
    assert len(stems) == 2 and any(s.startswith("one-2") for s in stems)


@pytest.mark.parametrize("command", OVER_IMAGES)
def test_nothing_is_written_where_no_photo_can_be_read(command, model, photos, tmp_path, capsys):
    out = tmp_path / "new" / "out"
    only = photos / "broken.png"
    assert run(OVER_IMAGES[command].format(m=model, p=only, o=out).split()) == 2
    assert "broken.png" in capsys.readouterr().err
    assert not out.parent.exists()


@pytest.mark.parametrize("command", OVER_IMAGES)
def test_results_that_are_there_are_refused_before_the_model_is_read(
    command, photos, tmp_path, capsys
):
    (tmp_path / "summary.json").write_text("mine")
    words = OVER_IMAGES[command].format(m=tmp_path / "no.onnx", p=photos, o=tmp_path)
    assert run(words.split()) == 2
    assert "summary.json: exists already" in capsys.readouterr().err
    assert (tmp_path / "summary.json").read_text() == "mine"


def test_one_pool_of_threads_reads_photos():
    """`lanes.py`, mostly by `photos/stream.py`; the server keeps threads between requests."""
    root = ENGINE.parent
    pools = {
        str(file.relative_to(root))
        for room in ("engine", "export", "kernels", "src/backlight")
        for file in (root / room).rglob("*.py")
        if "Executor(" in file.read_text(encoding="utf-8")
    }
    assert pools == {
        "src/backlight/lanes.py", "engine/serve/link.py", "engine/serve/server.py",
    }  # fmt: skip


# {m}: the model, {p}: a photo, {o}: output. What the bar says as it ends.
BARS = {
    "patches": ("patches {m} {p} -l h -o {o} --preprocess unit", "looking"),
    "graph": ("graph {m} {p} -l h -o {o} --preprocess unit", "fitting"),
    "bias": ("bias {m} {p} -o {o} --preprocess unit", "testing"),
    "concepts": (
        "concepts {m} --concept a=bundled --random bundled --images {p} -l r -o {o} "
        "--preprocess unit",
        "looking",
    ),
    "embed": ("embed {m} {p} -o {o} --preprocess unit", "images/s"),
}


@pytest.mark.parametrize("command", BARS)
def test_a_bar_ends_where_all_is_done(command, model, photos, tmp_path, monkeypatch):
    """Also where the number of pieces is told on the way, and where stages follow one another."""
    if command == "embed":
        pytest.importorskip("pyarrow")

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    (photos / "broken.png").unlink()
    seen = Terminal()
    monkeypatch.setattr("sys.stderr", seen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("NO_COLOR", raising=False)
    words, title = BARS[command]
    assert run(words.format(m=model, p=photos, o=tmp_path / "out").split()) == 0
    assert re.search(rf"{title}.*100%.*0:00:00", seen.getvalue()), seen.getvalue()


def test_the_bar_of_concepts_counts_every_look(model, photos, tmp_path, monkeypatch):
    """Pictures of a concept and random ones once, those of the class twice."""
    totals, done = [], []

    @contextmanager
    def track(total: int, title: str):
        totals.append(total)
        yield SimpleNamespace(advance=done.append)

    (photos / "broken.png").unlink()
    monkeypatch.setattr(progress, "track", track)
    words = BARS["concepts"][0].format(m=model, p=photos, o=tmp_path / "out")
    assert run(words.split()) == 0
    assert totals == [sum(done)] == [5 + 5 + 2 + 2]


OF_BYTES = """
    <ir_version: 8, opset_import: ["" : 17]> bytes (uint8[N,3,8,8] x) => (float[N,2] s)
    <float[1,3,1,1] by = {200.0, -100.0, 1.0}>
    {
        f = Cast <to = 1> (x)
        h = Mul (f, by)
        a = GlobalAveragePool (h)
        v = Flatten (a)
        one = ReduceSum <keepdims = 1> (v, axes)
        other = Neg (one)
        s = Concat <axis = 1> (one, other)
    }
"""


@pytest.mark.parametrize("command", ["explain", "occlude", "rise", "segment", "activations"])
def test_a_model_of_bytes_gets_a_photo_as_it_is(command, photos, tmp_path, capsys):
    """It says nothing of how it wants its images: whole numbers are taken for pixels by all."""
    model = onnx.parser.parse_model(OF_BYTES.replace("<float[1", "<int64[1] axes = {1}, float[1"))
    onnx.save(model, tmp_path / "m.onnx")
    words = OVER_IMAGES[command].replace(" --preprocess unit", "")
    photo = photos / "one.png"
    run(words.format(m=tmp_path / "m.onnx", p=photo, o=tmp_path / "out").split())
    assert "assuming none" in capsys.readouterr().err


def test_every_photo_is_refused_alike_and_done(model, photos, tmp_path, monkeypatch, capsys):
    """occlude and rise went through photos by themselves: the bar stopped short of the end."""
    from backlight.engine.masked.occlusion import Occlusion
    from backlight.errors import ImageError

    done, totals = [], []

    @contextmanager
    def track(total: int, title: str):
        totals.append(total)
        yield SimpleNamespace(advance=lambda count=1: done.append(count), print=print)

    def measure(self, inputs, **_):
        raise ImageError("image 0 has no place to hide")

    monkeypatch.setattr("backlight.engine.cli.photos.track", track)
    monkeypatch.setattr(Occlusion, "measure", measure)
    (photos / "broken.png").unlink()
    words = OVER_IMAGES["occlude"].format(m=model, p=photos, o=tmp_path / "out")
    assert run(words.split()) == 2
    assert capsys.readouterr().err.count("one.png: it has no place to hide") == 2
    assert sum(done) == totals[0] > 0
