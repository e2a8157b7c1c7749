"""A worker: a process that loads prepared models and runs batches, one after another.

It reads messages on stdin and answers on stdout (`wire`). A crash of the runtime, a decoder that
takes all memory, a model that never ends: all of that ends here, and the server starts another one.
"""

from __future__ import annotations

import io
import math
import os
import sys
import time
from collections.abc import Sequence
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ...errors import BacklightError, InputError, RunError, one_line
from . import wire
from .area import Area
from .loaded import Loaded, Pass, described_of
from .sizes import PIXELS

__all__ = ["main"]


class _Item:
    """One request's rows of a batch, as they arrive."""

    def __init__(self, told: dict[str, Any]) -> None:
        self.rows: int = told["rows"]
        self.sizes: list[int] | None = told["pictures"]
        self.pictures: list[bytes] = []
        self.error: Exception | None = None


class _Batch:
    """A job's rows, in arrays of the whole batch."""

    def __init__(self, stream: IO[bytes] | Area, told: dict[str, Any]) -> None:
        self.items = [_Item(one) for one in told["items"]]
        total = sum(item.rows for item in self.items)
        self.feeds: dict[str, NDArray[Any]] = {}
        self.image: str = told["image"]
        whole = {name for name, _, _, rows in told["inputs"] if not rows}
        pictures = any(item.sizes is not None for item in self.items)
        # The rows of one tensor lie behind each other: they are used where they are.
        there = isinstance(stream, Area) and len(told["inputs"]) - len(whole) == 1 and not pictures
        for name, dtype, shape, rows in told["inputs"]:
            dims = (total, *shape) if rows else shape
            if rows and there:
                self.feeds[name] = _in_place(stream, np.dtype(dtype), dims)
            else:
                self.feeds[name] = np.empty(dims, np.dtype(dtype))
        at = 0
        for item in self.items:
            for name, array in self.feeds.items():
                if name in whole or there:
                    continue
                if name == self.image and item.sizes is not None:
                    item.pictures = [bytes(wire.read_buffer(stream, n)) for n in item.sizes]
                else:
                    wire.read_buffer(stream, array[at : at + item.rows])
            at += item.rows
        for name in whole:
            wire.read_buffer(stream, self.feeds[name])
        self.target: NDArray[np.int64] = np.empty(total, np.int64)
        self.contrast: NDArray[np.int64] = np.empty(total, np.int64)
        wire.read_buffer(stream, self.target)
        wire.read_buffer(stream, self.contrast)
        self.pixels: list[Any] = [None] * total
        self.whole = whole

    def decode(self, model: Loaded) -> None:
        """Pictures into their rows; one that can't be read is its request's own matter."""
        at = 0
        for item in self.items:
            try:
                for row, data in enumerate(item.pictures):
                    seen = model.picture(data, row)
                    self.feeds[self.image][at + row] = seen.tensor
                    self.pixels[at + row] = seen.pixels
            except Exception as err:  # an ImageError, but that memory may run out anywhere
                item.error = err
            item.pictures = []
            at += item.rows

    def some(self, chosen: list[_Item]) -> tuple[Any, ...]:
        """What a run of these items takes."""
        starts = np.cumsum([0, *(item.rows for item in self.items)])
        rows: Any = np.concatenate(
            [np.arange(starts[i], starts[i + 1]) for i, it in enumerate(self.items) if it in chosen]
        )
        if len(rows) == len(self.target):
            rows = slice(None)
        feeds = {k: v if k in self.whole else v[rows] for k, v in self.feeds.items()}
        pixels = self.pixels if isinstance(rows, slice) else [self.pixels[i] for i in rows]
        return feeds, self.target[rows], self.contrast[rows], pixels


def _in_place(area: Any, dtype: np.dtype[Any], dims: Sequence[int]) -> NDArray[Any]:
    """An array in an area. Raises GoneError."""
    size = math.prod(dims) * dtype.itemsize
    found: NDArray[np.uint8] = area.read_in_place(size)
    if len(found) != size:
        raise wire.GoneError("the end")
    return found.view(dtype).reshape(tuple(dims))


class Worker:
    """The models of this process. areas: given and made, where rows and results lie, of each pair;
    none: they come through the pipes."""

    def __init__(
        self, source: IO[bytes], sink: IO[bytes], areas: Sequence[tuple[Area, Area]] = ()
    ) -> None:
        self._source, self._sink, self._areas = source, sink, areas
        self._models: dict[str, Loaded] = {}

    def serve(self) -> None:
        """Answer until the server goes."""
        while True:
            told = wire.read_header(self._source)
            if told["do"] == "run":
                self._run(told)
            elif told["do"] == "load":
                self._load(told)
            elif told["do"] == "drop":
                self._models.pop(told["model"], None)
                wire.send(self._sink, {"ok": True})

    def _load(self, told: dict[str, Any]) -> None:
        try:
            made = Loaded(described_of(told["described"]), told["providers"], told["threads"])
        except (BacklightError, MemoryError) as err:
            wire.send(self._sink, {"ok": False, "error": str(err) or "out of memory"})
            return
        self._models[told["model"]] = made
        wire.send(self._sink, {"ok": True, "pid": os.getpid(), "provider": made.plain.provider})

    def _run(self, told: dict[str, Any]) -> None:
        model = self._models[told["model"]]
        given, made = self._areas[told["pair"]] if self._areas else (None, None)
        batch = _Batch(given.rewound() if given else self._source, told)
        own, maps, heatmaps = (tuple(told[k]) for k in ("outputs", "maps", "heatmaps"))
        wanted = Pass(own, maps, heatmaps, told["chosen"])
        start = time.perf_counter()
        batch.decode(model)
        decoded = time.perf_counter()
        good = [item for item in batch.items if item.error is None]
        results = self._results(model, wanted, batch, good)
        took = time.perf_counter() - decoded
        self._answer(batch, results, decoded - start, took, model.whole, made)

    def _results(
        self, model: Loaded, wanted: Pass, batch: _Batch, items: list[_Item]
    ) -> list[tuple[list[_Item], dict[str, Any]]]:
        """Runs that gave something: of all items together, or where that fails of each alone."""
        if not items:
            return []
        try:
            return [(items, model.run(wanted, *batch.some(items)))]
        except Exception as err:  # whatever it is, it is no reason to end
            if len(items) == 1:
                items[0].error = err
                return []
        return [pair for item in items for pair in self._results(model, wanted, batch, [item])]

    def _answer(
        self, batch: _Batch, results: list[tuple[list[_Item], dict[str, Any]]],
        decode: float, compute: float, whole: frozenset[str], made: Area | None,
    ) -> None:  # fmt: skip
        errors = {i: _told(item.error) for i, item in enumerate(batch.items) if item.error}
        runs, buffers = [], []
        for items, found in results:
            outputs: list[dict[str, Any]] = []
            for name, values in found.items():
                rows = name not in whole
                if isinstance(values, list):
                    outputs.append({"name": name, "sizes": [len(v) for v in values], "rows": rows})
                    buffers += values
                else:
                    array = np.ascontiguousarray(values)
                    outputs.append({"name": name, "dtype": array.dtype.str, "rows": rows,
                                    "shape": list(array.shape)})  # fmt: skip
                    buffers.append(array.reshape(-1).view(np.uint8))
            runs.append({"items": [batch.items.index(i) for i in items], "outputs": outputs})
        header = {"ok": True, "errors": errors, "runs": runs, "decode": decode, "compute": compute}
        wire.send(self._sink, header, buffers, made)


def _told(err: Exception) -> list[str]:
    """An item's error: whose fault, and what."""
    if isinstance(err, MemoryError) or (isinstance(err, RunError) and "alloc" in str(err).lower()):
        return ["memory", "not enough memory for it now"]
    if isinstance(err, InputError):
        return ["input", str(err)]
    if isinstance(err, RunError):
        return ["run", one_line(str(err))]
    return ["run", one_line(f"failed inside: {type(err).__name__}: {err}")]


def main() -> None:
    """Serve on stdin and stdout. Arguments: the memory limit in bytes, 0 for none; then the files
    of the areas, given and made in turn, where there are such."""
    from PIL import Image

    from ..runtime.confined import ends_with_its_parent, limit_memory

    ends_with_its_parent()
    source = io.FileIO(os.dup(0), "rb")
    sink = io.FileIO(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    # A library that prints would be taken for an answer.
    for own in (0, 1, 2):
        os.dup2(nothing, own)
    memory = int(sys.argv[1])
    if memory:
        limit_memory(memory)
    Image.MAX_IMAGE_PIXELS = PIXELS
    areas = [Area(int(fd)) for fd in sys.argv[2:]]
    try:
        Worker(source, sink, list(zip(areas[::2], areas[1::2], strict=True))).serve()
    except (wire.GoneError, KeyboardInterrupt):
        os._exit(0)


if __name__ == "__main__":
    main()
