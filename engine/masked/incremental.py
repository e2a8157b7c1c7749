"""Exact incremental inference on the runtime: sessions for a plan's graphs, and when to use them.

The graphs are export/incremental's; what they cost against whole variants it estimates from
shapes. `Chooser` weighs that against the time that planning and compiling take.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import BacklightError, UsageError
from ...export import incremental
from ...export.incremental import IncrementalPlan, Outline
from ...kernels import WindowPlan
from ...lanes import cores
from ..runtime import arrays
from ..runtime.budget import shown
from ..runtime.session import Session
from .scoring import Scorer

__all__ = ["Choice", "Chooser", "Incremental"]

Ints = NDArray[np.int64]

# "auto" goes incrementally from this estimated speed-up on: over seven networks the estimate is up
# to 1.5 times what is measured (benchmarks/README.md, "Incremental occlusion").
CLEARLY = 1.6
# Seconds: to outline a plan, and to write and compile its graphs; by the model's nodes and the
# bytes of its weights. Measured on seven networks of 20 to 370 nodes; rounded up.
OUTLINE, OUTLINE_NODE, OUTLINE_BYTE = 0.1, 2e-3, 3e-9
READY, READY_NODE, READY_BYTE = 0.8, 4e-3, 10e-9
# What outlining may add to a pass that then runs dense.
WASTE = 0.02
# A budget is shared between the patches and the rest; a patch tensor below this is overhead only.
LEAST_PATCH = 256 << 10


@dataclass(frozen=True)
class Choice:
    """How variants are scored. method: "dense" or "incremental". speedup: over dense by the cost
    model, None where it wasn't estimated. why: in words."""

    method: str
    speedup: float | None
    why: str


class Incremental:
    """Class scores of the variants of one window plan, on boxes. See Scorer.variants.

    Raises UsageError where the scorer's memory budget is too small; ModelError where the runtime
    refuses a graph.
    """

    def __init__(self, scorer: Scorer, outlined: Outline, shape: tuple[int, ...]) -> None:
        self._scorer = scorer
        threads = scorer.threads or cores()
        self._plan, self._lanes = _within(scorer, outlined, shape, threads)
        graphs, each = self._plan.graphs, threads // self._lanes
        self._sessions = {
            name: Session(graph, scorer.session.providers, count, lanes=lanes, patient=True)
            for name, graph, count, lanes in (("clean", graphs.clean, threads, 1),
                                              ("patch", graphs.patch, each, self._lanes),
                                              ("tail", graphs.tail, each, self._lanes))
        }  # fmt: skip
        self._inputs = {n: [i.name for i in s.inputs] for n, s in self._sessions.items()}

    @property
    def plan(self) -> IncrementalPlan:
        """What runs."""
        return self._plan

    def start(self, image: Any, base: Any) -> Mapping[str, NDArray[Any]]:
        """An image's own activations: image [C, H, W] or [H, W, C], base as the kernels read it."""
        image, base = arrays.to_host(image), arrays.to_host(base)
        if base.ndim == 1 and self._scorer.layout == "nchw":
            base = base[:, None, None]
        return self._run("clean", self._plan.start(image, base))

    def scores(
        self, taps: Mapping[str, NDArray[Any]], which: Ints | None = None
    ) -> Iterator[tuple[Ints, NDArray[np.float32]]]:
        """Variants, int64 [m], and their class scores, float32 [m, K], until all were computed.
        which: some of the variants; default: all."""
        for variants, made in self._plan.finish(self._run, taps, which, lanes=self._lanes):
            found = made[self._plan.outputs[0]]
            flat = found.reshape(len(found), -1)
            yield variants, flat.astype(np.float32)

    def _run(self, name: str, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return self._sessions[name].run({n: feeds[n] for n in self._inputs[name]})


def _within(
    scorer: Scorer, outlined: Outline, shape: tuple[int, ...], threads: int
) -> tuple[IncrementalPlan, int]:
    """A plan whose runs fit the budget, and how many go on side by side: a thread each, if there
    is room. shape: of one image, in the input's layout."""
    budget, whole = scorer.room.budget(), scorer.room.footprint(shape)
    least, lanes = None, threads
    size: float | None = None
    while True:
        plan = outlined.build(size, scorer.room.most)
        rows = max((budget - plan.memory(lanes)) // max(whole * lanes, 1), 0)
        if rows >= 1:
            return replace(plan, tail_batch=int(min(plan.tail_batch, rows))), lanes
        need = plan.memory() + whole
        if least != need and plan.patch_bytes > LEAST_PATCH:
            least, size = need, plan.patch_bytes / 4
        elif lanes > 1:
            lanes //= 2
        else:
            raise UsageError(
                f"a memory budget of {shown(budget)} is too small for method 'incremental': "
                f"accepted: {shown(math.ceil(1.01 * need))} or more, or method 'dense'"
            )


class Chooser:
    """Chooses how a scorer's windows are scored, image size by image size.

    method: "auto", "dense" or "incremental". What is planned is kept. Where one image is too few
    to plan for, later ones count together with it. waste: what looking for boxes may add to a pass
    that then runs dense, as a share of it.
    """

    def __init__(self, scorer: Scorer, method: str, waste: float = WASTE) -> None:
        self._scorer, self._method, self._waste = scorer, method, waste
        self._images: dict[tuple[int, ...], int] = {}
        self._outlined: dict[tuple[int, ...], Outline] = {}
        self._ready: dict[tuple[int, ...], tuple[Choice, Incremental | None]] = {}

    def __call__(
        self, windows: WindowPlan, images: int, share: float = 1.0
    ) -> tuple[Choice, Incremental | None]:
        """How to score the windows of `images` more images. share: of the windows, if not all are.

        Raises UsageError or ModelError where "incremental" was asked for and can't be.
        """
        key = windows.shape
        self._images[key] = self._images.get(key, 0) + images
        if key not in self._ready:
            try:
                found = self._choose(windows, self._images[key] * share)
            except BacklightError as err:
                if self._method == "incremental":
                    raise type(err)(_named(str(err))) from err
                found = Choice("dense", None, str(err)), None
            if isinstance(found, Choice):  # for now: more images may change it
                return found, None
            self._ready[key] = found
        return self._ready[key]

    def _choose(
        self, windows: WindowPlan, images: float
    ) -> Choice | tuple[Choice, Incremental | None]:
        """A choice that stays, or, alone, one that more images may change."""
        scorer, asked = self._scorer, self._method == "incremental"
        if self._method == "dense":
            return Choice("dense", None, "as asked"), None
        if not scorer.session.on_cpu:
            raise UsageError(f"it runs on the CPU, and the model on {scorer.session.provider}")
        if scorer.input.layout == "nhw":
            raise UsageError(f"input '{scorer.input.name}' has no channel axis")
        c, h, w = windows.shape
        shape = (h, w, c) if scorer.layout == "nhwc" else (c, h, w)
        # Planning has one core; whole variants have all of them.
        run, lanes = scorer.room.footprint, scorer.threads or cores()
        dense = run.seconds(shape) * len(windows) * images / lanes
        few = f"{round(len(windows) * images)} windows are too few to plan for"
        looking = OUTLINE + OUTLINE_NODE * run.nodes + OUTLINE_BYTE * scorer.weight_bytes
        ready = READY + READY_NODE * run.nodes + READY_BYTE * scorer.weight_bytes
        if not asked and dense * self._waste < looking:
            return Choice("dense", None, few)
        outlined = self._outline(windows)
        speedup = round(outlined.estimate.speedup, 2)
        if outlined.estimate.cut == 0:
            raise UsageError(f"boxes save nothing: {_end(outlined)}")
        if not asked:
            if outlined.estimate.speedup < CLEARLY:
                why = f"the estimated speed-up isn't clearly above 1; {_end(outlined)}"
                return Choice("dense", speedup, why), None
            if dense * (1 - CLEARLY / outlined.estimate.speedup) < ready:
                return Choice("dense", speedup, few)
        made = Incremental(scorer, outlined, shape)
        return Choice("incremental", speedup, _end(outlined)), made

    def _outline(self, windows: WindowPlan) -> Outline:
        if windows.shape not in self._outlined:
            self._outlined[windows.shape] = incremental.outline(
                self._scorer.source,
                windows.boxes,
                windows.shape,
                of=[self._scorer.output],
                channel_axis=3 if self._scorer.layout == "nhwc" else 1,
            )
        return self._outlined[windows.shape]


def _named(reason: str) -> str:
    if "method 'incremental'" in reason:
        return reason
    return f"method 'incremental': {reason}; accepted: auto, dense"


def _end(outlined: Outline) -> str:
    """Where the boxes end, for people."""
    node = outlined.leaves
    if node is None:
        return "every node is done on boxes"
    return f"whole maps from node '{node.name}' ({node.op_type}) on"
