"""The nodes of a graph and of those inside it, in onnx-ir's order."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from backlight.export.nested import name_all, nodes_of


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


def _ifs(names: list[str], inner: list[str], nodes: list[str]) -> ir.Model:
    """A chain of nodes that hold a graph each; names of what they and the graphs make, of nodes."""
    x = ir.Value(name="x")
    graph = ir.Graph([x], [], nodes=[], name="g", opset_imports={"": 18})
    for name, within, node in zip(names, inner, nodes, strict=True):
        made = ir.Value(name=within)
        deep = ir.Node("", "Relu", [x], outputs=[made], name=f"in {node}")
        body = ir.AttrGraph("then_branch", ir.Graph([], [made], nodes=[deep], name="b"))
        x = ir.Value(name=name)
        graph.append(ir.Node("", "If", [], [body], outputs=[x], name=node))
    graph.outputs.append(x)
    return ir.Model(graph, ir_version=8)


@pytest.mark.parametrize(
    ("names", "inner", "nodes"),
    [
        (["a", "b"], ["c", "d"], ["m", "n"]),
        (["a", "a"], ["c", "d"], ["m", "n"]),
        (["a", "b"], ["a", "a"], ["m", "n"]),
        (["a", "b"], ["c", "d"], ["m", "m"]),
        (["a", ""], ["c", ""], ["", "n"]),
    ],
    ids=["fine", "values", "in and out", "nodes", "missing"],
)
def test_all_get_names_of_their_own(names: list[str], inner: list[str], nodes: list[str]) -> None:
    model = _ifs(names, inner, nodes)
    name_all(model)
    found = [v.name for n in model.graph for v in n.outputs]
    assert len({*found, "x"}) == 3 and all(found)
    given = [n.name for n in model.graph]
    assert len(set(given)) == 2 and all(given)
    for node in model.graph:
        (made,) = node.attributes["then_branch"].as_graph().outputs
        assert made.name and made.name not in found
    if len({*names, *inner, *nodes, ""}) == 7:
        assert (found, given) == (names, nodes)


def test_names_are_onnx_irs() -> None:
    """Of a graph without others inside, those that its pass gives."""
    from onnx_ir.passes import common

    def named(name) -> list[tuple[str | None, ...]]:
        x = ir.Value(name="x")
        graph = ir.Graph([x], [], nodes=[], name="g", opset_imports={"": 18})
        for made, node in (("a", "n"), ("a", "n"), ("", ""), ("v", "n_1"), ("", ""), ("a_1", "")):
            y = ir.Value(name=made)
            graph.append(ir.Node("", "Relu", [x], outputs=[y], name=node))
            x = y
        for node, name_ in zip(graph, ("n", "n", "", "n_1", "", ""), strict=True):
            node.name = name_  # appending gives one
        for node, name_ in zip(graph, ("a", "a", "", "v", "", "a_1"), strict=True):
            node.outputs[0].name = name_
        name(ir.Model(graph, ir_version=8))
        return [(n.name, n.outputs[0].name) for n in graph]

    assert named(name_all) == named(common.NameFixPass())


def test_names_take_no_pass_of_squares(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chain of Ifs names each value and node once."""
    from backlight.export import nested

    asked: list[str] = []
    free = nested._Names.free
    monkeypatch.setattr(
        nested._Names, "free", lambda self, name: asked.append(name) or free(self, name)
    )
    count = 50
    ifs = [[f"{kind}{i}" for i in range(count)] for kind in "abn"]
    name_all(_ifs(*ifs))
    assert len(asked) == 1 + 4 * count
