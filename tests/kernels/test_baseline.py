"""Baselines: each kind by hand, in either space, and what is refused."""

import numpy as np
import pytest

from backlight.errors import UsageError
from backlight.kernels import Baseline, InputSpace, as_baseline, resolve

IMAGE = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
CAFFE = InputSpace(mean=(100, 110, 120), order="bgr")


def test_colours():
    assert resolve("zero", IMAGE).tolist() == [0, 0]
    assert resolve(0.5, IMAGE).tolist() == [0.5, 0.5]
    assert resolve("0.5", IMAGE).tolist() == [0.5, 0.5]
    assert resolve((1, 2), IMAGE).tolist() == [1, 2]
    assert resolve("1,2", IMAGE).tolist() == [1, 2]
    assert resolve("mean", IMAGE).tolist() == [5.5, 17.5]
    nhwc = np.ascontiguousarray(IMAGE.transpose(1, 2, 0))
    assert resolve("mean", nhwc, layout="nhwc").tolist() == [5.5, 17.5]


def test_pixels_become_the_models_input():
    image = np.zeros((3, 2, 2), np.float32)
    black = resolve(as_baseline("zero", "pixels"), image, space=CAFFE)
    assert black.tolist() == [-100, -110, -120]
    red = resolve(as_baseline((255, 0, 0), "pixels"), image, space=CAFFE)
    assert red.tolist() == [-100, -110, 135]
    torch_like = InputSpace(1 / 255, (0.5, 0.5, 0.5), (0.25, 0.5, 1))
    white = resolve(as_baseline(255, "pixels"), image, space=torch_like)
    np.testing.assert_allclose(white, [2, 1, 0.5], rtol=1e-6)  # float32 of 1 / 255
    photo = np.zeros((2, 2, 3), np.uint8)
    photo[0, 1] = (10, 20, 30)
    seen = resolve(as_baseline(photo, "pixels"), image, space=CAFFE)
    assert seen.shape == image.shape
    assert seen[:, 0, 1].tolist() == [-70, -90, -110]
    nhwc = resolve(
        as_baseline(photo, "pixels"), np.zeros((2, 2, 3), "f4"), layout="nhwc", space=CAFFE
    )
    assert nhwc[0, 1].tolist() == [-70, -90, -110]


def test_an_image_stands_for_itself():
    assert (resolve(IMAGE + 1, IMAGE) == IMAGE + 1).all()
    assert resolve((IMAGE + 0.25).astype("f8"), IMAGE.astype("f2")).dtype == np.float16


def test_blur_keeps_a_flat_image_and_spreads_a_point():
    flat = np.full((1, 9, 7), 3, np.float32)
    np.testing.assert_allclose(resolve("blur:2", flat), flat, rtol=1e-6)
    point = np.zeros((1, 21, 21), np.float32)
    point[0, 10, 10] = 1
    blurred = resolve("blur:1", point)[0]
    # A normalised Gaussian of sigma 1, cut at 3: the centre is 1 / (sum of weights)^2.
    weights = np.exp(-0.5 * np.arange(-3, 4) ** 2)
    want = np.outer(weights, weights) / weights.sum() ** 2
    np.testing.assert_allclose(blurred[7:14, 7:14], want, rtol=1e-5)
    assert abs(blurred.sum() - 1) < 1e-5
    nhwc = resolve("blur:1", np.ascontiguousarray(point.transpose(1, 2, 0)), layout="nhwc")
    assert (nhwc[..., 0] == blurred).all()


def test_noise_is_its_seeds_and_has_the_images_moments():
    image = np.random.default_rng(0).normal(5, 2, (3, 64, 64)).astype("f4")
    a, b, c = (resolve(n, image) for n in ("noise:1", "noise:1", "noise:2"))
    assert (a == b).all()
    assert (a != c).any()
    assert abs(a.mean() - 5) < 0.1
    assert abs(a.std() - 2) < 0.1


def test_bytes_are_rounded_and_kept_in_range():
    image = np.array([[[0, 255]], [[255, 255]]], np.uint8)
    assert resolve("mean", image).tolist() == [128, 255]
    assert resolve("noise", image).dtype == np.uint8
    assert resolve(254.5, image).tolist() == [255, 255]


def test_arrays_of_other_libraries():
    torch = pytest.importorskip("torch")
    colour = torch.tensor([0.5, -1.0], requires_grad=True)
    assert resolve(colour, IMAGE).tolist() == [0.5, -1.0]
    other = torch.from_numpy(IMAGE[:, :, ::-1].copy()).flip(2)
    np.testing.assert_array_equal(resolve(as_baseline(other), IMAGE), IMAGE)
    with pytest.raises(UsageError, match="baseline .*bfloat16.*; accepted"):
        resolve(colour.bfloat16(), IMAGE)


@pytest.mark.filterwarnings("error")  # a second line on stderr
def test_beyond_the_range_of_floats():
    for value in (1e39, [1e300, 0]):
        with pytest.raises(UsageError, match="outside the range of a float32 image"):
            resolve(value, IMAGE)
    with pytest.raises(UsageError, match="not finite"):
        resolve(Baseline("constant", 1e38, "pixels"), IMAGE, space=InputSpace(std=(1e-9,)))


BAD = [
    (lambda: resolve("median", IMAGE), "baseline 'median'"),
    (lambda: resolve("blur:x", IMAGE), "baseline 'blur:x'"),
    (lambda: resolve("blur:0", IMAGE), "sigma 0"),
    (lambda: resolve((1, 2, 3), IMAGE), r"baseline has shape \[3\]"),
    (lambda: resolve(np.zeros((2, 3, 5)), IMAGE), r"baseline has shape \[2, 3, 5\]"),
    (lambda: resolve(np.zeros((2, 3)), IMAGE), r"baseline has shape \[2, 3\]"),
    (lambda: resolve(float("nan"), IMAGE), "not finite"),
    (lambda: resolve("noise:-1", IMAGE), "noise seed -1; accepted: 0 or more"),
    (lambda: resolve(IMAGE.astype("c8"), IMAGE), "baseline is complex64; accepted: real"),
    (lambda: resolve(70000, IMAGE.astype("f2")), "outside the range of a float16 image"),
    (lambda: resolve(300, IMAGE.astype(np.uint8)), "outside 0..255"),
    (lambda: resolve(Baseline("zero", space="pixels"), IMAGE), "needs the model's preprocessing"),
    (lambda: resolve(Baseline("colour"), IMAGE), "needs a value"),
    (lambda: as_baseline("zero", "rgb"), "baseline space 'rgb'"),
    (lambda: as_baseline({}), "baseline {}"),
    (lambda: as_baseline(None), "baseline None; accepted"),
    (lambda: as_baseline(10**400), "baseline 1000"),
]


@pytest.mark.parametrize(("make", "message"), BAD)
def test_bad_baselines_are_one_line(make, message):
    with pytest.raises(UsageError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
