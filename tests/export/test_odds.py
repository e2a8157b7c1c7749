"""The logarithm of odds, and a Clip at one end written as a Where."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest

from backlight.export.odds import held_within, odds


def last(body: str) -> ir.Node:
    text = f"""<ir_version: 8, opset_import: ["": 18]>
m (float[N,5] p, float[N,5] q) => (float[N,5] y) <float one = {{1}}, float low = {{0.1}}> {{
    {body}
}}"""
    graph = ir.from_proto(onnx.parser.parse_model(text)).graph
    node = graph.outputs[0].producer()
    assert node is not None
    return node


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ("r = Sub(one, p) d = Div(p, r) y = Log(d)", "p"),
        ("m = Neg(p) r = Add(m, one) d = Div(p, r) y = Log(d)", "p"),
        ("r = Sub(one, p) a = Log(p) b = Log(r) y = Sub(a, b)", "p"),
        ("r = Sub(one, q) d = Div(p, r) y = Log(d)", None),  # of another one
        ("r = Sub(low, p) d = Div(p, r) y = Log(d)", None),
        ("r = Sub(p, one) d = Div(p, r) y = Log(d)", None),
        ("a = Log(p) b = Log(q) y = Sub(a, b)", None),
    ],
)
def test_odds_are_of_a_value_and_its_own_rest(body, name):
    found = odds(last(body))
    assert (None if found is None else found.name) == name


@pytest.mark.parametrize(
    ("body", "highest"),
    [
        ("c = Less(p, low) y = Where(c, low, p)", False),
        ("c = Less(p, low) y = Where(c, p, low)", True),
        ("c = Greater(low, p) y = Where(c, low, p)", False),
        ("c = GreaterOrEqual(p, low) y = Where(c, low, p)", True),
        ("c = Less(p, one) y = Where(c, low, p)", None),  # a jump
        ("c = Less(q, low) y = Where(c, low, p)", None),
    ],
)
def test_a_where_that_holds_a_value_on_one_side(body, highest):
    found = held_within(last(body))
    assert (None if found is None else found[2]) is highest
