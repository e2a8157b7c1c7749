"""Which of several providers a bench recommends for a model, and its choice beside the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...errors import UsageError
from ..photos.outputs import write_bytes
from ..runtime.choice import SETTINGS, Choice, file_beside
from ..runtime.digest import model_hash
from ..runtime.interface import Provider

if TYPE_CHECKING:
    from .report import Report, Row

__all__ = ["Recommended", "recommended", "store"]

# Another provider is a change for whoever runs the model: not for what repeated runs differ by.
CLEARLY = 1.05
# Float32 in another order may flip a gate near zero, which is 1e-3; bfloat16 is 0.1 and more.
DRIFT = 1e-2


@dataclass(frozen=True)
class Recommended:
    """provider: the one to take. times: as fast as `over`, the first that was asked for: the
    geometric mean over all explaining graphs, batches and threads. why: in words."""

    provider: str
    times: float
    over: str
    why: str


def recommended(rows: Sequence[Row], providers: Sequence[str]) -> Recommended | None:
    """The provider whose explanations are the fastest, if clearly; else the first. None for one."""
    if len(providers) < 2:
        return None
    first = providers[0]
    speed = {provider: _mean(rows, provider) for provider in providers}
    drifts = {p: max((r.drift or 0.0 for r in rows if r.provider == p), default=0.0)
              for p in providers}  # fmt: skip
    held = [p for p in providers if drifts[p] <= DRIFT]
    best = min(held, key=lambda p: speed[p])
    times = round(speed[first] / speed[best], 2)
    lost = [f"{p}'s maps drift by {drifts[p]:.2g}" for p in providers if p not in held]
    if best == first or times < CLEARLY:
        others = [p for p in held if p != first]
        why = "nothing is clearly faster" if best != first or not others else "the fastest"
        return Recommended(first, 1.0, first, "; ".join([why, *lost]))
    why = f"{times:.2f} times as fast as {first}"
    return Recommended(best, times, first, "; ".join([why, *lost]))


def _mean(rows: Sequence[Row], provider: str) -> float:
    """The geometric mean of the explaining graphs' medians, ms."""
    own = [r.p50 for r in rows if r.provider == provider and r.subject != "score"]
    return float(np.exp(np.mean(np.log(np.maximum(own, 1e-6)))))


def check_storable(providers: Sequence[str]) -> None:
    """Raises UsageError for providers that there is nothing to choose from, or that auto would
    not take from a file."""
    if len(set(providers)) < 2:
        raise UsageError("--store keeps which provider is faster; expected two or more --provider")
    for text in providers:
        if not set(Provider.parse(text).settings) <= SETTINGS:
            raise UsageError(
                f"--store: '{text}' is taken where it is given, not from a file; accepted: "
                "providers without precision and cache"
            )


def store(report: Report, providers: Sequence[str]) -> Path:
    """Write the recommendation beside the model, for `--provider auto`. The file. Raises
    UsageError as `check_storable` does; OutputError."""
    check_storable(providers)
    found = report.recommended
    assert found is not None
    choice = Choice(
        found.provider, found.times, found.over, tuple(providers), report.device,
        model_hash(report.model),
    )  # fmt: skip
    file = file_beside(report.model)
    write_bytes(file, choice.to_json().encode())
    return file
