"""Variants of the image in parts of a size that fits: any number of steps or samples, one file.

The exported graph takes steps (`alphas`, `weights`) or noise (`noise`) as inputs then, and a part's
maps are averages over that part: what is given back is their average, weighted by their sizes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...export.methods import METHODS
from ...export.sampling import Sampling
from ...export.variations import FIELD_SEED, GAP

__all__ = ["PART", "Variants"]

# As many variants of an image as are run at once: their activations are alive together.
PART = 16


class Variants:
    """How the variants that some methods average over are run.

    methods: names. sampling: what was asked for. fixed: whether the image's size is known, so that
    a file can hold its own noise.
    """

    def __init__(self, methods: Sequence[str], sampling: Sampling, fixed: bool) -> None:
        self.kinds = {METHODS[m].varies for m in methods} - {""}
        self.sampling = sampling
        many = max(
            sampling.samples if "noise" in self.kinds else 0,
            sampling.steps if "path" in self.kinds else 0,
        )
        self.in_parts = many > PART or ("noise" in self.kinds and not fixed)
        self._variance = "vargrad" in methods and self.in_parts
        self._extra = [m for m in ("smoothgrad", "squaregrad") if m not in methods]

    def exported(self, methods: Sequence[str]) -> tuple[list[str], Sampling]:
        """The methods to export, and the sampling: a variance in parts is made of two means."""
        names = [m for m in methods if m != "vargrad"] if self._variance else list(methods)
        if self._variance:
            names += self._extra
        return names, replace(self.sampling, given=self.in_parts)

    def shown(self, names: Sequence[str]) -> tuple[str, ...]:
        """The maps that were asked for, of those that the graph puts out."""
        if not self._variance:
            return tuple(names)
        return (*(n for n in names if n not in self._extra), "vargrad")

    def parts(
        self, inputs: Sequence[str], shape: Sequence[int], dtype: Any
    ) -> Iterator[tuple[float, dict[str, NDArray[Any]]]]:
        """The parts: each one's share of the noise, and what to feed. shape: of one image."""
        counts = []
        if "noise" in inputs:
            counts.append(self.sampling.samples)
        if "alphas" in inputs:
            counts.append(self.sampling.steps)
        places, weights = self.sampling.nodes()
        rng = np.random.default_rng(FIELD_SEED)
        for at in range(0, max(counts, default=1), PART):
            fed: dict[str, NDArray[Any]] = {}
            share = 0.0
            if "noise" in inputs:
                count = max(min(PART, self.sampling.samples - at), 1)
                one = rng.standard_normal((-(-count // 2), *shape))
                paired = np.stack([one, -one], axis=1).reshape(-1, *shape)[:count]
                fed["noise"] = paired.astype(dtype)
                share = count / self.sampling.samples if at < self.sampling.samples else 0.0
            if "alphas" in inputs:
                # A part without steps left adds nothing: its weights are 0.
                chosen = slice(at, at + PART)
                some, share_of = places[chosen], weights[chosen]
                fed["alphas"] = (some if len(some) else np.zeros(1)).astype(np.float32)
                fed["weights"] = (share_of if len(some) else np.zeros(1)).astype(np.float32)
            yield share, fed

    def combined(
        self, found: Sequence[tuple[float, Mapping[str, Any]]], outputs: Mapping[str, str]
    ) -> dict[str, Any]:
        """The parts' outputs as one. outputs: by method, the name of its output."""
        whole = dict(found[0][1])
        for name, output in outputs.items():
            kind = METHODS[name.rpartition("_")[0] if name not in METHODS else name].varies
            if kind == "path":
                whole[output] = sum(part[output] for _, part in found)
            elif kind == "noise" and output in whole:
                whole[output] = sum(share * part[output] for share, part in found)
        if GAP in whole:
            whole[GAP] = sum(part[GAP] for _, part in found)
        return whole

    def variance(self, maps: dict[str, Any], methods: Sequence[str]) -> dict[str, Any]:
        """The maps that were asked for, with the variance made of the two means."""
        if not self._variance:
            return maps
        apart = maps["squaregrad"] - maps["smoothgrad"] ** 2
        maps["vargrad"] = apart.clip(min=0)
        return {name: maps[name] for name in methods}
