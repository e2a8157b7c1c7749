"""One test for all backends: apply and reduce against the NumPy oracle, bit for bit."""

import numpy as np
import pytest

from backlight.errors import UsageError
from backlight.kernels import (
    Accumulator,
    apply,
    available_backends,
    get_backend,
    maps,
    paint,
    reduce,
    rise,
    segments,
    sliding,
)
from backlight.kernels.reference import kept

from .conftest import to_numpy

DTYPES = ("float32", "float16", "uint8")

# Odd sizes leave rows, variants and planes off any 16-byte boundary; (4, 8, 16) keeps them on it.
SHAPES = [(3, 13, 17), (1, 7, 5), (2, 1, 9), (5, 11, 1), (4, 8, 16), (3, 20, 33)]


def plans(shape):
    rng = np.random.default_rng(3)
    c, h, w = shape
    yield "windows", sliding(shape, (min(4, h), min(5, w)), (3, 2))
    yield "channel windows", sliding(shape, (1, min(3, h), min(4, w)), 3)
    yield "two channels", sliding(shape, (min(2, c), min(3, h), min(4, w)), 1).select([0, 5, 3, -1])
    yield "valid", sliding(shape, (min(4, h), min(4, w)), 3, edges="valid")
    yield "grids", rise(shape, 9, cells=(min(4, h), min(3, w)), seed=5)
    yield "one cell", rise(shape, 3, cells=1, probability=0.7)
    yield "maps", maps(shape, rng.random((6, min(4, h), min(3, w))))
    yield "stretched maps", maps(shape, rng.normal(0, 9, (5, h, min(2, w))), stretch=True)
    labels = rng.integers(0, 6, (h, w))
    yield "segments", segments(shape, labels, rng.integers(0, 2, (7, 6)))


def picture(shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    if dtype == "uint8":
        return rng.integers(0, 256, shape, dtype=np.uint8)
    return rng.normal(0, 50, shape).astype(dtype)


CASES = [(s, name, i) for s in SHAPES for i, (name, _) in enumerate(plans(s))]


def case_plan(shape, index):
    plan = list(plans(shape))[index][1]
    if hasattr(plan, "boxes") and len(plan) > 60:
        plan = plan.select(np.linspace(0, len(plan) - 1, 60).astype(int))
    return plan


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "name", "index"), CASES)
def test_apply_equals_the_oracle(backend, put, shape, name, index, dtype):
    plan, image = case_plan(shape, index), picture(shape, dtype)
    for layout in ("nchw", "nhwc"):
        x = image if layout == "nchw" else np.ascontiguousarray(image.transpose(1, 2, 0))
        colour, other = picture(shape[:1], dtype, 1), picture(x.shape, dtype, 2)
        for base in (colour, other):
            want = apply(x, plan, base, layout=layout, backend="numpy")
            got = apply(put(x), plan, put(base), layout=layout, backend=backend)
            np.testing.assert_array_equal(to_numpy(got), want)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [0, 1, 3])
def test_apply_writes_a_slice_into_the_callers_buffer(backend, put, dtype, offset):
    # The buffer starts off any boundary, and what lies around the slice stays as it was.
    shape = (3, 9, 11)
    size = int(np.prod(shape))
    image = picture(shape, dtype)
    for _, plan in plans(shape):
        start, stop = 1, min(4, len(plan))
        flat = put(np.full(offset + (stop - start) * size + 40, 7, dtype))
        out = flat[offset : offset + (stop - start) * size].reshape(stop - start, *shape)
        got = apply(put(image), plan, 0, out, start, stop, backend=backend)
        assert got is out
        want = apply(image, plan, 0, backend="numpy")[start:stop]
        np.testing.assert_array_equal(to_numpy(out), want)
        assert (to_numpy(flat)[:offset] == 7).all()
        assert (to_numpy(flat)[-40:] == 7).all()


@pytest.mark.parametrize("overlap", ["mean", "sum"])
@pytest.mark.parametrize(("shape", "name", "index"), CASES)
def test_reduce_equals_the_oracle(backend, put, shape, name, index, overlap):
    plan = case_plan(shape, index)
    values = np.random.default_rng(1).normal(size=(3, len(plan)))
    want = reduce(values, plan, overlap=overlap, backend="numpy")
    got = to_numpy(reduce(put(values), plan, overlap=overlap, backend=backend))
    assert got.dtype == np.float32
    assert got.shape == (3, *(shape if plan.channelwise else shape[1:]))
    # atol: float64 sums of 60 in another order, then rounded to float32
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7)
    one = to_numpy(reduce(put(values[1]), plan, overlap=overlap, backend=backend))
    np.testing.assert_allclose(one, want[1], rtol=1e-6, atol=1e-7)


def test_values_that_come_in_parts_give_the_whole_map(backend, put):
    shape = (3, 13, 17)
    for _, plan in plans(shape):
        values = np.random.default_rng(1).normal(size=(2, len(plan)))
        total = Accumulator(plan, 2, backend=backend)
        for start in range(0, len(plan), 4):
            total.add(put(values[:, start : start + 4]))
        assert total.count == len(plan)
        want = reduce(values, plan, backend="numpy")
        np.testing.assert_allclose(to_numpy(total.heat()), want, rtol=1e-6, atol=1e-7)


def test_reduce_of_two_windows_by_hand(backend, put):
    # Columns 0..1 and 1..2 of one row of three, drops 1 and 5: the middle pixel is under both.
    plan = sliding((1, 1, 3), (1, 2), 1)
    drops = put(np.array([1.0, 5.0]))
    assert to_numpy(reduce(drops, plan, backend=backend)).tolist() == [[1, 3, 5]]
    assert to_numpy(reduce(drops, plan, overlap="sum", backend=backend)).tolist() == [[1, 6, 5]]


def test_pixels_that_no_window_hides_are_zero(backend, put):
    plan = sliding((1, 1, 5), (1, 2), 2, edges="valid")
    heat = to_numpy(reduce(put(np.array([1.0, 2.0])), plan, backend=backend))
    assert heat.tolist() == [[1, 1, 2, 2, 0]]


def test_paint_gives_each_pixel_its_segments_value(backend, put):
    plan = segments((3, 2, 2), [[0, 1], [1, 2]], [[1, 1, 1]])
    values = np.array([[0.5, -1, 3], [1, 2, 4]])
    got = to_numpy(paint(put(values), plan, backend=backend))
    assert got.tolist() == [[[0.5, -1], [-1, 3]], [[1, 2], [2, 4]]]
    assert to_numpy(paint(put(values[0]), plan, backend=backend)).tolist() == got[0].tolist()


@pytest.mark.parametrize("dtype", DTYPES)
def test_many_variants_on_all_cores_equal_the_oracle(dtype):
    # Above 16 MiB the native backend writes past the cache, and with few variants it splits
    # them by rows: paths that the small cases don't take.
    shape = (3, 150, 131)
    image = picture(shape, dtype)
    n = 90 * 4 // image.itemsize
    for plan in (
        sliding(shape, 31, 5),
        rise(shape, n),
        maps(shape, np.random.default_rng(2).random((n, 7, 7))),
        segments(shape, np.arange(150 * 131).reshape(150, 131) % 50, np.eye(n, 50, dtype=int)),
    ):
        want = apply(image, plan, "mean", stop=n, backend="numpy")
        assert want.nbytes > 16 << 20
        got = apply(image, plan, "mean", stop=n, backend="cpp")
        assert np.array_equal(got, want)
        few = apply(image, plan, "mean", start=3, stop=5, backend="cpp")
        assert np.array_equal(few, want[3:5])


def test_bytes_are_blended_to_the_nearest(backend, put):
    # Every pair of bytes through masks of many weights, against the exact blend.
    image = np.repeat(np.arange(256, dtype=np.uint8), 256).reshape(1, 256, 256)
    base = np.tile(np.arange(256, dtype=np.uint8), 256).reshape(1, 256, 256)
    plan = rise(image.shape, 2, cells=9, seed=1)
    keep = kept(plan).astype(np.float64)
    exact = image * keep + base * (1 - keep)
    got = to_numpy(apply(put(image), plan, put(base), backend=backend))
    assert np.abs(got - exact).max() <= 0.5 + 1 / 85
    np.testing.assert_array_equal(got[keep == 1], np.broadcast_to(image, keep.shape)[keep == 1])
    np.testing.assert_array_equal(got[keep == 0], np.broadcast_to(base, keep.shape)[keep == 0])


def test_native_float16_rounds_as_numpy_does():
    # Every half through a mask that keeps all of it, and one that mixes at 0.5.
    bits = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    bits = bits[np.isfinite(bits)].reshape(1, 1, -1)
    plan = rise(bits.shape, 6, cells=(1, 9), seed=1)
    for base in (np.zeros_like(bits), np.roll(bits, 77)):
        with np.errstate(over="ignore"):
            want = apply(bits, plan, base, backend="numpy")
        got = apply(bits, plan, base, backend="cpp")
        np.testing.assert_array_equal(got.view(np.uint16), want.view(np.uint16))


BAD_CALLS = [
    ({"image": np.zeros((3, 8, 9), "f4")}, "image has shape"),
    ({"image": np.zeros((3, 8, 8), "f8")}, "image of type float64"),
    ({"image": [1, 2]}, "image of type list"),
    ({"out": np.zeros((1, 3, 8, 8), "f4")}, "out is float32"),
    ({"out": np.zeros((4, 3, 8, 8), "f2")}, "out is float16"),
    ({"out": np.zeros((4, 3, 8, 16), "f4")[..., ::2]}, "out is float32"),
    ({"baseline": np.zeros((3, 8, 9), "f4")}, "baseline has shape"),
    ({"baseline": np.zeros(2, "f4")}, "baseline has shape"),
    ({"start": 2, "stop": 99}, "variants 2..99"),
    ({"start": -1}, "variants -1.."),
    ({"layout": "chwn"}, "layout"),
    ({"backend": "opencl"}, "backend 'opencl'"),
]


@pytest.mark.parametrize(("change", "message"), BAD_CALLS)
def test_bad_calls_say_what_would_be_accepted(change, message):
    call = {"image": np.zeros((3, 8, 8), "f4"), "plan": sliding((3, 8, 8), 4, 4)} | change
    with pytest.raises(UsageError, match=message.replace(".", r"\.")) as caught:
        apply(**call)
    assert "accepted" in str(caught.value)


def test_bad_values_say_what_would_be_accepted():
    plan = sliding((3, 8, 8), 4, 4)
    with pytest.raises(UsageError, match="3 values for a plan of 4"):
        reduce(np.zeros(3), plan)
    with pytest.raises(UsageError, match="values have shape"):
        Accumulator(plan, 2).add(np.zeros(4))
    with pytest.raises(UsageError, match="overlap"):
        Accumulator(plan, overlap="max")
    with pytest.raises(UsageError, match=r"within 0\.\.4"):
        Accumulator(plan).add(np.zeros(3), 2)


def test_asking_for_a_gpu_that_is_not_there_is_one_clear_line():
    if "cuda" in available_backends():
        pytest.skip("there is a GPU here")
    with pytest.raises(UsageError, match="accepted here: 'cpp', 'numpy'") as caught:
        get_backend("cuda")
    assert "\n" not in str(caught.value)


def test_auto_takes_the_native_backend():
    assert get_backend("auto").name == "cpp"
