"""What tells two models apart: their bytes, and those of the weights beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from backlight.engine.runtime.digest import hash_with, model_hash

from .. import models


def test_a_file_is_its_bytes(tiny: Path, tmp_path: Path) -> None:
    held = tiny.read_bytes()
    assert model_hash(tiny) == model_hash(held)
    other = tmp_path / "elsewhere.onnx"
    other.write_bytes(held)
    assert model_hash(other) == model_hash(tiny)
    onnx.save(models.tiny(body=models.BODY.replace("Relu", "Sigmoid")), other)
    assert model_hash(other) != model_hash(tiny)


def test_weights_beside_the_file_count(tmp_path: Path) -> None:
    file = tmp_path / "m.onnx"
    onnx.save(models.tiny(), file, save_as_external_data=True, size_threshold=0, location="m.data")
    before = model_hash(file)
    data = bytearray((tmp_path / "m.data").read_bytes())
    data[0] ^= 1
    (tmp_path / "m.data").write_bytes(data)
    assert model_hash(file) != before


def test_what_is_fed_beside_the_images_counts() -> None:
    one, two = np.float32([1, 2]), np.float32([[1], [2]])
    found = {
        hash_with("a", held)
        for held in ({}, {"m": one}, {"n": one}, {"m": two}, {"m": one.astype(np.float64)})
    }
    assert len(found) == 5
    assert hash_with("a", {"m": one, "n": two}) == hash_with("a", {"n": two, "m": one})
