"""Arrays from .npy files that a stranger may have written.

NumPy's own reader takes a header at its word: a file of a hundred bytes may ask for more memory
than there is, and one of Python objects is a program to run. Here the header is read, held against
the file's size, and only then are the numbers.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from .hushed import hushed

__all__ = ["Header", "array_in", "header_of"]

# Of a header's text; NumPy's own limit.
_LONGEST = 10_000
_MOST_AXES = 16


@dataclass(frozen=True)
class Header:
    """What an .npy file says of its array. at: where the numbers begin."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    at: int

    @property
    def bytes(self) -> int:
        """Of all numbers."""
        return math.prod(self.shape) * self.dtype.itemsize


def header_of(path: Path) -> Header:
    """The header of an .npy file of real numbers. Raises OSError, or ValueError with the reason
    for anything else: Python objects, an archive, a header that asks for more than the file has."""
    with path.open("rb") as stream:
        return _header(stream)


def array_in(
    path: Path,
    most: int = 1 << 31,
    wait: Callable[[Header], None] | None = None,
) -> NDArray[Any]:
    """The array of an .npy file, in this machine's byte order and in C order. most: bytes at most;
    wait: called between the header and the numbers. Raises as `header_of` does."""
    with path.open("rb") as stream:
        header = _header(stream)
        if header.bytes > most:
            raise ValueError(f"{header.bytes} bytes of numbers; at most {most} are read")
        if wait is not None:
            wait(header)
        stream.seek(header.at)
        values = np.fromfile(stream, header.dtype, math.prod(header.shape))
    if values.size != math.prod(header.shape):
        raise ValueError("cut short")
    native = values.astype(header.dtype.newbyteorder("="), copy=False)
    shaped = native.reshape(header.shape, order="F" if header.fortran else "C")
    return np.ascontiguousarray(shaped).reshape(header.shape)


def _header(stream: BinaryIO) -> Header:
    start = stream.read(6)
    if start[:2] == b"PK":
        raise ValueError("an archive of arrays; expected an .npy file with one array")
    if start != npy.MAGIC_PREFIX:
        raise ValueError("no .npy file")
    stream.seek(0)
    try:
        with hushed():  # of Python 2's headers, of fields' names
            version = npy.read_magic(stream)
            read = {(1, 0): npy.read_array_header_1_0}.get(version, npy.read_array_header_2_0)
            if version == (3, 0):  # only names of fields need it
                raise ValueError("fields with names; expected one array of numbers")
            shape, fortran, dtype = read(stream, max_header_size=_LONGEST)
    except Exception as err:  # NumPy's, ast's and tokenize's share no class
        reason = " ".join(str(err).split())[:120] or type(err).__name__
        raise ValueError(f"no .npy header that can be read: {reason}") from err
    if dtype.hasobject:
        raise ValueError("Python objects, which would be a program to run; expected numbers")
    if dtype.kind not in "fiub" or dtype.subdtype is not None:
        raise ValueError(f"{dtype}; expected real numbers")
    if len(shape) > _MOST_AXES or any(not isinstance(d, int) or d < 0 for d in shape):
        raise ValueError(f"{len(shape)} axes, or a size that is none")
    header = Header(tuple(shape), dtype, fortran, stream.tell())
    there = os.fstat(stream.fileno()).st_size - header.at
    if header.bytes > there:
        shown = ",".join(map(str, shape))
        raise ValueError(f"cut short: [{shown}] of {dtype} is {header.bytes} bytes, not {there}")
    return header
