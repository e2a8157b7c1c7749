"""Arrays from .npz files that somebody else may have written: only what they should be.

NumPy's files carry types and shapes of their own: an archive of a few bytes may unpack to more than
a machine has, and an array of another type is another array.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["arrays_in", "expect", "state_in"]

# Unpacked, of one file.
MOST = 1 << 32


def arrays_in(path: Path, names: Collection[str] | None = None) -> dict[str, NDArray[Any]]:
    """The arrays of an archive, all or the named ones. Raises FileNotFoundError, and ValueError
    with the reason for whatever is no such archive."""
    if not path.exists():
        raise FileNotFoundError(path)
    if not path.is_file():
        raise ValueError("a folder, pipe or device")
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(info.file_size for info in archive.infolist())
        if size > MOST:
            raise ValueError(f"{size} bytes unpacked")
        with np.load(path, allow_pickle=False) as held:
            wanted = held.files if names is None else names
            return {name: np.asarray(held[name]) for name in wanted}
    except KeyError as err:
        raise ValueError(f"it lacks {err}") from err
    except Exception as err:  # zipfile's, zlib's, NumPy's and tokenize's share no class
        raise ValueError(" ".join(str(err).split())[:200] or type(err).__name__) from err


def expect(name: str, array: NDArray[Any], dtype: Any, shape: tuple[int | None, ...]) -> None:
    """Raise ValueError unless an array has the dtype and shape (None: any length)."""
    fits = array.ndim == len(shape) and all(
        want is None or want == have for want, have in zip(shape, array.shape, strict=True)
    )
    if array.dtype != np.dtype(dtype) or not fits:
        wanted = ["any" if n is None else n for n in shape]
        raise ValueError(
            f"{name} is {array.dtype} {list(array.shape)}; expected {np.dtype(dtype)} {wanted}"
        )


def state_in(array: NDArray[Any]) -> dict[str, Any]:
    """What the state of a pass says of itself: what was asked, how many files are done, and those
    that were skipped. Raises ValueError."""
    if array.dtype.kind != "U" or array.shape != ():
        raise ValueError("no text")
    about = json.loads(str(array))
    if not isinstance(about, dict) or not isinstance(about.get("asked"), dict):
        raise ValueError("no record")
    done, skipped = about.get("done"), about.get("skipped")
    if not isinstance(done, int) or isinstance(done, bool) or done < 0:
        raise ValueError(f"done: {done!r}")
    if not isinstance(skipped, list) or not all(
        isinstance(bad, dict) and all(isinstance(bad.get(k), str) for k in ("file", "error"))
        for bad in skipped
    ):
        raise ValueError("skipped files that are none")
    return about
