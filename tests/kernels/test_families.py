"""Families of masks: windows as captum slides them, RISE's as ONNX's Resize has them, bad input."""

import numpy as np
import onnx.parser
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from backlight.errors import UsageError
from backlight.kernels import maps, reduce, rise, segments, sliding
from backlight.kernels.reference import kept


def test_windows_by_hand():
    plan = sliding((1, 3, 5), (2, 3), 2)
    assert plan.boxes.tolist() == [
        [0, 1, 0, 2, 0, 3],
        [0, 1, 0, 2, 2, 5],
        [0, 1, 2, 3, 0, 3],
        [0, 1, 2, 3, 2, 5],
    ]
    assert plan.counts == (1, 2, 2)
    assert not plan.channelwise
    assert len(sliding((1, 3, 5), (2, 3), 2, edges="valid")) == 2


@pytest.mark.parametrize("stride", [7, 100, 2**31, 10**12])
def test_a_stride_that_leaves_the_image_gives_no_empty_windows(stride):
    # ceil((5 - 3) / 7) + 1 positions are two, and the second lies outside.
    plan = sliding((1, 3, 5), (2, 3), stride)
    assert plan.boxes.tolist() == [[0, 1, 0, 2, 0, 3]]
    for backend in ("numpy", "cpp"):
        heat = reduce(np.ones(1), plan, backend=backend)
        assert heat.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [0, 0, 0, 0, 0]]


def test_windows_with_channels():
    plan = sliding((3, 4, 4), (2, 4, 4), 2)
    assert plan.channelwise
    assert plan.boxes[:, :2].tolist() == [[0, 2], [2, 3]]
    # An int stride above the window's channels would skip some.
    assert sliding((3, 9, 9), (1, 3, 3), 3).counts == (3, 3, 3)
    assert sliding((3, 9, 9), (1, 3, 3), (1, 2, 3)).counts == (3, 4, 3)
    for pair in ((2, 3), [2, 3], np.array([2, 3])):
        assert sliding((6, 9, 9), (3, 3, 3), pair).counts == (2, 4, 3)


@pytest.mark.parametrize(
    ("window", "stride"),
    [((3, 4, 5), (3, 2, 3)), ((1, 4, 4), (1, 4, 4)), ((2, 5, 3), (1, 3, 2)), ((3, 11, 13), 2)],
)
def test_windows_are_captums(window, stride):
    captum = pytest.importorskip("captum.attr", reason="captum is not installed")
    torch = pytest.importorskip("torch")
    shape = (3, 11, 13)
    seen = []

    def record(x):
        seen.extend(x.numpy())
        return x.sum(dim=(1, 2, 3))

    strides = stride if isinstance(stride, int) else tuple(stride)
    captum.Occlusion(record).attribute(
        torch.ones(1, *shape), sliding_window_shapes=window, strides=strides
    )
    masks = kept(sliding(shape, window, stride))
    ours = np.broadcast_to(masks, (len(masks), *shape))
    # captum counts channels fastest, and evaluates the image itself first.
    assert sorted(m.tobytes() for m in seen[1:]) == sorted(
        np.ascontiguousarray(m).tobytes() for m in ours
    )


@given(
    size=st.integers(1, 40),
    window=st.integers(1, 40),
    stride=st.integers(1, 45),
    edges=st.sampled_from(["clip", "valid"]),
)
def test_windows_of_any_size(size, window, stride, edges):
    if window > size:
        with pytest.raises(UsageError, match="larger than the image"):
            sliding((1, 1, size), (1, window), stride, edges=edges)
        return
    plan = sliding((1, 1, size), (1, window), stride, edges=edges)
    starts, stops = plan.boxes[:, 4], plan.boxes[:, 5]
    assert (starts == np.arange(len(plan)) * stride).all()
    assert (stops <= size).all()
    if edges == "valid":
        assert (stops - starts == window).all()
        assert stops[-1] + stride > size
    else:
        assert (stops > starts).all()
        if stride <= window:
            assert kept(plan).min(axis=0).max() == 0  # every pixel is hidden by some window


def resized(values, sizes):
    """Maps [N, 1, h, w] at another size, by ONNX's own reference."""
    resize = ReferenceEvaluator(
        onnx.parser.parse_model(
            """<ir_version: 8, opset_import: ["" : 18]>
            g (float[N, M, H, W] x, int64[4] sizes) => (float[N, M, P, Q] y) {
              y = Resize <mode="linear", coordinate_transformation_mode="half_pixel"> (x, , , sizes)
            }"""
        )
    )
    (found,) = resize.run(None, {"x": values.astype("f4"), "sizes": np.array(sizes)})
    return found


@pytest.mark.parametrize("size", [(12, 20), (17, 23), (9, 31), (4, 5)])
def test_maps_are_enlarged_as_onnx_resize_does(size):
    values = np.random.default_rng(4).random((5, 4, 5))
    masks = kept(maps((3, *size), values))
    # float32 coordinates here, float64 there
    np.testing.assert_allclose(masks, resized(values[:, None], (5, 1, *size)), atol=1e-5)
    assert masks.shape == (5, 1, *size)


@pytest.mark.parametrize("size", [(12, 20), (17, 23), (9, 31), (40, 5)])
def test_stretched_maps_reach_from_0_to_1_over_the_image_s_pixels(size):
    values = np.random.default_rng(4).normal(3, 20, (6, 4, 5))
    values[2] = -7
    masks = kept(maps((3, *size), values, stretch=True))
    wide = resized(values[:, None], (6, 1, *size))
    low, high = (f(axis=(2, 3), keepdims=True) for f in (wide.min, wide.max))
    want = (wide - low) / np.where(high > low, high - low, 1)
    np.testing.assert_allclose(masks, want, atol=2e-5)
    others = [0, 1, 3, 4, 5]
    np.testing.assert_allclose(masks[others].min(axis=(1, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(masks[others].max(axis=(1, 2, 3)), 1, atol=1e-6)
    assert not masks[2].any(), "a constant map keeps nothing"


@pytest.mark.parametrize(("size", "cells"), [((12, 20), (3, 4)), ((17, 23), 7), ((9, 31), (1, 5))])
def test_rise_upsamples_as_onnx_resize_does(size, cells):
    plan = rise((3, *size), 5, cells=cells, probability=0.4, seed=2)
    rows, cols = plan.grids.shape[1:]
    cell = (-(-size[0] // rows), -(-size[1] // cols))
    wide = resized(plan.grids[:, None], (5, 1, (rows + 1) * cell[0], (cols + 1) * cell[1]))
    masks = kept(plan)
    for mask, full, (y, x) in zip(masks, wide, plan.shifts, strict=True):
        assert y < cell[0]
        assert x < cell[1]
        # float32 coordinates here, float64 there
        np.testing.assert_allclose(mask, full[:, y : y + size[0], x : x + size[1]], atol=1e-5)
    assert masks.shape == (5, 1, *size)


def test_rise_is_its_seeds():
    a, b, c = (rise((3, 32, 32), 2000, probability=0.3, seed=s) for s in (1, 1, 2))
    assert (a.grids == b.grids).all()
    assert (a.shifts == b.shifts).all()
    assert (a.grids != c.grids).any()
    assert abs(a.grids.mean() - 0.3) < 0.01
    assert a.shifts.max() == 4
    assert a.shifts.min() == 0


IMAGE = (3, 8, 10)
BAD_PLANS = [
    (lambda: sliding(IMAGE, 9, 1), "window 9x9 is larger than the image, 8x10"),
    (lambda: sliding(IMAGE, (4, 2, 2), 1), "window 4x2x2 is larger than the image, 3x8x10"),
    (lambda: sliding(IMAGE, 4, 0), "stride 0"),
    (lambda: sliding(IMAGE, 4, (1, 0)), "stride"),
    (lambda: sliding(IMAGE, 0, 1), "window 0"),
    (lambda: sliding(IMAGE, -3, 1), "window -3"),
    (lambda: sliding(IMAGE, 2.5, 1), "window 2.5"),
    (lambda: sliding(IMAGE, (1, 2, 3, 4), 1), "window"),
    (lambda: sliding(IMAGE, 4, 1, edges="wrap"), "edges 'wrap'"),
    (lambda: sliding((8, 10), 4, 1), "image shape"),
    (lambda: rise(IMAGE, 0), "0 masks"),
    (lambda: rise(IMAGE, 99_999_999_999), "99999999999 masks of 7x7 cells; accepted: at most"),
    (lambda: rise(IMAGE, 5, cells=0), "0x0 cells"),
    (lambda: rise(IMAGE, 5, cells=9), "9x9 cells"),
    (lambda: rise(IMAGE, 5, probability=0), "probability 0"),
    (lambda: rise(IMAGE, 5, probability=1.5), "probability 1.5"),
    (lambda: rise(IMAGE, 5, seed=-1), "seed -1; accepted: 0 or more"),
    (lambda: segments(IMAGE, np.zeros((8, 9), int), [[1]]), r"segment map has shape \[8, 9\]"),
    (lambda: segments(IMAGE, np.zeros((8, 10)), [[1]]), "segment map has dtype float64"),
    (lambda: segments(IMAGE, np.full((8, 10), 2), [[1, 0]]), "segment labels 2..2"),
    (lambda: segments(IMAGE, np.full((8, 10), -1), [[1, 0]]), "segment labels -1..-1"),
    (lambda: segments(IMAGE, np.zeros((8, 10), int), [[2]]), "other values than 0"),
    (lambda: segments(IMAGE, np.zeros((8, 10), int), [1, 0]), "segment table has shape"),
    (lambda: maps(IMAGE, np.zeros((4, 4))), r"maps are float64 \[4, 4\]; accepted: numbers"),
    (lambda: maps(IMAGE, np.zeros((0, 4, 4))), r"maps are float64 \[0, 4, 4\]"),
    (lambda: maps(IMAGE, np.zeros((1, 9, 4))), "maps of 9x4; accepted: no larger than .* 8x10"),
    (lambda: maps(IMAGE, np.full((1, 2, 2), np.nan)), "maps have values that are not finite"),
    (lambda: maps(IMAGE, np.full((1, 2, 2), 1.5)), "maps have values outside 0"),
]


@pytest.mark.parametrize(("make", "message"), BAD_PLANS)
def test_bad_plans_say_what_would_be_accepted(make, message):
    with pytest.raises(UsageError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
