"""Operators that pick and scatter by indices or a mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..harness import Exact, Row, distinct

try:
    import torch
except ImportError:  # the rows' torch functions are then not called
    torch = None  # type: ignore[assignment]

X = {"x": (2, 3, 4)}
NAMED = {"x": ("N", "C", "W")}


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


MASK = np.array([[True, False, True], [False, False, True]])

WHERE = [
    Row(
        "Where",
        name,
        "y = Where(mask, a, b)",
        {"mask": mask, **shapes},
        lambda mask, a, b: torch.where(mask, a, b),
        opsets=(9, 16),
        **more,
    )
    for name, mask, shapes, more in (
        ("plain", MASK, {"a": (2, 3), "b": (2, 3)}, {}),
        ("broadcast", MASK, {"a": (2, 1), "b": ()}, {}),
        ("a broadcast mask", MASK[:, :1], {"a": (2, 3), "b": (2, 2, 1)}, {}),
        ("one alone", MASK, {"a": (2, 3), "b": (3,)}, {"wrt": ["b"]}),
        (
            "dynamic",
            MASK,
            {"a": (2, 3), "b": (2, 1)},
            {"dims": {"mask": ("N", "M"), "a": ("N", "M"), "b": ("N", 1)}},
        ),
    )
]


def _pick(x: Any, axis: int, index: np.ndarray) -> Any:
    """Gather: the axis becomes the axes of the index."""
    at = torch.tensor(index % x.shape[axis])
    shape = (*x.shape[:axis], *at.shape, *x.shape[axis + 1 :])
    return x.index_select(axis, at.reshape(-1)).reshape(shape)


def _gather(
    name: str,
    axis: int,
    index: Any,
    opsets: Sequence[int] = (13,),
    *,
    late: bool = False,
    sort: type[np.generic] = np.int64,
    **more: Any,
) -> Row:
    """`late`: the indices are an input of the model."""
    array = np.array(index, sort)
    return Row(
        "Gather",
        f"at run time: {name}" if late else name,
        f"y = Gather<axis = {axis}>(x, i)",
        {**X, "i": array} if late else X,
        lambda x, *_: _pick(x, axis % 3, array.astype(np.int64)),
        consts={} if late else {"i": array},
        opsets=opsets,
        **more,
    )


LISTS: list[tuple[str, int, Any]] = [
    ("one", 1, 2),
    ("the last", -1, -1),
    ("neighbours", 2, [1, 2, 3]),
    ("a permutation", 2, [2, 0, 3, 1]),
    ("a few, not all", 2, [3, 0]),
    ("repeats", 1, [0, 0, 2, 1, 0]),
    ("many repeats", 1, [0, 0, 2, 0, 0, 0, 0]),
    ("negative, in two axes", 1, [[-1, 0], [1, -2]]),
    ("neighbours across 0", 0, [-1, 0]),
    ("neighbours in two axes", 2, [[0, 1], [2, 3]]),
]
GATHER = [
    Row(
        "Gather",
        "default axis",
        "y = Gather(x, i)",
        X,
        lambda x: x[[1, 0, 1]],
        consts={"i": ints(1, 0, 1)},
        opsets=(7, 11, 13),
    ),
    *(_gather(*case, opsets=(11, 13) if index == 1 else (13,)) for index, case in enumerate(LISTS)),
    *(
        _gather(f"dynamic: {name}", axis, index, dims=NAMED)
        for name, axis, index in (*LISTS, ("the last ones", 2, [-3, -2, -1]))
    ),
    _gather("int32", 1, [1, 0, 0], sort=np.int32),
    _gather("one", 1, 2, late=True),
    _gather("the last", 1, -1, late=True),
    _gather("repeats", -1, [0, -1, 0, 0, 2, 0, 0], late=True),
    _gather("two axes", 1, [[2, 0], [-1, 2]], late=True),
    _gather("two axes, dynamic", 1, [[2, 0], [-1, 2]], late=True, dims=NAMED),
    _gather("int32", 0, [1, 1, 0], late=True, sort=np.int32, dims={**NAMED, "i": ("K",)}),
    Row(
        "Gather",
        "no indices",
        "none = Gather<axis = 1>(x, i)\nboth = Concat<axis = 1>(none, x)\ny = Neg(both)",
        X,
        lambda x: -x,
        consts={"i": ints()},
    ),
]

# [2, 2, 4], along axis 1 of x
AT = np.array([[[0, 1, -1, 1], [0, 1, 2, 0]], [[2, 0, 0, 1], [1, 0, -2, 1]]])
SHORT = "it takes no indices that are shorter than x in the other axes"
GATHER_ELEMENTS = [
    Row(
        "GatherElements",
        name,
        f"y = GatherElements<axis = {axis}>(x, i)",
        {**X, "i": AT} if late else X,
        lambda x, *_: x.gather(1, torch.tensor(AT % 3)),
        consts={} if late else {"i": AT},
        opsets=opsets,
        **more,
    )
    for name, axis, late, opsets, more in (
        ("plain", 1, False, (11, 13), {}),
        ("negative axis", -2, False, (13,), {}),
        ("dynamic", 1, False, (13,), {"dims": NAMED}),
        ("at run time", 1, True, (13,), {}),
    )
] + [
    Row(
        "GatherElements",
        "default axis",
        "y = GatherElements(x, i)",
        {"x": (3, 2)},
        lambda x: x.gather(0, torch.tensor([[2, 0], [2, 1]])),
        consts={"i": np.array([[2, 0], [2, 1]])},
        opsets=(11, 13),
    ),
    Row(
        "GatherElements",
        "shorter in the other axes",
        "y = GatherElements<axis = 1>(x, i)",
        X,
        lambda x: x.gather(1, torch.tensor(AT[:1, :, :3] % 3)),
        consts={"i": AT[:1, :, :3]},
        opsets=(13,),
        no_reference=SHORT,
    ),
]

PLACES = np.array([[1, 2], [0, -1], [1, 2]])  # of rows of 4
BATCHED = np.array([[[2], [0]], [[-1], [2]]])  # per batch of 2, two rows
GATHER_ND = [
    Row(
        "GatherND",
        f"{name}{', at run time' * late}{', dynamic' * dynamic}",
        f"y = GatherND{attributes}(x, i)",
        {**X, "i": index} if late else X,
        function,
        consts={} if late else {"i": index},
        dims=NAMED if dynamic else {},
        opsets=opsets,
    )
    for name, attributes, index, function, opsets in (
        ("rows", "", PLACES, lambda x, *_: x[[1, 0, 1], [2, 2, 2]], (11, 12, 13)),
        ("elements", "", np.array([[[1, 2, 3]]]), lambda x, *_: x[1, 2, 3].reshape(1, 1), (13,)),
        (
            "batch",
            "<batch_dims = 1>",
            BATCHED,
            lambda x, *_: torch.stack((x[0, [2, 0]], x[1, [2, 2]])),
            (12, 13),
        ),
    )
    for late, dynamic in ((False, False), (True, False), (False, True))
]

# Where [2, 2, 4] updates go along axis 1 of x: to different places, and twice to some.
ONCE = np.array([[[0, 1, -1, 1], [1, 2, 0, 0]], [[2, 0, 0, 1], [1, 2, -2, -1]]])
TWICE = np.array([[[0, 1, -1, 1], [0, 1, 2, 0]], [[2, 0, 0, 1], [2, 1, -3, 1]]])


def _scatter(x: Any, index: np.ndarray, u: Any, add: bool) -> Any:
    """ScatterElements along axis 1."""
    at = torch.tensor(index % 3)
    return x.scatter_add(1, at, u) if add else x.scatter(1, at, u)


SCATTER_ELEMENTS = (
    [
        Row(
            "ScatterElements",
            f"{name}{', at run time' * late}{', dynamic' * dynamic}",
            f"y = ScatterElements<axis = {axis}{attributes}>(x, i, u)",
            {"x": (2, 3, 4), **({"i": index} if late else {}), "u": (2, 2, 4)},
            lambda x, *rest, index=index, add="add" in name: _scatter(x, index, rest[-1], add),
            consts={} if late else {"i": index},
            dims={**NAMED, "u": ("M", "K", "W")} if dynamic else {},
            opsets=opsets,
        )
        for name, axis, attributes, index, opsets in (
            ("plain", 1, "", ONCE, (11, 13, 16, 18)),
            ("none, negative axis", -2, ', reduction = "none"', ONCE, (16, 18)),
            ("add", 1, ', reduction = "add"', TWICE, (16, 18)),
        )
        for late, dynamic in ((False, False), (True, False), (False, True))
    ]
    + [
        Row(
            "ScatterElements",
            f"{how}, {name}",
            f'y = ScatterElements<axis = 1, reduction = "{how}">(x, i, u)',
            {"x": (2, 3, 4), "u": (2, 2, 4)},
            lambda x, u, index=index, kind=kind: x.scatter_reduce(
                1, torch.tensor(index % 3), u, kind, include_self=True
            ),
            consts={"i": index},
            opsets=opsets,
            sample=distinct,
        )
        for how, kind, opsets in (
            ("mul", "prod", (16, 18)),
            ("max", "amax", (18,)),
            ("min", "amin", (18,)),
        )
        for name, index in (("each once", ONCE), ("repeats", TWICE))
    ]
    + [
        Row(
            "ScatterElements",
            "default axis, updates alone",
            "y = ScatterElements(x, i, u)",
            {"x": (3, 2), "u": (2, 1)},
            lambda x, u: x.scatter(0, torch.tensor([[2], [0]]), u),
            consts={"i": np.array([[2], [0]])},
            wrt=["u"],
            opsets=(18,),
            no_reference=SHORT,
        ),
    ]
)

REDUCED: dict[str, Any] = {
    "mul": lambda a, b: a * b,
    "max": lambda a, b: torch.maximum(a, b),
    "min": lambda a, b: torch.minimum(a, b),
}


def _reduced_nd(how: str, x: Any, index: np.ndarray, u: Any) -> Any:
    """ScatterND with a reduction, an update after the other."""
    for place, update in zip(index, u, strict=True):
        at = tuple(torch.tensor([k]) for k in place)
        x = x.index_put(at, REDUCED[how](x[at], update[None]))
    return x


SCATTER_ND = [
    Row(
        "ScatterND",
        f"{how}, repeats",
        f'y = ScatterND<reduction = "{how}">(x, i, u)',
        {"x": (2, 3, 2), "u": (3, 2)},
        lambda x, u, how=how: _reduced_nd(how, x, np.array([[1, 2], [0, -1], [1, 2]]), u),
        consts={"i": np.array([[1, 2], [0, -1], [1, 2]])},
        opsets=opsets,
        sample=distinct,
    )
    for how, opsets in (("mul", (16, 18)), ("max", (18,)), ("min", (18,)))
] + [
    Row(
        "ScatterND",
        f"{name}{', at run time' * late}{', dynamic' * dynamic}",
        f"y = ScatterND{attributes}(x, i, u)",
        {"x": (2, 3, 4), **({"i": index} if late else {}), "u": (len(index), *rest)},
        lambda x, *more, index=index, add="add" in name: x.index_put(
            tuple(torch.tensor(index.T)), more[-1], accumulate=add
        ),
        consts={} if late else {"i": index},
        dims={**NAMED, "u": ("K", *rest)} if dynamic else {},
        opsets=opsets,
    )
    for name, attributes, index, rest, opsets in (
        ("plain", "", np.array([[1, 2], [0, -1]]), (4,), (11, 13, 16, 18)),
        ("slices", "", np.array([[1]]), (3, 4), (18,)),
        ("none", '<reduction = "none">', np.array([[1, 2, 3], [0, 0, 1]]), (), (16, 18)),
        ("add", '<reduction = "add">', np.array([[1, 2], [0, -1], [1, 2]]), (4,), (16, 18)),
    )
    for late, dynamic in ((False, False), (True, False), (False, True))
]


def _top(name: str, attributes: str, function: Any, opsets: Sequence[int], **more: Any) -> Row:
    given = more.pop("given", None)
    operand = "" if given == "attribute" else ", k"
    late = {"k": ints(2)} if given == "late" else {}
    return Row(
        "TopK",
        name,
        f"y, places = TopK{attributes}(x{operand})",
        {**X, **late},
        lambda x, *_: function(x),
        consts={"k": ints(2)} if operand and not late else {},
        sample=distinct,
        opsets=opsets,
        **more,
    )


TOP_K = [
    _top("k attribute", "<k = 2>", lambda x: x.topk(2)[0], (7,), given="attribute"),
    _top(
        "k and axis attributes",
        "<k = 2, axis = 1>",
        lambda x: x.topk(2, 1)[0],
        (7,),
        given="attribute",
    ),
    _top("plain", "", lambda x: x.topk(2)[0], (10, 11, 24)),
    _top("axis", "<axis = 1>", lambda x: x.topk(2, 1)[0], (10, 11, 24)),
    _top(
        "smallest",
        "<axis = -2, largest = 0>",
        lambda x: x.topk(2, 1, largest=False)[0],
        (11, 24),
    ),
    Row(
        "TopK",
        "unsorted",
        "top, places = TopK<sorted = 0>(x, k)\ny = ReduceSum(top, last)",
        X,
        lambda x: x.topk(2)[0].sum(-1, keepdim=True),
        consts={"k": ints(2), "last": ints(-1)},
        sample=distinct,
        opsets=(13, 24),
    ),
    _top("dynamic", "<axis = 1>", lambda x: x.topk(2, 1)[0], (11, 24), dims=NAMED),
    _top("k at run time", "", lambda x: x.topk(2)[0], (11, 24), given="late"),
]

MOVED = [
    Row(
        "ReverseSequence",
        name,
        f"y = ReverseSequence{attributes}(x, n)",
        {"x": (3, 2, 2), "n": np.array(lengths)},
        function,
        opsets=(10, 28) if not attributes else (10,),
        runtime=False,  # ONNX Runtime has it in float32 for some opsets alone
    )
    for name, attributes, lengths, function in (
        (
            "time first",
            "",
            [3, 2],
            lambda x, n: torch.stack([x[[2, 1, 0], 0], x[[1, 0, 2], 1]], 1),
        ),
        (
            "batch first",
            "<batch_axis = 0, time_axis = 1>",
            [2, 1, 2],
            lambda x, n: torch.stack([x[0].flip(0), x[1], x[2].flip(0)]),
        ),
    )
]
MOVED += [
    Row(
        "CenterCropPad",
        f"{name}{', dynamic' * dynamic}",
        f"y = CenterCropPad{attributes}(x, size)",
        {"x": (3, 4)},
        function,
        consts={"size": np.array(size)},
        dims={"x": ("H", "W")} if dynamic else {},
    )
    for dynamic in (False, True)
    for name, attributes, size, function in (
        ("cropped", "", (1, 3), lambda x: x[1:2, :3]),
        ("padded", "", (6, 7), lambda x: torch.nn.functional.pad(x, (1, 2, 1, 2))),
        (
            "one axis of each",
            "<axes = [1, 0]>",
            (2, 5),
            lambda x: torch.nn.functional.pad(x[:, 1:3], (0, 0, 1, 1)),
        ),
    )
]
MOVED += [
    Row(
        "Compress",
        name,
        f"y = Compress{attributes}(x, c)",
        {"x": (3, 2), "c": np.array(picked)},
        function,
        opsets=(28,) if name == "rows, newest" else (11,) if "-1" in attributes else (9, 11),
        runtime=name != "rows, newest",  # ONNX Runtime ends before opset 28
    )
    for name, attributes, picked, function in (
        ("rows", "<axis = 0>", [True, False, True], lambda x, c: x[[0, 2]]),
        ("rows, newest", "<axis = 0>", [True, False], lambda x, c: x[[0]]),
        ("columns", "<axis = -1>", [False, True], lambda x, c: x[:, 1:]),
        ("flat", "", [False, True, True, False, True], lambda x, c: x.flatten()[[1, 2, 4]]),
    )
]

ROWS: list[Row] = [
    *MOVED,
    *WHERE,
    *GATHER,
    *GATHER_ELEMENTS,
    *GATHER_ND,
    *SCATTER_ELEMENTS,
    *SCATTER_ND,
    *TOP_K,
]

LINE = {"x": np.array([3.0, 5.0, 5.0])}
EXACT: list[Exact] = [
    Exact(
        "Where",
        "the branch not taken gets 0, not nan",
        "y = Where(mask, a, b)",
        {"mask": np.array([True, False]), "a": np.array([1.0, -1.0]), "b": np.zeros(2)},
        np.array([np.inf, 2.0]),
        {"a": np.array([np.inf, 0.0]), "b": np.array([0.0, 2.0])},
    ),
    Exact(
        "TopK",
        "of ties the first",
        "y, places = TopK(x, k)",
        LINE,
        np.array([7.0]),
        {"x": np.array([0.0, 7.0, 0.0])},
        consts={"k": ints(1)},
    ),
    Exact(
        "Gather",
        "repeats add up",
        "y = Gather(x, i)",
        LINE,
        np.array([1.0, 2.0, 4.0, 8.0]),
        {"x": np.array([2.0, 13.0, 0.0])},
        consts={"i": ints(1, 0, 1, 1)},
    ),
    Exact(
        "ScatterElements",
        "the product of the others, at 0",
        'y = ScatterElements<reduction = "mul">(x, i, u)',
        {"x": np.array([3.0, 5.0, 7.0]), "u": np.array([0.0, 2.0, 0.0, 0.0])},
        np.array([1.0, 10.0, 100.0]),
        {"x": np.array([0.0, 0.0, 100.0]), "u": np.array([6.0, 0.0, 0.0, 0.0])},
        consts={"i": ints(0, 0, 1, 1)},
    ),
    Exact(
        "ScatterElements",
        "ties of a maximum share evenly",
        'y = ScatterElements<reduction = "max">(x, i, u)',
        {"x": np.array([3.0, 5.0, 7.0]), "u": np.array([3.0, 3.0, 6.0, 3.0])},
        np.array([8.0, 10.0, 100.0]),
        {"x": np.array([2.0, 0.0, 100.0]), "u": np.array([2.0, 2.0, 10.0, 2.0])},
        consts={"i": ints(0, 0, 1, 0)},
    ),
    Exact(
        "ScatterElements",
        "what is overwritten gets 0",
        "y = ScatterElements(x, i, u)",
        {**LINE, "u": np.array([9.0])},
        np.array([1.0, 2.0, 4.0]),
        {"x": np.array([1.0, 0.0, 4.0]), "u": np.array([2.0])},
        consts={"i": ints(1)},
    ),
]
