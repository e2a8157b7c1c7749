"""Pools, local and global. Ties go to the first in row-major order: the exact rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..harness import Exact, Row, distinct
from .conv import attributes, padded, same

try:
    import torch
    import torch.nn.functional as F
except ImportError:  # the rows' torch functions are then not called
    torch = None  # type: ignore[assignment]

Pads = Sequence[int]
Pool = Callable[[Any, "Window"], Any]


class Window:
    """A pool's attributes on sizes that are known, `auto_pad` resolved."""

    def __init__(self, sizes: Pads, given: Mapping[str, Any]) -> None:
        n = len(sizes)
        self.kernel = tuple(given["kernel_shape"])
        self.strides = tuple(given.get("strides") or [1] * n)
        self.dilations = tuple(given.get("dilations") or [1] * n)
        self.pads = list(given.get("pads") or [0] * (2 * n))
        auto = given.get("auto_pad", "NOTSET")
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            lower = auto == "SAME_LOWER"
            self.pads = same(sizes, self.kernel, self.strides, self.dilations, lower)
        self.include = bool(given.get("count_include_pad"))
        self.p = given.get("p", 2)
        # Beyond the pads, ceil_mode lets the last window reach out; it may not start there.
        self.past = [0] * n
        if given.get("ceil_mode"):
            for i, size in enumerate(sizes):
                reach = (self.kernel[i] - 1) * self.dilations[i] + 1
                whole = size + self.pads[i] + self.pads[n + i]
                last = -(-(whole - reach) // self.strides[i]) * self.strides[i]
                if last >= size + self.pads[i]:
                    last -= self.strides[i]
                self.past[i] = last + reach - whole  # negative: what no window reaches

    def fill(self, x: Any, value: float) -> Any:
        n = len(self.kernel)
        ends = [end + past for end, past in zip(self.pads[n:], self.past, strict=True)]
        return padded(x, [*self.pads[:n], *ends], value)

    def total(self, x: Any) -> Any:
        """The sum of each window, as a convolution with ones."""
        n = len(self.kernel)
        convolve = (F.conv1d, F.conv2d, F.conv3d)[n - 1]
        flat = self.fill(x, 0.0).flatten(0, 1).unsqueeze(1)
        ones = torch.ones(1, 1, *self.kernel, dtype=x.dtype)
        y = convolve(flat, ones, None, self.strides, 0, self.dilations)
        return y.reshape(*x.shape[:2], *y.shape[2:])


def _max(x: Any, win: Window) -> Any:
    pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(win.kernel) - 1]
    return pool(win.fill(x, float("-inf")), win.kernel, win.strides, 0, win.dilations)


def _average(x: Any, win: Window) -> Any:
    counted = torch.ones_like(x)
    if win.include:
        # Ones on input and pads, zeros beyond them: what a window holds of ones is its count.
        n = len(win.kernel)
        inner = Window(x.shape[2:], {"kernel_shape": win.kernel})
        inner.pads = win.pads
        beyond = Window(x.shape[2:], {"kernel_shape": win.kernel, "strides": win.strides})
        beyond.dilations, beyond.past, beyond.pads = win.dilations, win.past, [0] * (2 * n)
        return win.total(x) / beyond.total(inner.fill(counted, 1.0))
    return win.total(x) / win.total(counted)


def _norm(x: Any, win: Window) -> Any:
    return win.total(x.abs() ** win.p) ** (1 / win.p)


def _pool(
    op: str,
    function: Pool,
    name: str,
    shape: tuple[int, ...],
    opsets: tuple[int, ...],
    more: Mapping[str, Any],
    **given: Any,
) -> Row:
    return Row(
        op,
        name,
        f"y = {op}{attributes(**given)}(x)",
        {"x": shape},
        lambda x: function(x, Window(shape[2:], given)),
        opsets=opsets,
        **more,
    )


def _max_pool(
    name: str, shape: tuple[int, ...], opsets: tuple[int, ...] = (12, 22), **given: Any
) -> Row:
    more = {k: given.pop(k) for k in ("dims", "no_reference") if k in given}
    return _pool("MaxPool", _max, name, shape, opsets, {"sample": distinct, **more}, **given)


def _average_pool(
    name: str, shape: tuple[int, ...], opsets: tuple[int, ...] = (11, 19, 22), **given: Any
) -> Row:
    more = {k: given.pop(k) for k in ("dims", "no_reference") if k in given}
    return _pool("AveragePool", _average, name, shape, opsets, more, **given)


def _lp_pool(
    name: str, shape: tuple[int, ...], opsets: tuple[int, ...] = (18, 22), **given: Any
) -> Row:
    more = {k: given.pop(k) for k in ("dims", "no_reference") if k in given}
    return _pool("LpPool", _norm, name, shape, opsets, more, **given)


def _global(op: str, function: Callable[[Any], Any], text: str = "", name: str = "") -> list[Row]:
    """`function` of [N, C, positions] -> [N, C]."""
    flat = PLANES if op == "GlobalMaxPool" else ""
    absent = op == "GlobalLpPool"

    def row(kind: str, shape: tuple[int, ...], opset: int, why: str = "", **more: Any) -> Row:
        return Row(
            op,
            f"{name}{kind}",
            f"y = {op}{text}(x)",
            {"x": shape},
            lambda x: function(x.flatten(2)).reshape(*x.shape[:2], *[1] * (x.ndim - 2)),
            opsets=(opset,),
            sample=distinct,
            no_reference=why,
            runtime=opset < 22 or not absent,  # the runtime has no version 22 of GlobalLpPool
            **more,
        )

    return [
        *(row("2d", (2, 3, 2, 3), opset) for opset in (7, 22)),
        *(row("1d", (2, 3, 4), opset, flat) for opset in (7, 22)),
        *(row("3d", (2, 2, 2, 3, 2), opset, flat) for opset in (7, 22)),
        *(row("dynamic", (2, 3, 3, 2), opset, dims={"x": NAMED["x"]}) for opset in (7, 22)),
        *(row("a named width", (2, 3, 3, 2), o, dims={"x": (2, 3, 3, "W")}) for o in (7, 22)),
    ]


PLANES = "its GlobalMaxPool reduces two axes whatever the rank"
WHERE = "its MaxPool with all strides and dilations 1 miscounts the indices"
DOWN = "its MaxPool rounds the size of a strided SAME_LOWER down"
SHORT = "its LpPool takes the mean of what a window at the end holds times the whole kernel's size"
NAMED = {"x": ("N", "C", "H", "W")}

# By auto_pad and by ceil_mode where the run knows the sizes alone.
_LATE: list[tuple[str, tuple[int, ...], dict[str, Any]]] = [
    ("SAME_UPPER, strided", (2, 1, 5, 4), {"strides": [2, 3], "auto_pad": "SAME_UPPER"}),
    ("SAME_LOWER, strided", (1, 2, 4, 5), {"strides": [3, 2], "auto_pad": "SAME_LOWER"}),
    ("ceil_mode", (1, 2, 6, 5), {"strides": [2, 3], "ceil_mode": 1}),
    (
        "ceil_mode, padded",
        (1, 1, 6, 6),
        {"strides": [2, 2], "pads": [1, 1, 1, 0], "ceil_mode": 1},
    ),
]

ROWS: list[Row] = [
    *(
        row(
            f"dynamic, {name}",
            shape,
            (11, 22),
            kernel_shape=[3, 2],
            dims=NAMED,
            no_reference=DOWN if row is _max_pool and "LOWER" in name else "",
            **given,
        )
        for row in (_max_pool, _average_pool, _lp_pool)
        for name, shape, given in _LATE
        if row is not _lp_pool or "ceil_mode" not in given
    ),
    *(
        _average_pool(
            f"dynamic, {name}, count_include_pad",
            shape,
            (11, 19, 22),
            kernel_shape=[3, 2],
            count_include_pad=1,
            dims=NAMED,
            **given,
        )
        for name, shape, given in _LATE
    ),
    _average_pool(
        "dynamic, dilated, ceil_mode, count_include_pad",
        (1, 1, 6, 6),
        (19, 22),
        kernel_shape=[2, 2],
        strides=[2, 3],
        dilations=[2, 1],
        pads=[0, 1, 1, 0],
        ceil_mode=1,
        count_include_pad=1,
        dims=NAMED,
    ),
    _max_pool("plain", (2, 2, 4, 4), (7, 8, 10, 11, 12, 22), kernel_shape=[2, 2], strides=[2, 2]),
    _max_pool("strides of 1", (1, 2, 4, 5), (7, 8, 22), kernel_shape=[2, 3], no_reference=WHERE),
    _max_pool("overlapping", (1, 2, 5, 5), kernel_shape=[3, 3], strides=[2, 2]),
    _max_pool("padded", (1, 2, 5, 4), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    _max_pool(
        "asymmetric pads", (1, 2, 5, 4), kernel_shape=[3, 2], strides=[2, 1], pads=[0, 1, 2, 0]
    ),
    _max_pool("strides above the kernel", (1, 2, 5, 6), kernel_shape=[1, 2], strides=[2, 3]),
    _max_pool(
        "ceil_mode",
        (1, 2, 5, 6),
        (10, 11, 12, 22),
        kernel_shape=[3, 3],
        strides=[3, 2],
        ceil_mode=1,
    ),
    _max_pool(
        "ceil_mode, padded",
        (1, 1, 6, 6),
        kernel_shape=[3, 2],
        strides=[2, 2],
        pads=[1, 1, 1, 0],
        ceil_mode=1,
    ),
    _max_pool(
        "ceil_mode, no window in the pads",
        (1, 2, 4, 5),
        (22,),
        kernel_shape=[2, 2],
        strides=[2, 3],
        pads=[1, 0, 1, 1],
        ceil_mode=1,
    ),
    _max_pool("dilated", (1, 2, 5, 5), (10, 11, 22), kernel_shape=[2, 2], dilations=[3, 2]),
    _max_pool(
        "dilated, strided, padded",
        (1, 2, 5, 6),
        kernel_shape=[2, 3],
        strides=[2, 2],
        dilations=[2, 2],
        pads=[1, 1, 0, 2],
    ),
    _max_pool(
        "dilated, ceil_mode",
        (1, 1, 6, 5),
        kernel_shape=[2, 2],
        strides=[2, 2],
        dilations=[2, 1],
        ceil_mode=1,
    ),
    _max_pool(
        "SAME_UPPER",
        (1, 2, 5, 4),
        (7, 22),
        kernel_shape=[2, 3],
        strides=[2, 2],
        auto_pad="SAME_UPPER",
    ),
    _max_pool(
        "SAME_LOWER",
        (1, 2, 5, 4),
        (7, 22),
        kernel_shape=[2, 3],
        auto_pad="SAME_LOWER",
        no_reference=WHERE,
    ),
    _max_pool(
        "SAME_LOWER, strided",
        (1, 2, 5, 4),
        kernel_shape=[2, 3],
        strides=[2, 2],
        auto_pad="SAME_LOWER",
        no_reference=DOWN,
    ),
    _max_pool("VALID", (1, 2, 5, 4), kernel_shape=[2, 3], strides=[2, 1], auto_pad="VALID"),
    _max_pool("1d", (2, 2, 6), kernel_shape=[3], strides=[2], pads=[1, 0]),
    _max_pool(
        "1d, ceil_mode", (2, 2, 6), kernel_shape=[3], strides=[2], dilations=[2], ceil_mode=1
    ),
    _max_pool("3d", (1, 2, 3, 3, 3), kernel_shape=[2, 2, 2], no_reference=WHERE),
    _max_pool(
        "3d, strided",
        (1, 2, 3, 4, 3),
        kernel_shape=[2, 3, 2],
        strides=[2, 1, 2],
        pads=[1, 0, 0, 0, 1, 1],
    ),
    _max_pool(
        "dynamic", (2, 2, 4, 3), kernel_shape=[2, 2], strides=[2, 1], pads=[1, 0, 0, 1], dims=NAMED
    ),
    Row(
        "MaxPool",
        "with its own indices",
        "y, where = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(x)\nat = Shape(where)",
        {"x": (1, 2, 4, 4)},
        lambda x: F.max_pool2d(x, 2),
        opsets=(8, 12, 22),
        sample=distinct,
    ),
    Row(
        "MaxPool",
        "with indices by columns",
        "y, where = MaxPool<kernel_shape = [2, 2], strides = [2, 1], storage_order = 1>(x)",
        {"x": (1, 2, 4, 4)},
        lambda x: F.max_pool2d(x, 2, (2, 1)),
        opsets=(8, 12, 22),
        sample=distinct,
    ),
    _average_pool("tiles", (2, 2, 4, 6), (7, 10, 11, 19, 22), kernel_shape=[2, 3], strides=[2, 3]),
    _average_pool("overlapping", (1, 2, 5, 5), kernel_shape=[3, 3], strides=[2, 2]),
    _average_pool("strides of 1", (1, 2, 4, 5), (7, 22), kernel_shape=[2, 3]),
    _average_pool("strides above the kernel", (1, 2, 5, 6), kernel_shape=[1, 2], strides=[2, 3]),
    _average_pool("rows that no window reaches", (1, 2, 5, 7), kernel_shape=[2, 2], strides=[2, 3]),
    _average_pool("padded", (1, 2, 4, 5), (7, 10, 22), kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    _average_pool(
        "count_include_pad",
        (1, 2, 4, 5),
        (7, 10, 22),
        kernel_shape=[3, 3],
        strides=[1, 2],
        pads=[1, 1, 1, 1],
        count_include_pad=1,
    ),
    _average_pool(
        "asymmetric pads", (1, 2, 4, 5), kernel_shape=[3, 2], strides=[2, 2], pads=[0, 1, 2, 0]
    ),
    _average_pool(
        "asymmetric pads, count_include_pad",
        (1, 2, 4, 5),
        kernel_shape=[3, 2],
        strides=[2, 2],
        pads=[0, 1, 2, 0],
        count_include_pad=1,
    ),
    _average_pool(
        "ceil_mode",
        (1, 2, 5, 6),
        (10, 11, 19, 22),
        kernel_shape=[3, 3],
        strides=[3, 2],
        ceil_mode=1,
    ),
    _average_pool(
        "ceil_mode, padded",
        (1, 1, 6, 6),
        kernel_shape=[3, 2],
        strides=[2, 2],
        pads=[1, 1, 1, 0],
        ceil_mode=1,
    ),
    _average_pool(
        "ceil_mode, count_include_pad",
        (1, 1, 6, 5),
        kernel_shape=[3, 2],
        strides=[3, 2],
        pads=[1, 0, 1, 1],
        ceil_mode=1,
        count_include_pad=1,
    ),
    _average_pool(
        "ceil_mode, no window in the pads",
        (1, 2, 4, 5),
        (22,),
        kernel_shape=[2, 2],
        strides=[2, 3],
        pads=[1, 0, 1, 1],
        ceil_mode=1,
    ),
    _average_pool("dilated", (1, 2, 5, 5), (19, 22), kernel_shape=[2, 2], dilations=[3, 2]),
    _average_pool(
        "dilated, strided, padded",
        (1, 2, 5, 6),
        (19, 22),
        kernel_shape=[2, 3],
        strides=[2, 2],
        dilations=[2, 2],
        pads=[1, 1, 0, 2],
    ),
    _average_pool(
        "dilated, ceil_mode, count_include_pad",
        (1, 1, 6, 6),
        (19, 22),
        kernel_shape=[2, 2],
        strides=[2, 3],
        dilations=[2, 1],
        pads=[0, 1, 1, 0],
        ceil_mode=1,
        count_include_pad=1,
    ),
    _average_pool(
        "SAME_UPPER",
        (1, 2, 5, 4),
        (7, 22),
        kernel_shape=[2, 3],
        strides=[2, 2],
        auto_pad="SAME_UPPER",
    ),
    _average_pool("SAME_LOWER", (1, 2, 5, 4), (7, 22), kernel_shape=[2, 3], auto_pad="SAME_LOWER"),
    _average_pool(
        "SAME_LOWER, count_include_pad",
        (1, 2, 5, 4),
        kernel_shape=[2, 3],
        strides=[2, 2],
        auto_pad="SAME_LOWER",
        count_include_pad=1,
    ),
    _average_pool("VALID", (1, 2, 5, 4), kernel_shape=[2, 3], strides=[2, 1], auto_pad="VALID"),
    _average_pool("1d", (2, 2, 6), kernel_shape=[3], strides=[2], pads=[1, 0]),
    _average_pool("1d, ceil_mode", (2, 2, 6), kernel_shape=[3], strides=[2], ceil_mode=1),
    _average_pool(
        "1d, dilated, more pad in front",
        (1, 2, 7),
        (19, 22),
        kernel_shape=[3],
        dilations=[2],
        pads=[1, 0],
        no_reference=SHORT,
    ),
    _average_pool("1d, tiles", (2, 2, 6), kernel_shape=[3], strides=[3]),
    _average_pool("3d", (1, 2, 3, 3, 3), kernel_shape=[2, 2, 2], pads=[1, 0, 0, 0, 1, 0]),
    _average_pool("3d, strided", (1, 2, 3, 4, 3), kernel_shape=[2, 3, 2], strides=[2, 1, 2]),
    _average_pool("3d, tiles", (1, 2, 2, 4, 3), kernel_shape=[2, 2, 1], strides=[2, 2, 1]),
    _average_pool("dynamic", (2, 2, 4, 3), kernel_shape=[2, 2], strides=[2, 2], dims=NAMED),
    _average_pool(
        "dynamic, padded",
        (2, 2, 4, 3),
        kernel_shape=[3, 2],
        strides=[2, 1],
        pads=[1, 0, 1, 1],
        dims=NAMED,
    ),
    _average_pool(
        "dynamic, count_include_pad",
        (2, 2, 4, 3),
        kernel_shape=[3, 2],
        strides=[2, 1],
        pads=[1, 0, 1, 1],
        count_include_pad=1,
        dims=NAMED,
    ),
    _average_pool(
        "dynamic, dilated, padded",
        (1, 2, 5, 4),
        (19, 22),
        kernel_shape=[2, 2],
        dilations=[2, 1],
        pads=[1, 0, 1, 1],
        dims=NAMED,
    ),
    _average_pool(
        "a named batch",
        (2, 2, 4, 4),
        kernel_shape=[2, 2],
        strides=[2, 2],
        dims={"x": ("N", 2, 4, 4)},
    ),
    _average_pool(
        "dynamic, SAME_UPPER", (1, 2, 4, 3), kernel_shape=[2, 3], auto_pad="SAME_UPPER", dims=NAMED
    ),
    _lp_pool("tiles", (2, 2, 4, 4), (7, 11, 18, 22), kernel_shape=[2, 2], strides=[2, 2]),
    _lp_pool("p of 1", (1, 2, 4, 5), (7, 11, 18, 22), kernel_shape=[2, 3], p=1),
    _lp_pool("p of 3", (1, 2, 4, 5), (7, 11, 18, 22), kernel_shape=[2, 3], strides=[2, 1], p=3),
    _lp_pool("p of 4", (1, 2, 4, 4), kernel_shape=[2, 2], strides=[2, 2], p=4),
    _lp_pool(
        "padded", (1, 2, 4, 5), (7, 22), kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1]
    ),
    _lp_pool("dilated", (1, 2, 5, 5), kernel_shape=[2, 2], dilations=[3, 2]),
    _lp_pool(
        "ceil_mode",
        (1, 2, 5, 6),
        kernel_shape=[3, 3],
        strides=[3, 2],
        ceil_mode=1,
        no_reference=SHORT,
    ),
    _lp_pool(
        "SAME_UPPER",
        (1, 2, 5, 4),
        (7, 22),
        kernel_shape=[2, 3],
        strides=[2, 2],
        auto_pad="SAME_UPPER",
    ),
    _lp_pool("SAME_LOWER", (1, 2, 5, 4), (11, 22), kernel_shape=[2, 3], auto_pad="SAME_LOWER"),
    _lp_pool("VALID", (1, 2, 5, 4), kernel_shape=[2, 3], strides=[2, 1], auto_pad="VALID"),
    _lp_pool("1d", (2, 2, 6), kernel_shape=[3], strides=[2], pads=[1, 0]),
    _lp_pool("3d", (1, 2, 3, 3, 3), kernel_shape=[2, 2, 2], strides=[1, 2, 1]),
    _lp_pool("dynamic", (2, 2, 4, 3), kernel_shape=[2, 2], strides=[2, 1], dims=NAMED),
    *_global("GlobalAveragePool", lambda x: x.mean(2)),
    *_global("GlobalMaxPool", lambda x: x.amax(2)),
    *_global("GlobalLpPool", lambda x: x.norm(2, 2)),
    *_global("GlobalLpPool", lambda x: x.norm(1, 2), "<p = 1>", "p of 1, "),
    *_global("GlobalLpPool", lambda x: x.norm(3, 2), "<p = 3>", "p of 3, "),
]


def _image(rows: Sequence[Sequence[float]]) -> np.ndarray[Any, Any]:
    return np.array(rows, np.float64)[None, None]


def _exact(op: str, name: str, text: str, x: Any, ct: Any, want: Any, opset: int = 22) -> Exact:
    images = {"x": _image(want)}
    return Exact(op, name, f"y = {op}{text}(x)", {"x": _image(x)}, _image(ct), images, opset=opset)


EXACT: list[Exact] = [
    _exact(
        "MaxPool",
        "ties go to the first by rows",
        "<kernel_shape = [2, 2], strides = [2, 2]>",
        [[0, 3, 0, 0], [3, 3, 0, 0], [-1, -2, 1, 2], [-2, -1, 2, 2]],
        [[2, 3], [-5, 7]],
        [[0, 2, 3, 0], [0, 0, 0, 0], [-5, 0, 0, 7], [0, 0, 0, 0]],
    ),
    _exact(
        "MaxPool",
        "ties of overlapping windows",
        "<kernel_shape = [2, 2]>",
        [[1, 1, 1], [1, 1, 1], [1, 1, 1]],
        [[1, 2], [4, 8]],
        [[1, 2, 0], [4, 8, 0], [0, 0, 0]],
    ),
    _exact(
        "MaxPool",
        "one maximum of several windows",
        "<kernel_shape = [2, 2]>",
        [[0, 0, 0], [0, 9, 0], [0, 0, 0]],
        [[1, 2], [4, 8]],
        [[0, 0, 0], [0, 15, 0], [0, 0, 0]],
    ),
    _exact(
        "MaxPool",
        "pads never win",
        "<kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]>",
        [[-1, -1, -2], [-1, -1, -2], [-2, -2, -2]],
        [[1, 2], [4, 8]],
        [[1, 2, 0], [4, 8, 0], [0, 0, 0]],
    ),
    _exact(
        "MaxPool",
        "ties of dilated windows in ceil_mode",
        "<kernel_shape = [2, 2], strides = [2, 2], dilations = [2, 2], ceil_mode = 1>",
        [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
        [[1, 2], [4, 8]],
        [[1, 0, 2, 0], [0, 0, 0, 0], [4, 0, 8, 0], [0, 0, 0, 0]],
    ),
    Exact(
        "MaxPool",
        "ties in three dimensions",
        "y = MaxPool<kernel_shape = [2, 2, 2], strides = [2, 2, 2]>(x)",
        {"x": np.array([[0.0, 1, 1, 1, 0, 1, 1, 1]]).reshape(1, 1, 2, 2, 2)},
        np.full((1, 1, 1, 1, 1), 3.0),
        {"x": np.array([[0.0, 3, 0, 0, 0, 0, 0, 0]]).reshape(1, 1, 2, 2, 2)},
    ),
    _exact("GlobalMaxPool", "ties", "", [[0, 5, 1], [5, 5, 0]], [[3]], [[0, 3, 0], [0, 0, 0]]),
    *(
        _exact(
            "LpPool",
            f"0 where a window is, p of {p}",
            f"<kernel_shape = [1, 2], strides = [1, 2], p = {p}>",
            [[0, 0, -1, 0]],
            [[5, 2]],
            [[0, 0, -2, 0]],
        )
        for p in (1, 2, 3)
    ),
    *(
        _exact("GlobalLpPool", f"at 0, p of {p}", f"<p = {p}>", [[0, 0]], [[5]], [[0, 0]], 18)
        for p in (1, 2, 3)
    ),
]
