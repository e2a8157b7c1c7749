"""TIFF files written by hand."""

from __future__ import annotations

import struct

import numpy as np


def written(values: np.ndarray, order: str = "<", planar: bool = False, deflate: bool = False,
            predictor: int = 1, floats: bool = False) -> bytes:  # fmt: skip
    """A TIFF of a strip a plane, by hand: [H, W, C]."""
    import zlib

    height, width, depth = values.shape
    held = values.astype(values.dtype.newbyteorder(order))
    planes = [held[..., i] for i in range(depth)] if planar else [held]
    data = [p.tobytes() for p in planes]
    if predictor == 2:
        data = [
            np.diff(p, axis=1, prepend=np.zeros_like(p[:, :1])).astype(held.dtype).tobytes()
            for p in planes
        ]
    data = [zlib.compress(d) if deflate else d for d in data]
    at, offsets = 8, []
    for piece in data:
        offsets.append(at)
        at += len(piece)
    bits, kind = values.dtype.itemsize * 8, 3 if floats else 1
    tags = [(256, [width]), (257, [height]), (258, [bits] * depth), (259, [8 if deflate else 1]),
            (262, [1]), (273, offsets), (277, [depth]), (278, [height]),
            (279, [len(d) for d in data]), (284, [2 if planar else 1]), (317, [predictor]),
            (339, [kind] * depth)]  # fmt: skip
    body = b"".join(data)
    body += b"\0" * (len(body) % 2)
    first = 8 + len(body)
    beyond, more = first + 2 + 12 * len(tags) + 4, b""
    entries = b""
    for tag, held_values in tags:
        packed = struct.pack(f"{order}{len(held_values)}I", *held_values)
        if len(packed) > 4:
            entries += struct.pack(f"{order}HHII", tag, 4, len(held_values), beyond + len(more))
            more += packed
        else:
            entries += struct.pack(f"{order}HHI", tag, 4, len(held_values)) + packed
    start = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", first)
    count = struct.pack(f"{order}H", len(tags))
    return start + body + count + entries + b"\0\0\0\0" + more
