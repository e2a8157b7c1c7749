"""Backend "cuda": masks.cu through CuPy's RawModule, on CuPy's current stream.

Everything is enqueued and nothing waited for. To run on a stream of the caller's own:
`with cupy.cuda.ExternalStream(handle): apply(...)`.
"""

from __future__ import annotations

import importlib
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UsageError
from ..baseline import Layout
from ..plan import GridPlan, MapPlan, Plan, SegmentPlan, WindowPlan

__all__ = ["OPTIONS", "SOURCE", "CudaBackend", "kernel_names", "load"]

SOURCE = Path(__file__).with_name("masks.cu")

# No contraction to fused multiply-adds: every backend agrees with the NumPy oracle bit for bit.
OPTIONS = ("-std=c++17", "--fmad=false", f"-I{SOURCE.parent.parent}")

BLOCK = 256


def kernel_names() -> list[str]:
    """Every kernel of masks.cu."""
    families = ("windows", "grids", "maps", "segments")
    apply = [f"apply_{f}_{d}" for f in families for d in ("float32", "float16", "uint8")]
    return [*apply, *(f"accumulate_{f}" for f in families), "paint"]


def load() -> CudaBackend:
    """Raises UsageError without CuPy or without a GPU."""
    try:
        cupy = importlib.import_module("cupy")
    except ImportError:
        raise UsageError(
            "backend 'cuda' needs CuPy: pip install 'backlight[gpu]'; accepted here: 'cpp', 'numpy'"
        ) from None
    if not cupy.is_available():
        raise UsageError("backend 'cuda' finds no GPU; accepted here: 'cpp', 'numpy'")
    module = cupy.RawModule(code=SOURCE.read_text(encoding="utf-8"), options=OPTIONS)
    return CudaBackend(cupy, module.get_function)


class CudaBackend:
    """xp: cupy. kernel: from a name to a callable (grid, block, arguments)."""

    name = "cuda"

    def __init__(self, xp: Any, kernel: Callable[[str], Callable[..., None]]) -> None:
        self.xp = xp
        self._kernel = kernel
        self._plans: weakref.WeakKeyDictionary[Plan, dict[int, tuple[Any, ...]]] = (
            weakref.WeakKeyDictionary()
        )

    def apply(
        self, image: Any, plan: Plan, base: Any, out: Any, start: int, stop: int, layout: Layout
    ) -> None:
        c, h, w = plan.shape
        planes, row, inner = (c, w, 1) if layout == "nchw" else (1, w * c, c)
        # The vector stores begin at the first 16-byte boundary of `out`, wherever it starts.
        head = min(-out.data.ptr % 16 // out.itemsize, out.size)
        threads = 1 + -(-(out.size - head) // (16 // out.itemsize))
        common = (
            np.int64(out.size),
            *map(np.int32, (head, planes, h, row, inner)),
            out,
            image,
            base,
            np.int32(base.ndim == 1),
        )
        masks = self._masks(plan, start, stop)
        self._launch(f"apply_{_family(plan)}_{out.dtype}", threads, *common, *masks)

    def accumulate(self, total: Any, values: Any, plan: Plan, start: int, stop: int) -> None:
        masks = self._masks(plan, start, stop)
        flat = isinstance(plan, GridPlan | MapPlan)  # these kernels know no channels
        sizes = (len(total), *total.shape[2:]) if flat else total.shape
        arguments = [*map(np.int32, sizes), total, values, *masks]
        if isinstance(plan, SegmentPlan):
            _, table, segments = masks
            arguments = [np.int32(len(total)), segments, total, values, table]
        name = f"accumulate_{_family(plan)}"
        self._launch(name, total.size, *arguments, np.int32(stop - start))

    def paint(self, values: Any, plan: SegmentPlan) -> Any:
        labels = self._masks(plan, 0, len(plan))[0]
        heat = self.xp.empty((len(values), *plan.labels.shape), np.float32)
        sizes = map(np.int32, (len(values), plan.labels.size, values.shape[1]))
        self._launch("paint", heat.size, *sizes, heat, values, labels)
        return heat

    def _launch(self, name: str, threads: int, *arguments: Any) -> None:
        blocks = max(1, -(-threads // BLOCK))
        self._kernel(name)((blocks,), (BLOCK,), arguments)

    def _masks(self, plan: Plan, start: int, stop: int) -> tuple[Any, ...]:
        """The kernels' arguments that describe masks start..stop; the plan is uploaded once."""
        device = self.xp.cuda.runtime.getDevice()
        uploaded = self._plans.setdefault(plan, {})
        if device not in uploaded:
            uploaded[device] = tuple(map(self.xp.asarray, _arrays(plan)))
            # Other streams may read the plan later: it must be there by then.
            self.xp.cuda.get_current_stream().synchronize()
        arrays = uploaded[device]
        if isinstance(plan, WindowPlan):
            return (arrays[0][start:stop],)
        if isinstance(plan, GridPlan):
            cells = map(np.int32, plan.grids.shape[1:])
            grids, shifts = (a[start:stop] for a in arrays)
            return (grids, shifts, *cells, *map(np.float32, plan.step))
        if isinstance(plan, MapPlan):
            cells = map(np.int32, plan.maps.shape[1:])
            return (arrays[0][start:stop], *cells, *map(np.float32, plan.step))
        return (arrays[0], arrays[1][start:stop], np.int32(plan.table.shape[1]))


def _family(plan: Plan) -> str:
    if isinstance(plan, WindowPlan):
        return "windows"
    if isinstance(plan, MapPlan):
        return "maps"
    return "grids" if isinstance(plan, GridPlan) else "segments"


def _arrays(plan: Plan) -> tuple[Any, ...]:
    if isinstance(plan, WindowPlan):
        return (plan.boxes,)
    if isinstance(plan, GridPlan):
        return (plan.grids, plan.shifts)
    if isinstance(plan, MapPlan):
        return (plan.maps,)
    return (plan.labels, plan.table)
