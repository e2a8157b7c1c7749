"""Files with bytes and fields changed at random: used, or refused in one line. Seeded throughout.

The short runs are part of the suite; the long ones, each in processes of their own so that a crash
of a library is told apart, are `pytest -m slow tests/engine/test_fuzz_files.py`.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from backlight.engine.classifier.labels import load_labels
from backlight.engine.inside.taps import layers
from backlight.engine.photos.images import decode
from backlight.engine.similar.store import Embeddings
from backlight.errors import BacklightError
from backlight.export.check import check
from backlight.export.preprocess import parse
from backlight.export.saliency import explain_graph

from .. import models
from ..mutants import flipped, spliced

# Calls of functions for one file, where its own model takes at most 150,000: work, not seconds, so
# that a slow machine fails nothing.
MOST = 5_000_000

SOURCES = [m.SerializeToString() for m in (models.tiny(), models.model_m(), models.older())]
OPERATORS = (
    "Relu Conv MaxPool Reshape Softmax If Loop Gemm Resize Split ConvTranspose Transpose Concat "
    "Cast TopK LSTM DequantizeLinear Where Einsum ReduceMean Flatten Tile Pad Nonsense"
).split()


def refielded(data: bytes, rng: random.Random) -> bytes:
    """Fields of the message changed: what parses, and is no model."""
    model = onnx.ModelProto()
    model.ParseFromString(data)
    graph = model.graph
    for _ in range(rng.randint(1, 3)):
        node = rng.choice(graph.node)
        names = [n for q in graph.node for n in (*q.input, *q.output)] + ["", "nothing", "target"]
        attribute = rng.choice(node.attribute) if node.attribute else None
        tensor, end = rng.choice(graph.initializer), rng.choice((*graph.input, *graph.output))
        kind = rng.randrange(10)
        if kind == 0 and node.input:
            node.input[rng.randrange(len(node.input))] = rng.choice(names)
        elif kind == 1:
            node.output[0] = rng.choice(names)
        elif kind == 2:
            node.op_type = rng.choice(OPERATORS)
        elif kind == 3 and attribute is not None:
            number = rng.choice((-1, 0, 7, 2**31, 2**62, -(2**63)))
            if attribute.ints:
                attribute.ints[rng.randrange(len(attribute.ints))] = number
            else:
                attribute.i = number
        elif kind == 4 and attribute is not None:
            attribute.type = rng.randrange(1, 15)
        elif kind == 5 and attribute is not None:
            node.attribute.remove(attribute)
        elif kind == 6:
            tensor.data_type = rng.randrange(0, 24)
        elif kind == 7 and tensor.dims:
            tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice((0, 1, -1, 3, 2**40))
        elif kind == 8 and len(graph.node) > 1:
            rng.choice((graph.node.append, graph.node.remove))(node)
        elif kind == 9:
            if rng.random() < 0.5:
                end.ClearField("type")
            else:
                end.name = rng.choice(names)
    return model.SerializeToString()


def renumbered(data: bytes, rng: random.Random, head: int = 200) -> bytes:
    """Numbers of a header, one to four bytes at any place of it, made extreme: widths, counts,
    offsets, lengths."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        wide = rng.choice((1, 2, 4))
        at = rng.randrange(min(head, len(data) - wide))
        number = rng.choice((0, 1, 2, 7, 8, 16, 255, 256, 0x7FFF, 0x8000, 0xFFFF, 2**24, 2**31 - 1,
                             2**31, 2**32 - 1))  # fmt: skip
        order: Any = rng.choice(("little", "big"))
        changed[at : at + wide] = (number % (1 << 8 * wide)).to_bytes(wide, order)
    return bytes(changed)


def mutant(number: int) -> bytes:
    """The model of a number."""
    rng = random.Random(number)
    data = rng.choice(SOURCES)
    if number % 4 == 0:
        return flipped(data, rng)
    return spliced(data, rng, rng.choice(SOURCES)) if number % 4 == 1 else refielded(data, rng)


def held(use: Callable[[], object]) -> bool:
    """Whether it could be used; refused is an error of ours, on one line. Raises all others."""
    try:
        with bounded():
            use()
        return True
    except BacklightError as err:
        assert str(err) and "\n" not in str(err)
        return False


class Endless(BaseException):
    """Too much work; no handler of exceptions takes it for its own."""


@contextlib.contextmanager
def bounded(most: int = MOST) -> Iterator[None]:
    """Stops what calls more functions than that, Python's or C's."""
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")
        if calls > most:
            raise Endless(f"more than {most} calls")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(before)


def models_from(first: int, count: int) -> None:
    """What the package makes of models, without a runtime."""
    for number in range(first, first + count):
        data = mutant(number)
        rule = ("vanilla", "guided", "deconv")[number % 3]
        try:
            held(partial(explain_graph, data, rule))
            held(partial(checked, data))
            held(partial(listed, data))
        except (Exception, Endless) as err:
            raise AssertionError(f"model {number}: {type(err).__name__}: {err}") from err


def checked(data: bytes) -> object:
    return check(data).to_dict()


def listed(data: bytes) -> object:
    return [layer.as_dict() for layer in layers(data)]


def test_models() -> None:
    models_from(0, 40)


def test_what_never_ends_is_stopped() -> None:
    def endless() -> None:
        while True:
            with contextlib.suppress(Exception):  # nor does a handler hold it
                len("")

    with pytest.raises(Endless), bounded(10_000):
        endless()


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 4000, 250))
def test_many_models(first: int) -> None:
    code = f"from tests.engine.test_fuzz_files import models_from; models_from({first}, 250)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


RECORD = (
    b'{"preset": "unit", "size": [224, 224], "color": "BGR", "mean": [0.5, 0.5, 0.5], "crop": 1}'
)
VALUES = ["", "x", None, True, -1, 0, 1e400, -1e400, 10**400, [], [1], {}, [None] * 3, "NaN", [[1]]]


def small_files(folder: Path, first: int, count: int) -> None:
    """Preprocessing records, class names and pictures."""
    file = folder / "file"
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3)).astype(np.uint8)
    pictures = []
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, kind)
        pictures.append(buffer.getvalue())
    for mode, kind in (("P", "GIF"), ("I;16", "TIFF"), ("RGBA", "PNG"), ("L", "BMP"), ("F", "TIFF"),
                       ("CMYK", "JPEG"), ("1", "TIFF"), ("RGBA", "WEBP")):  # fmt: skip
        buffer = io.BytesIO()
        deep = Image.fromarray(pixels[..., 0].astype(np.uint16)) if mode == "I;16" else None
        made = deep or Image.fromarray(pixels).convert(mode)
        packed = {"compression": "tiff_lzw"} if kind == "TIFF" and mode != "1" else {}
        made.save(buffer, kind, **packed)
        pictures.append(buffer.getvalue())
    for number in range(first, first + count):
        rng = random.Random(number)
        record = json.loads(RECORD) | {
            rng.choice(["size", "color", "mean", "std", "scale", "crop", "resize", "preset",
                        "interpolation", "more"]): rng.choice(VALUES)
        }  # fmt: skip
        names = json.dumps(["cat", "dog"]).encode()
        strange = json.dumps(rng.choice([rng.choice(VALUES), [rng.choice(VALUES)],
                                         {"0": rng.choice(VALUES)}])).encode()  # fmt: skip
        picture = rng.choice(pictures)
        tries: list[tuple[bytes, Callable[[], object]]] = [
            (json.dumps(record).encode(), lambda: parse(str(file))),
            (flipped(RECORD, rng), lambda: parse(str(file))),
            (spliced(RECORD, rng, RECORD), lambda: parse(str(file))),
            (flipped(names, rng), lambda: load_labels(str(file))),
            (spliced(picture, rng, rng.choice(pictures)), lambda: decode(file)),
            (flipped(picture[:60], rng) + picture[60:], lambda: decode(file)),
            (renumbered(picture, rng), lambda: decode(file)),
            (renumbered(picture, rng, len(picture)), lambda: decode(file)),
            (strange, lambda: load_labels(str(file))),
            (strange, lambda: parse(str(file))),
        ]
        for data, use in tries:
            file.write_bytes(data)
            try:
                held(use)
            except (Exception, Endless) as err:
                raise AssertionError(f"{number}: {err!r} of {data[:300]!r}") from err


def test_records_names_and_pictures(tmp_path: Path) -> None:
    small_files(tmp_path, 0, 60)


@pytest.mark.slow
def test_many_records_names_and_pictures(tmp_path: Path) -> None:
    small_files(tmp_path, 1000, 4000)


def stores(folder: Path, first: int, count: int) -> None:
    """A store's part with bytes changed: read, left out, or refused."""
    import backlight

    onnx.save(models.tiny(), folder / "m.onnx")
    (folder / "photos").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3)).astype(np.uint8)
    for name in "ab":
        Image.fromarray(pixels).save(folder / "photos" / f"{name}.png")
    backlight.embed(folder / "m.onnx", [folder / "photos"], folder / "store", preprocess="unit")
    (part,) = (folder / "store").glob("part-*")
    whole = part.read_bytes()

    def use() -> None:
        store = Embeddings(folder / "store")
        assert len(store.paths) == len(store.labels) == len(store.vectors) == len(store.pixels)

    used = 0
    for number in range(first, first + count):
        rng = random.Random(number)
        part.write_bytes(
            (flipped if number % 2 else spliced)(whole, rng, *([whole] * (1 - number % 2)))
        )
        used += held(use)
    part.write_bytes(whole)
    assert held(use) and used < count


def test_stores(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    stores(tmp_path, 1000, 60)


@pytest.mark.slow
def test_many_stores(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    stores(tmp_path, 5000, 2000)
