"""Masked variants of an image, written in one pass, and heat maps from their scores.

plan.py says which masks; baseline.py what stands behind them; masks.py applies and reduces on a
backend: reference.py (NumPy), cpu/ (C++, the module `_native` built from bindings/), cuda/.
streams/ is no part of that: pictures and feature maps that stream by.
"""

from .baseline import Baseline, BaselineLike, InputSpace, as_baseline, resolve
from .families import maps, rise, segments, sliding
from .masks import Accumulator, apply, available_backends, get_backend, paint, reduce
from .plan import GridPlan, MapPlan, Plan, SegmentPlan, WindowPlan

__all__ = [
    "Accumulator",
    "Baseline",
    "BaselineLike",
    "GridPlan",
    "InputSpace",
    "MapPlan",
    "Plan",
    "SegmentPlan",
    "WindowPlan",
    "apply",
    "as_baseline",
    "available_backends",
    "get_backend",
    "maps",
    "paint",
    "reduce",
    "resolve",
    "rise",
    "segments",
    "sliding",
]
