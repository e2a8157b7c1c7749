"""Image files as batches for a model: decoded in threads while the batch before runs, or decoded
and run in lanes.

In a lane one thread decodes a batch and runs it, so that decoding overlaps inference and no core
waits: on the CPU two single-threaded runs side by side beat one run on two threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ImageError
from ...export.preprocess import Preprocess
from ...lanes import cores, in_lanes
from ..runtime.session import Providers, on_cpu, refuse_count, threads_of_lane
from . import images
from .room import rows_in

__all__ = [
    "Group",
    "Skipped",
    "fitting",
    "found_files",
    "group_of",
    "groups",
    "lanes_of",
    "turn_of",
]

# Each lane holds the activations of a batch.
_LANES_CPU, _LANES_DEVICE = 4, 8


@dataclass(frozen=True)
class Skipped:
    """A file or folder that gave no image, and why."""

    file: str
    error: ImageError

    def as_dict(self) -> dict[str, str]:
        """For JSON."""
        return {"file": self.file, "error": str(self.error)}


@dataclass(frozen=True)
class Group:
    """Files `start` to `stop` of the list. index: of the files that could be read, int64 [n];
    pixels: each as the model sees it; tensor: all of them, [n, ...]. skipped: the others."""

    start: int
    stop: int
    index: NDArray[np.int64]
    pixels: tuple[images.Pixels, ...]
    tensor: NDArray[Any]
    skipped: tuple[Skipped, ...]

    def prepared(self, row: int) -> images.Prepared:
        """The image of a row."""
        return images.Prepared(self.pixels[row], self.tensor[row])


def found_files(given: Sequence[str | Path]) -> tuple[list[Path], list[Skipped]]:
    """The images at paths and in folders, and the paths that give none."""
    found: list[Path] = []
    skipped: list[Skipped] = []
    for path in given:
        try:
            found += images.image_files([path])
        except ImageError as err:
            skipped.append(Skipped(str(path), err))
    return list(dict.fromkeys(found)), skipped


def groups(
    files: Sequence[Path],
    preprocess: Preprocess,
    spec: images.InputSpec,
    batch: int,
    *,
    start: int = 0,
    workers: int = 2,
) -> Iterator[Group]:
    """Batches of prepared images, in the order of the files; a file that can't be read takes its
    place in the batch with it. preprocess: with its size settled (`images.fitted`).

    Two batches are read ahead: memory doesn't grow with the number of files. Batches of large
    pictures are smaller (`room.BUDGET`), where the model doesn't fix them.
    """
    images.refuse_photos(files, spec)
    batch = batch if spec.batch is not None else fitting(batch, preprocess, spec, 3)

    def read(file: Path) -> images.Prepared | ImageError:
        try:
            return images.read(file, preprocess, spec)
        except ImageError as err:
            return err

    with closing(in_lanes(read, files[start:], workers, 2 * batch)) as results:
        while some := list(islice(results, batch)):
            yield _gathered(start, some, files)
            start += len(some)


def fitting(batch: int, preprocess: Preprocess, spec: images.InputSpec, ahead: int = 1) -> int:
    """A batch's size, as far as the budget for pictures allows with `ahead` of them at once: a
    model's metadata may ask for pictures of any size."""
    return rows_in(images.bytes_prepared(preprocess, spec), batch, ahead)


def _gathered(
    start: int, results: Sequence[images.Prepared | ImageError], files: Sequence[Path]
) -> Group:
    good = [(start + i, r) for i, r in enumerate(results) if isinstance(r, images.Prepared)]
    skipped = tuple(
        Skipped(str(files[start + i]), r)
        for i, r in enumerate(results)
        if isinstance(r, ImageError)
    )
    return Group(
        start,
        start + len(results),
        np.array([i for i, _ in good], np.int64),
        tuple(p.pixels for _, p in good),
        np.stack([p.tensor for _, p in good]) if good else np.zeros(0),
        skipped,
    )


def group_of(
    files: Sequence[Path], start: int, count: int, preprocess: Preprocess, spec: images.InputSpec
) -> Group:
    """The next `count` files from `start` on, read by the caller's own thread."""
    results: list[images.Prepared | ImageError] = []
    for file in files[start : start + count]:
        try:
            results.append(images.read(file, preprocess, spec))
        except ImageError as err:
            results.append(err)
    return _gathered(start, results, files)


def lanes_of(
    providers: Providers, threads: int | None, lanes: int | None = None
) -> tuple[int, int | None]:
    """How many lanes, and the threads of the session that they share.

    threads: in all; None: one per core. Raises UsageError.
    """
    refuse_count("threads", threads)
    refuse_count("workers", lanes)
    count = threads or cores()
    cpu = on_cpu(providers)
    lanes = lanes or min(count, _LANES_CPU if cpu else _LANES_DEVICE)
    return lanes, threads_of_lane(providers, count, lanes) if cpu else threads


def turn_of(providers: Providers) -> AbstractContextManager[Any]:
    """What a lane holds while it runs: runs on one device side by side only take its memory."""
    return nullcontext() if on_cpu(providers) else Lock()
