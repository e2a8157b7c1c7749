"""What the server takes of a machine unless it is told otherwise: figures, in one place."""

from __future__ import annotations

__all__ = ["BASE", "PIXELS"]

# A worker before it has loaded a model: Python, NumPy, ONNX Runtime.
BASE = 200 << 20
# Of one picture that a request brings, at most.
PIXELS = 1 << 26
