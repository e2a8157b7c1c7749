"""`backlight.ExplanatoryGraph`: which parts a network has learned, and how they hang together.

Zhang, Cao, Shi, Wu, Zhu: Interpreting CNN knowledge via an explanatory graph (AAAI 2018). The pass
over the photos and the layers one by one are here, the fit is in parts.py, what comes out in
partgraph.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ... import arguments as take
from ...errors import ImageError, ModelError, UsageError
from ...export import choose, scores
from ...export.clone import between
from ...export.graph import Loaded, ModelLike, load
from ...export.preprocess import Preprocess
from ...export.preprocess import given as given_preprocess
from ...export.sizes import Shapes
from ...lanes import in_lanes
from ..classifier.extras import InputsLike
from ..classifier.ready import Ready
from ..photos import images
from ..photos.passes import listing_of
from ..photos.room import BATCHES, BUDGET
from ..photos.rows import RowStore
from ..photos.stream import Group, fitting, found_files, group_of, lanes_of, turn_of
from ..runtime.session import Providers
from .activations import maps_of, refuse_flat
from .partgraph import PartGraph, PartLayer
from .parts import Fitted, Settings, fit
from .taps import Taps, named

__all__ = ["ExplanatoryGraph"]

FILTERS = 20
# Photos that say which filters of a layer are strongest.
SAMPLE = 64
# EM settles within tens of them; and what no pattern explains, of densities around 1.
MOST_ITERATIONS, MOST_TAU = 10_000, 1e6

Progress = Callable[[str, int, int], None]


def _silent(what: str, done: int, total: int) -> None:
    """Tells nobody."""


class ExplanatoryGraph:
    """Part patterns of a model's filters, linked over layers (Zhang et al. 2018).

        graph = backlight.ExplanatoryGraph("model.onnx", ["fire9", "fire6", "fire4"])
        found = graph("photos/")      # .layers, .networkx(), .as_dict(), .picture("fire9", 0)

    model: a path, bytes or an onnx.ModelProto. layers: tensors or nodes by name, in any order; the
    one nearest to the scores is the top of the graph.
    filters: how many of each layer, the strongest on a sample of the photos; or which, by number.
    density: patterns to start with, per position of a filter's map; None: 0.1, and 0.05 of maps
    with more than 400 positions, 40 at most. parents: of a pattern, in the layer above, chosen from
    so many `candidates`. iterations: of EM. tau: the density of what no pattern explains.
    deviation: the patterns' first one, a share of the map's longer side. All as the authors have
    them; they take all filters of VGG16's last convolutions, which wants a GPU.
    preprocess, providers, threads, batch, shapes, inputs: as in `backlight.patches`.

    Raises ModelError, or UsageError: an unknown layer (with the nearest names), one without rows
    and columns, one that no way leads from to the scores, a filter or a number out of range.
    """

    @take.accepts(
        layers=take.names, density=take.number, parents=take.whole, candidates=take.whole,
        iterations=take.whole, tau=take.number, deviation=take.number, preprocess=given_preprocess,
        providers=take.names, threads=take.whole, batch=take.whole,
    )  # fmt: skip
    def __init__(
        self,
        model: ModelLike | Ready,
        layers: str | Sequence[str],
        *,
        filters: int | Sequence[int] = FILTERS,
        density: float | None = None,
        parents: int = 15,
        candidates: int = 600,
        iterations: int = 20,
        tau: float = 0.1,
        deviation: float = 0.15,
        preprocess: Preprocess | str | None = None,
        providers: Providers = None,
        threads: int | None = None,
        batch: int = 8,
        shapes: Shapes | None = None,
        inputs: InputsLike | None = None,
    ) -> None:
        for name, number in (
            ("parents", parents), ("candidates", candidates), ("iterations", iterations),
            ("batch", batch),
        ):  # fmt: skip
            if number < 1:
                raise UsageError(f"{name} {number}; expected 1 or more")
        if iterations > MOST_ITERATIONS:
            raise UsageError(f"iterations {iterations}; expected at most {MOST_ITERATIONS}")
        if density is not None and not 0 < density <= 1:
            raise UsageError(
                f"density {density}; expected patterns per position, above 0, at most 1"
            )
        if not 0 < tau <= MOST_TAU:
            raise UsageError(f"tau {tau}; expected a density above 0, at most {MOST_TAU:g}")
        if not 0 < deviation <= 1:
            raise UsageError(f"deviation {deviation}; expected a share of the map's side, to 1")
        self.settings = Settings(
            density=density, parents=parents, candidates=candidates, iterations=iterations,
            tau=tau, deviation=deviation,
        )  # fmt: skip
        self._filters = _wanted_filters(filters)
        ready = Ready.of(model, shapes, inputs)
        wanted = [layers] if isinstance(layers, str) else list(layers)
        if not wanted:
            raise UsageError("no layer given; expected the name of a tensor or node, or several")
        ordered = _from_the_top(ready.loaded, wanted)
        self._lanes, own = lanes_of(providers, threads)
        self._turn = turn_of(providers)
        self._taps = Taps(ready, ordered, providers=providers, threads=own)
        self.layers = self._taps.names
        self.hash, self.name = ready.hash, ready.name
        self.preprocess = self._taps.settled(preprocess)
        self.input = self._taps.input
        self.notes = list(self._taps.notes)
        self.providers = self._taps.session.providers
        self._fields = self._taps.fields(self.preprocess.size)
        self._axes = {n: refuse_flat(self._fields[n]) for n in self.layers}
        self._batch = batch
        if self.input.batch is None:
            self._batch = fitting(batch, self.preprocess, self.input)
        for layer in self.layers:
            count = self._fields[layer].dims[self._axes[layer][0]]
            for number in () if isinstance(self._filters, int) else self._filters:
                if number >= count:
                    raise UsageError(
                        f"filter {number} is out of range; '{layer}' has 0 to {count - 1}"
                    )

    @take.accepts(photos=take.paths, every=take.number)
    def __call__(
        self,
        photos: str | Path | Sequence[str | Path],
        *,
        state: str | Path | None = None,
        every: float = 5.0,
        progress: Progress = _silent,
    ) -> PartGraph:
        """The graph of what the filters see in these photos: best of one class, 20 to some hundred.

        photos: a folder, of images anywhere under it; or files and folders. Of few, what moves
        together is chance: see `PartGraph.few`.
        state: a folder to keep the pass in while it runs: one that was killed goes on from there.
        every: seconds from one time that it is kept to the next. progress: called with what is done
        ("looking": photos; "fitting": filters), how many, and of how many.

        Photos that can't be read are skipped and listed. Of more photos than 1 GB of maps holds,
        evenly spaced ones are taken, which is noted. Raises ImageError where none can be read or
        maps are not finite, OutputError for the state of a pass with other arguments.
        """
        given = [photos] if isinstance(photos, (str, Path)) else list(photos)
        files, skipped = found_files(given)
        if not files:
            raise skipped[0].error if skipped else ImageError("no photos given; expected a folder")
        notes: list[str] = []
        files = self._thinned(files, notes)
        chosen = self._chosen(files)
        asked = {
            "model": self.hash, "layers": list(self.layers), "batch": self._batch,
            "filters": {n: c.tolist() for n, c in chosen.items()},
            "preprocess": self.preprocess.to_json(), "files": listing_of(files),
        }  # fmt: skip
        kinds = {
            str(at): (np.float16, (len(chosen[name]), *self._sides(name)))
            for at, name in enumerate(self.layers)
        }
        store = RowStore(state, asked, kinds, every, finite=True)
        start = store.restore(skipped, len(files))
        resumed = start

        def one(at: int) -> tuple[Group, dict[str, NDArray[Any]]]:
            return self._looked(files, at, chosen)

        progress("looking", start, len(files))
        for group, rows in in_lanes(
            one, range(start, len(files), self._batch), self._lanes, self._lanes + 1
        ):
            skipped += group.skipped
            last = group.stop == len(files)
            store.add({"index": group.index, **rows}, group.stop, skipped, last=last)
            progress("looking", group.stop, len(files))
        held = store.arrays()
        index = held["index"]
        if not len(index):
            store.remove()  # nothing in it to go on from
            raise skipped[-1].error
        layers = self._fitted(held, chosen, progress)
        return PartGraph(
            self.name, tuple(layers), tuple(files[i] for i in index), tuple(skipped),
            self.preprocess, self.input, self.settings, tuple(notes), resumed,
        )  # fmt: skip

    def _sides(self, layer: str) -> tuple[int, int]:
        dims, (_, y, x) = self._fields[layer].dims, self._axes[layer]
        return dims[y], dims[x]

    def _count(self, layer: str) -> int:
        channels = int(self._fields[layer].dims[self._axes[layer][0]])
        wanted = self._filters if isinstance(self._filters, int) else len(self._filters)
        return min(wanted, channels)

    def _thinned(self, files: list[Path], notes: list[str]) -> list[Path]:
        """As many photos as there is room for their maps."""
        each = sum(2 * self._count(n) * int(np.prod(self._sides(n))) for n in self.layers)
        most = max(BUDGET // max(each, 1), 2)
        if len(files) <= most:
            return files
        notes.append(
            f"{len(files)} photos: {most} of them, evenly spaced, as the maps of more would take "
            "over 1 GB; fewer filters leave room for more"
        )
        return [files[i] for i in np.linspace(0, len(files) - 1, most).round().astype(int)]

    def _looked(
        self, files: Sequence[Path], at: int, chosen: dict[str, NDArray[np.int64]] | None
    ) -> tuple[Group, dict[str, NDArray[Any]]]:
        """A batch of photos: the maps of the chosen filters, or (None) of all."""
        with BATCHES.held(self._batch * images.bytes_prepared(self.preprocess, self.input)):
            group = group_of(files, at, self._batch, self.preprocess, self.input)
            if not len(group.index):
                return group, {}
            with self._turn:
                found = self._taps(group.tensor)
        rows = {}
        for number, name in enumerate(self.layers):
            maps = maps_of(found[name], self._axes[name])
            if not np.isfinite(maps).all():
                raise ImageError(
                    f"'{name}' has NaN or infinite values in {files[group.start]} or the photos "
                    "after it: nothing to fit"
                )
            maps = maps if chosen is None else maps[:, chosen[name]]
            rows[str(number)] = np.clip(maps, -65504, 65504).astype(np.float16)
        return group, rows

    def _chosen(self, files: Sequence[Path]) -> dict[str, NDArray[np.int64]]:
        """The filters of each layer: those asked for, or the strongest of a sample."""
        if not isinstance(self._filters, int):
            return {n: np.array(self._filters, np.int64) for n in self.layers}
        some = np.linspace(0, len(files) - 1, min(len(files), SAMPLE)).round().astype(int)
        sample = [files[i] for i in some]
        total: dict[str, NDArray[np.float64]] = {}
        for at in range(0, len(sample), self._batch):
            _, rows = self._looked(sample, at, None)
            for key, maps in rows.items():
                # A peak, not a plateau: a filter that is on everywhere has no parts.
                on = np.maximum(maps.astype(np.float64), 0)
                peak = (on.max(axis=(2, 3)) - on.mean(axis=(2, 3))).sum(axis=0)
                total[key] = total.get(key, 0) + peak
        chosen = {}
        for at, name in enumerate(self.layers):
            count = self._count(name)
            if str(at) not in total:  # nothing could be read: the pass says so
                chosen[name] = np.arange(count)
                continue
            strong = np.argsort(-total[str(at)], kind="stable")[:count]
            chosen[name] = np.sort(strong).astype(np.int64)
        return chosen

    def _fitted(
        self, held: dict[str, NDArray[Any]], chosen: dict[str, NDArray[np.int64]],
        progress: Progress,
    ) -> list[PartLayer]:  # fmt: skip
        layers: list[PartLayer] = []
        above: Fitted | None = None
        total, done = sum(map(len, chosen.values())), 0

        def advance() -> None:
            nonlocal done
            done += 1
            progress("fitting", done, total)

        for at, name in enumerate(self.layers):
            above = fit(held[str(at)], self.settings, above, advance)
            above.filter = chosen[name][above.filter] if len(above) else above.filter
            layers.append(
                PartLayer(name, self._fields[name], chosen[name], self._sides(name), above)
            )
        return layers


def _wanted_filters(given: Any) -> int | tuple[int, ...]:
    if take.is_whole(given):
        if given < 1:
            raise UsageError(f"filters {given}; expected 1 or more, or their numbers")
        return int(given)
    numbers = tuple(dict.fromkeys(take.several("filters", given)))
    if not numbers or min(numbers) < 0:
        raise UsageError(f"filters {list(numbers)}; expected numbers from 0, or how many")
    return numbers


def _from_the_top(loaded: Loaded, wanted: Sequence[str]) -> list[str]:
    """The layers' tensors, the one nearest to the scores first. Raises UsageError for one that the
    scores don't need."""
    graph = loaded.graph
    values = list(dict.fromkeys(named(graph, name) for name in wanted))
    outputs = _scores(loaded)
    place = {node: at for at, node in enumerate(graph)}
    for value in values:
        if value not in outputs and not between(outputs, value):
            raise choose.unreached(f"layer '{value.name}'", outputs, "the head doesn't need it")

    def depth(value: ir.Value) -> int:
        node = value.producer()
        return -1 if node is None else place[node]

    return [v.name or "" for v in sorted(values, key=depth, reverse=True)]


def _scores(loaded: Loaded) -> list[ir.Value]:
    """The output that holds the class scores; all of a model that has no such."""
    outputs = {v.name: v for v in loaded.graph.outputs}
    try:
        found = scores.score(load(loaded), maps=True).output
    except ModelError:  # parts are found of any network
        found = None
    return [outputs[found.name]] if found is not None else list(outputs.values())
