"""Scores of all masked variants from the image's own activations: the plan that drives it.

    plan = incremental.plan("resnet.onnx", sliding((3, 224, 224), 16, 4).boxes, (3, 224, 224))
    sessions = {"clean": plan.clean, "patch": plan.patch, "tail": plan.tail}  # compiled
    for variants, outputs in plan.stream(run, image, baseline):
        scores[variants] = outputs["scores"]

`run(name, feeds)` stands for a session of any runtime; nothing here imports one. `outline` says
from shapes alone whether that pays; `Outline.build` then writes the graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from ...errors import InputError, ModelError, UsageError
from ...lanes import in_lanes
from ..graph import ModelLike
from ..message import message
from .buckets import buckets
from .build import Graphs, build
from .clean import BACKGROUNDS
from .cost import MACHINE, Estimate, Machine, estimate
from .feeds import Places
from .intervals import CONSTANT_ROWS, Ints
from .local import channels
from .prepare import prepare
from .trace import Trace, trace

Arrays: TypeAlias = Mapping[str, NDArray[Any]]
Run: TypeAlias = Callable[[str, Arrays], Arrays]

__all__ = ["Batch", "IncrementalPlan", "Outline", "outline", "plan"]

# Bytes of indices that are made at a time: a bucket of thousands of windows would take hundreds
# of MB.
FEED_BYTES = 16 << 20
# Patches of the largest size that a run of the patch graph holds at once, with the copies that
# changes of layout make and what the runtime's arena keeps.
LIVE_PATCHES = 12
# More variants than this make a dense layer no faster.
MOST_TAIL = 64


@dataclass(frozen=True, eq=False)
class Batch:
    """Variants that are computed together. variants: int64 [m]; feeds: the patch graph's inputs
    that depend on the windows (int32 and float32 arrays)."""

    variants: Ints
    feeds: Arrays


@dataclass(frozen=True, eq=False)
class IncrementalPlan:
    """Three graphs and the batches that go through them.

    clean: image [1, ...] and backgrounds [K, ...] -> taps, once per image. patch: taps and a
    batch's feeds -> the tensors named in `crossings`. tail: those -> `outputs`, [m, ...].
    tail_batch: variants that the tail should see at a time. estimate: seconds per variant, by the
    cost model; above 1 its speedup says to go this way. groups: int64 [K, 2], the channels
    (first, stop) that windows hide. buckets: batches of variants whose boxes get one size.
    """

    graphs: Graphs
    image: str
    outputs: tuple[str, ...]
    tail_batch: int
    estimate: Estimate
    groups: NDArray[np.int64]
    buckets: tuple[tuple[Ints, ...], ...]
    patch_bytes: int
    _trace: Trace
    _group: Ints
    _channel_axis: int

    def __len__(self) -> int:
        return len(self._group)

    @cached_property
    def clean(self) -> onnx.ModelProto:
        """The clean graph."""
        return message(self.graphs.clean)

    @cached_property
    def patch(self) -> onnx.ModelProto:
        """The patch graph."""
        return message(self.graphs.patch)

    @cached_property
    def tail(self) -> onnx.ModelProto:
        """The tail."""
        return message(self.graphs.tail)

    @property
    def crossings(self) -> tuple[str, ...]:
        """What the patch graph hands to the tail."""
        return self.graphs.crossings

    def sampled(self, share: float) -> Ints:
        """Some of the variants, for measurements: whole batches, evenly spread over sizes."""
        lengths = next(reversed(self._trace.extents.values())).lengths

        def area(bucket: tuple[Ints, ...]) -> int:
            return int(lengths[:, np.concatenate(bucket)].max(axis=1).prod())

        ordered = sorted((b for b in self.buckets), key=area)
        pieces = [batch for bucket in ordered for batch in bucket]
        count = max(1, round(share * len(pieces)))
        at = ((np.arange(count) + 0.5) * len(pieces) / count).astype(int)
        return np.concatenate([pieces[i] for i in at])

    @property
    def local_nodes(self) -> int:
        """How many of the model's nodes are done on boxes."""
        return len(self._trace.local)

    def start(self, image: NDArray[Any], baseline: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """The clean graph's inputs. image: in the model's layout, with or without the batch of 1.
        baseline: an image of the same shape, or what broadcasts to it (a colour [C,1,1])."""
        image = np.asarray(image)
        image = image[None] if image.ndim == 3 else image
        if image.ndim != 4 or len(image) != 1:
            raise UsageError(f"image of shape {list(image.shape)}; accepted: one image")
        whole = np.broadcast_to(np.asarray(baseline, image.dtype), image.shape)
        behind = np.repeat(image, len(self.groups), axis=0)
        for k, (first, stop) in enumerate(self.groups):
            at: list[Any] = [k, slice(None), slice(None), slice(None)]
            at[self._channel_axis] = slice(first, stop)
            behind[tuple(at)] = whole[(0, *at[1:])]
        return {self.image: image, BACKGROUNDS: behind}

    def batches(self, which: Ints | None = None, lanes: int = 1) -> Iterator[Batch]:
        """Variants, bucketed by the sizes of their boxes; made anew on every call.

        which: some of the variants, each once; default: all. lanes: that all shall have some.
        """
        most = self._per_turn(which, lanes)
        for bucket in self.buckets:
            members, size = np.concatenate(bucket), max(len(batch) for batch in bucket)
            chosen = members if which is None else members[np.isin(members, which)]
            if not len(chosen):
                continue
            left = list(np.array_split(chosen, -(-len(chosen) // min(size, most))))
            step = 1
            while left:
                some, left = left[:step], left[step:]
                places = Places(some, self._group, members)
                arrays = {name: f.array(places) for name, f in self.graphs.feeds.items()}
                made = sum(a.nbytes for a in arrays.values()) // len(some)
                step = max(1, FEED_BYTES // max(made, 1))
                start = 0
                for variants in some:
                    stop = start + len(variants)
                    yield Batch(variants, {name: a[start:stop] for name, a in arrays.items()})
                    start = stop

    def _per_turn(self, which: Ints | None, lanes: int, each: int | None = None) -> int:
        """Variants of a turn of a lane, where all lanes have as many turns: two at least, if there
        are several lanes. each: at most so many."""
        count = len(self) if which is None else len(which)
        turns = 1 if lanes == 1 else 2
        if each is not None:
            turns = max(turns, -(-count // (each * lanes)))
        return max(-(-count // (turns * lanes)), 1)

    def stream(
        self, run: Run, image: NDArray[Any], baseline: NDArray[Any], which: Ints | None = None
    ) -> Iterator[tuple[Ints, Arrays]]:
        """Variants, int64 [m], and the plan's outputs for them, until all were computed.

        run: takes "clean", "patch" or "tail" and that graph's feeds, returns its outputs by
        name. The clean graph runs once. which: see `batches`.
        """
        yield from self.finish(run, run("clean", self.start(image, baseline)), which)

    def finish(
        self,
        run: Run,
        taps: Arrays,
        which: Ints | None = None,
        batches: Iterable[Batch] | None = None,
        lanes: int = 1,
    ) -> Iterator[tuple[Ints, Arrays]]:
        """The same from the clean graph's outputs. lanes: how many runs go on side by side; above
        1, `run` is called from so many threads. batches: of those variants, made ahead."""
        given = self.batches(which, lanes) if batches is None else batches
        together = _chunks(given, self._per_turn(which, lanes, self.tail_batch))
        for found in in_lanes(partial(self._chunk, run, taps), together, lanes):
            yield from found

    def _chunk(self, run: Run, taps: Arrays, batches: list[Batch]) -> list[tuple[Ints, Arrays]]:
        """Several batches, which the tail sees together: its dense layers read all their weights
        each time."""
        boxes = [run("patch", {**taps, **batch.feeds}) for batch in batches]
        variants = np.concatenate([batch.variants for batch in batches])
        joined = {n: np.concatenate([made[n] for made in boxes]) for n in self.crossings}
        found = []
        for start in range(0, len(variants), self.tail_batch):
            some = slice(start, start + self.tail_batch)
            found.append((variants[some], run("tail", {n: a[some] for n, a in joined.items()})))
        return found

    def memory(self, lanes: int = 1) -> int:
        """Bytes that the taps, the indices and runs of the patch graph take, estimated; without
        weights, and without what the clean graph and the tail hold while they run."""
        rows = 0
        for value in self.graphs.tables:
            h, w = self._trace.extents[value].size
            copies = 1 + (len(self.groups) if value in self._trace.prepared.roots else 0)
            rows += (h * w * copies + CONSTANT_ROWS) * channels(value)
        crossing = self.graphs.crossing_bytes * self.tail_batch
        return 4 * rows + FEED_BYTES + lanes * (LIVE_PATCHES * self.patch_bytes + 2 * crossing)


def _chunks(batches: Iterable[Batch], most: int) -> Iterator[list[Batch]]:
    """Batches that go together, of at most so many variants, or one alone."""
    waiting: list[Batch] = []
    for batch in batches:
        if waiting and sum(len(b.variants) for b in waiting) + len(batch.variants) > most:
            yield waiting
            waiting = []
        waiting.append(batch)
    if waiting:
        yield waiting


@dataclass(frozen=True, eq=False)
class Outline:
    """What a plan would do, known from shapes alone, before any graph is written.

    estimate: seconds per variant, by the cost model. nodes: how many the network has, the
    pixelwise ones behind the image left out; leaves: the first that reads whole maps, or None.
    """

    estimate: Estimate
    nodes: int
    leaves: ir.Node | None
    _boxes: NDArray[np.int32]
    _trace: Trace
    _machine: Machine

    def build(self, batch_bytes: float | None = None, most: int | None = None) -> IncrementalPlan:
        """The plan. batch_bytes: of the largest patch tensor in a batch, at most. most: variants
        in a batch."""
        with _followed():
            return self._build(batch_bytes, most)

    def _build(self, batch_bytes: float | None, most: int | None) -> IncrementalPlan:
        machine, followed = self._machine, self._trace.restricted(self.estimate.cut)
        if batch_bytes is not None:
            machine = replace(machine, batch=min(machine.batch, batch_bytes))
        groups, group = np.unique(self._boxes[:, :2], axis=0, return_inverse=True)
        group = group.reshape(-1).astype(np.int64)
        found = buckets(followed, machine, most)
        graphs = build(followed, len(groups), [Places(b, group) for b in found.batches])
        prepared = followed.prepared
        return IncrementalPlan(
            graphs,
            str(prepared.image.name),
            tuple(str(v.name) for v in prepared.outputs),
            int(np.clip(machine.batch // max(graphs.crossing_bytes, 1), 1, most or MOST_TAIL)),
            self.estimate,
            groups.astype(np.int64),
            found.batches,
            found.patch_bytes,
            followed,
            group,
            prepared.channel_axis,
        )


def outline(
    model: ModelLike,
    boxes: NDArray[np.int32],
    image_shape: Sequence[int],
    *,
    of: Sequence[str] | None = None,
    channel_axis: int | None = None,
    machine: Machine = MACHINE,
    cut: int | None = None,
) -> Outline:
    """Follow windows through a classifier, and estimate what boxes cost against whole maps.

    boxes: int32 [n, 6], half open: c0, c1, y0, y1, x0, x1 (WindowPlan.boxes). image_shape:
    (C, H, W). of: names of the tensors wanted; None: the class scores. channel_axis: 1 or 3;
    None: as found. cut: how many nodes go on boxes, for measurements; None: the cost model
    decides.

    Raises ModelError for a model that boxes can't follow (second inputs, a fixed batch that can't
    be freed); UsageError for boxes of another shape.
    """
    boxes = _inside(np.asarray(boxes), image_shape)
    with _followed():
        prepared = prepare(model, image_shape, of, channel_axis)
        full = trace(prepared, boxes)
        if not full.extents:
            raise ModelError("no tensor of the model has boxes")
        chosen = estimate(full, machine) if cut is None else estimate(full, machine, cut)
    kept = set(full.restricted(chosen.cut).local)
    moving = (n for n in full.nodes if any(v in prepared.varying for v in n.inputs))
    leaves = next((n for n in moving if n not in kept), None)
    return Outline(chosen, len(full.nodes), leaves, boxes, full, machine)


def plan(
    model: ModelLike,
    boxes: NDArray[np.int32],
    image_shape: Sequence[int],
    *,
    of: Sequence[str] | None = None,
    machine: Machine = MACHINE,
    cut: int | None = None,
) -> IncrementalPlan:
    """Plan exact incremental inference of a classifier under windows. See `outline`."""
    return outline(model, boxes, image_shape, of=of, machine=machine, cut=cut).build()


@contextmanager
def _followed() -> Iterator[None]:
    """Make a ModelError of what a graph that contradicts itself leads to: it is then scored on
    whole maps, by the runtime, which has its own opinion of it."""
    try:
        yield
    except InputError:
        raise
    except Exception as err:
        why = f" ({type(err).__name__}: {err})"
        raise ModelError(f"windows can't be followed through the model{why}") from err


def _inside(boxes: NDArray[Any], image_shape: Sequence[int]) -> NDArray[np.int32]:
    """Boxes cut off at the image's borders; empty ones hide no channel of one pixel."""
    if boxes.ndim != 2 or boxes.shape[1] != 6 or not len(boxes):
        raise UsageError(f"boxes of shape {list(boxes.shape)}; accepted: [n, 6], n above 0")
    limits = np.repeat(np.array(image_shape, np.int64), 2)
    cut_off = np.asarray(np.clip(boxes, 0, limits), np.int32)
    empty = (cut_off[:, 0::2] >= cut_off[:, 1::2]).any(axis=1)
    cut_off[empty] = (0, 0, 0, 1, 0, 1)
    return cut_off
