"""Claims: embeddings and top patches of a folder at 0.95 of the bare forward pass
(benchmarks.embed, benchmarks.patches); and that resampling in C++ pays against Pillow's own."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from backlight.engine.inside.patches import patches
from backlight.engine.inside.taps import layers
from backlight.engine.photos import images
from backlight.engine.runtime.session import Session
from backlight.engine.similar.embed import Embedder, embed
from backlight.kernels.streams.resample import resample
from backlight.lanes import cores

from ..pictures import made_pictures

COUNT, BATCH = 32, 16


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return made_pictures(tmp_path_factory.mktemp("pictures"), COUNT)


@pytest.mark.parametrize("task", ["forward", "embed", "patches"])
def test_a_folder(benchmark, model, pictures, task, tmp_path):
    pytest.importorskip("pyarrow", reason="pip install '.[maps]'")
    benchmark.group = f"a folder of {COUNT} pictures"
    embedder = Embedder(model, providers="cpu")
    record = images.fitted(embedder.preprocess, embedder.input)
    last = [x.name for x in layers(model) if x.op == "Relu" and x.field.is_spatial][-1]

    def forward() -> None:
        for _ in range(COUNT // BATCH):
            bare.run({bare.inputs[0].name: x})

    def embedded() -> None:
        embed(embedder, pictures, tmp_path / "store", preprocess=record, batch=BATCH, force=True)

    def strongest() -> None:
        patches(model, pictures, [last], preprocess=record, batch=BATCH, providers="cpu")

    if task == "forward":
        bare = Session(str(model), "cpu", cores())
        first = sorted(pictures.iterdir())[:BATCH]
        made = (images.prepare(images.decode(f), record, embedder.input).tensor for f in first)
        x = np.stack(list(made))
    run = {"forward": forward, "embed": embedded, "patches": strongest}[task]
    benchmark.pedantic(run, rounds=3, warmup_rounds=1)


@pytest.mark.parametrize("size", [(375, 500), (1080, 1920)])
@pytest.mark.parametrize("by", ["pillow", "native"])
def test_resampling(benchmark, by, size):
    """The shorter side to 256, bicubic, from Pillow's pixels to an array."""
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    photo, wanted = Image.fromarray(pixels), (256, 256 * size[1] // size[0])
    benchmark.group = f"resampling {size[1]} x {size[0]}"
    if by == "pillow":
        benchmark(lambda: np.asarray(photo.resize(wanted[::-1], Image.Resampling.BICUBIC)))
    elif resample(photo, wanted, "bicubic") is None:
        pytest.skip("no native module, or a Pillow without the Arrow interface")
    else:
        benchmark(lambda: resample(photo, wanted, "bicubic"))
