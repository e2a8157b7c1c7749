"""The Open Inference Protocol (V2): inference requests and responses as JSON and as binary tensors.

Pure functions of bytes: no model, no network.

https://github.com/kserve/open-inference-protocol, and Triton's binary tensor data extension.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from . import jsons
from .refused import bad
from .tensors import (
    DTYPES,
    Tensor,
    checked_shape,
    kind_of,
    listed_tensor,
    raw_of,
    raw_tensor,
)

__all__ = ["MOST_NAME", "MOST_TENSORS", "Inference", "Wanted", "parse", "written"]

MOST_TENSORS = 64
# What JSON takes of a tensor's name, a request's id.
MOST_NAME = 1024


@dataclass(frozen=True)
class Wanted:
    """An output that was asked for, as raw bytes or as JSON."""

    name: str
    binary: bool


@dataclass(frozen=True)
class Inference:
    """A request. outputs: in the order asked for; None: those that are given unasked."""

    inputs: Mapping[str, Tensor]
    outputs: tuple[Wanted, ...] | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    id: str | None = None
    binary: bool = False


def parse(body: bytes | memoryview, header: int | None = None) -> Inference:
    """A request's body. header: the length of its JSON part where raw tensors follow it
    (`Inference-Header-Content-Length`); None: it is JSON alone. Raises Refused (400)."""
    size = len(body) if header is None else header
    if not 0 <= size <= len(body):
        raise bad(f"Inference-Header-Content-Length {size}; the body has {len(body)} bytes")
    view = memoryview(body)
    text = jsons.read(view[:size])
    said = _object(text.value, "the request")
    raw = _Raw(view[size:]) if header is not None else None
    listed = said.get("inputs")
    if not isinstance(listed, list) or not listed:
        raise bad("the request has no 'inputs'; expected a list of tensors")
    if len(listed) > MOST_TENSORS:
        raise bad(f"{len(listed)} inputs; at most {MOST_TENSORS}")
    inputs: dict[str, Tensor] = {}
    for one in listed:
        tensor = _tensor(_object(one, "an input"), raw, text)
        if tensor.name in inputs:
            raise bad(f"input '{tensor.name}' is given twice")
        inputs[tensor.name] = tensor
    if raw is not None and raw.left:
        raise bad(f"{raw.left} bytes are left over behind the last input's binary data")
    parameters = _parameters(said, "the request")
    binary = _flag(parameters, "binary_data_output", False)
    name = said.get("id")
    if name is not None and (not isinstance(name, str) or len(name) > MOST_NAME):
        raise bad(f"'id' is no string of at most {MOST_NAME} characters")
    return Inference(inputs, _outputs(said.get("outputs"), binary), parameters, name, binary)


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise bad(f"{what} is {kind_of(value)}; expected a JSON object")
    return value


def _parameters(of: Mapping[str, Any], what: str) -> dict[str, Any]:
    found = of.get("parameters")
    return {} if found is None else _object(found, f"'parameters' of {what}")


def _flag(parameters: Mapping[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise bad(f"parameter '{name}' is {kind_of(value)}; expected true or false")
    return value


def _name(of: Mapping[str, Any], what: str) -> str:
    name = of.get("name")
    if not isinstance(name, str) or not name or len(name) > MOST_NAME:
        raise bad(f"{what} has no 'name'; expected a string of at most {MOST_NAME} characters")
    return name


def _outputs(given: Any, binary: bool) -> tuple[Wanted, ...] | None:
    if given is None or given == []:
        return None
    if not isinstance(given, list):
        raise bad(f"'outputs' is {kind_of(given)}; expected a list")
    if len(given) > MOST_TENSORS:
        raise bad(f"{len(given)} outputs; at most {MOST_TENSORS}")
    found: list[Wanted] = []
    for one in given:
        told = _object(one, "an output")
        name = _name(told, "an output")
        parameters = _parameters(told, f"output '{name}'")
        _refuse_extensions(parameters, f"output '{name}'")
        if name in (w.name for w in found):
            raise bad(f"output '{name}' is asked for twice")
        found.append(Wanted(name, _flag(parameters, "binary_data", binary)))
    return tuple(found)


def _refuse_extensions(parameters: Mapping[str, Any], what: str) -> None:
    """Extensions whose requests mean something else than they seem to without them."""
    for key in ("shared_memory_region", "classification"):
        if key in parameters:
            raise bad(f"{what}: '{key}' is an extension that this server lacks")


class _Raw:
    """The raw tensors behind the JSON part, taken one after another."""

    def __init__(self, view: memoryview) -> None:
        self._view, self._at = view, 0

    @property
    def left(self) -> int:
        return len(self._view) - self._at

    def take(self, size: int, what: str) -> memoryview:
        if size > self.left:
            raise bad(f"{what}: binary_data_size {size}; {self.left} bytes are left of the body")
        self._at += size
        return self._view[self._at - size : self._at]


def _tensor(told: dict[str, Any], raw: _Raw | None, text: jsons.Said) -> Tensor:
    name = _name(told, "an input")
    what = f"input '{name}'"
    datatype = told.get("datatype")
    if datatype != "BYTES" and (not isinstance(datatype, str) or datatype not in DTYPES):
        shown = f"'{datatype[:40]}'" if isinstance(datatype, str) else kind_of(datatype)
        raise bad(f"{what}: datatype {shown}; accepted: {', '.join(DTYPES)}, BYTES")
    shape = _shape(told.get("shape"), what)
    parameters = _parameters(told, what)
    _refuse_extensions(parameters, what)
    size = parameters.get("binary_data_size")
    if size is None:
        if "data" not in told:
            raise bad(f"{what} has neither 'data' nor 'binary_data_size'")
        values = listed_tensor(text.data(told["data"]), datatype, shape, what)
        return Tensor(name, datatype, shape, values, parameters)
    if "data" in told:
        raise bad(f"{what} has both 'data' and 'binary_data_size'; expected one")
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise bad(f"{what}: binary_data_size is no number from 0 on")
    if raw is None:
        raise bad(f"{what}: binary_data_size without a header Inference-Header-Content-Length")
    return raw_tensor(name, datatype, shape, raw.take(size, what), parameters)


def _shape(given: Any, what: str) -> tuple[int, ...]:
    if not isinstance(given, list) or not all(type(d) is int for d in given):
        raise bad(f"{what}: 'shape' is no list of whole numbers")
    return checked_shape(given, what)


def written(
    head: Mapping[str, Any], outputs: Sequence[tuple[Tensor, bool]]
) -> tuple[list[Any], int | None]:
    """A response's body in pieces, and the length of its JSON part where raw tensors follow it.

    head: model_name and so on. outputs: tensors, and whether as raw bytes. BYTES in JSON are
    base64; a number that isn't finite is null there.
    """
    import orjson

    texts: list[bytes] = []
    raw: list[Any] = []
    for tensor, binary in outputs:
        told: dict[str, Any] = {
            "name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape),
        }  # fmt: skip
        if tensor.parameters:
            told["parameters"] = dict(tensor.parameters)
        data = b""
        if binary:
            pieces, size = raw_of(tensor)
            told["parameters"] = {**tensor.parameters, "binary_data_size": size}
            raw += pieces
        elif isinstance(tensor.values, list):
            told["data"] = [base64.b64encode(v).decode("ascii") for v in tensor.values]
            told["parameters"] = {**tensor.parameters, "encoding": "base64"}
        else:
            data = b',"data":' + jsons.listed(tensor.values)
        texts.append(orjson.dumps(told)[:-1] + data + b"}")
    begun = orjson.dumps({**head, "outputs": []})[:-2]
    text = begun + b",".join(texts) + b"]}"
    return [text, *raw], len(text) if any(binary for _, binary in outputs) else None
