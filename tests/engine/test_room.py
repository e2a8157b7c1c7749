"""A budget over all pictures that are decoded at once."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from backlight.engine.cli import run
from backlight.engine.photos import decoding, room
from backlight.engine.photos.images import InputSpec, bytes_prepared, decode, opened, read
from backlight.engine.photos.room import Room, rows_in
from backlight.engine.photos.stream import fitting, groups
from backlight.errors import ImageError
from backlight.export.preprocess import Preprocess

from .. import models

SPEC = InputSpec("x", np.dtype(np.float32), "nchw", 3, (None, None), None)


class Watched(Room):
    """Notes what is taken at once, at most."""

    def __init__(self, total: int) -> None:
        super().__init__(total)
        self.most = 0
        self.asked: list[int] = []

    def held(self, size: int) -> Any:
        self.asked.append(size)
        inner = super().held(size)
        watched = self

        class Held:
            def __enter__(self) -> None:
                inner.__enter__()
                watched.most = max(watched.most, watched._taken)

            def __exit__(self, *what: object) -> None:
                inner.__exit__(*what)

        return Held()


def test_room_is_never_more_than_there_is() -> None:
    """Threads wait; one that wants more than all gets all; an error gives it back."""
    held = Watched(100)
    inside, most, lock = 0, 0, threading.Lock()

    def take(size: int) -> None:
        nonlocal inside, most
        try:
            with held.held(size):
                with lock:
                    inside += min(size, 100)
                    most = max(most, inside)
                with lock:
                    inside -= min(size, 100)
                if size % 7 == 0:
                    raise ValueError
        except ValueError:
            pass

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(take, list(range(1, 200)) * 5))
    assert most <= 100 and held.most <= 100 and held._taken == 0


@pytest.mark.parametrize("kind", ["RGB", "RGBA", "F", "I;16", "L", "P"])
def test_pictures_side_by_side_share_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Eight small TIFFs of many pixels: the budget is for all of them together, and given back by
    those that can't be read."""
    side = 400
    shape = (side, side) if kind in ("F", "I;16", "L", "P") else (side, side, len(kind))
    values = np.zeros(shape, {"F": np.float32, "I;16": np.uint16}.get(kind, np.uint8))
    picture = Image.fromarray(values)
    if kind == "P":
        picture = picture.convert("P")
    file = tmp_path / "a.tif"
    picture.save(file, compression="tiff_adobe_deflate")
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:1000])
    assert file.stat().st_size < 20_000
    each = side * side * 12
    watched = Watched(5 * each)
    monkeypatch.setattr(decoding, "DECODED", watched)
    record = Preprocess(size=(8, 8))

    def one(number: int) -> None:
        if number % 4 == 3:
            with pytest.raises(ImageError):
                opened(tmp_path / "cut.png")
        else:
            (decode, opened, lambda f: read(f, record, SPEC))[number % 3](file)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(24)))
    assert 0 < watched.most <= watched.total and watched._taken == 0
    assert len(watched.asked) == 24 and min(watched.asked) >= each


def test_deep_pictures_are_the_same_in_blocks(tmp_path: Path) -> None:
    """More rows than a block has."""
    values = np.random.default_rng(0).integers(0, 65536, (700, 5)).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    want = np.rint(values.astype(np.float64) / 257).astype(np.uint8)
    np.testing.assert_array_equal(decode(tmp_path / "a.png")[..., 0], want)


def test_batches_of_large_pictures_are_small() -> None:
    """8192 pixels as a model's metadata may ask for: one at a time; usual sizes as they were."""
    large, usual = Preprocess(size=(8192, 8192)), Preprocess(size=(224, 224))
    each = bytes_prepared(large, SPEC)
    assert each == 8192 * 8192 * (3 + 3 * 12)
    assert fitting(8, large, SPEC, 3) == 1
    assert fitting(64, usual, SPEC, 3) == 64
    middle = Preprocess(size=(1024, 1024))
    assert fitting(64, middle, SPEC, 3) * 3 * bytes_prepared(middle, SPEC) <= room.BUDGET
    assert fitting(64, middle, SPEC, 3) > 4
    assert (rows_in(0, 5), rows_in(1 << 40, 5)) == (5, 1)


def test_what_is_read_ahead_stays_within_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files, in order and whole, whatever the batches."""
    for number in range(11):
        Image.new("RGB", (9, 9), (number, 0, 0)).save(tmp_path / f"{number:02}.png")
    files = sorted(tmp_path.glob("*.png"))
    record = Preprocess(size=(4, 4))
    monkeypatch.setattr(room, "BUDGET", 6 * bytes_prepared(record, SPEC))
    found = list(groups(files, record, SPEC, 8))
    assert [len(g.tensor) for g in found] == [2] * 5 + [1]
    assert [int(v) for g in found for v in g.tensor[:, 0, 0, 0]] == list(range(11))
    # What the model fixes stays.
    fixed = InputSpec("x", np.dtype(np.float32), "nchw", 3, (4, 4), 8)
    assert [len(g.tensor) for g in groups(files, record, fixed, 8)] == [8, 3]


def test_commands_give_the_same_with_little_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pyarrow")
    from backlight.engine.similar.store import Embeddings

    onnx.save(models.tiny(), tmp_path / "m.onnx")
    (tmp_path / "photos").mkdir()
    rng = np.random.default_rng(0)
    for number in range(7):
        pixels = rng.integers(0, 256, (20, 20, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    given = [str(tmp_path / "m.onnx"), str(tmp_path / "photos"), "--preprocess", "unit"]
    found = []
    for name in ("a", "b"):
        if name == "b":
            monkeypatch.setattr(room, "BUDGET", 2 * 8 * 8 * 39)
            for module in ("similar.embed", "inside.patches"):
                monkeypatch.setattr(f"backlight.engine.{module}.BATCHES", Room(8 * 8 * 39))
        out = str(tmp_path / name)
        assert run(["patches", *given, "-l", "h", "-o", f"{out}p"]) == 0
        assert run(["embed", *given, "-o", f"{out}e"]) == 0
        explain = ["explain", given[1], "-m", given[0], *given[2:], "-o", f"{out}x"]
        assert run(explain) == 0
        summary = json.loads((tmp_path / f"{name}x" / "summary.json").read_text())
        for image in summary["images"]:
            image.pop("ms"), image.pop("images_in_run")  # smaller batches
        layers = json.loads((tmp_path / f"{name}p" / "patches.json").read_text())
        store = Embeddings(f"{out}e")
        found.append((summary, layers, store.paths, np.round(store.vectors, 5).tolist()))
    assert found[0] == found[1]
    assert "Traceback" not in capsys.readouterr().err
