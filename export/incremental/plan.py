"""Scores of all masked variants from the image's own activations: the plan that drives it.

    plan = incremental.plan("resnet.onnx", sliding((3, 224, 224), 16, 4).boxes, (3, 224, 224))
    sessions = {"clean": plan.clean, "patch": plan.patch, "tail": plan.tail}  # compiled
    for variants, outputs in plan.stream(run, image, baseline):
        scores[variants] = outputs["scores"]

`run(name, feeds)` stands for a session of any runtime; nothing here imports one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from ...errors import ModelError, UsageError
from ..graph import ModelLike
from .buckets import buckets
from .build import Graphs, build
from .clean import BACKGROUNDS
from .cost import MACHINE, Estimate, Machine, estimate
from .feeds import Places
from .intervals import Ints
from .prepare import prepare
from .trace import Trace, trace

Run: TypeAlias = Callable[[str, Mapping[str, NDArray[Any]]], Mapping[str, NDArray[Any]]]

__all__ = ["Batch", "IncrementalPlan", "plan"]


@dataclass(frozen=True, eq=False)
class Batch:
    """Variants that are computed together. variants: int64 [m]; feeds: the patch graph's inputs
    that depend on the windows (int32 and float32 arrays)."""

    variants: Ints
    feeds: Mapping[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class IncrementalPlan:
    """Three graphs and the batches that go through them.

    clean: image [1, ...] and backgrounds [K, ...] -> taps, once per image. patch: taps and a
    batch's feeds -> the tensors named in `crossings`. tail: those -> `outputs`, [m, ...].
    tail_batch: variants that the tail should see at a time. estimate: seconds per variant, by the
    cost model; above 1 its speedup says to go this way.
    """

    clean: onnx.ModelProto
    patch: onnx.ModelProto
    tail: onnx.ModelProto
    image: str
    outputs: tuple[str, ...]
    crossings: tuple[str, ...]
    tail_batch: int
    estimate: Estimate
    groups: NDArray[np.int64]
    _trace: Trace
    _graphs: Graphs
    buckets: tuple[tuple[Ints, ...], ...]
    _group: Ints
    _channel_axis: int

    def __len__(self) -> int:
        return len(self._group)

    def sampled(self, share: float) -> IncrementalPlan:
        """The plan of some of the windows: buckets evenly spread over sizes, for measurements."""
        lengths = next(reversed(self._trace.extents.values())).lengths

        def area(bucket: tuple[Ints, ...]) -> int:
            return int(lengths[:, np.concatenate(bucket)].max(axis=1).prod())

        ordered = sorted((b for b in self.buckets), key=area)
        pieces = [(batch,) for bucket in ordered for batch in bucket]
        count = max(1, round(share * len(pieces)))
        at = ((np.arange(count) + 0.5) * len(pieces) / count).astype(int)
        return replace(self, buckets=tuple(pieces[i] for i in at))

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

    def batches(self) -> Iterator[Batch]:
        """All variants, bucketed by the sizes of their boxes; made anew on every call."""
        for bucket in self.buckets:
            places = Places(bucket, self._group)
            arrays = {name: feed.array(places) for name, feed in self._graphs.feeds.items()}
            start = 0
            for variants in bucket:
                stop = start + len(variants)
                yield Batch(variants, {name: a[start:stop] for name, a in arrays.items()})
                start = stop

    def stream(
        self, run: Run, image: NDArray[Any], baseline: NDArray[Any]
    ) -> Iterator[tuple[Ints, dict[str, NDArray[Any]]]]:
        """Variants, int64 [m], and the plan's outputs for them, until all were computed.

        run: takes "clean", "patch" or "tail" and that graph's feeds, returns its outputs by
        name. The clean graph runs once; the tail sees several batches at a time, since its
        dense layers read all their weights each time.
        """
        taps = run("clean", self.start(image, baseline))
        waiting: list[tuple[Ints, dict[str, NDArray[Any]]]] = []
        for batch in self.batches():
            waiting.append((batch.variants, dict(run("patch", {**taps, **batch.feeds}))))
            if sum(len(variants) for variants, _ in waiting) >= self.tail_batch:
                yield self._finish(run, waiting)
                waiting = []
        if waiting:
            yield self._finish(run, waiting)

    def _finish(
        self, run: Run, waiting: list[tuple[Ints, dict[str, NDArray[Any]]]]
    ) -> tuple[Ints, dict[str, NDArray[Any]]]:
        variants = np.concatenate([v for v, _ in waiting])
        joined = {n: np.concatenate([made[n] for _, made in waiting]) for n in self.crossings}
        return variants, dict(run("tail", joined))


def plan(
    model: ModelLike,
    boxes: NDArray[np.int32],
    image_shape: Sequence[int],
    *,
    of: Sequence[str] | None = None,
    machine: Machine = MACHINE,
    cut: int | None = None,
) -> IncrementalPlan:
    """Plan exact incremental inference of a classifier under windows.

    boxes: int32 [n, 6], half open: c0, c1, y0, y1, x0, x1 (WindowPlan.boxes). image_shape:
    (C, H, W). of: names of the tensors wanted; None: the class scores. cut: how many nodes go
    on boxes, for measurements; None: the cost model decides.

    Raises ModelError for a model that boxes can't follow (second inputs, a fixed batch that can't
    be freed); UsageError for boxes of another shape.
    """
    boxes = _inside(np.asarray(boxes), image_shape)
    prepared = prepare(model, image_shape, of)
    full = trace(prepared, boxes)
    if not full.extents:
        raise ModelError("no tensor of the model has boxes")
    chosen = estimate(full, machine) if cut is None else estimate(full, machine, cut)
    followed = full.restricted(chosen.cut)
    groups, group = np.unique(boxes[:, :2], axis=0, return_inverse=True)
    group = group.reshape(-1).astype(np.int64)
    chosen_buckets = tuple(tuple(b) for b in buckets(followed, machine))
    graphs = build(followed, len(groups), [Places(b, group) for b in chosen_buckets])
    return IncrementalPlan(
        ir.to_proto(graphs.clean),
        ir.to_proto(graphs.patch),
        ir.to_proto(graphs.tail),
        str(prepared.image.name),
        tuple(str(v.name) for v in prepared.outputs),
        graphs.crossings,
        int(np.clip(machine.batch // max(graphs.crossing_bytes, 1), 1, 64)),
        chosen,
        groups.astype(np.int64),
        followed,
        graphs,
        chosen_buckets,
        group,
        prepared.channel_axis,
    )


def _inside(boxes: NDArray[Any], image_shape: Sequence[int]) -> NDArray[np.int32]:
    """Boxes cut off at the image's borders; empty ones hide no channel of one pixel."""
    if boxes.ndim != 2 or boxes.shape[1] != 6 or not len(boxes):
        raise UsageError(f"boxes of shape {list(boxes.shape)}; accepted: [n, 6], n above 0")
    limits = np.repeat(np.array(image_shape, np.int64), 2)
    cut_off = np.asarray(np.clip(boxes, 0, limits), np.int32)
    empty = (cut_off[:, 0::2] >= cut_off[:, 1::2]).any(axis=1)
    cut_off[empty] = (0, 0, 0, 1, 0, 1)
    return cut_off
