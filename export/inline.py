"""Puts local functions in the place of their calls, in time that grows with what comes out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx_ir as ir

from ..errors import ModelError
from .nested import nodes_of

__all__ = ["inline"]

# Functions that call each other twice double at each level. What a model may become: nodes, and
# bytes of attributes; beside a multiple of what is written in it.
_NODES, _BYTES, _TIMES = 50_000, 2**26, 16
Key = tuple[str, str, str]
Size = tuple[int, int]


def inline(model: ir.Model, source: str) -> None:
    """Inline all calls in place, in subgraphs too, and drop the functions.

    Raises ModelError for functions that call each other in a circle, need another version of an
    operator set than the model has, take graphs as arguments, or would grow over the budget.
    """
    functions = model.functions
    main, owns = _own(model.graph, functions), {k: _own(f, functions) for k, f in functions.items()}
    size = _total(main, _sizes(owns, source))
    written = [own[0] for own in (main, *owns.values())]
    limits = [
        max(least, _TIMES * sum(s[i] for s in written)) for i, least in enumerate((_NODES, _BYTES))
    ]
    if size[0] > limits[0] or size[1] > limits[1]:
        raise ModelError(
            f"{source}: its functions call each other so often that they become {_count(size[0])} "
            f"nodes with {_count(size[1])} bytes of attributes; accepted: {limits[0]} and "
            f"{limits[1]}"
        )
    _Inliner(model, source).run()
    functions.clear()


def _count(number: int) -> str:
    return str(number) if number < 10**15 else f"about 10^{len(str(number)) - 1}"


def _own(
    holder: ir.Graph | ir.Function, functions: Mapping[Key, ir.Function]
) -> tuple[Size, list[Key]]:
    """Nodes and bytes that a graph has itself, and what it calls."""
    nodes, held, calls = 0, 0, []
    for node in nodes_of(holder):
        key = node.op_identifier()
        if key in functions:
            calls.append(key)
        nodes += 1
        held += sum(_bytes_of(a) for a in node.attributes.values())
    return (nodes, held), calls


def _bytes_of(attribute: ir.Attr) -> int:
    value = attribute.value
    if attribute.is_ref() or value is None:
        return 0
    if attribute.type == ir.AttributeType.TENSOR:
        return int(value.nbytes)
    if attribute.type == ir.AttributeType.TENSORS:
        return sum(int(t.nbytes) for t in value)
    return 8 * len(value) if isinstance(value, (str, list, tuple)) else 8


def _total(own: tuple[Size, list[Key]], sizes: Mapping[Key, Size]) -> Size:
    (nodes, held), calls = own
    called = [sizes[key] for key in calls]
    return nodes + sum(s[0] for s in called), held + sum(s[1] for s in called)


def _sizes(owns: Mapping[Key, tuple[Size, list[Key]]], source: str) -> dict[Key, Size]:
    """What each function becomes once all is inlined. owns: see `_own`. Without recursion: a chain
    may be long."""
    sizes: dict[Key, Size] = {}
    for first in owns:
        open_: dict[Key, Iterator[Key]] = {}
        todo = [first]
        while todo:
            key = todo[-1]
            if key in sizes:
                todo.pop()
                continue
            if key not in open_:
                open_[key] = iter(dict.fromkeys(owns[key][1]))
            following = next((k for k in open_[key] if k not in sizes), None)
            if following is None:
                sizes[key] = _total(owns[key], sizes)
                open_.pop(key)
                todo.pop()
            elif following in open_:
                raise ModelError(
                    f"{source}: not a valid ONNX model: its function '{following[1][:120]}' "
                    "calls itself, by way of others or not"
                )
            else:
                todo.append(following)
    return sizes


class _Inliner:
    """One pass over a model: what was put in place of a call is looked at in turn."""

    def __init__(self, model: ir.Model, source: str) -> None:
        self.model = model
        self.source = source
        self.values: dict[str, int] = {}
        self.nodes: dict[str, int] = {}
        for graph in model.graphs():
            for value in (*graph.inputs, *graph.initializers.values()):
                self.values.setdefault(value.name or "", 1)
            for node in graph:
                self.nodes.setdefault(node.name or "", 1)
                for value in node.outputs:
                    self.values.setdefault(value.name or "", 1)

    def run(self) -> None:
        todo = list(nodes_of(self.model.graph))
        while todo:
            node = todo.pop()
            function = self.model.functions.get(node.op_identifier())
            if function is not None:
                todo += self._replace(node, function)

    def _replace(self, node: ir.Node, function: ir.Function) -> list[ir.Node]:
        """Put a function's nodes in a call's place. Returns them, those of their subgraphs too."""
        what = f"{self.source}: function '{function.name[:120]}'"
        graph = node.graph
        assert isinstance(graph, ir.Graph)
        self._import(function, what)
        if len(node.inputs) > len(function.inputs) or len(node.outputs) > len(function.outputs):
            raise ModelError(f"{what} is called with more inputs or outputs than it has")
        arguments = {
            name: attribute
            for name, attribute in (*function.attributes.items(), *node.attributes.items())
            if attribute.value is not None
        }
        kinds = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
        if any(a.type in kinds for a in arguments.values()):
            raise ModelError(f"{what} takes a graph as its argument; supported: other attributes")
        body = function.clone().graph
        inner = list(nodes_of(body))
        for each in inner:
            self._rename(each)
            _resolve(each, arguments)
        results: list[ir.Value | None] = list(body.outputs)
        for index, parameter in enumerate(list(body.inputs)):
            given = node.inputs[index] if index < len(node.inputs) else None
            results = [given if r is parameter else r for r in results]
            for use in list(parameter.uses()):
                use.node.replace_input_with(use.idx, given)
        own = list(body)
        body.outputs.clear()
        for each in own:
            body.remove(each)
            graph.insert_before(node, each)
        for old, new in zip(node.outputs, results, strict=False):
            self._pass_on(graph, node, old, new)
        graph.remove(node, safe=True)
        return inner

    def _pass_on(self, graph: ir.Graph, node: ir.Node, old: ir.Value, new: ir.Value | None) -> None:
        """Give an output of a call what the function made of it, under its name."""
        if new is None:  # an input that was left out, handed through
            for use in list(old.uses()):
                use.node.replace_input_with(use.idx, None)
            return
        if old.is_graph_output() and (new.producer() is None or new.is_graph_output()):
            made = ir.Node("", "Identity", [new], name=self._unique(self.nodes, "Identity"))
            graph.insert_before(node, made)
            new = made.outputs[0]
        if new.producer() is not None and old.is_graph_output():
            old.name, new.name = self._unique(self.values, f"{old.name}/call"), old.name
        if new.shape is None:
            new.shape = old.shape
        if new.type is None:
            new.type = old.type
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)

    def _import(self, function: ir.Function, what: str) -> None:
        imports = self.model.opset_imports
        for domain, version in function.opset_imports.items():
            if imports.setdefault(domain, version) != version:
                raise ModelError(
                    f"{what} needs version {version} of '{domain or 'ai.onnx'}', the model has "
                    f"{imports[domain]}; expected the same"
                )

    def _rename(self, node: ir.Node) -> None:
        node.name = self._unique(self.nodes, node.name or "node")
        for value in node.outputs:
            value.name = self._unique(self.values, value.name or "val")
        for attribute in node.attributes.values():
            for graph in _graphs(attribute):
                for value in (*graph.inputs, *list(graph.initializers.values())):
                    if not value.is_initializer() or value.is_graph_input():
                        value.name = self._unique(self.values, value.name or "val")

    @staticmethod
    def _unique(taken: dict[str, int], name: str) -> str:
        """The name, with a number behind it where it is taken."""
        found = name
        while found in taken:
            taken[name] = taken.get(name, 1) + 1
            found = f"{name}_{taken[name]}"
        taken[found] = 1
        return found


def _graphs(attribute: ir.Attr) -> list[ir.Graph]:
    if attribute.is_ref() or attribute.value is None:
        return []
    if attribute.type == ir.AttributeType.GRAPH:
        return [attribute.value]
    return list(attribute.value) if attribute.type == ir.AttributeType.GRAPHS else []


def _resolve(node: ir.Node, arguments: Mapping[str, ir.Attr]) -> None:
    """Replace references to a function's attributes by what the call gives; left out where it
    gives none."""
    for name, attribute in list(node.attributes.items()):
        if not attribute.is_ref():
            continue
        given = arguments.get(attribute.ref_attr_name or "")
        if given is None:
            node.attributes.pop(name)
        else:
            node.attributes[name] = ir.Attr(name, given.type, given.value)
