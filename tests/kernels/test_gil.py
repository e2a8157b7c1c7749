"""The native kernels let other Python threads run."""

import sys
import threading
import time

import numpy as np
import pytest

from backlight.kernels import rise, segments, sliding

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
    """No thread is made to hand over the interpreter for an hour: another one can only run if the
    kernel itself lets go of it."""
    plan, backend = plan_of(family, 256), native.NativeBackend(threads=1)
    image, base = np.ones(SHAPE, np.float32), np.zeros(3, np.float32)
    out = np.empty((len(plan), *SHAPE), np.float32)
    steps, done = [0], threading.Event()

    def count():
        while not done.is_set():
            steps[0] += 1
            time.sleep(0)  # hands over of its own accord

    old = sys.getswitchinterval()
    thread = threading.Thread(target=count)
    sys.setswitchinterval(3600)
    try:
        thread.start()
        seen = 0
        for _ in range(50):  # a busy machine may not get to the thread at once
            before = steps[0]
            backend.apply(image, plan, base, out, 0, len(plan), "nchw")
            seen = steps[0] - before
            if seen:
                break
    finally:
        done.set()
        sys.setswitchinterval(old)
        thread.join()
    assert seen > 0
