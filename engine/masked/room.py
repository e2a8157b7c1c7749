"""How many variants of an image a run has room for."""

from __future__ import annotations

from typing import Any

from ..runtime.budget import Footprint, free_host, rows_within

__all__ = ["Room"]

# More rows than this make a run no faster, but progress and Ctrl-C slower.
MOST_ROWS = {"cpu": 64, "cuda": 512}


class Room:
    """Of one model.

    footprint: of a variant in a run. memory: bytes that a run may take; None: a quarter of what is
    free at the call. most: rows of a run that were asked for at most; fixed: those that the model
    fixes. gpu: cupy, where the variants are on one.
    """

    def __init__(
        self, footprint: Footprint, memory: int | None, most: int | None, fixed: int | None,
        gpu: Any,
    ) -> None:  # fmt: skip
        self.footprint, self.most = footprint, most
        self._memory, self._fixed, self._gpu = memory, fixed, gpu
        self._rows: dict[tuple[int, ...], int] = {}

    def rows(self, shape: tuple[int, ...]) -> int:
        """Variants per run for images of this shape. Raises UsageError: a budget too small."""
        if shape not in self._rows:
            most = self.most or MOST_ROWS["cpu" if self._gpu is None else "cuda"]
            fixed = self._fixed
            # Asked once per size: what the runtime has taken by then is no longer free.
            self._rows[shape] = rows_within(
                self.budget(), self.footprint(shape), at_least=fixed or 1, at_most=fixed or most
            )
        return self._rows[shape]

    def budget(self) -> int:
        """Bytes that a run may take, now."""
        if self._memory is not None:
            return self._memory
        free = free_host() if self._gpu is None else self._gpu.cuda.runtime.memGetInfo()[0]
        return int(free // 4)
