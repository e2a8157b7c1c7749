"""Intervals against brute force, buckets, the cost model's choices, and what is refused."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backlight.errors import ModelError, UsageError
from backlight.export import incremental
from backlight.export.incremental.intervals import Extent, Stencil, frame
from backlight.kernels.families import sliding

from .chains import chain


@given(
    size=st.integers(4, 30),
    kernel=st.integers(1, 5),
    dilation=st.integers(1, 3),
    stride=st.integers(1, 4),
    begin=st.integers(0, 3),
    end=st.integers(0, 3),
    data=st.data(),
)
@settings(max_examples=300, deadline=None)
def test_intervals_are_what_changes(
    size: int, kernel: int, dilation: int, stride: int, begin: int, end: int, data: st.DataObject
) -> None:
    """lo and hi are the first and last output position that reads a changed one; between a
    dilated kernel's taps a small window can fall through, and they are one or two wider."""
    stencil = Stencil((kernel, 1), (dilation, 1), (stride, 1), (begin, 0))
    count = (size + begin + end - stencil.span(0)) // stride + 1
    if count < 1:
        return
    low = data.draw(st.integers(0, size - 1))
    high = data.draw(st.integers(low, size - 1))
    extent = Extent((size, 1), np.array([[low], [0]]), np.array([[high], [0]]))
    found = extent.through(stencil, (count, 1))
    taps = np.arange(count)[:, None] * stride - begin + np.arange(kernel) * dilation
    changed = np.flatnonzero(((taps >= low) & (taps <= high)).any(axis=1))
    got = int(found.lo[0, 0]), int(found.hi[0, 0])
    if len(changed):
        assert got[0] <= changed[0] and changed[-1] <= got[1]
        assert dilation > 1 or got == (changed[0], changed[-1])
    else:
        assert 0 <= got[0] <= got[1] < count
        assert dilation > 1 or got[0] == got[1]


def test_frames_hold_their_boxes_inside_the_map() -> None:
    random = np.random.default_rng(0)
    lo = random.integers(0, 20, (2, 50))
    hi = np.minimum(lo + random.integers(0, 9, (2, 50)), 19)
    boxes = frame(Extent((20, 20), lo, hi), np.arange(50))
    ends = boxes.origin + np.array(boxes.size)[:, None]
    assert (boxes.origin >= 0).all() and (ends <= 20).all()
    assert (boxes.origin <= lo).all() and (ends > hi).all()


def test_buckets_hold_every_window_once() -> None:
    boxes = sliding((3, 64, 64), 8, 3).boxes
    plan = incremental.plan(chain(4), boxes, (3, 64, 64))
    seen = np.concatenate([v for bucket in plan.buckets for v in bucket])
    assert sorted(seen) == list(range(len(boxes)))
    batches = [batch.variants.tolist() for batch in plan.batches()]
    assert batches == [v.tolist() for bucket in plan.buckets for v in bucket]


def test_small_windows_stay_on_boxes_and_large_ones_leave_them() -> None:
    model = chain(6)
    small = incremental.plan(model, sliding((3, 64, 64), 4, 8).boxes, (3, 64, 64))
    large = incremental.plan(model, sliding((3, 64, 64), 56, 8).boxes, (3, 64, 64))
    assert small.estimate.cut == 12 and small.estimate.speedup > 4
    assert large.estimate.cut < 12 and large.estimate.speedup < 2


def test_a_plan_carries_only_the_weights_it_needs() -> None:
    model = chain(6)
    boxes = sliding((3, 64, 64), 4, 8).boxes
    plan = incremental.plan(model, boxes, (3, 64, 64), cut=3)
    names = {part: {w.name for w in getattr(plan, part).graph.initializer} for part in PARTS}
    convolutions = {f"w{i}" for i in range(6)}
    assert names["patch"] & convolutions == {"w0", "w1"}
    assert names["tail"] & convolutions == {"w2", "w3", "w4", "w5"}
    assert "d" in names["tail"] and "d" not in names["patch"] | names["clean"]


PARTS = ("clean", "patch", "tail")


def test_the_graphs_are_valid() -> None:
    plan = incremental.plan(chain(3), sliding((3, 64, 64), 8, 8).boxes, (3, 64, 64))
    for part in PARTS:
        onnx.checker.check_model(getattr(plan, part), full_check=True)


def test_refuses() -> None:
    model = chain(2)
    boxes = sliding((3, 64, 64), 8, 8).boxes
    with pytest.raises(UsageError, match=r"accepted: \[n, 6\]"):
        incremental.plan(model, boxes[:, :4], (3, 64, 64))
    with pytest.raises(UsageError, match="no tensor 'c9'"):
        incremental.plan(model, boxes, (3, 64, 64), of=["c9"])
    with pytest.raises(ModelError, match="the image"):
        incremental.plan(model, boxes, (3, 60, 64))
    plan = incremental.plan(model, boxes, (3, 64, 64))
    with pytest.raises(UsageError, match="one image"):
        plan.start(np.zeros((2, 3, 64, 64), np.float32), np.zeros(()))


def test_refuses_a_second_input() -> None:
    model = chain(2)
    model.graph.input.append(
        onnx.helper.make_tensor_value_info("more", onnx.TensorProto.FLOAT, [1, 5])
    )
    model.graph.node.append(onnx.helper.make_node("Add", ["y", "more"], ["sum"]))
    model.graph.output[0].name = "sum"
    with pytest.raises(ModelError, match="further inputs"):
        incremental.plan(model, sliding((3, 64, 64), 8, 8).boxes, (3, 64, 64))


def test_imports_no_runtime() -> None:
    code = (
        "import sys; from backlight.export import incremental; "
        "sys.exit(any(n.split('.')[0] in ('onnxruntime', 'torch') or "
        "n.startswith(('backlight.engine', 'backlight.kernels')) for n in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
