"""Cuts a model down while it still fails as it did."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import onnx

TRIES = 120


def smaller(data: bytes, still: Callable[[bytes], bool]) -> bytes:
    """The smallest model found, in at most TRIES tries. still: whether it fails as before."""
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except Exception:  # bytes that are no message: nothing to take out of one
        return data
    left = TRIES
    if not still(model.SerializeToString()):
        return data
    progress = True
    while progress and left > 0:
        progress = False
        at = 0
        while left > 0:
            candidate = onnx.ModelProto()
            candidate.CopyFrom(model)
            lists = list(_lists(candidate))
            if at >= sum(len(part) for part in lists):
                break
            place = at
            for part in lists:
                if place < len(part):
                    # From the end: what is made last is needed least.
                    del part[len(part) - 1 - place]
                    break
                place -= len(part)
            left -= 1
            if still(candidate.SerializeToString()):
                model, progress = candidate, True
            else:
                at += 1
    return model.SerializeToString()


def _lists(model: onnx.ModelProto) -> Iterator[Any]:
    """What elements can be taken out of."""
    graph = model.graph
    yield model.functions
    yield graph.value_info
    yield graph.node
    yield graph.initializer
    yield model.metadata_props
    yield graph.output
    yield graph.input
    for node in graph.node:
        yield node.attribute
