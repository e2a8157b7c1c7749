"""Outputs that are no tensors: the maps from class to score that ML libraries put behind a head."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import onnx

__all__ = ["without_maps"]


def without_maps(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model without outputs that hold maps, and without the nodes that only make them; what
    those nodes read takes the place of a map, where it is a tensor. Itself where there are none,
    else a copy.

    scikit-learn's and ML.NET's exporters end in a ZipMap: a list of dictionaries, that no gradient
    comes through and that not every reader knows.
    """
    names = {v.name for v in (*proto.graph.output, *proto.graph.value_info) if _has_map(v.type)}
    names |= {out for n in proto.graph.node if n.op_type == "ZipMap" for out in n.output}
    if not names:
        return proto
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    graph = copy.graph
    typed = {v.name: v for v in (*graph.input, *graph.value_info, *graph.output)}
    kept: list[onnx.ValueInfoProto] = []
    for output in list(graph.output):
        shown = [output.name] if output.name not in names else _sources(graph, output.name, names)
        for name in shown:
            if any(v.name == name for v in kept) or (
                name != output.name and any(v.name == name for v in graph.output)
            ):
                continue
            info = onnx.ValueInfoProto(name=name)
            if name in typed:
                info.CopyFrom(typed[name])
            else:  # ZipMap reads float32 alone
                info.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
            kept.append(info)
    _replace(graph.output, kept)
    _replace(graph.value_info, [v for v in graph.value_info if v.name not in names])
    _replace(graph.node, [n for n in graph.node if not names.intersection(n.output)])
    return copy


def _has_map(kind: onnx.TypeProto) -> bool:
    which = kind.WhichOneof("value")
    if which == "sequence_type":
        return _has_map(kind.sequence_type.elem_type)
    if which == "optional_type":
        return _has_map(kind.optional_type.elem_type)
    return bool(which == "map_type")


def _sources(graph: onnx.GraphProto, name: str, maps: Iterable[str]) -> list[str]:
    """The tensor that a ZipMap makes a map of, by way of other maps."""
    made = next((n for n in graph.node if name in n.output), None)
    if made is None or not made.input:
        return []
    source = made.input[0]
    return _sources(graph, source, maps) if source in maps else [source]


def _replace(field: Any, items: Sequence[Any]) -> None:
    copies = [type(item)() for item in items]
    for copy, item in zip(copies, items, strict=True):
        copy.CopyFrom(item)
    del field[:]
    field.extend(copies)
