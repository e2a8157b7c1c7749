"""Changes to how a model is put together: nodes, wires, bodies, functions, names, files."""

from __future__ import annotations

import random

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .content import NUMBERS, add_attribute, graphs, names, nodes, number, tensors, values
from .sources import Source

NAMES = ("", "target", "cotangent", "saliency_vanilla", "x" * 9000, "a\nb", "\x1b[31mred", "ü", " ")
OPERATORS = sorted({s.name for s in onnx.defs.get_all_schemas() if s.domain == ""})


def wires(source: Source, rng: random.Random) -> None:
    """Which node reads what: inputs and outputs renamed, dropped, added; nodes moved."""
    model = source.model
    graph = rng.choice(list(graphs(model.graph)))
    if not graph.node:
        return
    node = rng.choice(graph.node)
    kind = rng.randrange(9)
    if kind <= 2 and node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice(names(model))
    elif kind == 3 and node.input:
        node.input[rng.randrange(len(node.input))] = ""
    elif kind == 4:
        node.input.append(rng.choice(names(model)))
    elif kind == 5 and len(node.input):
        node.input.pop()
    elif kind == 6:
        if node.output and rng.random() < 0.6:
            node.output[rng.randrange(len(node.output))] = rng.choice(names(model))
        else:
            node.output.append("more")
    elif kind == 7:
        rng.choice((graph.node.remove, graph.node.append))(node)
    else:
        order = list(graph.node)
        rng.shuffle(order)
        del graph.node[:]
        graph.node.extend(order)


def operators(source: Source, rng: random.Random) -> None:
    """Another operator in a node's place, or one more behind it."""
    model = source.model
    node = rng.choice(nodes(model))
    if rng.random() < 0.6:
        node.op_type = rng.choice(OPERATORS)
        return
    op = rng.choice(OPERATORS)
    first = next((o for o in node.output if o), "")
    given = [first, *(rng.choice(names(model)) for _ in range(rng.randrange(3)))]
    rng.shuffle(given)
    made = helper.make_node(op, given, [f"{first}/more"])
    add_attribute(made, rng)
    for graph in graphs(model.graph):
        if node in list(graph.node):
            at = list(graph.node).index(node) + 1
            for later in graph.node[at:]:
                for i, name in enumerate(later.input):
                    if name == first:
                        later.input[i] = made.output[0]
            graph.node.insert(at, made)
            return


def subgraphs(source: Source, rng: random.Random) -> None:
    """A part of the graph as the body of an If, a Loop or a Scan; what lies in bodies changed."""
    model = source.model
    graph = rng.choice(list(graphs(model.graph)))
    if not graph.node:
        return
    at = rng.randrange(len(graph.node))
    node = onnx.NodeProto()
    node.CopyFrom(graph.node[at])
    outs = [onnx.ValueInfoProto(name=o) for o in node.output if o]
    body = onnx.GraphProto(name="body", node=[node], output=outs)
    kind = rng.choice(("If", "If", "Loop", "Scan"))
    if kind == "If":
        made = helper.make_node(kind, ["flag"], [o for o in node.output if o])
        for branch in ("then_branch", "else_branch"):
            made.attribute.append(helper.make_attribute(branch, body))
        model.graph.initializer.append(numpy_helper.from_array(np.array(True), "flag"))
    else:
        given = ["", ""] if kind == "Loop" else []
        made = helper.make_node(kind, [*given, *node.input[:1]], [o for o in node.output if o])
        made.attribute.append(helper.make_attribute("body", body))
        if kind == "Scan":
            made.attribute.append(helper.make_attribute("num_scan_inputs", number(rng)))
    del graph.node[at]
    graph.node.insert(at, made)


def functions(source: Source, rng: random.Random) -> None:
    """A node as a function's call: nested, of other versions, by name a standard operator, in a
    circle."""
    model = source.model
    graph = model.graph
    at = rng.randrange(len(graph.node))
    node = onnx.NodeProto()
    node.CopyFrom(graph.node[at])
    domain = rng.choice(("local", "local", "com.microsoft", "", "a" * 3000))
    name = rng.choice((f"f{at}", node.op_type, node.op_type))
    inner = node
    if rng.random() < 0.2:
        inner = onnx.NodeProto()
        inner.CopyFrom(node)
        inner.domain, inner.op_type = domain, name
    imports = [helper.make_opsetid("", rng.choice((13, 18, 21, 99, -1)))]
    function = helper.make_function(
        domain, name, [i for i in node.input if i], list(node.output), [inner], imports
    )
    if rng.random() < 0.3:
        function.attribute.append("axis")
    model.functions.append(function)
    call = helper.make_node(name, [i for i in node.input if i], list(node.output), domain=domain)
    if rng.random() < 0.3:
        call.overload = "other"
    graph.node[at].CopyFrom(call)
    model.opset_import.append(helper.make_opsetid(domain, rng.choice((1, 1, 0, 2**40))))


def naming(source: Source, rng: random.Random) -> None:
    """A name everywhere replaced by a strange one, or two by the same."""
    model = source.model
    old, new = rng.choice(names(model)), rng.choice((*NAMES, *names(model)[:2]))
    if rng.random() < 0.3:
        node = rng.choice(nodes(model))
        node.name, node.domain = new, rng.choice(("", "ai.onnx", "com.example", new))
        return
    for node in nodes(model):
        for field in (node.input, node.output):
            for i, name in enumerate(field):
                if name == old:
                    field[i] = new
    for item in (*tensors(model), *values(model)):
        if item.name == old:
            item.name = new


def metadata(source: Source, rng: random.Random) -> None:
    """Versions, imports, properties, documentation."""
    model = source.model
    kind = rng.randrange(6)
    if kind == 0:
        model.ir_version = rng.choice(NUMBERS)
    elif kind == 1 and model.opset_import:
        model.opset_import[0].version = rng.choice((*range(-1, 30), *NUMBERS))
    elif kind == 2:
        del model.opset_import[:]
    elif kind == 3:
        model.opset_import.append(helper.make_opsetid(rng.choice(("", "ai.onnx", "ai.onnx.ml")), 3))
    elif kind == 4:
        key = rng.choice(("names", "backlight.rules", "backlight.of", "imgsz", "backlight.input"))
        model.metadata_props.add(key=key, value=rng.choice((*NAMES, "{0: 'a'}", "[1e999]")))
    else:
        model.graph.doc_string = rng.choice(NAMES)
        model.graph.name = rng.choice(NAMES)


def external(source: Source, rng: random.Random) -> None:
    """Where data outside the file lies, from which byte on, how much of it."""
    tensor = rng.choice(tensors(source.model) or [TensorProto()])
    if not tensor.external_data:
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="weights.data")
    place = rng.choice(tensor.external_data)
    place.value = rng.choice((
        "", "weights.data", "/etc/hostname", "../secret", ".", "a" * 5000, "\x00", "-1", "0",
        str(2**63), str(2**64), "1e9", "/dev/zero",
    ))  # fmt: skip
