"""Every tensor that a file can hold, wherever it hides, and where its data may come from.

A model comes from a stranger. Data outside the file ("external data") is a path that the stranger
wrote: one rule decides what it may name, for every tensor alike, before anything reads one.
"""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from ..errors import ModelError

__all__ = ["check_tensors", "check_tensors_of", "tensors"]

# External data up to this size is taken into the model: it may be a shape, which is read early.
_SMALL = 1024
# Tensors may share a file's bytes (tied weights); so often that a small file becomes gigabytes, no.
_SHARED, _ALLOWED = 16, 2**26
# What is read of an entry; the rest is for others.
_KEYS = ("location", "offset", "length")
_ODD = re.compile(r"[\x00-\x1f\x7f-\x9f*]")
_NUMBER = re.compile(r"[0-9]{1,18}")


def _holders() -> dict[str, tuple[str, ...]]:
    """By message type: its fields that can hold a tensor, at whatever depth."""
    kinds: dict[str, Any] = {}
    todo = [onnx.ModelProto.DESCRIPTOR]
    while todo:
        kind = todo.pop()
        if kind.full_name not in kinds:
            kinds[kind.full_name] = kind
            todo += [f.message_type for f in kind.fields if f.message_type is not None]
    target = onnx.TensorProto.DESCRIPTOR.full_name
    holding = {target}
    while True:
        more = {
            name
            for name, kind in kinds.items()
            if any(f.message_type is not None and f.message_type.full_name in holding
                   for f in kind.fields)
        } - holding  # fmt: skip
        if not more:
            break
        holding |= more
    holding.discard(target)
    return {
        name: tuple(
            f.name
            for f in kinds[name].fields
            if f.message_type is not None and f.message_type.full_name in {*holding, target}
        )
        for name in holding
    }


_HOLDERS = _holders()


def tensors(message: Any) -> Iterator[onnx.TensorProto]:
    """Every tensor below a message, see `_walk`."""
    return (held for held in _walk(message) if isinstance(held, onnx.TensorProto))


def _walk(message: Any) -> Iterator[Any]:
    """Every tensor and node below a message: initializers, sparse ones, attributes of every kind,
    bodies and defaults of functions, subgraphs, training graphs. By the format's own description,
    so that a field that nobody thought of is walked too."""
    todo = [message]
    while todo:
        held = todo.pop()
        if isinstance(held, onnx.TensorProto):
            yield held
            continue
        if isinstance(held, onnx.NodeProto):
            yield held
        names = _HOLDERS.get(held.DESCRIPTOR.full_name, ())
        for field, value in held.ListFields():
            if field.name in names:
                if hasattr(value, "DESCRIPTOR"):
                    todo.append(value)
                else:
                    todo.extend(value)


def check_tensors(proto: onnx.ModelProto, folder: Path | None, source: str) -> frozenset[Path]:
    """Refuse external data that is not a plain file inside the model's folder, and tensors whose
    data is not what their shape says; name what is missing or too short. Raises ModelError.

    folder: the model's; None where it has none (bytes, a message), and then it may have no data
    elsewhere. All that is not a large initializer of the main graph is read into `proto`, so that
    nobody looks for it later, in another folder. Returns the files that data lies in.
    """
    large = {id(t): t for t in proto.graph.initializer}
    files: dict[str, _File] = {}
    claimed = 0
    for tensor in _walk(proto):
        if isinstance(tensor, onnx.NodeProto):
            if tensor.op_type == "EPContext":
                raise ModelError(
                    f"{source}: EPContext '{_short(tensor.name)}' is a compiled engine, or names a "
                    "file of one: refused; expected the model that it was made from"
                )
            continue
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            _check_data(tensor, source)
            continue
        entry = {e.key: e.value for e in tensor.external_data if e.key in _KEYS}
        if not all(isinstance(value, str) for value in entry.values()):
            raise ModelError(f"{source}: a tensor's data in a place that is no text")
        what = _what(source, tensor.name, entry.get("location", ""))
        if sum(e.key in _KEYS for e in tensor.external_data) > len(entry):
            raise ModelError(f"{what}, and in another place too; expected one")
        file = _file(folder, entry.get("location", ""), files, what)
        offset = _number(entry.get("offset"), what)
        length = _number(entry.get("length"), what)
        needed = _bytes_of(tensor)
        if needed is None:
            raise ModelError(f"{what}; its type or shape is none that data can have")
        if "length" in entry and length != needed:
            raise ModelError(f"{what}: {length} bytes of it, but its shape needs {needed}")
        if file.size < offset + needed:
            raise ModelError(
                f"{what}, which is truncated: expected {needed} bytes from byte {offset}"
            )
        claimed += needed
        if claimed > _SHARED * sum(f.size for f in files.values()) + _ALLOWED:
            raise ModelError(f"{what}, which too many tensors share")
        if needed <= _SMALL or id(tensor) not in large:
            tensor.raw_data = file.read(offset, needed, what)
            tensor.ClearField("data_location")
            del tensor.external_data[:]
    return frozenset(folder / name for name in files) if folder is not None else frozenset()


def check_tensors_of(model: ir.Model, source: str) -> None:
    """The same rule for a model that is a graph already: each tensor's file lies in the folder
    that it was read from. Raises ModelError."""
    files: dict[str, dict[str, _File]] = {}
    for tensor in _tensors_of(model):
        if not isinstance(tensor, ir.ExternalTensor):
            continue
        location, base = os.fspath(tensor.location), os.fspath(tensor.base_dir)
        what = _what(source, tensor.name, location)
        folder = Path(base) if base else None
        file = _file(folder, location, files.setdefault(base, {}), what)
        offset = tensor.offset or 0
        if offset < 0 or file.size < offset + tensor.nbytes:
            raise ModelError(
                f"{what}, which is truncated: expected {tensor.nbytes} bytes from byte {offset}"
            )


def _tensors_of(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value.const_value
        for node in graph:
            yield from _held(node.attributes.values())
    for function in model.functions.values():
        yield from _held(function.attributes.values())


def _held(attributes: Any) -> Iterator[ir.TensorProtocol]:
    for attribute in attributes:
        if attribute.value is None:
            continue
        if attribute.type == ir.AttributeType.TENSOR:
            yield attribute.value
        elif attribute.type == ir.AttributeType.TENSORS:
            yield from attribute.value


def _what(source: str, name: str | None, location: str) -> str:
    return f"{source}: tensor '{_short(name or '')}' has its data in '{_short(location)}'"


def _short(text: str | bytes) -> str:
    """Cut where a stranger's name would fill the screen, without what a terminal obeys."""
    if isinstance(text, bytes):  # protobuf's, of what is no UTF-8
        text = text.decode("utf-8", "replace")
    shown = "".join(c if c.isprintable() else "?" for c in text[:200])
    return shown[:120] + "…" if len(shown) > 120 else shown


class _File:
    """A file that was found to be plain."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.size = size

    def read(self, offset: int, length: int, what: str) -> bytes:
        """A piece of it. Never through a link that was put there since."""
        try:
            # A device or a pipe put there since would hold the caller.
            flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
            handle = os.open(self.path, flags | getattr(os, "O_BINARY", 0))
            with open(handle, "rb") as opened:
                if not stat.S_ISREG(os.fstat(handle).st_mode):
                    raise ModelError(f"{what}, which is no regular file: refused")
                opened.seek(offset)
                data = opened.read(length)
        except OSError as err:
            raise ModelError(f"{what}, which can't be read: {err.strerror}") from err
        if len(data) != length:
            raise ModelError(
                f"{what}, which is truncated: expected {length} bytes from byte {offset}"
            )
        return data


def _file(folder: Path | None, location: str, known: dict[str, _File], what: str) -> _File:
    """The rule: a regular file inside the folder, no link out of it."""
    if folder is None:
        raise ModelError(f"{what}; give the model as a file, so that its folder is known")
    if location in known:
        return known[location]
    # Runtimes give a name with a '*' a meaning of their own: a place in memory.
    if _ODD.search(location):
        raise ModelError(f"{what}, which is no file's name")
    try:
        inside = folder.resolve()
        file = (folder / location).resolve()
        held = file.is_relative_to(inside)
        status = file.stat() if held and location else None
    except (FileNotFoundError, NotADirectoryError):
        status = None
    except (OSError, ValueError, RuntimeError):  # too long, a NUL in it, a circle of links
        raise ModelError(f"{what}, which is no file's name") from None
    parts = re.split(r"[/\\]", location)
    if not location or os.path.isabs(location) or not held:
        raise ModelError(f"{what}, outside the model's folder: refused")
    if any(p.startswith(".") and p not in (".", "..") for p in (*parts, *_below(file, inside))):
        # A model in somebody's home would name .ssh there.
        raise ModelError(f"{what}, a hidden file: refused")
    if status is None:
        raise ModelError(f"{what}, which is missing")
    if not stat.S_ISREG(status.st_mode):
        raise ModelError(f"{what}, which is no regular file: refused")
    if status.st_nlink > 1:
        # Nothing tells a file's other names; they may lie anywhere.
        raise ModelError(f"{what}, a file with other names (hard links): refused; copy it")
    known[location] = _File(file, status.st_size)
    return known[location]


def _below(file: Path, folder: Path) -> tuple[str, ...]:
    return file.relative_to(folder).parts


def _number(text: str | None, what: str) -> int:
    if text is None:
        return 0
    if _NUMBER.fullmatch(text) is None:
        raise ModelError(f"{what} at an offset or of a length that is no number")
    return int(text)


def _bytes_of(tensor: onnx.TensorProto) -> int | None:
    """What a tensor's data takes by its shape; None for a type or a shape that is none."""
    count = _elements(tensor)
    if tensor.data_type == onnx.TensorProto.STRING or count is None:
        return None
    try:
        bits = ir.DataType(tensor.data_type).bitwidth
    except (ValueError, TypeError):  # no such type
        return None
    return -(-count * bits // 8)


def _elements(tensor: onnx.TensorProto) -> int | None:
    return None if min(tensor.dims, default=1) < 0 else math.prod(int(d) for d in tensor.dims)


_FIELDS = {
    "FLOAT": "float_data", "COMPLEX64": "float_data", "INT64": "int64_data",
    "DOUBLE": "double_data", "COMPLEX128": "double_data", "UINT32": "uint64_data",
    "UINT64": "uint64_data", "STRING": "string_data",
}  # fmt: skip


def _check_data(tensor: onnx.TensorProto, source: str) -> None:
    """The data in the file is as much as the shape says: what follows makes arrays of that size."""
    needed, count = _bytes_of(tensor), _elements(tensor)
    raw = tensor.HasField("raw_data")
    if tensor.data_type == onnx.TensorProto.STRING and not raw:
        needed = count
    if needed is None or count is None:
        wrong = "a negative size" if count is None else f"type {tensor.data_type}, which is none"
        raise ModelError(
            f"{source}: not a valid ONNX model: tensor '{_short(tensor.name)}' has {wrong}"
        )
    kind = ir.DataType(tensor.data_type)
    held = len(tensor.raw_data if raw else getattr(tensor, _FIELDS.get(kind.name, "int32_data")))
    if not raw and kind.name.startswith("COMPLEX"):
        needed = 2 * count
    elif not raw and (kind.name == "STRING" or kind.bitwidth >= 8):
        needed = count
    if held != needed:
        unit = "bytes" if raw else "numbers"
        raise ModelError(
            f"{source}: truncated: tensor '{_short(tensor.name)}' lacks data: it holds {held} "
            f"{unit}, but its shape needs {needed}"
        )
