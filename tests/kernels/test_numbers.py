"""Numbers lifted out of JSON, against reading all of it."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest

from backlight.kernels.streams import numbers
from backlight.kernels.streams.numbers import lift

from .others import turns

orjson = pytest.importorskip("orjson", reason="the extra 'serve' is not installed")
if numbers.native is None:
    pytest.skip("native module not built", allow_module_level=True)

WORDS = ("0", "-0", "7", "-12", "1.5", "-0.0", "3e2", "1E-7", "0.1", "123456789012345",
         "1234567890123456", "0.12156862765550613", "2.2250738585072014e-308", "1e23", "9e22",
         "8.41e21", "9007199254740993", "0.30000000000000004", "123456789012345678901234567890",
         "1.7976931348623157e308", "5e-324", "0.000000000000000000000001",
         "9007199254740993.0", "1e22", "123456789.123456789e-30")  # fmt: skip
# What is no number, no array of numbers, or no JSON at all.
ODD = ("01", "1.", ".5", "+1", "1e", "1e+", "--1", "NaN", "Infinity", "true", '{"n":null}', "-",
       '"x"', "[]", "{}", "", "1 2", "1e999", "0x1", '"\\""', '"[1,2]"', "\u00e9", '"a', "]", "}",
       "[", "{", ",", "[1,[2]]", "[[1],[2,3]]", "[[1,2],[3,4]]", '{"a":[1,2]}')  # fmt: skip
SPACE = ("", "", "", " ", "\n", "\t ", "\r")


def put_back(value: Any, arrays: list[Any]) -> Any:
    """What a text says, with its arrays where their marks stand."""
    if isinstance(value, dict):
        return {k: put_back(v, arrays) for k, v in value.items()}
    if not isinstance(value, list):
        return value
    if len(value) == 2 and value[1] is None and type(value[0]) is int and value[0] < len(arrays):
        values, shape, _ = arrays[value[0]]
        return values.reshape(shape).tolist()
    return [put_back(one, arrays) for one in value]


def held(text: bytes, least: int) -> list[Any]:
    """Both ways say the same, or neither says anything; the arrays that were lifted."""
    rest, arrays, values = lift(text, least)
    try:
        want = orjson.loads(text)
    except orjson.JSONDecodeError:
        with pytest.raises(orjson.JSONDecodeError):
            orjson.loads(rest)
        return arrays
    got = put_back(orjson.loads(rest), arrays)
    # -0.0 == 0.0, and 1 == 1.0: by their text, but whole numbers by value.
    assert json.dumps(_floats(got)) == json.dumps(_floats(want))
    assert values >= rest.count(b",") - 2 * text.count(b'"')
    return arrays


def _floats(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _floats(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_floats(v) for v in value]
    return float(value) if type(value) is int else value


def nested(rng: random.Random, depth: int) -> str:
    """An array: mostly regular, of numbers; sometimes something else in it."""
    if depth == 0:
        return rng.choice(WORDS if rng.random() < 0.97 else ODD)
    length = rng.randint(1, 4)
    parts = [nested(rng, depth - 1) for _ in range(length)]
    if rng.random() < 0.05:
        parts[rng.randrange(length)] = rng.choice(ODD)
    gap = rng.choice(SPACE)
    return "[" + gap + f"{gap},{rng.choice(SPACE)}".join(parts) + gap + "]"


def document(rng: random.Random) -> str:
    arrays = [nested(rng, rng.randint(1, 3)) for _ in range(rng.randint(1, 4))]
    fields = [f'"{rng.choice("abc")}{i}": {text}' for i, text in enumerate(arrays)]
    text = '{"inputs": [{' + ", ".join(fields) + '}], "s": "a[1,2]\\"[3]", "t": true}'
    for _ in range(rng.choice((0, 0, 1, 2))):
        at = rng.randrange(len(text))
        text = text[:at] + rng.choice((*ODD, *WORDS)) + text[at + rng.randint(0, 2) :]
    return text


@pytest.mark.parametrize("least", [1, 3])
def test_documents_say_what_they_said(least: int) -> None:
    rng = random.Random(least)
    lifted = sum(len(held(document(rng).encode(), least)) for _ in range(8000))
    assert lifted > 2000


def test_every_number_is_read_as_any_reader_does() -> None:
    rng = random.Random(0)
    words = [repr(rng.uniform(-1, 1) * 10.0 ** rng.randint(-30, 30)) for _ in range(20000)]
    words += [str(np.float32(rng.gauss(0, 1))) for _ in range(5000)]
    words += [f"{rng.randrange(10**9)}e{rng.randint(-40, 40)}" for _ in range(5000)]
    ((values, shape, whole),) = held(f"[{','.join(words)}]".encode(), 64)
    assert shape == (len(words),) and not whole
    assert values.tolist() == [float(w) for w in words]


def test_shape_and_kind() -> None:
    _, ((values, shape, whole),), _ = lift(b" [[1,2,3], [4,5,6] ] ", 6)
    assert values.tolist() == [1, 2, 3, 4, 5, 6] and shape == (2, 3) and whole
    assert values.dtype == np.float64
    (_, (_, _, whole)) = held(b'{"a":[1,2],"b":[1,2.0]}', 2)
    assert not whole
    assert held(b"[[1,2],[3]]", 1) == []  # not regular: as it is
    assert held(b"[1,2]", 3) == []
    assert held(b"[" * 9 + b"1" + b"]" * 9, 1)[0][1] == (1,) * 8  # as deep as tensors are


def test_no_array_becomes_a_key() -> None:
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(lift(b"{[1,2,3]: 1}", 1)[0])


def test_what_is_left_is_counted() -> None:
    assert lift(b"[" + b"null," * 99 + b"null]", 1)[2] == 100
    assert lift(b'["' + b"," * 99 + b'"]', 1)[2] == 1
    assert lift(b"[1,2,3,null]", 1)[2] == 4


def test_what_looks_like_arrays_is_not_read_over_and_over() -> None:
    """By the size of it: each bracket would otherwise read all behind it anew, for hours."""
    for text in (b"[" * 2_000_000, b"[[1,2,3]," * 300_000, b'[1,"' * 300_000, b"[1,[" * 300_000):
        rest, arrays, _ = lift(text, 1)
        assert len(rest) <= len(text) + 20 * len(arrays)


def test_a_thread_runs_while_numbers_are_read() -> None:
    text = b"[" + b"0.25," * 400_000 + b"1]"
    assert turns(lambda: lift(text, 64)) > 0
