"""Where the classes lie in a tensor of scores, and which tensors have none."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from backlight.errors import ModelError
from backlight.export.emit import Emitter
from backlight.export.score_shapes import (
    class_axis,
    classes_of,
    has_positions,
    is_matrix,
    laid_out,
    no_batch,
    refuse_maps,
)

# Dimensions: the axis of the classes, how many, whether there are positions.
SHAPES = {
    ("N", 5): (1, 5, False),
    ("N", 5, 1, 1): (1, 5, False),
    ("N", 1, 1, 5): (3, 5, False),
    ("N", 1): (1, 1, False),
    ("N", 5, 7, 7): (None, None, True),
    ("N", "K"): (1, None, False),
    ("N", 1, "K"): (2, None, False),
}


def value(*dims: int | str, name: str = "scores") -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape(dims), type=ir.TensorType(ir.DataType.FLOAT))


def graph(*values: ir.Value) -> ir.Graph:
    image = value("N", 3, 8, 8, name="x")
    return ir.Graph([image], list(values), nodes=[], opset_imports={"": 18})


@pytest.mark.parametrize("dims", SHAPES)
def test_where_the_classes_are(dims: tuple[int | str, ...]) -> None:
    axis, count, positions = SHAPES[dims]
    one = value(*dims)
    assert one.shape is not None and class_axis(one.shape) == axis
    assert classes_of(one, False) == count
    assert has_positions(one) is positions and is_matrix(one) is not positions


@pytest.mark.parametrize("dims", SHAPES)
def test_scores_with_positions_are_refused(dims: tuple[int | str, ...]) -> None:
    one = value(*dims)
    if SHAPES[dims][2]:
        with pytest.raises(ModelError, match=r"positions too, .*expected \[N, K\]"):
            refuse_maps(graph(one), one)
    else:
        refuse_maps(graph(one), one)


def test_a_vector_alone_is_classes_without_a_batch() -> None:
    one = value(5)
    within = graph(one)
    assert no_batch(within, one) and classes_of(one, True) == 5
    assert not no_batch(within, value("N")) and not no_batch(within, value(1))


def test_rows_are_laid_out_by_one_node() -> None:
    for dims, node, wanted in (
        (("N", 1, 1, 5), "Flatten", ["N", 5]), ((5,), "Reshape", [1, 5]),
    ):  # fmt: skip
        one = value(*dims)
        made = laid_out(Emitter(graph(one), 18), one, len(dims) == 1)
        assert made.producer() is not None and made.producer().op_type == node  # type: ignore[union-attr]
        assert [getattr(d, "value", d) for d in made.shape or ()] == wanted
    same = value("N", 5)
    assert laid_out(Emitter(graph(same), 18), same, False) is same
