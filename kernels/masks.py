"""Masked variants of an image, and heat maps from their scores, on any backend.

plan = sliding((3, 224, 224), 16, 8)
base, total = resolve("mean", image), Accumulator(plan)
for start in range(0, len(plan), 128):
    variants = apply(image, plan, base, start=start, stop=min(start + 128, len(plan)))
    total.add(score - scores(variants), start)
heat = total.heat()
"""

from __future__ import annotations

import contextlib
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import UsageError, hint
from .baseline import BaselineLike, InputSpace, Layout, resolve
from .plan import GridPlan, MapPlan, Plan, SegmentPlan
from .reference import ReferenceBackend

__all__ = [
    "Accumulator",
    "Backend",
    "BackendName",
    "Overlap",
    "apply",
    "available_backends",
    "get_backend",
    "paint",
    "reduce",
]

BackendName: TypeAlias = Literal["auto", "numpy", "cpp", "cuda"]
Overlap: TypeAlias = Literal["mean", "sum"]

DTYPES = ("float32", "float16", "uint8")


class Backend(Protocol):
    """The contract of a backend. Arrays belong to `xp`, are contiguous and already checked."""

    @property
    def name(self) -> str: ...

    @property
    def xp(self) -> Any: ...

    def apply(
        self, image: Any, plan: Plan, base: Any, out: Any, start: int, stop: int, layout: Layout
    ) -> None:
        """Write variants start..stop into `out`. base: a colour [C] or an image."""

    def accumulate(self, total: Any, values: Any, plan: Plan, start: int, stop: int) -> None:
        """Add values float64 [K, n], weighted by masks start..stop, to `total` float64:
        [K, C or 1, H, W], or [K, S] for segments."""

    def paint(self, values: Any, plan: SegmentPlan) -> Any:
        """values float64 [K, S] -> float32 [K, H, W]."""


_CACHE: dict[str, Backend] = {}


def get_backend(name: BackendName | Backend = "auto", like: Any = None) -> Backend:
    """The backend by name. "auto": "cuda" for a CuPy array `like`, otherwise "cpp" where the
    native module is built, otherwise "numpy".

    Raises UsageError for an unknown name, a missing native module, a missing CuPy or GPU.
    """
    if not isinstance(name, str):
        return name
    if name == "auto":
        if type(like).__module__.partition(".")[0] == "cupy":
            return get_backend("cuda")
        return get_backend("cpp" if _native_is_built() else "numpy")
    if name not in _CACHE:
        _CACHE[name] = _load(name)
    return _CACHE[name]


def available_backends() -> tuple[str, ...]:
    """The names that get_backend accepts on this machine, the fastest first."""
    found = []
    for name in ("cuda", "cpp", "numpy"):
        with contextlib.suppress(UsageError):
            found.append(_load(name).name)
    return tuple(found)


def _native_is_built() -> bool:
    try:
        from . import _native  # noqa: F401
    except ImportError:
        return False
    return True


def _load(name: str) -> Backend:
    if name == "numpy":
        return ReferenceBackend()
    if name == "cpp":
        try:
            from .cpu.backend import NativeBackend
        except ImportError as error:
            raise UsageError(
                f"backend 'cpp' is not built ({error}); install the package with a C++ compiler, "
                "or use backend 'numpy'"
            ) from None
        return NativeBackend()
    if name == "cuda":
        from .cuda.backend import load

        return load()
    raise UsageError(
        f"backend {name!r} is unknown; accepted: 'auto', 'numpy', 'cpp', 'cuda'"
        + hint(name, ("auto", "numpy", "cpp", "cuda"))
    )


def apply(
    image: Any,
    plan: Plan,
    baseline: BaselineLike = "zero",
    out: Any = None,
    start: int = 0,
    stop: int | None = None,
    *,
    layout: Layout = "nchw",
    space: InputSpace | None = None,
    backend: BackendName | Backend = "auto",
) -> Any:
    """Masked variants start..stop of an image, each element written once.

    image: [C, H, W], or [H, W, C] with layout="nhwc"; float32, float16 or uint8. The plan's
    shape is (C, H, W) in either layout. baseline: see baseline.resolve; for many slices, resolve
    it once and pass the array, which is then used as it is. out: a C-contiguous buffer of the
    image's dtype, [stop - start, *image.shape], written in place; made when None. On CUDA the
    work goes to CuPy's current stream, and nothing waits for it.

    Returns `out`. Raises UsageError for an image, buffer or baseline of the wrong shape or dtype.
    """
    chosen = get_backend(backend, image)
    if str(getattr(image, "dtype", None)) not in DTYPES:
        raise UsageError(
            f"image of type {getattr(image, 'dtype', type(image).__name__)}; accepted: an array "
            f"of {', '.join(DTYPES)}"
        )
    if layout not in ("nchw", "nhwc"):
        near = hint(layout, ("nchw", "nhwc"))
        raise UsageError(f"layout {layout!r}; accepted: 'nchw', 'nhwc'{near}")
    c, h, w = plan.shape
    want = (c, h, w) if layout == "nchw" else (h, w, c)
    if tuple(image.shape) != want:
        raise UsageError(f"image has shape {list(image.shape)}; accepted: the plan's {list(want)}")
    first, last, _ = slice(start, stop).indices(len(plan))
    if first != start or last < first or stop not in (None, last):
        raise UsageError(f"variants {start}..{stop}; accepted: within 0..{len(plan)}")
    xp = chosen.xp
    image = xp.ascontiguousarray(image)
    base = baseline
    if not _is_resolved(baseline, image, want[0 if layout == "nchw" else 2]):
        base = resolve(baseline, image, layout=layout, space=space, xp=xp)
    shape = (last - first, *want)
    if out is None:
        out = xp.empty(shape, image.dtype)
    if tuple(out.shape) != shape or out.dtype != image.dtype or not out.flags.c_contiguous:
        raise UsageError(
            f"out is {out.dtype} {list(out.shape)}; accepted: C-contiguous {image.dtype} "
            f"{list(shape)}"
        )
    if last > first:
        chosen.apply(image, plan, base, out, first, last, layout)
    return out


def _is_resolved(baseline: Any, image: Any, channels: int) -> bool:
    """Whether an array is what resolve() returns: checked without reading a single element."""
    return (
        type(baseline) is type(image)
        and baseline.dtype == image.dtype
        and tuple(baseline.shape) in ((channels,), tuple(image.shape))
        and bool(baseline.flags.c_contiguous)
    )


class Accumulator:
    """A heat map built up from values as they come, one per variant and class.

    Windows and segments: a value is a drop of the score, and lands on what the variant hid.
    Grids and maps: a value is a score, and lands on what the variant kept (Petsiuk et al. 2018,
    Wang et al. 2020).

    overlap="mean": per pixel, the mean over the variants added so far that hide it; 0 where none
    does. For grids the sum / (variants * probability), the paper's estimate; for maps the sum /
    variants. "sum": the sum.
    Sums are float64; `count` is the number of variants added.
    """

    def __init__(
        self,
        plan: Plan,
        classes: int = 1,
        *,
        overlap: Overlap = "mean",
        backend: BackendName | Backend = "auto",
        like: Any = None,
    ) -> None:
        """like: an array that lives where the values will live, for backend="auto"."""
        if overlap not in ("mean", "sum"):
            near = hint(overlap, ("mean", "sum"))
            raise UsageError(f"overlap {overlap!r}; accepted: 'mean', 'sum'{near}")
        self.plan, self.classes, self.overlap = plan, classes, overlap
        self.count = 0
        self._backend = get_backend(backend, like)
        # One more class, of ones, counts how many variants hide each pixel.
        self._covered = overlap == "mean" and not isinstance(plan, GridPlan | MapPlan)
        self._total = self._backend.xp.zeros(
            (classes + self._covered, *_total_shape(plan)), np.float64
        )

    def add(self, values: Any, start: int | None = None) -> None:
        """Add values [n] (one class) or [K, n] of the variants start..start + n.

        start: default `count`, for those who go through the plan in order. Raises UsageError
        for another number of classes or more values than variants.
        """
        xp = self._backend.xp
        start = self.count if start is None else start
        rows = xp.asarray(values, np.float64)
        rows = rows[None] if rows.ndim == 1 else rows
        if rows.ndim != 2 or rows.shape[0] != self.classes:
            raise UsageError(
                f"values have shape {list(rows.shape)}; accepted: [{self.classes}, variants]"
            )
        n = int(rows.shape[1])
        if start < 0 or start + n > len(self.plan):
            raise UsageError(
                f"values of variants {start}..{start + n}; accepted: within 0..{len(self.plan)}"
            )
        if n == 0:
            return
        if self._covered:
            rows = xp.concatenate([rows, xp.ones((1, n), np.float64)])
        rows = xp.ascontiguousarray(rows)
        self._backend.accumulate(self._total, rows, self.plan, start, start + n)
        self.count += n

    def heat(self) -> Any:
        """The map so far: float32 [K, H, W], or [K, C, H, W] for windows with channels."""
        xp = self._backend.xp
        total = self._total
        if isinstance(self.plan, GridPlan | MapPlan):
            share = self.plan.probability if isinstance(self.plan, GridPlan) else 1.0
            total = total / (max(self.count, 1) * share if self.overlap == "mean" else 1)
        elif self._covered:
            total = total[:-1] / xp.maximum(total[-1:], 1)
        if isinstance(self.plan, SegmentPlan):
            return self._backend.paint(xp.ascontiguousarray(total), self.plan)
        heat = total.astype(np.float32)
        return heat if self.plan.channelwise else heat[:, 0]


def _total_shape(plan: Plan) -> tuple[int, ...]:
    if isinstance(plan, SegmentPlan):
        return (plan.table.shape[1],)
    c, h, w = plan.shape
    return (c if plan.channelwise else 1, h, w)


def reduce(
    values: Any,
    plan: Plan,
    *,
    overlap: Overlap = "mean",
    backend: BackendName | Backend = "auto",
) -> Any:
    """All values of a plan -> a heat map, in one pass; see Accumulator for what values mean.

    values: [n] -> float32 [H, W]; [K, n] -> [K, H, W]. Windows with channels: [C, H, W] and
    [K, C, H, W]. The map lives where the values lived.
    """
    single = getattr(values, "ndim", np.ndim(values)) == 1
    rows = values if hasattr(values, "ndim") else np.asarray(values)
    classes = 1 if single else int(rows.shape[0])
    if rows.shape[-1] != len(plan):
        raise UsageError(f"{rows.shape[-1]} values for a plan of {len(plan)} variants")
    total = Accumulator(plan, classes, overlap=overlap, backend=backend, like=values)
    total.add(rows, 0)
    heat = total.heat()
    return heat[0] if single else heat


def paint(
    values: ArrayLike | NDArray[Any], plan: SegmentPlan, backend: BackendName | Backend = "auto"
) -> Any:
    """One value per segment -> a map: [S] -> float32 [H, W]; [K, S] -> [K, H, W]. What LIME and
    SHAP do with their coefficients."""
    chosen = get_backend(backend, values)
    rows = chosen.xp.asarray(values, np.float64)
    if rows.ndim not in (1, 2) or rows.shape[-1] != plan.table.shape[1]:
        raise UsageError(
            f"values have shape {list(rows.shape)}; accepted: [{plan.table.shape[1]}] or "
            f"[classes, {plan.table.shape[1]}]"
        )
    heat = chosen.paint(chosen.xp.ascontiguousarray(rows.reshape(-1, rows.shape[-1])), plan)
    return heat[0] if rows.ndim == 1 else heat
