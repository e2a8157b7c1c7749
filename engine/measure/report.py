"""What `bench` has measured, as rows of a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .recommend import Recommended

__all__ = ["Report", "Row", "row_of"]


@dataclass(frozen=True)
class Row:
    """One subject at one setting. Latencies in ms per run, memory in MiB, load in ms.

    activations_mib: what the backward pass reads of the forward pass: 0 for the plain model, None
    where shapes don't tell. bound_mib: 1.6 times the plain model's peak, and those activations.
    fastest_ratio: of the median to that of the plain model on the provider that scores fastest.
    drift: the largest norm-relative difference of the maps (or the scores) to the first
    provider's, on this noise; None for the first. Float32 in another order is 1e-6, or 1e-3 where
    a gate near zero fell otherwise.
    passes: of methods that average over variants of the image, how many variants; passes_ratio: of
    the median to that of as many passes of `vanilla` at the same batch.
    """

    subject: str
    provider: str
    threads: int | None
    batch: int
    runs: int
    p50: float
    p90: float
    p99: float
    images_per_s: float
    ratio: float  # of the median to the plain model's
    load_ms: float
    load_ratio: float  # to the plain model's
    peak_mib: float
    activations_mib: float | None
    bound_mib: float | None
    fastest_ratio: float = 1.0
    drift: float | None = None
    passes: int | None = None
    passes_ratio: float | None = None


@dataclass(frozen=True)
class Report:
    """All rows, with the machine and the versions. contended: whether other work kept the cores
    busy. recommended: what the providers come to; None of a single one."""

    model: str
    rows: tuple[Row, ...]
    device: str
    versions: Mapping[str, str]
    contended: bool = False
    recommended: Recommended | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return asdict(self)


def row_of(
    subject: str, provider: str, threads: int | None, batch: int,
    times: Mapping[str, NDArray[np.float64]], loads: Mapping[str, float],
    peaks: Mapping[str, float], needs: float | None,
) -> Row:  # fmt: skip
    """One subject at a setting. times: seconds of each run, by subject. loads: ms. peaks:
    MiB; needs: of activations, MiB."""
    p50, p90, p99 = (float(v) for v in np.percentile(times[subject], (50, 90, 99)))
    bound = None if needs is None else round(1.6 * peaks["score"] + needs, 1)
    return Row(
        subject=subject,
        provider=provider,
        threads=threads,
        batch=batch,
        runs=len(times[subject]),
        p50=round(1000 * p50, 3),
        p90=round(1000 * p90, 3),
        p99=round(1000 * p99, 3),
        images_per_s=round(batch / p50, 2),
        ratio=round(p50 / float(np.median(times["score"])), 3),
        load_ms=round(loads[subject], 1),
        load_ratio=round(loads[subject] / loads["score"], 3),
        peak_mib=round(peaks[subject], 1),
        activations_mib=None if needs is None else round(needs, 1),
        bound_mib=bound,
    )
