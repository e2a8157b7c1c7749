"""Memory: what a run takes, and how many rows fit."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from backlight.engine.runtime.budget import Footprint, parse_memory, rows_within, shown
from backlight.errors import UsageError
from backlight.export.graph import load

from .. import models


def test_the_footprint_counts_what_is_alive_at_once():
    """x [3,8,8] -> two maps [4,8,8] that live together, the Relu in the place of the first."""
    body = """
    h = Conv<pads=[1,1,1,1]>(x, w, b)
    r = Relu(h)
    g = Conv<pads=[1,1,1,1]>(x, w, b)
    j = Concat<axis=1>(r, g)
    p = GlobalAveragePool(j)
    f = Flatten(p)
    scores = Gemm<transB=1>(f, v2, c)
"""
    model = models.tiny(body=body)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((5, 8), np.float32), "v2"))
    from backlight.engine.runtime.budget import SLACK

    loaded = load(model)
    plane = 4 * 8 * 8 * 4
    # r, g and their Concat (twice a plane) at once.
    assert Footprint(loaded, "x", 4)((3, 8, 8)) == 3 * 64 * 4 + SLACK * 4 * plane


@pytest.mark.parametrize(
    ("given", "want"),
    [("512", 512), (7, 7), ("2kB", 2000), ("1.5 GB", 15 * 10**8), ("2GiB", 2**31), ("1m", 10**6)],
)
def test_memory_as_people_write_it(given, want):
    assert parse_memory(given) == want


@pytest.mark.parametrize("given", ["", "-1", "0", "GB", "5 parsec", "1.2.3", "iB", "nan"])
def test_memory_that_is_none(given):
    with pytest.raises(UsageError, match="accepted: bytes"):
        parse_memory(given)


def test_rows_and_sizes():
    assert rows_within(100, 30, at_least=1, at_most=64) == 3
    assert rows_within(10**9, 30, at_least=1, at_most=64) == 64
    assert [shown(v) for v in (999, 1500, 25e6, 3.21e9)] == [
        "999 bytes",
        "1.5 kB",
        "25 MB",
        "3.2 GB",
    ]
