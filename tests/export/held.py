"""Maps of the methods that the engine holds, as `backlight explain` makes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from backlight.engine.masked.methods import Masking, build
from backlight.engine.masked.scoring import Scorer, no_progress

Array = np.ndarray[Any, Any]


def by_engine(
    name: str, model: onnx.ModelProto, x: Array, target: Any, options: Mapping[str, Any] = {},
) -> list[Array]:  # fmt: skip
    """A map [H, W] for each image, of one target or one each. options: of Masking; on superpixels
    a grid of four, where they don't say how."""
    told = {"segments": "grid:2", **options} if name in ("lime", "kernelshap") else options
    draws = build(name, Scorer(model), Masking(**told))
    targets = np.broadcast_to(target, (len(x),))
    made = [draws.draw(x[i : i + 1], int(targets[i]), no_progress) for i in range(len(x))]
    return [one.maps[name] for one in made]
