"""The protocol's bytes: what is read from them, what is refused, and what is written."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest

pytest.importorskip("orjson")

from backlight.engine.serve.jsons import text_of
from backlight.engine.serve.protocol import parse, written
from backlight.engine.serve.refused import Refused
from backlight.engine.serve.tensors import DTYPES, Tensor, datatype_of, raw_of, raw_tensor

X: dict[str, Any] = {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1, 2.5, -3, 4]}


def as_json(**changes: Any) -> bytes:
    return json.dumps({"inputs": [{**X, **changes}]}).encode()


def test_json_flat_and_nested() -> None:
    want = np.array([[1, 2.5], [-3, 4]], np.float32)
    for data in ([1, 2.5, -3, 4], [[1, 2.5], [-3, 4]]):
        got = parse(as_json(data=data)).inputs["x"]
        assert got.shape == (2, 2) and got.values.dtype == np.float32
        np.testing.assert_array_equal(got.values, want)


@pytest.mark.parametrize("datatype", DTYPES)
def test_every_type_there_and_back(datatype: str) -> None:
    dtype = DTYPES[datatype]
    values = np.array([[0, 1, 1], [1, 0, 1]], dtype)
    assert datatype_of(values.dtype) == datatype
    tensor = Tensor("y", datatype, (2, 3), values)
    (text, *raw), size = written({"model_name": "m"}, [(tensor, True)])
    told = json.loads(text)
    assert size == len(text)
    assert told["outputs"][0]["parameters"]["binary_data_size"] == values.nbytes
    back = raw_tensor("y", datatype, (2, 3), memoryview(b"".join(raw)))
    np.testing.assert_array_equal(back.values, values)
    (text,), size = written({}, [(tensor, False)])
    assert size is None
    listed = json.loads(text)["outputs"][0]
    body = json.dumps({"inputs": [{**listed, "name": "y"}]}).encode()
    np.testing.assert_array_equal(parse(body).inputs["y"].values, values)


def test_bytes_there_and_back() -> None:
    values = [b"", b"\x00\xff", b"abc"]
    pieces, size = raw_of(Tensor("b", "BYTES", (3,), values))
    raw = b"".join(pieces)
    assert size == len(raw) == 4 * 3 + 5
    assert raw_tensor("b", "BYTES", (3,), memoryview(raw)).values == values
    (text,), _ = written({}, [(Tensor("b", "BYTES", (3,), values), False)])
    listed = json.loads(text)["outputs"][0]["data"]
    assert [base64.b64decode(v) for v in listed] == values
    assert [text_of(v.encode(), "b") for v in listed] == values


def test_what_is_not_finite_is_null_in_json() -> None:
    tensor = Tensor("y", "FP32", (3,), np.float32([1, np.nan, -np.inf]))
    (text,), _ = written({}, [(tensor, False)])
    assert json.loads(text)["outputs"][0]["data"] == [1, None, None]


def test_raw_and_json_side_by_side() -> None:
    raw = np.arange(4, dtype="<i8")
    said = {
        "id": "7",
        "inputs": [X, {"name": "t", "datatype": "INT64", "shape": [4],
                       "parameters": {"binary_data_size": 32}}],
        "outputs": [{"name": "a"}, {"name": "b", "parameters": {"binary_data": False}}],
        "parameters": {"binary_data_output": True},
    }  # fmt: skip
    text = json.dumps(said).encode()
    got = parse(text + raw.tobytes(), len(text))
    assert got.id == "7" and got.outputs is not None
    assert [(o.name, o.binary) for o in got.outputs] == [("a", True), ("b", False)]
    np.testing.assert_array_equal(got.inputs["t"].values, raw)


BAD: list[tuple[bytes, str]] = [
    (b"", "no JSON"),
    (b"\xff\xfe", "no JSON"),
    (b"[1]", "a list; expected a JSON object"),
    (b"{}", "no 'inputs'"),
    (b'{"inputs": [1]}', "an input is a number"),
    (b'{"inputs": "x"}', "no 'inputs'"),
    (b"[" * 100000, "no JSON"),
    (b'{"inputs": [' + b"{}," * 70 + b"{}]}", "71 inputs; at most 64"),
    (as_json(name=""), "no 'name'"),
    (as_json(name=5), "no 'name'"),
    (as_json(datatype="FP33"), "datatype 'FP33'"),
    (as_json(datatype=["FP32"]), "datatype a list"),
    (as_json(shape=[2, 0]), "dimensions from 1 on"),
    (as_json(shape=[2, -1]), "dimensions from 1 on"),
    (as_json(shape=[2**40, 2**40]), "4 elements in its data"),
    (as_json(shape=[2, True]), "whole numbers"),
    (as_json(shape=[2.0, 2]), "whole numbers"),
    (as_json(shape="2,2"), "whole numbers"),
    (as_json(shape=[1] * 40), "40 dimensions"),
    (as_json(data=[1, 2, 3]), "3 elements in its data"),
    (as_json(data=[[1, 2], [3]]), "doesn't fit its shape"),
    (as_json(data=[[1, 2, 3, 4]]), "doesn't fit its shape"),
    (as_json(data=[[1, 2], 3, 4]), "doesn't fit its shape"),
    (as_json(data=[1, 2, 3, "4"]), "a string among its data"),
    (as_json(data=[1, 2, 3, "4"], id=True), "a string among its data"),
    (as_json(data=[1, 2, 3, None]), "null among its data"),
    (as_json(data=[1, 2, 3, True]), "true or false among its data"),
    (as_json(data={"0": 1}), "an object; expected a list"),
    (as_json(datatype="INT8", data=[1, 2, 3, 300]), "out of range"),
    (as_json(datatype="UINT8", data=[1, 2, 3, -1]), "out of range"),
    (as_json(datatype="INT64", data=[1, 2, 3, 1.5]), "a fraction among its data"),
    (as_json(datatype="BOOL"), "a number among its data"),
    (as_json(datatype="BYTES"), "BYTES in JSON are strings"),
    (as_json(parameters={"binary_data_size": 16}), "both 'data' and"),
    (as_json(parameters={"shared_memory_region": "r"}), "shared_memory_region"),
    (as_json(parameters=[1]), "'parameters' of input 'x' is a list"),
    (json.dumps({"inputs": [X, X]}).encode(), "given twice"),
    (json.dumps({"inputs": [X], "id": 5}).encode(), "'id'"),
    (json.dumps({"inputs": [X], "outputs": {"a": 1}}).encode(), "'outputs' is an object"),
    (json.dumps({"inputs": [X], "outputs": [{"name": "a"}] * 2}).encode(), "asked for twice"),
    (json.dumps({"inputs": [X], "outputs": [{"name": "a", "parameters": {"classification": 1}}]})
     .encode(), "classification"),
    (json.dumps({"inputs": [{k: v for k, v in X.items() if k != "data"}]}).encode(), "neither"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "says"), BAD, ids=[says for _, says in BAD])
def test_bad_requests(body: bytes, says: str) -> None:
    with pytest.raises(Refused) as refused:
        parse(body)
    assert refused.value.status == 400 and says in str(refused.value)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 900


@pytest.mark.parametrize(
    ("size", "raw", "header", "says"),
    [
        (16, b"\0" * 15, None, "15 bytes are left of the body"),
        (16, b"\0" * 17, None, "1 bytes are left over"),
        (15, b"\0" * 15, None, "15 bytes of data; FP32 [2,2] has 16"),
        (-1, b"", None, "no number from 0 on"),
        (2**40, b"", None, "bytes are left of the body"),
        (1.5, b"", None, "no number from 0 on"),
        (16, b"\0" * 16, 10**9, "the body has"),
        (16, b"\0" * 16, 3, "no JSON"),
    ],
)
def test_sizes_that_do_not_add_up(size: Any, raw: bytes, header: int | None, says: str) -> None:
    told = {k: v for k, v in X.items() if k != "data"} | {"parameters": {"binary_data_size": size}}
    text = json.dumps({"inputs": [told]}).encode()
    with pytest.raises(Refused, match=r".") as refused:
        parse(text + raw, len(text) if header is None else header)
    assert refused.value.status == 400 and says in str(refused.value)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"\1\0\0\0a", "2 elements have 8 or more"),
        (b"\1\0\0\0a\1\0\0\0", "runs past the data's end"),
        (b"\xff\xff\xff\xff" + b"a" * 8, "runs past the data's end"),
        (b"\1\0\0\0a\1\0\0\0bc", "1 bytes are left over"),
    ],
)
def test_elements_whose_lengths_do_not_add_up(raw: bytes, says: str) -> None:
    with pytest.raises(Refused) as refused:
        raw_tensor("b", "BYTES", (2,), memoryview(raw))
    assert says in str(refused.value)


def test_a_shape_of_millions_allocates_nothing() -> None:
    with pytest.raises(Refused):
        raw_tensor("b", "BYTES", (2**40,), memoryview(b""))
    with pytest.raises(Refused):
        raw_tensor("b", "FP64", (2**40, 2**40), memoryview(b"\0" * 8))


def test_booleans_are_0_or_1() -> None:
    with pytest.raises(Refused, match="other than 0 and 1"):
        raw_tensor("b", "BOOL", (2,), memoryview(b"\1\2"))


@pytest.mark.parametrize("text", ["[0,true]", "[0,false]", '["' + "ul" * 300 + '",true]', "[0,1]"])
def test_truths_are_no_numbers_wherever_they_are(text: str) -> None:
    count = len(json.loads(text))
    body = f'{{"inputs":[{{"name":"x","datatype":"FP32","shape":[{count}],"data":{text}}}]}}'
    if text == "[0,1]":
        assert parse(body.encode()).inputs["x"].shape == (2,)
        return
    with pytest.raises(Refused) as refused:
        parse(body.encode())
    assert "among its data" in str(refused.value)


@pytest.fixture(params=["lifted", "as Python has them"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Long arrays are lifted out of the text; where the native module isn't built, they are not."""
    from backlight.kernels.streams import numbers

    if request.param != "lifted":
        monkeypatch.setattr(numbers, "native", None)
    elif numbers.native is None:
        pytest.skip("native module not built")
    return str(request.param)


@pytest.mark.parametrize("datatype", [d for d in DTYPES if d != "BOOL"])
def test_long_arrays_flat_and_nested(either_way: str, datatype: str) -> None:
    dtype = DTYPES[datatype]
    values = (np.arange(120) % 100).reshape(2, 3, 20)
    text = values.tolist() if dtype.kind in "iu" else (values / 8 - 3).tolist()
    want = np.array(text).astype(dtype)
    for data in (text, np.ravel(text).tolist()):
        said = {"name": "x", "datatype": datatype, "shape": [2, 3, 20], "data": data}
        got = parse(json.dumps({"inputs": [said, {**X, "name": "y"}]}).encode()).inputs
        assert got["x"].values.dtype == dtype
        np.testing.assert_array_equal(got["x"].values, want)
        assert got["y"].values.tolist() == [[1, 2.5], [-3, 4]]


LONG = [0.5] * 100
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"datatype": "BOOL", "data": [1] * 100}, "a number among its data"),
    ({"datatype": "BYTES", "data": LONG}, "BYTES in JSON are strings"),
    ({"datatype": "INT64", "data": LONG}, "a fraction among its data"),
    ({"datatype": "INT8", "data": [1] * 99 + [128]}, "data out of range"),
    ({"datatype": "UINT16", "data": [-1] + [1] * 99}, "data out of range"),
    ({"data": LONG[1:]}, "99 elements in its data"),
    ({"data": [LONG]}, "doesn't fit its shape"),
    ({"data": [LONG[:20]] * 5}, "doesn't fit its shape"),
    ({"data": [LONG[:10]] * 9 + [LONG[:9]]}, "doesn't fit its shape"),
    ({"data": [*LONG[:-1], "x"]}, "a string among its data"),
    ({"data": [*LONG[:-1], True]}, "true or false among its data"),
    ({"shape": [1] * 100, "data": LONG}, "'shape'|100 dimensions"),
    ({"name": LONG, "data": LONG}, "no 'name'"),
    ({"parameters": LONG, "data": LONG}, "'parameters' of input"),
    ({"data": [0, None]}, "2 elements in its data"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "says"), WRONG, ids=[str(n) for n in range(len(WRONG))])
def test_long_arrays_that_are_wrong(either_way: str, changes: dict[str, Any], says: str) -> None:
    said = {"name": "x", "datatype": "FP32", "shape": [10, 10], **changes}
    with pytest.raises(Refused, match=says) as refused:
        parse(json.dumps({"inputs": [said]}).encode())
    assert refused.value.status == 400


def test_whole_numbers_beyond_a_double_keep_their_digits(either_way: str) -> None:
    data = [2**62 + 1, -(2**53) - 1] * 50
    said = {"name": "x", "datatype": "INT64", "shape": [100], "data": data}
    assert parse(json.dumps({"inputs": [said]}).encode()).inputs["x"].values.tolist() == data
