"""Runs of several sessions in turns.

In one process, in alternating blocks: what else the machine does hits all alike. Blocks, and a
pause between them, because a runtime's threads go on spinning for a while and would slow the other
session's first runs.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ...errors import UsageError
from ..classifier.extras import Extras
from ..runtime.session import Session, dims_of, numpy_dtype
from .subjects import Engine

__all__ = ["Key", "alternated", "drifted", "noise_for"]

PAUSE = 0.05  # seconds; a runtime's threads spin for less than that
BLOCK = 5  # runs in a row of one session, at most: a third of all, so that blocks alternate
# A subject on a provider.
Key: TypeAlias = tuple[str, str]


def noise_for(
    session: Session | Engine, batch: int, size: int | None, lone: str | None, extras: Extras
) -> dict[str, NDArray[Any]]:
    """Noise in the shape of each input that isn't given. lone: the one without a batch."""
    rng = np.random.default_rng(0)
    feeds: dict[str, NDArray[Any]] = {}
    for given in session.inputs:
        if given.name in extras.arrays:
            feeds |= extras.rows(batch, [given.name])
            continue
        dims = list(dims_of(given.shape))
        if given.name == lone:
            dims.insert(0, 1)
        if dims and dims[0] not in (None, batch):
            raise UsageError(f"the model takes batches of {dims[0]} only; --batch {dims[0]}")
        shape = [batch, *((size or 224) if d is None else d for d in dims[1:])]
        values = rng.standard_normal(shape[given.name == lone :])
        feeds[given.name] = np.asarray(values, numpy_dtype(given.type))
    # What only some of the explaining graphs take: the best class but the target.
    feeds.setdefault("contrast", np.full(batch, -1, np.int64))
    return feeds


def _taken(session: Session | Engine, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Of the feeds, what a session takes."""
    return {given.name: feeds[given.name] for given in session.inputs}


def alternated(
    sessions: Mapping[Key, Session | Engine], feeds: Mapping[str, NDArray[Any]], runs: int
) -> dict[Key, NDArray[np.float64]]:
    """Seconds of each run, subjects taking turns in blocks; the first run of a block is free."""
    taken: dict[Key, list[float]] = {name: [] for name in sessions}
    fed = {name: _taken(session, feeds) for name, session in sessions.items()}
    for name, session in sessions.items():
        for _ in range(max(2, runs // 5)):
            session.run(fed[name])
    block = max(1, min(BLOCK, runs // 3))
    while min(map(len, taken.values())) < runs:
        for name, session in sessions.items():
            time.sleep(PAUSE)
            session.run(fed[name])
            for _ in range(min(block, runs - len(taken[name]))):
                start = time.perf_counter()
                session.run(fed[name])
                taken[name].append(time.perf_counter() - start)
    return {name: np.array(values) for name, values in taken.items()}


def drifted(
    one: Session | Engine, reference: Session | Engine, feeds: Mapping[str, NDArray[Any]]
) -> float:
    """The largest norm-relative difference of two sessions' outputs: of the maps, where there are
    any."""
    found, want = (s.run(_taken(s, feeds)) for s in (one, reference))
    maps = [name for name in want if name.startswith("saliency_")]
    worst = 0.0
    for name in maps or want:
        a, b = found[name].astype(np.float64), want[name].astype(np.float64)
        worst = max(worst, float(np.linalg.norm(a - b)) / max(float(np.linalg.norm(b)), 1e-30))
    return float(f"{worst:.2g}")
