"""Looks at sets of images, files or batches, that can be killed: a row of arrays for each image."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..photos.passes import listing_of
from ..photos.rows import Kinds, RowStore
from ..photos.stream import Group, Skipped

__all__ = ["ImageSet", "Looks"]

Rows = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class ImageSet:
    """Images of one kind: files, or a batch [N, ...]. name: for messages."""

    name: str
    files: tuple[Path, ...]
    batch: NDArray[Any] | None

    def __len__(self) -> int:
        return len(self.files) if self.batch is None else len(self.batch)

    @property
    def listing(self) -> str:
        """A hash that tells it from other sets."""
        if self.batch is None:
            return listing_of(self.files)
        whole = np.ascontiguousarray(self.batch)
        return hashlib.sha256(f"{whole.dtype}{whole.shape}".encode() + whole.tobytes()).hexdigest()

    def groups(self, start: int, count: int) -> Iterator[Group]:
        """A batch in pieces of `count`."""
        assert self.batch is not None
        for at in range(start, len(self), count):
            some = self.batch[at : at + count]
            yield Group(at, at + len(some), np.arange(at, at + len(some)), (), some, ())


class Looks:
    """One look at a set after another. folder: where they are kept, every so many seconds; None:
    nowhere. asked: what they were told. groups: the images of a set, from one on. step: told of
    images that are done. resumed: how many an earlier, stopped run had done."""

    def __init__(
        self, folder: str | Path | None, asked: Mapping[str, Any], every: float,
        groups: Callable[[ImageSet, int], Iterator[Group]], step: Callable[[int], None],
    ) -> None:  # fmt: skip
        self._folder = None if folder is None else Path(folder)
        self._asked, self._every, self._groups, self._step = dict(asked), every, groups, step
        self._stores: list[RowStore] = []
        self._open: dict[str, tuple[int, ...]] = {}  # sizes that the first set's rows settle
        self.resumed = 0

    def over(
        self, one: ImageSet, name: str, kinds: Kinds, rows: Callable[[Group], Rows],
        skipped: list[Skipped],
    ) -> Rows:  # fmt: skip
        """What `rows` makes of a set's images, by their index. name: of the look, no two alike."""
        folder = None if self._folder is None else self._folder / name
        store = RowStore(folder, self._asked, kinds, self._every, finite=True)
        start = store.restore(skipped, len(one))
        self.resumed += start
        self._step(start)
        self._stores.append(store)  # another run's is left
        for group in self._groups(one, start):
            skipped += group.skipped
            made = rows(group) if len(group.index) else {}
            store.add(made, group.stop, skipped, last=group.stop == len(one))
            self._step(group.stop - group.start)
        held = store.arrays()
        for kind, (_, shape) in kinds.items():
            inner = held[kind].shape[1:]
            if None in shape and self._open.setdefault(kind, inner) != inner and len(held[kind]):
                raise store.damaged()
        return held

    def remove(self) -> None:
        """All is over: nothing of it stays on disk."""
        for store in self._stores:
            store.remove()
        if self._folder is not None:
            with suppress(OSError):  # somebody keeps something else there
                self._folder.rmdir()
