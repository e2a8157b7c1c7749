"""How far from grey is what 'backlight maximize' makes, and whose doing is it?

python tools/colour_cast.py [MODEL PREPROCESS]

For 12 classes of ImageNet: by how much blue exceeds the mean of red and green, as it is, from other
starts, and with the colours of weights, input and start swapped (a loop that treats the colours
alike makes the same images then); and what the scores lose when each image is made grey on average.
Default: the bundled model, for images of 97 pixels.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from backlight.engine.cli.options import BUNDLED
from backlight.engine.inside import synthesis
from backlight.engine.inside.maximization import Maximizer
from backlight.engine.photos import images
from backlight.export.preprocess import Preprocess, of_metadata, parse

CLASSES = (967, 281, 130, 340, 1, 309, 417, 555, 951, 985, 920, 718)
SIDE, STEPS = 97, 45


def bundled() -> tuple[onnx.ModelProto, Preprocess]:
    """The model, for small images, and its preprocessing."""
    model = onnx.load(str(BUNDLED))
    for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_value = SIDE
    del model.graph.value_info[:]
    record = of_metadata({p.key: p.value for p in model.metadata_props}, BUNDLED.name)
    assert record is not None
    return model, dataclasses.replace(record, size=(SIDE, SIDE))


def swapped(model: onnx.ModelProto, record: Preprocess) -> tuple[onnx.ModelProto, Preprocess]:
    """The same function of a picture, of inputs with the colours in the other order."""
    turned = onnx.ModelProto()
    turned.CopyFrom(model)
    first = next(n for n in turned.graph.node if n.op_type == "Conv").input[1]
    (weight,) = (t for t in turned.graph.initializer if t.name == first)
    values = np.ascontiguousarray(onnx.numpy_helper.to_array(weight)[:, ::-1])
    weight.CopyFrom(onnx.numpy_helper.from_array(values, first))
    color = "RGB" if record.color == "BGR" else "BGR"
    means, stds = record.mean[::-1], record.std[::-1]
    return turned, dataclasses.replace(record, color=color, mean=means, std=stds)


def report(name: str, model: Any, record: Preprocess, seed: int) -> NDArray[np.float64]:
    """Make the images, print a line. Returns them, RGB."""
    maker = Maximizer(model, steps=STEPS, seed=seed, threads=1, preprocess=record)
    made = maker(CLASSES)
    layout, settled = maker.spec.layout, maker.preprocess
    rgb = np.stack([images.to_pixels(i[0], settled, layout) for i in made.images]).astype(float)
    means = rgb.mean(axis=(1, 2))
    excess = means[:, 2] - means[:, :2].mean(axis=1)
    grey = rgb + (means.mean(axis=1, keepdims=True) - means)[:, None, None]
    by_model = grey[..., ::-1] if settled.color == "BGR" else grey
    x = maker.pixels.to_input(
        by_model.clip(0, 255).transpose(0, 3, 1, 2).astype(np.float32) - 127.5
    )
    scores = maker.taps(x)[maker.layer].reshape(len(CLASSES), -1)[range(len(CLASSES)), CLASSES]
    print(
        f"{name:<24} mean RGB {' '.join(f'{v:.0f}' for v in means.mean(axis=0))}, "
        f"blue exceeds by {excess.mean():.1f} +- {excess.std() / len(excess) ** 0.5:.1f} "
        f"({excess.min():.0f} of class {CLASSES[int(excess.argmin())]} to "
        f"{excess.max():.0f} of {CLASSES[int(excess.argmax())]}); "
        f"mean score {made.values.mean():.1f}, made grey on average {scores.mean():.1f}",
        flush=True,
    )
    return rgb


def main(path: str | None = None, preprocess: str | None = None) -> None:
    """Print a line for each case."""
    if path is not None and preprocess is not None:
        report("as it is", path, parse(preprocess), 0)
        return
    model, record = bundled()
    plain = report("as it is", model, record, 0)
    for seed in (1, 2, 3):
        report(f"another start, seed {seed}", model, record, seed)
    start = synthesis.noise

    def turned(*given: Any) -> Any:
        return np.ascontiguousarray(start(*given)[:, ::-1])

    synthesis.noise = turned
    other = report("colours swapped", *swapped(model, record), 0)
    synthesis.noise = start
    gap = np.abs(other.mean(axis=(1, 2)) - plain.mean(axis=(1, 2))).max()
    print(f"swapped and back: mean colours differ by at most {gap:.2f} of 255")


if __name__ == "__main__":
    main(*sys.argv[1:])
