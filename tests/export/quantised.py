"""Quantised models, as onnxruntime makes them. Import after `importorskip("onnxruntime")`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime import quantization


def quantised(model: Path, x: np.ndarray, folder: Path, **options: Any) -> Path:
    """What onnxruntime's static quantization makes of a model, calibrated on x [N, ...].

    Seven bits for weights: without VNNI, the runtime's kernels for uint8 activations saturate in
    16 bits with eight, and compute something else.
    """
    name = onnx.load(model, load_external_data=False).graph.input[0].name

    class Reader(quantization.CalibrationDataReader):
        rows = iter([{name: row[None]} for row in x])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.rows, None)

    out = folder / "quantised.onnx"
    logging.disable(logging.WARNING)  # its advice on preprocessing
    try:
        settings = {
            "quant_format": quantization.QuantFormat.QDQ,
            "weight_type": quantization.QuantType.QInt8,
        }
        quantization.quantize_static(
            model, out, Reader(), reduce_range=True, **{**settings, **options}
        )
    finally:
        logging.disable(logging.NOTSET)
    return out
