"""The native kernels let other Python threads run."""

import numpy as np
import pytest

from backlight.kernels import rise, segments, sliding

from .others import turns

native = pytest.importorskip("backlight.kernels.cpu.backend", reason="native module not built")

SHAPE = (3, 256, 256)


def plan_of(family, count):
    if family == "windows":
        return sliding(SHAPE, 64, 8).select(np.arange(count))
    if family == "grids":
        return rise(SHAPE, count)
    rng = np.random.default_rng(0)
    return segments(SHAPE, rng.integers(0, 9, SHAPE[1:]), rng.integers(0, 2, (count, 9)))


@pytest.mark.parametrize("family", ["windows", "grids", "segments"])
def test_a_thread_runs_while_masks_are_written(family):
    plan, backend = plan_of(family, 256), native.NativeBackend(threads=1)
    image, base = np.ones(SHAPE, np.float32), np.zeros(3, np.float32)
    out = np.empty((len(plan), *SHAPE), np.float32)
    assert turns(lambda: backend.apply(image, plan, base, out, 0, len(plan), "nchw")) > 0
