"""What the server takes of a machine unless it is told otherwise, and of pictures: figures, in one
place."""

from __future__ import annotations

__all__ = ["BASE", "MAGIC", "PIXELS"]

# A worker before it has loaded a model: Python, NumPy, ONNX Runtime.
BASE = 200 << 20
# Of one picture that a request brings, at most.
PIXELS = 1 << 26
# How a picture begins: what cameras and browsers write, and no rarer decoder.
MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")
