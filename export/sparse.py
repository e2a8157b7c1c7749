"""Writes sparse tensors out, within a budget: a few numbers may declare a tensor of any size."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx

from ..errors import ModelError

__all__ = ["densify"]

# Bytes that all sparse tensors of a model may take when written out, beside a multiple of what
# they take in the file.
_BYTES, _TIMES = 2**26, 64


def densify(proto: onnx.ModelProto, source: str) -> onnx.ModelProto:
    """The model with sparse tensors written out, in subgraphs and functions too; itself where it
    has none, else a copy. Raises ModelError for one that doesn't fit its own shape, or would
    take more memory than a file of this size may ask for."""
    if not any(_sparse(holder) for holder in _holders(proto)):
        return proto
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    budget = _Budget(source, _BYTES + _TIMES * proto.ByteSize())
    for holder in list(_holders(copy)):
        if isinstance(holder, onnx.GraphProto):
            for tensor in holder.sparse_initializer:
                holder.initializer.append(budget.dense(tensor))
            del holder.sparse_initializer[:]
        elif _sparse(holder):
            (attribute,) = (a for a in holder.attribute if a.HasField("sparse_tensor"))
            dense = budget.dense(attribute.sparse_tensor)
            attribute.CopyFrom(onnx.helper.make_attribute("value", dense))
    return copy


def _sparse(holder: onnx.GraphProto | onnx.NodeProto) -> bool:
    if isinstance(holder, onnx.GraphProto):
        return bool(holder.sparse_initializer)
    return (
        holder.op_type == "Constant"
        and [a.HasField("sparse_tensor") for a in holder.attribute].count(True) == 1
    )


def _holders(proto: onnx.ModelProto) -> Iterator[onnx.GraphProto | onnx.NodeProto]:
    """Every graph and node, in functions and subgraphs too."""
    todo: list[Any] = [proto.graph, *(n for f in proto.functions for n in f.node)]
    while todo:
        held = todo.pop()
        yield held
        if isinstance(held, onnx.GraphProto):
            todo.extend(held.node)
            continue
        for attribute in held.attribute:
            if attribute.HasField("g"):
                todo.append(attribute.g)
            todo.extend(attribute.graphs)


class _Budget:
    """Writes tensors out until the bytes are used up."""

    def __init__(self, source: str, left: int) -> None:
        self.source = source
        self.left = left

    def dense(self, tensor: onnx.SparseTensorProto) -> onnx.TensorProto:
        name = tensor.values.name[:120]
        what = f"{self.source}: sparse tensor '{name}' {list(tensor.dims)[:9]}"
        values = onnx.numpy_helper.to_array(tensor.values)
        at = onnx.numpy_helper.to_array(tensor.indices)
        dims = [int(d) for d in tensor.dims]
        needed = math.prod(dims) * values.dtype.itemsize if min(dims, default=0) >= 0 else -1
        if needed < 0 or len(dims) > 32:
            raise ModelError(f"{what}: its shape is none")
        self.left -= needed
        if self.left < 0:
            raise ModelError(
                f"{what} takes {needed} bytes written out, more than a file of this size may; "
                "expected dense tensors"
            )
        if at.ndim == 1:  # places in the flattened tensor
            at, limits = at.reshape(-1, 1), [math.prod(dims)]
        else:
            limits = dims
        fits = at.ndim == 2 and at.shape == (values.size, len(limits)) and at.dtype == np.int64
        if not fits or not bool(((at >= 0) & (at < np.array(limits, np.int64))).all()):
            raise ModelError(f"{what}: its indices are none of its places")
        array = np.zeros(math.prod(dims), values.dtype)
        places = np.zeros(len(at), np.int64)
        for column, size in zip(at.T, limits, strict=True):
            places = places * size + column
        array[places] = values.reshape(-1)
        return onnx.numpy_helper.from_array(array.reshape(dims), tensor.values.name)
