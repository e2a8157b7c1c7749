"""Inputs of a model besides its image: an array, one in a file, or a number for all of it.

    Ready("model.onnx", inputs={"age": 41.0, "mask": "mask.npy"})    # --input age=41 --input …

Whatever stands on that classifier feeds them with every image, and its calls take images alone.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import written
from ...errors import UsageError, hint
from ..photos.arrays import array_in
from ..runtime.session import numpy_dtype

__all__ = ["NO_EXTRAS", "Beside", "Extras", "InputsLike", "given_inputs", "settled"]

# By name: an array, an .npy file, or a number.
InputsLike = Mapping[str, Any]


@dataclass(frozen=True)
class Beside:
    """An input besides the image, as the graph declares it. dims: with None for those that are
    open. kind: its type as the runtime writes it. whole: it has no row per image."""

    name: str
    dims: tuple[int | None, ...]
    kind: str
    whole: bool

    @property
    def dtype(self) -> np.dtype[Any]:
        """Raises ModelError for a type that NumPy lacks."""
        return numpy_dtype(self.kind)

    def __str__(self) -> str:
        dims = ("?" if d is None else str(d) for d in self.dims)
        return f"{self.kind} [{','.join(dims)}]"


@dataclass(frozen=True)
class Extras:
    """The further inputs of a run, the same for every image.

    arrays: by name, one row [1, ...] of those that have a row per image; whole: the others' names.
    """

    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    whole: frozenset[str] = frozenset()

    def rows(self, count: int, names: Iterable[str] | None = None) -> dict[str, NDArray[Any]]:
        """What a run of so many images is fed. names: of which inputs; None: of all."""
        wanted = self.arrays if names is None else names
        return {
            name: self.arrays[name]
            if name in self.whole
            else np.repeat(self.arrays[name], count, axis=0)
            for name in wanted
        }


NO_EXTRAS = Extras()


def given_inputs(given: Sequence[str] | None) -> dict[str, str]:
    """`name=file.npy` and `name=0.5`, by name. Raises UsageError."""
    found: dict[str, str] = {}
    for text in given or ():
        name, equals, value = text.rpartition("=") if Path(text).suffix else text.partition("=")
        if not (name and equals and value):
            raise UsageError(f"--input '{text}'; expected NAME=FILE.npy or a number, NAME=0.5")
        if name in found:
            raise UsageError(f"--input '{name}' is given twice")
        found[name] = value
    return found


def settled(given: InputsLike, beside: Iterable[Beside], own: Sequence[str]) -> Extras:
    """What is given, held against the inputs that a graph takes besides the image. own: those of
    the model, of which the graph may need fewer. Raises UsageError for an input that isn't there
    or doesn't fit."""
    inputs = {one.name: one for one in beside}
    known = list(dict.fromkeys([*inputs, *own]))
    for name in given:
        if name not in known:
            raise UsageError(
                f"--input '{name}': no such input; the model has "
                f"{', '.join(known) or 'none besides the image'}{hint(name, known)}"
            )
    arrays = {n: _array(inputs[n], value) for n, value in given.items() if n in inputs}
    return Extras(arrays, frozenset(n for n in arrays if inputs[n].whole))


def _array(of: Beside, given: Any) -> NDArray[Any]:
    wanted = of.dims if of.whole or not of.dims else (1, *of.dims[1:])
    number = _number(given)
    if number is not None:
        if None in wanted[1:]:
            raise UsageError(
                f"--input {of.name}={given}: its sizes are open, {of}; give an .npy file"
            )
        made = np.full([d or 1 for d in wanted], number)
    else:
        path = isinstance(given, (str, os.PathLike))
        made = _loaded(of.name, given) if path else _taken(of, given)
        one = not of.whole or of.dims[:1] in ((None,), (1,))
        if one and made.ndim == len(wanted) - 1:
            made = made[None]
    fits = made.ndim == len(wanted) and all(
        d is None or d == have for d, have in zip(wanted, made.shape, strict=True)
    )
    if not fits:
        raise UsageError(
            f"--input {of.name}: shaped {list(made.shape)}; expected {of}"
            + ("" if of.whole else ", one row, which every image takes")
        )
    with np.errstate(over="ignore", invalid="ignore"):
        cast = made.astype(of.dtype)
    if of.dtype.kind in "iub" and not np.array_equal(cast, made):
        raise UsageError(f"--input {of.name}: values that {of.dtype} doesn't hold")
    if of.dtype.kind == "f" and not np.isfinite(cast).all():
        raise UsageError(f"--input {of.name}: NaN, infinite, or more than {of.dtype} holds")
    return np.ascontiguousarray(cast).reshape(made.shape)


def _number(given: Any) -> float | int | None:
    if isinstance(given, (bool, np.bool_)):
        return int(given)
    if isinstance(given, (int, float, np.integer, np.floating)):
        return given if isinstance(given, (int, float)) else given.item()
    if not isinstance(given, str):
        return None
    whole = written.whole(given)
    if whole is None:
        return written.number(given)
    # No integer type holds more, and no array is made of it.
    return whole if abs(whole) < 1 << 63 else math.inf


def _taken(of: Beside, given: Any) -> NDArray[Any]:
    try:
        made = np.asarray(given)
    except Exception as err:  # whatever an object's __array__ raises
        raise UsageError(f"--input {of.name}: no array: {type(given).__name__}") from err
    if made.dtype.kind not in "fiub":
        raise UsageError(f"--input {of.name}: {made.dtype}; expected an array of numbers")
    return made


def _loaded(name: str, given: str | os.PathLike[str]) -> NDArray[Any]:
    file, says = Path(given), f"--input {name}: {given}:"
    if not file.is_file():
        raise UsageError(f"{says} no such file; expected .npy or a number")
    try:
        return array_in(file)
    except (OSError, ValueError) as err:
        told = err.strerror if isinstance(err, OSError) and err.strerror else str(err)
        raise UsageError(f"{says} {told}; expected an .npy file with one array of numbers") from err
