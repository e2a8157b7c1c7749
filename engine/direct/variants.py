"""Variants of the image, any number of them, in runs of a few, and what the runs come to.

A few, since what the rows of a run leave behind should stay in the processor's caches; and in a
graph of their own, which has nothing of the image's own pass: that is run once, not with each few.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...export.field import noise_for
from ...export.lone import with_batch
from ...export.methods import METHODS
from ...export.saliency import explain_graph
from ...export.sampling import Sampling
from ...export.variations import GAP
from ..runtime import arrays
from ..runtime.session import Providers, Session

__all__ = ["Variants", "varied"]

# Rows of a run on the CPU: of photos of 224 x 224 two, of smaller images more.
VALUES, FEWEST, MOST = 2 * 3 * 224 * 224, 2, 64
# As many variants of an image as are run at once elsewhere: their activations are alive together.
PART = 16

Once = Callable[[Session, dict[str, Any], list[str]], dict[str, Any]]


def varied(name: str) -> str:
    """The kind of variants that a map is of, by its name: "noise", "path" or ""."""
    row = METHODS.get(name) or METHODS.get(name.rpartition("_")[0])
    return "" if row is None else row.varies


@dataclass
class _Sums:
    """The runs' maps as one: sums, and of a variance what it takes to join two."""

    whole: dict[str, Any] = field(default_factory=dict)
    seen: float = 0.0

    def add(self, share: float, maps: Mapping[str, Any]) -> None:
        """The maps of one more run; share: of its noise in all of it."""
        mean = maps.get("smoothgrad")
        for name, values in maps.items():
            if varied(name) == "path":
                self._sum(name, values)
            elif share and name == "vargrad":
                apart = values * share
                if self.seen:
                    moved = mean - self.whole["smoothgrad"] / self.seen
                    apart = apart + moved**2 * (self.seen * share / (self.seen + share))
                self._sum(name, apart)
        for name, values in maps.items():
            if share and varied(name) == "noise" and name != "vargrad":
                self._sum(name, values * share)
        self.seen += share

    def _sum(self, name: str, values: Any) -> None:
        self.whole[name] = self.whole[name] + values if name in self.whole else values


class Variants:
    """The maps of methods that average over variants of the image.

    source: the model. methods: those that vary the image. sampling: what was asked for. image: the
    input's name. options: of `explain_graph`.
    """

    def __init__(
        self,
        source: ir.Model,
        methods: Sequence[str],
        sampling: Sampling,
        image: str,
        providers: Providers,
        threads: int | None,
        options: Mapping[str, Any],
    ) -> None:
        self.sampling, self._image = sampling, image
        # A variance is joined to another by the two means.
        names = list(dict.fromkeys([*methods, *(["smoothgrad"] if "vargrad" in methods else [])]))
        against = None if options["contrast"] is None else "input"
        graph = explain_graph(
            source, names, alone=True, sampling=replace(sampling, held="parts"),
            **{**options, "contrast": against},
        )  # fmt: skip
        self._outputs = dict(graph.saliency)
        self._noise = next((v for v in graph.model.graph.inputs if v.name == "noise"), None)
        with_batch(graph.model)
        self.session = Session(graph.model, providers, threads)
        self._takes = {given.name for given in self.session.inputs}

    def run(
        self, feeds: Mapping[str, Any], whole: Sequence[str], chosen: Any, told: Any, ranking: Any,
        rise: Any, once: Once, xp: Any,
    ) -> dict[str, Any]:  # fmt: skip
        """Maps [N, ...] by their outputs' names, and the gap where the rise of the score is given.

        feeds: of the model; whole: those that aren't a row an image. chosen, told: the classes,
        int64 [N], and what they are told from. ranking: what the image's own pass scored. once:
        runs a session. xp: numpy, or cupy.
        """
        image = feeds[self._image]
        count, (variants, images) = len(image), self._at_once(image.shape)
        rows = {"target": arrays.to_host(chosen)}
        if told is not None:
            rows["contrast"] = arrays.to_host(told).astype(np.int64)
        given = {k: v for k, v in {**feeds, **rows}.items() if k in self._takes}
        found = []
        for at in range(0, count, images):
            cut = slice(at, at + images)
            fed = {k: v if k in whole else v[cut] for k, v in given.items()}
            sums = _Sums()
            for share, more in self._parts(variants, image.shape, image.dtype):
                made = once(self.session, {**fed, **more}, list(self._outputs.values()))
                sums.add(share, {name: made[held] for name, held in self._outputs.items()})
            found.append(sums.whole)
        maps = {
            held: xp.concatenate([xp.asarray(f[name]) for f in found])
            for name, held in self._outputs.items()
        }
        # A row that the image's own pass can't score has no map.
        flat = ranking.reshape(count, -1)
        score = flat[xp.arange(count), xp.minimum(xp.asarray(chosen), flat.shape[1] - 1)]
        for values in maps.values():
            values[~xp.isfinite(score)] = np.nan
        if rise is not None:
            whole_path = maps[self._outputs["integrated_gradients"]]
            total = whole_path.astype(np.float64).sum(tuple(range(1, whole_path.ndim)))
            maps[GAP] = (total - rise).astype(np.float32)
        return maps

    def _at_once(self, shape: Sequence[int]) -> tuple[int, int]:
        """Variants of an image in a run, and images."""
        most = self.sampling.samples if self._noise is not None else 0
        if "alphas" in self._takes:
            most = max(most, self.sampling.steps)
        if not self.session.on_cpu:
            return min(most, PART), max(shape[0], 1)
        rows = min(max(VALUES // max(int(np.prod(shape[1:])), 1), FEWEST), MOST)
        variants = min(most, rows)
        return variants, max(rows // variants, 1)

    def _parts(
        self, size: int, shape: Sequence[int], dtype: Any
    ) -> Iterator[tuple[float, dict[str, NDArray[Any]]]]:
        """The runs: each one's share of the noise, and what to feed."""
        samples = self.sampling.samples if self._noise is not None else 0
        steps = self.sampling.steps if "alphas" in self._takes else 0
        places, weights = self.sampling.nodes()
        for at in range(0, max(samples, steps, 1), size):
            fed: dict[str, NDArray[Any]] = {}
            share = 0.0
            if self._noise is not None:
                count = max(min(size, samples - at), 0)
                # A run without samples left adds nothing, and takes one.
                fed["noise"] = noise_for(self._noise, shape, dtype, at, count or 1)
                share = count / samples
            if steps:
                some, each = places[at : at + size], weights[at : at + size]
                fed["alphas"] = (some if len(some) else np.zeros(1)).astype(np.float32)
                fed["weights"] = (each if len(each) else np.zeros(1)).astype(np.float32)
            yield share, fed
