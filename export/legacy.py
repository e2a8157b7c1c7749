"""What ONNX's own version converter can't take, rewritten before it runs."""

from __future__ import annotations

import onnx_ir as ir


def soften(model: ir.Model) -> None:
    """Rewrite, in place, forms of old opsets that the converter refuses or gets wrong."""
    model.ir_version = max(model.ir_version, 4)
