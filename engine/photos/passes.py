"""A pass over many images that can be killed: how far it is and what it holds, on disk."""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ImageError, OutputError
from ...kernels.streams.topk import TopK
from .archives import arrays_in, expect, state_in
from .outputs import write_bytes
from .stream import Skipped

__all__ = ["PassState", "listing_of"]


def listing_of(files: Sequence[Path]) -> str:
    """A hash of the files' names, sizes and times."""
    digest = hashlib.sha256()
    for file in files:
        try:
            stat = file.stat()
            line = f"{file}\0{stat.st_size}\0{stat.st_mtime_ns}\n"
        except OSError:  # a link to nothing, a file that is gone since: the pass skips it
            line = f"{file}\0\n"
        digest.update(line.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


_SAID = {"files": "files in the folder", "model": "model"}


class PassState:
    """A pass on disk: what was asked, how far it is, what it holds. Written whole or not at all,
    between two batches."""

    def __init__(self, path: str | Path | None, asked: dict[str, Any], every: float) -> None:
        self._path = None if path is None else Path(path)
        self._asked = asked
        self._every = every
        self._last = time.monotonic()

    def restore(
        self,
        tops: dict[str, TopK],
        skipped: list[Skipped],
        files: Sequence[Path],
        positions: Mapping[str, int],
    ) -> int:
        """Take up what was saved; the number of files done. positions: of each layer's map. Raises
        OutputError, for a state that no pass over these files could have left too."""
        if self._path is None or not self._path.exists():
            return 0
        try:
            held = arrays_in(self._path)
            about = state_in(held["about"])
            differ = [n for n, v in self._asked.items() if about["asked"].get(n) != v]
            if not differ:
                if about["done"] > len(files):
                    raise ValueError(f"{about['done']} files done of {len(files)}")
                for at, (name, top) in enumerate(tops.items()):
                    arrays = {n: held[f"{at}-{n}"] for n in top.arrays()}
                    _refuse_impossible(arrays, about["done"], positions[name])
                    top.restore(arrays)
        except (OSError, ValueError, KeyError, RecursionError) as err:
            raise OutputError(
                f"{self._path}: not the state of a pass, or damaged; remove it or take --force"
            ) from err
        if differ:
            raise OutputError(
                f"{self._path}: the state of a pass with other {_SAID.get(differ[0], differ[0])}; "
                "take the same, another folder, or --force to start again"
            )
        known = {bad.file for bad in skipped}
        skipped += [
            Skipped(b["file"], ImageError(b["error"]))
            for b in about["skipped"]
            if b["file"] not in known
        ]
        return int(about["done"])

    def save(
        self, tops: dict[str, TopK], skipped: Sequence[Skipped], done: int, last: bool
    ) -> None:
        """Write the state where it is due."""
        if self._path is None or not (last or time.monotonic() - self._last >= self._every):
            return
        about = {"asked": self._asked, "done": done, "skipped": [b.as_dict() for b in skipped]}
        arrays: dict[str, Any] = {
            f"{at}-{n}": a for at, top in enumerate(tops.values()) for n, a in top.arrays().items()
        }
        buffer = io.BytesIO()
        arrays["about"] = np.array(json.dumps(about))
        np.savez(buffer, **arrays)
        write_bytes(self._path, buffer.getvalue())
        self._last = time.monotonic()


def _refuse_impossible(arrays: Mapping[str, NDArray[Any]], files: int, positions: int) -> None:
    """Raise ValueError for other types, and for images and positions that aren't there."""
    values, image, position = (arrays[name] for name in ("values", "image", "position"))
    for name, array, dtype in (
        ("values", values, np.float32), ("image", image, np.int64), ("position", position, np.int64)
    ):  # fmt: skip
        expect(name, array, dtype, values.shape)
    free = image == -1
    for array, count in ((image, files), (position, positions)):
        if ((array < 0) & ~free).any() or (array >= count).any() or (array[free] != -1).any():
            raise ValueError("an image or a position that isn't there")
    if np.isnan(values).any() or (values[free] != -np.inf).any():
        raise ValueError("activations that are none")
