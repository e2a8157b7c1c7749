"""Claims: masked variants at 0.8 of the speed of a plain copy, and five times captum's
(benchmarks.masks)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from backlight.kernels import apply, get_backend, reduce, resolve
from backlight.kernels.families import rise, sliding
from backlight.lanes import cores

from ..masks import beside_captum, copies, picture, plans

SIZE, VARIANTS = 224, 128
PLANS = dict(plans(SIZE, VARIANTS))


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
@pytest.mark.parametrize("name", [*PLANS, "copy, 1 thread", "copy, all threads"])
def test_variants_against_a_copy(benchmark, name, dtype):
    benchmark.group = f"{VARIANTS} masked variants, {dtype}"
    image = picture(SIZE, dtype)
    stop = min([VARIANTS, *map(len, PLANS.values())])
    out = np.zeros((stop, *image.shape), image.dtype)
    if name in PLANS:
        backend, base = get_backend("cpp"), resolve("mean", image)
        benchmark(lambda: apply(image, PLANS[name], base, out, 0, stop, backend=backend))
        return
    count = cores()
    with ThreadPoolExecutor(count) as pool:
        benchmark(copies(out, np.ones_like(out), pool, count)[name])


@pytest.mark.parametrize("side", ["apply", "captum"])
def test_variants_against_captum(benchmark, side):
    pytest.importorskip("captum")
    benchmark.group = "building windows' variants"
    benchmark.pedantic(beside_captum(SIZE, VARIANTS)[side], rounds=5, warmup_rounds=1)


@pytest.mark.parametrize("classes", [1, 10])
@pytest.mark.parametrize("name", ["windows", "grids"])
def test_reducing(benchmark, name, classes):
    benchmark.group = "drops to maps"
    shape = (3, SIZE, SIZE)
    plan = sliding(shape, 16, 4) if name == "windows" else rise(shape, 4000)
    values = np.random.default_rng(0).normal(size=(classes, len(plan)))
    benchmark(reduce, values, plan, backend="cpp")
