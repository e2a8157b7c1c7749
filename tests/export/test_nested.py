"""The nodes of a graph and of those inside it, in onnx-ir's order."""

from __future__ import annotations

import onnx_ir as ir

from backlight.export.nested import nodes_of


def _graph(name: str, *nodes: ir.Node) -> ir.Graph:
    return ir.Graph([], [], nodes=list(nodes), name=name)


def _node(name: str, *attributes: ir.Attr) -> ir.Node:
    return ir.Node("", "Any", [], list(attributes), name=name)


def test_nodes_are_those_of_onnx_ir_in_its_order() -> None:
    inner = _graph("inner", _node("c"), _node("d"))
    branch = _graph("branch", _node("b", ir.AttrGraph("body", inner)), _node("e"))
    several = ir.AttrGraphs("bodies", [_graph("one", _node("g")), _graph("two", _node("h"))])
    graph = _graph(
        "outer",
        _node("a", ir.AttrInt64("axis", 1), ir.AttrGraph("then_branch", branch)),
        _node("f", several),
        _node("i"),
    )
    names = [n.name for n in nodes_of(graph)]
    assert names == list("abcdefghi")
    assert names == [n.name for n in graph.all_nodes()]


def test_of_a_function() -> None:
    body = _graph("body", _node("a", ir.AttrGraph("g", _graph("inner", _node("b")))))
    function = ir.Function("mine", "f", graph=body, attributes=[])
    assert [n.name for n in nodes_of(function)] == ["a", "b"]
