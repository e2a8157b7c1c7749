"""Backend "cpp": the native module on all cores the process may use."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...lanes import cores
from .. import _native
from ..baseline import Layout
from ..plan import GridPlan, MapPlan, Plan, SegmentPlan, WindowPlan

__all__ = ["NativeBackend"]


class NativeBackend:
    """Backend "cpp". threads: 0 means every core that the process may run on."""

    name = "cpp"
    xp = np

    def __init__(self, threads: int = 0) -> None:
        self.threads = threads or cores()

    def apply(
        self, image: Any, plan: Plan, base: Any, out: Any, start: int, stop: int, layout: Layout
    ) -> None:
        c, h, w = plan.shape
        shape = (c, h, w, 1) if layout == "nchw" else (1, h, w * c, c)
        if isinstance(plan, WindowPlan):
            _native.apply_windows(image, base, out, shape, plan.boxes[start:stop], self.threads)
        elif isinstance(plan, GridPlan):
            grids, shifts = plan.grids[start:stop], plan.shifts[start:stop]
            _native.apply_grids(image, base, out, shape, grids, shifts, plan.step, self.threads)
        elif isinstance(plan, MapPlan):
            maps = plan.maps[start:stop]
            _native.apply_maps(image, base, out, shape, maps, plan.step, self.threads)
        else:
            table = plan.table[start:stop]
            _native.apply_segments(image, base, out, shape, plan.labels, table, self.threads)

    def accumulate(
        self, total: Any, values: NDArray[np.float64], plan: Plan, start: int, stop: int
    ) -> None:
        if isinstance(plan, WindowPlan):
            _native.accumulate_windows(total, values, plan.boxes[start:stop], self.threads)
        elif isinstance(plan, GridPlan):
            grids, shifts = plan.grids[start:stop], plan.shifts[start:stop]
            _native.accumulate_grids(total, values, grids, shifts, plan.step, self.threads)
        elif isinstance(plan, MapPlan):
            maps = plan.maps[start:stop]
            _native.accumulate_maps(total, values, maps, plan.step, self.threads)
        else:
            _native.accumulate_segments(total, values, plan.table[start:stop])

    def paint(self, values: NDArray[np.float64], plan: SegmentPlan) -> NDArray[np.float32]:
        heat = np.empty((len(values), *plan.labels.shape), np.float32)
        _native.paint(heat, values, plan.labels)
        return heat
