"""Inputs of a model besides its image, as the command line gives them: an array in a file, or a
number for all of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UsageError
from ..runtime.session import dims_of, numpy_dtype
from .ready import Fed

__all__ = ["Extras", "read_extras"]

_MOST = 1 << 31


class Extras:
    """The further inputs of a run, the same for every image.

    arrays: by name, one row [1, ...] of those that have a row per image; whole: the others' names.
    """

    def __init__(self, arrays: Mapping[str, NDArray[Any]], whole: frozenset[str]) -> None:
        self._arrays, self._whole = dict(arrays), whole

    def beside(self, image: str, batch: NDArray[Any]) -> Any:
        """What a call takes: the batch alone, or with the further inputs by name."""
        if not self._arrays:
            return batch
        rows = len(batch)
        others = {
            name: value if name in self._whole else np.repeat(value, rows, axis=0)
            for name, value in self._arrays.items()
        }
        return {image: batch, **others}


def read_extras(given: Sequence[str] | None, declared: Sequence[Any], fed: Fed) -> Extras:
    """`name=file.npy` and `name=0.5`, held against the inputs that the runtime declares (name,
    shape, type). fed: which of them are the model's own. Raises UsageError for an input that isn't
    there, isn't given, or doesn't fit."""
    inputs = {i.name: i for i in declared}
    others = [name for name in fed.others if name in inputs]
    found: dict[str, NDArray[Any]] = {}
    whole = fed.whole
    for text in given or ():
        name, equals, value = text.rpartition("=") if Path(text).suffix else text.partition("=")
        if not (name and equals and value):
            raise UsageError(f"--input '{text}'; expected NAME=FILE.npy or a number, NAME=0.5")
        if name not in others:
            known = ", ".join(others) or "none besides the image"
            raise UsageError(f"--input '{name}': no such input; the model has {known}")
        if name in found:
            raise UsageError(f"--input '{name}' is given twice")
        found[name] = _array(name, value, inputs[name], name in whole)
    for name in others:
        if name not in found:
            raise UsageError(
                f"the model takes '{name}' {_shown(inputs[name])} besides the image; "
                f"--input {name}=FILE.npy gives it, or a number: --input {name}=0"
            )
    return Extras(found, whole)


def _array(name: str, given: str, declared: Any, whole: bool) -> NDArray[Any]:
    dims, dtype = dims_of(declared.shape), numpy_dtype(declared.type)
    wanted = dims if whole or not dims else (1, *dims[1:])
    number = _number(given)
    if number is not None:
        if any(d is None for d in wanted):
            raise UsageError(
                f"--input {name}={given}: its sizes are open, {_shown(declared)}; give an .npy file"
            )
        made = np.full([d or 1 for d in wanted], number)
    else:
        made = _loaded(name, given)
        if made.ndim == len(wanted) - 1 and not whole:
            made = made[None]
    fits = made.ndim == len(wanted) and all(
        d is None or d == have for d, have in zip(wanted, made.shape, strict=True)
    )
    if not fits:
        raise UsageError(
            f"--input {name}: shaped {list(made.shape)}; expected {_shown(declared)}"
            + ("" if whole else ", one row, which every image takes")
        )
    cast = made.astype(dtype)
    if dtype.kind in "iu" and not np.array_equal(cast, made):
        raise UsageError(f"--input {name}: values that {dtype} doesn't hold")
    return np.ascontiguousarray(cast)


def _number(given: str) -> float | int | None:
    for kind in (int, float):
        try:
            return kind(given)
        except ValueError:
            continue
    return None


def _loaded(name: str, given: str) -> NDArray[Any]:
    file, says = Path(given), f"--input {name}: {given}:"
    if not file.is_file():
        raise UsageError(f"{says} no such file; expected .npy or a number")
    if file.stat().st_size > _MOST:
        raise UsageError(f"{says} larger than {_MOST >> 30} GB")
    try:
        made = np.load(file, allow_pickle=False)
    except Exception as err:  # NumPy raises many kinds on broken files
        raise UsageError(f"{says} no .npy file that can be read") from err
    if not isinstance(made, np.ndarray) or made.dtype.kind not in "fiub":
        raise UsageError(f"{says} expected an .npy file with one array of numbers")
    return made


def _shown(declared: Any) -> str:
    dims = ("?" if d is None else str(d) for d in dims_of(declared.shape))
    return f"{declared.type} [{','.join(dims)}]"
