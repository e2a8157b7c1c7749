"""Writes into the bundled SqueezeNet's metadata how it wants to be fed. The weights don't change.

python tools/stamp_bundled_model.py engine/assets/squeezenet1_1.onnx
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import onnx

from backlight.export.preprocess import KEY, PRESETS


def main(path: str) -> None:
    """BGR, 0..255 minus Caffe's means; a crop of 0.887 of the short side, to 227."""
    file = Path(path)
    model = onnx.load(file)
    wanted = replace(PRESETS["imagenet-caffe"], size=(227, 227), crop=0.887)
    kept = [m for m in model.metadata_props if m.key not in (KEY, "backlight.labels")]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    model.metadata_props.add(key=KEY, value=wanted.to_json())
    model.metadata_props.add(key="backlight.labels", value="imagenet")
    file.write_bytes(model.SerializeToString(deterministic=True))


if __name__ == "__main__":
    main(sys.argv[1])
