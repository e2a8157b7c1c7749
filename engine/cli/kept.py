"""What a run over photos keeps of itself: one that is stopped, at whatever moment, leaves results
of whole photos and goes on from there; one that can't be done leaves nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from ...errors import InputError, OutputError

if TYPE_CHECKING:
    from ..photos.outputs import OutputFolder
    from ..photos.rows import RowStore
    from ..photos.stream import Skipped

__all__ = ["Kept"]


class Kept:
    """A run's results and its state beside them. folder: the results'; store: the state, which has
    been looked at. Until the run is `over`, files of a photo that isn't done are taken away again
    where it ends."""

    def __init__(self, folder: OutputFolder, store: RowStore) -> None:
        self._folder, self._store = folder, store
        self._resumed = store.done > 0
        self._done, self._skipped = store.done, 0
        # Of the folder's files: those of photos done, and those that the state on disk knows of.
        self._whole = self._written = 0
        self._over = False
        # A kill leaves no time to say that what lies there is a stopped run's.
        folder.before = store.begin

    def keep(self, done: int, skipped: Sequence[Skipped], said: Any) -> None:
        """The photos up to `done` are done, and their files written. said: of them, for JSON."""
        self._store.add({}, done, skipped, last=False, said=[said])
        self._done, self._skipped, self._whole = done, len(skipped), len(self._folder.made)
        if self._store.done == done:
            self._written = self._whole

    def over(self) -> None:
        """All is written: nothing of the state stays."""
        self._store.remove()
        self._over = True

    @contextmanager
    def ending(self, skipped: Sequence[Skipped]) -> Iterator[None]:
        """What is left of a run that ends before it is over."""
        try:
            yield
        except BaseException as err:
            if not self._over:
                bad = isinstance(err, InputError) and not isinstance(err, OutputError)
                if bad and not self._resumed:  # what was asked for can't be done
                    self._forget(0)
                    self._store.remove()
                else:
                    self._settle(skipped)
            raise

    def _settle(self, skipped: Sequence[Skipped]) -> None:
        with suppress(InputError):  # a disk that is full
            if self._done > self._store.done:
                told = skipped[: self._skipped]
                self._store.add({}, self._done, told, last=True)
                self._written = self._whole
        self._forget(self._written)
        if self._store.done == 0:  # nothing to go on from
            self._store.remove()

    def _forget(self, first: int) -> None:
        """Take away the files from this one on."""
        for path in self._folder.made[first:]:
            with suppress(OSError):
                path.unlink()
