"""A batch as a worker is told it, and what comes back."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import wire
from .waiting import Batch

__all__ = ["message_of", "received"]


def message_of(batch: Batch) -> tuple[dict[str, Any], list[Any]]:
    """A run's header, and the buffers of its rows: item by item, then what has no rows, then the
    classes."""
    payloads = [item.payload for item in batch.items]
    first = payloads[0].job
    items = [
        {"rows": item.rows, "pictures": None if p.pictures is None else [*map(len, p.pictures)]}
        for item, p in zip(batch.items, payloads, strict=True)
    ]
    buffers: list[Any] = []
    whole = [name for name, _, _, rows in first["inputs"] if not rows]
    for payload in payloads:
        for name, _, _, rows in first["inputs"]:
            if rows and name == first["image"] and payload.pictures is not None:
                buffers += payload.pictures
            elif rows:
                buffers.append(payload.buffers[name])
    buffers += [payloads[0].buffers[name] for name in whole]
    buffers += [np.concatenate([p.target for p in payloads]),
                np.concatenate([p.contrast for p in payloads])]  # fmt: skip
    return {**first, "do": "run", "items": items}, buffers


def received(stream: Any, told: dict[str, Any], rows: list[int]) -> dict[int, dict[str, Any]]:
    """Each item's rows of the outputs."""
    found: dict[int, dict[str, Any]] = {}
    for run in told.get("runs", ()):
        for output in run["outputs"]:
            at = 0
            if "sizes" in output:
                values: Any = [bytes(wire.read_buffer(stream, n)) for n in output["sizes"]]
            else:
                dtype, shape = np.dtype(output["dtype"]), tuple(output["shape"])
                values = np.empty(shape, dtype)
                wire.read_buffer(stream, values.reshape(-1).view(np.uint8))
            for i in run["items"]:
                mine = values[at : at + rows[i]] if output["rows"] else values
                found.setdefault(i, {})[output["name"]] = mine
                at += rows[i]
    return found
