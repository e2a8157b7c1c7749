"""A pass over many images that keeps a row of arrays for each, and can be killed: what it has so
far is on disk, in parts, so that a large result isn't written again and again."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ImageError, OutputError
from .archives import arrays_in, expect, state_in
from .outputs import write_bytes
from .stream import Skipped

__all__ = ["Kinds", "RowStore"]

# Of a row's arrays: dtype, and shape without the rows.
Kinds = Mapping[str, tuple[Any, tuple[int | None, ...]]]
_SAID = {"files": "files in the folder", "model": "model"}


class RowStore:
    """The rows of a pass. folder: where its parts lie; None: nowhere. asked: what the pass was
    told, held against what the parts say. kinds: of the arrays. every: seconds between two parts.
    finite: no row has NaN or infinity in it, be it from a part.

    index: int64, each row's place in the list of files, is kept beside them. said: what parts on
    disk hold besides, for JSON.
    """

    def __init__(
        self, folder: str | Path | None, asked: dict[str, Any], kinds: Kinds, every: float = 5.0,
        finite: bool = False,
    ) -> None:  # fmt: skip
        self._folder = None if folder is None else Path(folder)
        self._asked, self._every, self._finite = asked, every, finite
        self._kinds: Kinds = {"index": (np.int64, ()), **kinds}
        self._rows: dict[str, list[NDArray[Any]]] = {name: [] for name in self._kinds}
        self._fresh = 0  # of the lists: what no part holds yet
        self.said: list[Any] = []
        self._waiting: list[Any] = []
        self._done = self._parts = self._told = 0
        self._last = time.monotonic()

    def restore(self, skipped: list[Skipped], files: int) -> int:
        """Take up what is on disk; the number of files done. Raises OutputError for parts of
        another pass, and for what is none."""
        if self._folder is None or not self._folder.exists():
            return 0
        try:
            for path in sorted(self._folder.glob("part-*.npz")):
                differ = self._take(path, skipped, files)
                if differ is not None:
                    raise OutputError(
                        f"{self._folder}: the state of a pass with other "
                        f"{_SAID.get(differ, differ)}; take the same, another folder, or --force "
                        "to start again"
                    )
        except (OSError, ValueError, KeyError, RecursionError) as err:
            if isinstance(err, OutputError):
                raise
            raise self.damaged() from err
        self._fresh = len(self._rows["index"])
        self._told = len(skipped)
        return self._done

    @property
    def done(self) -> int:
        """The number of files that the parts on disk are of."""
        return self._done

    def begin(self) -> None:
        """Have a part on disk, be it of no file."""
        if self._parts == 0:
            self._write({}, self._done, (), ())

    def damaged(self) -> OutputError:
        """What is raised for a state that no pass could have left."""
        return OutputError(
            f"{self._folder}: not the state of a pass, or damaged; remove it or take --force"
        )

    def _take(self, path: Path, skipped: list[Skipped], files: int) -> str | None:
        held = arrays_in(path)
        about = state_in(held["about"])
        differ = [n for n, v in self._asked.items() if about["asked"].get(n) != v]
        if differ:
            return differ[0]
        done = about["done"]
        if about.get("start") != self._done:
            raise ValueError("a part is missing")
        rows = held["index"].size
        for name, (dtype, shape) in self._kinds.items():
            expect(name, held[name], dtype, (rows, *shape))
            if self._finite and not np.isfinite(held[name]).all():
                raise ValueError("NaN or infinite values")
            if self._rows[name] and held[name].shape[1:] != self._rows[name][0].shape[1:]:
                raise ValueError("rows of two sizes")
            if rows:  # without any, what is open in the shape is unknown
                self._rows[name].append(held[name])
        if not isinstance(about.get("said", []), list):
            raise ValueError("nothing said")
        self.said += about.get("said", [])
        index = held["index"]
        if not self._done <= done <= files or (index < self._done).any() or (index >= done).any():
            raise ValueError("files that aren't there")
        known = {bad.file for bad in skipped}
        skipped += [
            Skipped(b["file"], ImageError(b["error"]))
            for b in about["skipped"]
            if b["file"] not in known
        ]
        self._done, self._parts = done, self._parts + 1
        return None

    def add(
        self, rows: Mapping[str, NDArray[Any]], done: int, skipped: Sequence[Skipped], *,
        last: bool, said: Sequence[Any] = (),
    ) -> None:  # fmt: skip
        """Keep the rows of the files up to `done`, and what is said of them; a part is written
        where it is due."""
        self._waiting += said
        for name, values in rows.items():
            self._rows[name].append(np.asarray(values, self._kinds[name][0]))
        due = last or time.monotonic() - self._last >= self._every
        if not due:
            return
        self._write(self._rows, done, skipped, self._waiting)
        self._fresh, self._told = len(self._rows["index"]), len(skipped)
        self._waiting = []

    def _write(
        self, rows: Mapping[str, list[NDArray[Any]]], done: int, skipped: Sequence[Skipped],
        said: Sequence[Any],
    ) -> None:  # fmt: skip
        """The next part, of rows that no part has. Raises OutputError, and leaves nothing then."""
        if self._folder is None:
            return
        fresh = {
            n: np.concatenate([self._empty(n, held), *rows.get(n, [])[self._fresh :]])
            for n, held in self._rows.items()
        }
        about = {
            "asked": self._asked, "start": self._done, "done": done,
            "skipped": [bad.as_dict() for bad in skipped[self._told :]], "said": list(said),
        }  # fmt: skip
        buffer = io.BytesIO()
        np.savez(buffer, **fresh, about=np.array(json.dumps(about)))  # type: ignore[arg-type]
        missing = [p for p in (self._folder, *self._folder.parents) if not p.exists()]
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_bytes(self._folder / f"part-{self._parts:06}.npz", buffer.getvalue())
        except (OSError, OutputError) as err:
            for path in missing:
                with suppress(OSError):
                    path.rmdir()
            if isinstance(err, OutputError):
                raise
            raise OutputError(f"{self._folder}: can't be written: {err.strerror}") from err
        self._done, self._parts, self._last = done, self._parts + 1, time.monotonic()

    def _empty(self, name: str, held: Sequence[NDArray[Any]]) -> NDArray[Any]:
        dtype, shape = self._kinds[name]
        inner = held[0].shape[1:] if held else tuple(n or 0 for n in shape)
        return np.zeros((0, *inner), dtype)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All rows, in the order of the files."""
        return {n: np.concatenate([self._empty(n, h), *h]) for n, h in self._rows.items()}

    def remove(self) -> None:
        """The pass is over, or starts anew: nothing of it stays on disk."""
        if self._folder is None or not self._folder.is_dir():
            return
        for path in (*self._folder.glob("part-*.npz"), *self._folder.glob(".part-*")):
            path.unlink(missing_ok=True)
        with suppress(OSError):  # somebody keeps something else there
            self._folder.rmdir()
