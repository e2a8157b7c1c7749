"""What the server and a worker hand each other: through shared memory, or through pipes."""

from __future__ import annotations

import io
import os
from typing import Any

import numpy as np
import pytest

from backlight.engine.serve import wire
from backlight.engine.serve.area import Area
from backlight.engine.serve.worker import _Batch

RNG = np.random.default_rng(0)


@pytest.fixture
def area() -> Any:
    made = Area.made()
    if made is None:
        pytest.skip("this system has no sealed memory files")
    yield made
    made.close()


def test_messages_grow_it_and_are_read_from_the_beginning(area: Area) -> None:
    reader = Area(os.dup(area.fd))
    for size in (0, 1, 100, 5 << 20, 3, 9 << 20, 1 << 22):
        sent = [RNG.integers(0, 256, n, np.uint8) for n in (size, 7, size // 3)]
        pipe = io.BytesIO()
        wire.send(pipe, {"n": size}, sent, area)
        assert len(pipe.getvalue()) < 100, "the header alone"
        pipe.seek(0)
        assert wire.read_header(pipe) == {"n": size}
        reader.rewound()
        for one in sent:
            np.testing.assert_array_equal(
                np.frombuffer(wire.read_buffer(reader, len(one)), np.uint8), one
            )
    reader.close()


def test_what_is_not_there_is_an_end(area: Area) -> None:
    """Whatever lengths the other side tells."""
    area.write(memoryview(b"abc"))
    reader = Area(os.dup(area.fd))
    with pytest.raises(wire.GoneError):
        wire.read_buffer(reader, 1 << 30)
    assert len(reader.read_in_place(1 << 40)) == 0
    reader.close()


def test_nobody_can_shrink_it(area: Area) -> None:
    """Else whoever reads it would be killed for it."""
    area.write(memoryview(b"abc"))
    with pytest.raises(OSError, match=r"."):
        os.ftruncate(area.fd, 0)


@pytest.mark.parametrize("pictures", [False, True])
@pytest.mark.parametrize("inputs", [1, 2])
def test_a_batch_is_the_same_by_either_way(area: Area, inputs: int, pictures: bool) -> None:
    """Of one tensor the rows are used where they lie; of several, and beside pictures, copied."""
    rows = (2, 1, 3)
    shapes = {"x": [3, 4], "beside": [2]}
    told: dict[str, Any] = {
        "image": "x",
        "inputs": [(n, "<f4", s, True) for n, s in list(shapes.items())[:inputs]],
        "items": [{"rows": n, "pictures": None} for n in rows],
    }
    told["inputs"].append(("all", "<f4", [5], False))
    sent: list[Any] = []
    want: dict[str, list[Any]] = {n: [] for n in list(shapes)[:inputs]}
    for at, count in enumerate(rows):
        for name, parts in want.items():
            values = RNG.normal(size=(count, *shapes[name])).astype(np.float32)
            if name == "x" and pictures and at == 1:
                told["items"][at]["pictures"] = [5] * count
                sent += [b"bytes"] * count
                parts.append(np.full_like(values, np.nan))  # the worker's to fill
            else:
                sent.append(values)
                parts.append(values)
    target, contrast = np.arange(6), -np.ones(6, np.int64)
    sent += [np.arange(5, dtype=np.float32), target, contrast]
    pipe, empty = io.BytesIO(), io.BytesIO()
    wire.send(pipe, told, sent)
    wire.send(empty, told, sent, area)
    pipe.seek(0)
    header = wire.read_header(pipe)
    reader = Area(os.dup(area.fd))
    for stream in (pipe, reader):
        batch = _Batch(stream, header)  # type: ignore[arg-type]
        for name, parts in want.items():
            whole = np.concatenate(parts)
            known = ~np.isnan(whole)
            np.testing.assert_array_equal(batch.feeds[name][known], whole[known])
        np.testing.assert_array_equal(batch.feeds["all"], np.arange(5))
        np.testing.assert_array_equal(batch.target, target)
        np.testing.assert_array_equal(batch.contrast, contrast)
        assert [i.pictures for i in batch.items] == [[], [b"bytes"] if pictures else [], []]
        shared = np.shares_memory(batch.feeds["x"], reader._held)
        assert shared == (stream is reader and inputs == 1 and not pictures)
    reader.close()
