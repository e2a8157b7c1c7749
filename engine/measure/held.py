"""What a backward pass holds of the forward pass, by the shapes in its file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from ...export import traits
from .subjects import Subject

__all__ = ["activations"]


def activations(subject: Subject, feeds: Mapping[str, NDArray[Any]]) -> float | None:
    """MiB of the model's own tensors that nodes of the backward pass read; None of an Explainer,
    whose graphs are its own."""
    if subject.methods:
        return None
    graph = ir.load(subject.path).graph
    sizes: dict[str, int] = {}
    for value in graph.inputs:
        fed = feeds.get(value.name or "")
        for at, dim in enumerate(value.shape or () if fed is not None else ()):
            if fed is not None and not isinstance(dim, int) and dim.value is not None:
                sizes[str(dim.value)] = fed.shape[at]
    total = 0.0
    for node in graph:
        for value in () if _ours(node) else node.outputs:
            if not any(_ours(u.node) and u.node.op_type not in _SHAPES for u in value.uses()):
                continue
            if value.shape is None or value.dtype is None:
                return None
            dims = [d if isinstance(d, int) else sizes.get(str(d.value)) for d in value.shape]
            if None in dims:
                return None
            total += value.dtype.itemsize * math.prod(d for d in dims if d is not None)
    return total / 2**20


_SHAPES = traits.ASKS_SIZE


def _ours(node: ir.Node) -> bool:
    return (node.name or "").startswith("backlight/")
