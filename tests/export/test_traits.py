"""The table of traits against onnx's schemas, the registry of rules, and what operators compute."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import onnx.defs
import pytest

from backlight.export import traits
from backlight.export.rules import registry
from backlight.export.rules.rectifier import DECONV, GUIDED
from backlight.export.traits import TABLE, Trait

from .harness import Row, build, run_reference
from .table import rows

ROOT = Path(__file__).parent.parent.parent
KNOWN = {schema.name for schema in onnx.defs.get_all_schemas_with_history()}
STANDARD = {s.name for s in onnx.defs.get_all_schemas_with_history() if s.domain == ""}
# Where many operators are named that are no trait, and what they are.
ELSEWHERE = {
    "export/arithmetic.py": "what the evaluator takes per element",
    "export/front.py": "what preprocessing is spelled with",
    "export/guard.py": "which operands are sizes",
    "export/half.py": "what runs in half",
    "export/heads.py": "what a head is spelled with",
    "export/incremental/cost.py": "what a runtime fuses",
    "export/lowering/operators.py": "what a runtime lacks",
    "export/lowering/steep.py": "whose slope at 0 is infinite",
    "export/rollout.py": "what attention is spelled with",
    "export/shrinking.py": "whose map onnx's inference lets shrink below nothing",
    "export/trial.py": "whose rules refuse by nothing but the node itself",
    "export/span_rules.py": "which rule says what an operator reads",
    "export/rules/quantize.py": "what lies between its inputs, on a calibrated range",
    "engine/inside/patch_embedding.py": "what a patch embedding is spelled with",
    "engine/runtime/budget.py": "what a runtime writes over its input",
}
# Of domains whose schemas onnx lacks.
OTHERS = {"Crop", "ImageScaler", "DynamicQuantizeMatMul", "MatMulInteger16", "MatMulIntegerToFloat"}
MANY = 6  # names, from which on a set is asked for


def schema(name: str) -> onnx.defs.OpSchema:
    return onnx.defs.get_schema(name)


def types(formal: onnx.defs.OpSchema.FormalParameter) -> set[str]:
    return set(formal.types)


# Those that one node computes, in float64, on the newest version that they have a row of.
SINGLE = [
    pytest.param(row, id=row.id)
    for row in rows()
    if row.op_type in TABLE
    and "\n" not in row.text.strip()
    and row.text.count("(") == 1
    and row.text.replace(" ", "").startswith(f"y={row.op_type}")
    and not row.no_reference
    and row.of == "y"
    and max(row.opsets) >= 13  # operands were attributes before
]


def test_every_operator_named_exists_and_stands_in_one_row() -> None:
    assert set(TABLE) - STANDARD == set()
    named = [name for names, _ in traits._ROWS for name in names.split()]
    assert len(named) == len(set(named))


def test_every_operator_with_a_rule_has_its_traits_considered() -> None:
    assert {*registry(), *DECONV, *GUIDED} - set(TABLE) == set()


def test_an_operator_has_a_rule_or_no_gradient() -> None:
    assert not set(registry()) & traits.NO_GRADIENT


def test_rectifiers_have_rules_of_their_own() -> None:
    own = {*DECONV, *GUIDED}
    assert own >= traits.RECTIFIES
    assert traits.RECTIFIES >= traits.LEAKS
    assert traits.ELEMENTWISE >= traits.RECTIFIES


@pytest.mark.parametrize(
    ("trait", "only"), [(Trait.BOOLEAN, {"tensor(bool)"}), (Trait.INTEGERS, {"tensor(int64)"})]
)
def test_what_gives_one_type_alone(trait: Trait, only: set[str]) -> None:
    assert traits.having(trait) == {n for n in TABLE if types(schema(n).outputs[0]) == only}


def test_integer_operands() -> None:
    integers = {"tensor(int64)", "tensor(int32)"}
    found = {
        name
        for name in TABLE
        if len(schema(name).inputs) > 1
        and all(types(i) <= integers for i in schema(name).inputs[1:])
    }
    assert found == traits.INTEGER_OPERANDS


def test_what_takes_several_tensors_is_not_unary() -> None:
    several = {n for n in traits.ELEMENTWISE if schema(n).max_input > 1}
    # Those whose further operands are numbers, or a slope that broadcasts to the first one.
    assert several & traits.UNARY == {"Clip", "Dropout", "PRelu"}
    assert several >= traits.ELEMENTWISE - traits.UNARY


@pytest.mark.parametrize("row", SINGLE)
def test_what_it_computes(row: Row) -> None:
    trait = TABLE[row.op_type]
    given = row.values()
    opset = max(row.opsets)
    model = build(row.text, given, row.consts, opset, dims=row.dims)
    y = run_reference(model, given)["y"]
    known = {**row.consts, **given}
    operands = [known[name] for name in model.graph.node[0].input if name]
    data, *more = operands
    if Trait.KEEPS_SHAPE in trait:
        assert y.shape == data.shape
    if Trait.ELEMENTWISE in trait:
        assert y.shape == np.broadcast_shapes(*(v.shape for v in operands))
    if Trait.SAME in trait:
        np.testing.assert_allclose(y, data, rtol=1e-3, atol=1e-3)  # a cast rounds
    if Trait.RESHAPES in trait:
        np.testing.assert_array_equal(y.ravel(), data.ravel())
    if Trait.MOVES in trait:
        fill = [v for v in more if v.dtype == data.dtype]
        assert np.isin(y, np.concatenate([np.ravel(v) for v in (data, *fill, np.zeros(1))])).all()
    if Trait.NEVER_NEGATIVE in trait:
        assert (y >= 0).all()
    if Trait.KEEPS_SIGN in trait:
        unsigned = {n: np.abs(v) if v.dtype.kind == "f" else v for n, v in given.items()}
        weights = {n: np.abs(v) if v.dtype.kind == "f" else v for n, v in row.consts.items()}
        positive = build(row.text, unsigned, weights, opset, dims=row.dims)
        assert (run_reference(positive, unsigned)["y"] >= 0).all()


def test_these_rows_try_most_operators() -> None:
    """All but Erf, whose reference is too coarse, and those whose rows name several outputs."""
    tried = {param.values[0].op_type for param in SINGLE}
    for trait in (Trait.ELEMENTWISE, Trait.MOVES, Trait.NEVER_NEGATIVE, Trait.KEEPS_SIGN):
        assert traits.having(trait) & set(registry()) - tried <= {"Erf", "Split", "TopK"}, trait


@pytest.mark.parametrize("row", [p for p in SINGLE if p.values[0].op_type in traits.ELEMENTWISE])
def test_an_element_is_made_of_its_place_alone(row: Row) -> None:
    given = row.values()
    name = next(iter(row.wanted()))
    opset = max(row.opsets)
    model = build(row.text, given, row.consts, opset, dims=row.dims)
    y = run_reference(model, given)["y"]
    changed = given[name].copy()
    changed.flat[0] += 0.01
    reach = np.zeros(given[name].shape, bool)
    reach.flat[0] = True
    away = ~np.broadcast_to(reach, y.shape)
    np.testing.assert_array_equal(
        run_reference(model, {**given, name: changed})["y"][away], y[away]
    )


def _named(tree: ast.AST) -> list[list[str]]:
    """The sets, lists and texts in which most words are operators of the standard."""
    found = []
    for node in ast.walk(tree):
        words: list[str] = []
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            words = node.value.split() if "\n" not in node.value else []
        elif isinstance(node, (ast.Tuple, ast.Set, ast.List)):
            words = [
                e.value
                for e in node.elts
                if isinstance(e, ast.Constant) and isinstance(e.value, str)
            ]
        if len(words) > 1 and sum(w in KNOWN for w in words) >= 0.7 * len(words):
            found.append(words)
    return found


def test_sets_of_operators_stand_in_the_table() -> None:
    many: dict[str, list[list[str]]] = {}
    for room in ("export", "engine"):
        for file in sorted((ROOT / room).rglob("*.py")):
            found = _named(ast.parse(file.read_text(encoding="utf-8")))
            if large := [words for words in found if len(words) >= MANY]:
                many[file.relative_to(ROOT).as_posix()] = large
    del many["export/traits.py"]
    unexpected = {where: sets for where, sets in many.items() if where not in ELSEWHERE}
    assert not unexpected, "a trait of export/traits.py, or something else: say what, above"
    assert set(ELSEWHERE) == set(many)


def test_names_in_small_sets_exist() -> None:
    for room in ("export", "engine"):
        for file in sorted((ROOT / room).rglob("*.py")):
            for words in _named(ast.parse(file.read_text(encoding="utf-8"))):
                strange = {w for w in words if w[:1].isupper() and w not in KNOWN | OTHERS}
                assert not strange, file
