"""Convolutions: the gradient by x, weights and bias, in one, two and three spatial dimensions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..harness import Exact, Row

try:
    import torch
    import torch.nn.functional as F
except ImportError:  # the rows' torch functions are then not called
    torch = None  # type: ignore[assignment]

Pads = Sequence[int]
CONV = (11, 22)
OLD = (7, 11, 22)
GROUPED_TRANSPOSE = (
    "its ConvTranspose slices grouped weights by output channels and keeps one channel of a group"
)

SHAPE = "its ConvTranspose takes pads of 0 beside an output_shape, unless auto_pad is SAME"


def padded(x: Any, pads: Pads, value: float = 0.0) -> Any:
    """x with ONNX's pads (all begins, then all ends), which may cut; PyTorch's are symmetric."""
    n = len(pads) // 2
    flat = [p for i in reversed(range(n)) for p in (pads[i], pads[n + i])]
    return F.pad(x, flat, value=value) if any(flat) else x


def attributes(**given: Any) -> str:
    """Attributes in ONNX's text form, without those that are None."""
    texts = []
    for name, value in given.items():
        if isinstance(value, str):
            texts.append(f'{name} = "{value}"')
        elif value is not None:
            texts.append(f"{name} = {value if isinstance(value, int) else list(value)}")
    return f"<{', '.join(texts)}>" if texts else ""


def same(sizes: Pads, kernel: Pads, strides: Pads, dilations: Pads, lower: bool) -> list[int]:
    """The pads of auto_pad = SAME_*: the output is ceil(size / stride)."""
    begins, ends = [], []
    for size, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
        total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        begins.append((total + lower) // 2)
        ends.append(total - begins[-1])
    return begins + ends


def _torch_conv(
    x_shape: Pads,
    w_shape: Pads,
    strides: Pads | None,
    dilations: Pads | None,
    pads: Pads | None,
    group: int | None,
    auto_pad: str | None,
) -> Callable[..., Any]:
    n = len(x_shape) - 2
    steps, holes = strides or [1] * n, dilations or [1] * n
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        pads = same(x_shape[2:], w_shape[2:], steps, holes, auto_pad == "SAME_LOWER")

    def function(x: Any, w: Any, b: Any = None) -> Any:
        convolve = (F.conv1d, F.conv2d, F.conv3d)[n - 1]
        return convolve(
            padded(x, pads or [0] * (2 * n)), w, b, tuple(steps), 0, tuple(holes), group or 1
        )

    return function


def _conv(
    name: str,
    x: tuple[int, ...],
    w: tuple[int, ...],
    bias: bool = False,
    *,
    strides: Pads | None = None,
    dilations: Pads | None = None,
    pads: Pads | None = None,
    group: int | None = None,
    auto_pad: str | None = None,
    kernel_shape: Pads | None = None,
    opsets: tuple[int, ...] = CONV,
    **more: Any,
) -> Row:
    given = {"strides": strides, "dilations": dilations, "pads": pads, "group": group}
    text = attributes(**given, auto_pad=auto_pad, kernel_shape=kernel_shape)
    shapes: dict[str, tuple[int, ...]] = {"x": x, "w": w, **({"b": (w[0],)} if bias else {})}
    return Row(
        "Conv",
        name,
        f"y = Conv{text}({', '.join(shapes)})",
        shapes,
        _torch_conv(x, w, strides, dilations, pads, group, auto_pad),
        opsets=opsets,
        **more,
    )


def _grouped(name: str, *shapes: Any, **more: Any) -> Row:
    """Grouped with strides: its gradient holds a grouped ConvTranspose."""
    return _conv(name, *shapes, no_reference=GROUPED_TRANSPOSE, **more)


def _transposed(
    name: str,
    x: tuple[int, ...],
    w: tuple[int, ...],
    bias: bool = False,
    *,
    strides: Pads | None = None,
    dilations: Pads | None = None,
    pads: Pads | None = None,
    group: int | None = None,
    auto_pad: str | None = None,
    output_padding: Pads | None = None,
    output_shape: Pads | None = None,
    cut: Pads | None = None,
    opsets: tuple[int, ...] = CONV,
    **more: Any,
) -> Row:
    """`cut`: what is cut off the whole transposed convolution (negative: zeros that are added)."""
    n = len(x) - 2
    steps, holes = strides or [1] * n, dilations or [1] * n
    extra = output_padding or [0] * n
    off = list(cut or pads or [0] * (2 * n))
    # The operator adds output_padding at the end of what the pads then cut.
    off[n:] = [end - more_at for end, more_at in zip(off[n:], extra, strict=True)]

    def function(x: Any, w: Any, b: Any = None) -> Any:
        transpose = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[n - 1]
        whole = transpose(x, w, None, tuple(steps), 0, 0, group or 1, tuple(holes))
        y = padded(whole, [-p for p in off])
        return y if b is None else y + b.reshape(-1, *[1] * n)

    text = attributes(
        strides=strides,
        dilations=dilations,
        pads=pads,
        group=group,
        auto_pad=auto_pad,
        output_padding=output_padding,
        output_shape=output_shape,
    )
    shapes = {"x": x, "w": w, **({"b": (w[1] * (group or 1),)} if bias else {})}
    return Row(
        "ConvTranspose",
        name,
        f"y = ConvTranspose{text}({', '.join(shapes)})",
        shapes,
        function,
        opsets=opsets,
        **more,
    )


NAMED: Mapping[str, Sequence[int | str]] = {"x": ("N", 2, "H", "W")}

ROWS: list[Row] = [
    _conv("plain", (2, 2, 4, 3), (2, 2, 2, 2), True, opsets=OLD),
    _conv("a pointwise kernel", (2, 3, 2, 2), (2, 3, 1, 1), True),
    _conv("padded", (1, 2, 4, 4), (2, 2, 3, 3), pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
    _conv("asymmetric pads", (1, 2, 4, 4), (2, 2, 3, 2), pads=[2, 0, 1, 1]),
    _conv("pads beyond the kernel", (1, 1, 3, 4), (2, 1, 2, 1), pads=[3, 0, 2, 2]),
    _conv("pads beyond the kernel at one end", (1, 1, 3, 4), (2, 1, 2, 3), pads=[0, 4, 3, 0]),
    _conv("dilated", (1, 2, 5, 5), (2, 2, 2, 2), dilations=[3, 2], pads=[1, 1, 0, 2]),
    _conv("strided", (1, 2, 5, 5), (2, 2, 3, 3), True, strides=[2, 2], pads=[1, 1, 1, 1]),
    _conv("strided, an even kernel", (2, 1, 6, 5), (2, 1, 2, 2), strides=[2, 2]),
    _conv("strides above the kernel", (1, 2, 5, 6), (2, 2, 1, 2), True, strides=[2, 3]),
    _conv("strides of one axis", (1, 2, 4, 5), (2, 2, 2, 2), strides=[1, 2]),
    _conv("rows that no window reaches", (1, 1, 8, 7), (2, 1, 2, 2), strides=[3, 4]),
    _conv(
        "strided, asymmetric pads", (1, 2, 5, 4), (2, 2, 3, 3), strides=[2, 2], pads=[0, 1, 2, 0]
    ),
    _conv(
        "strided, more pad at the end",
        (1, 1, 5, 5),
        (1, 1, 2, 2),
        strides=[2, 3],
        pads=[0, 0, 1, 3],
    ),
    _conv(
        "strided and dilated",
        (1, 2, 6, 5),
        (2, 2, 2, 2),
        strides=[2, 2],
        dilations=[3, 2],
        pads=[1, 0, 2, 2],
    ),
    _conv(
        "strided by less than dilated, more pad in front",
        (1, 2, 7, 6),
        (2, 2, 3, 3),
        strides=[2, 1],
        dilations=[1, 2],
        pads=[1, 2, 0, 1],
    ),
    _conv("SAME_UPPER", (1, 2, 4, 5), (2, 2, 2, 3), auto_pad="SAME_UPPER"),
    _conv("SAME_LOWER", (1, 2, 4, 5), (2, 2, 2, 3), auto_pad="SAME_LOWER"),
    _conv("SAME_UPPER, strided", (1, 2, 5, 4), (2, 2, 2, 3), strides=[2, 2], auto_pad="SAME_UPPER"),
    _conv("SAME_LOWER, strided", (1, 2, 5, 4), (2, 2, 2, 3), strides=[2, 2], auto_pad="SAME_LOWER"),
    _conv(
        "SAME_UPPER, strides above the kernel",
        (1, 1, 5, 6),
        (1, 1, 1, 2),
        strides=[3, 4],
        auto_pad="SAME_UPPER",
    ),
    _conv("VALID", (1, 2, 4, 4), (2, 2, 3, 2), strides=[1, 2], auto_pad="VALID"),
    _conv("NOTSET", (1, 2, 4, 4), (2, 2, 3, 2), pads=[1, 0, 0, 1], auto_pad="NOTSET"),
    _conv("groups", (2, 4, 3, 3), (6, 2, 2, 2), True, group=2),
    _conv("groups of one output", (2, 4, 3, 3), (2, 2, 2, 2), group=2, pads=[1, 0, 0, 1]),
    _conv("depthwise", (2, 3, 3, 3), (3, 1, 3, 3), True, group=3, pads=[1, 1, 1, 1]),
    _conv("depthwise, a multiplier", (2, 2, 3, 3), (4, 1, 2, 2), group=2, dilations=[2, 1]),
    _grouped("groups, strided", (2, 4, 3, 3), (6, 2, 2, 2), True, group=2, strides=[2, 2]),
    _grouped(
        "depthwise, strided", (2, 3, 4, 3), (3, 1, 3, 3), group=3, strides=[2, 2], pads=[1, 1, 1, 1]
    ),
    _grouped(
        "depthwise, strided, a multiplier",
        (1, 2, 4, 4),
        (4, 1, 2, 3),
        group=2,
        strides=[2, 2],
        pads=[0, 1, 1, 2],
    ),
    _conv("1d", (2, 2, 6), (3, 2, 3), True, pads=[1, 1]),
    _conv("1d, strided", (2, 2, 6), (3, 2, 3), True, strides=[2], dilations=[2], pads=[2, 1]),
    _conv("1d, SAME_LOWER", (1, 2, 5), (3, 2, 2), auto_pad="SAME_LOWER"),
    _conv("1d, groups", (2, 4, 5), (4, 2, 2), group=2),
    _conv("3d", (1, 2, 3, 3, 3), (2, 2, 2, 2, 2), True, pads=[1, 0, 0, 0, 1, 0]),
    _conv(
        "3d, strided",
        (1, 2, 3, 4, 3),
        (2, 2, 2, 2, 2),
        True,
        strides=[2, 2, 1],
        dilations=[1, 2, 1],
    ),
    _conv("3d, depthwise", (1, 2, 3, 3, 3), (2, 1, 2, 2, 2), group=2),
    _conv("dynamic", (2, 2, 4, 3), (2, 2, 3, 2), True, pads=[1, 0, 1, 1], dims=NAMED),
    _conv("dynamic, SAME_LOWER", (2, 2, 4, 3), (2, 2, 2, 2), auto_pad="SAME_LOWER", dims=NAMED),
    _conv(
        "dynamic, strided",
        (1, 2, 6, 5),
        (2, 2, 3, 2),
        strides=[2, 2],
        pads=[1, 0, 1, 1],
        dims=NAMED,
    ),
    _conv(
        "dynamic, rows that no window reaches",
        (1, 2, 6, 5),
        (2, 2, 2, 2),
        strides=[3, 4],
        pads=[0, 2, 0, 0],
        dims=NAMED,
    ),
    _conv(
        "dynamic, strided, more pad than needed",
        (1, 2, 3, 4),
        (2, 2, 1, 2),
        strides=[2, 2],
        pads=[2, 1, 2, 3],
        dims=NAMED,
    ),
    *(
        _conv(
            f"dynamic, {auto}, strided, {name}",
            shape,
            (2, 2, *kernel),
            strides=steps,
            dilations=holes,
            auto_pad=auto,
            opsets=(11, 22),
            dims=dims,
        )
        for auto in ("SAME_UPPER", "SAME_LOWER")
        for name, shape, kernel, steps, holes, dims in (
            ("even", (2, 2, 6, 5), (3, 2), [2, 2], None, NAMED),
            ("odd", (1, 2, 5, 6), (2, 4), [2, 3], None, NAMED),
            ("above the kernel", (1, 2, 5, 4), (1, 2), [2, 3], None, NAMED),
            ("dilated", (1, 2, 6, 5), (2, 2), [2, 1], [2, 3], NAMED),
            ("one axis", (1, 2, 5, 6), (3, 3), [2, 2], None, {"x": (1, 2, 5, "W")}),
        )
        # ONNX Runtime pads nothing where dilations meet auto_pad.
        if holes is None
    ),
    _conv("a named width", (1, 2, 5, 4), (2, 2, 2, 2), strides=[2, 2], dims={"x": (1, 2, 5, "W")}),
    _conv(
        "named sizes, groups", (2, 4, 3, 3), (4, 2, 2, 2), group=2, dims={"x": ("N", 4, "H", "W")}
    ),
    _grouped(
        "named sizes, groups, strided",
        (2, 4, 4, 3),
        (4, 2, 2, 2),
        group=2,
        strides=[2, 2],
        dims={"x": ("N", 4, "H", "W")},
    ),
    _conv("a named batch", (2, 2, 5, 5), (2, 2, 3, 3), strides=[2, 2], dims={"x": ("N", 2, 5, 5)}),
    _transposed("plain", (2, 2, 3, 2), (2, 2, 2, 2), True, opsets=OLD),
    _transposed("padded", (1, 2, 3, 3), (2, 2, 3, 3), pads=[1, 1, 1, 1]),
    _transposed("asymmetric pads", (1, 2, 3, 3), (2, 2, 3, 3), pads=[0, 1, 2, 0]),
    _transposed("strided", (1, 2, 3, 2), (2, 3, 2, 3), True, strides=[2, 2]),
    _transposed("strides above the kernel", (1, 2, 3, 2), (2, 2, 1, 2), True, strides=[2, 3]),
    _transposed("strided, padded", (1, 2, 3, 3), (2, 2, 3, 3), strides=[2, 2], pads=[1, 0, 1, 2]),
    _transposed("dilated", (1, 2, 3, 3), (2, 2, 2, 2), dilations=[2, 3], pads=[1, 1, 0, 1]),
    _transposed(
        "output_padding",
        (1, 2, 3, 2),
        (2, 2, 3, 2),
        True,
        strides=[2, 3],
        pads=[1, 0, 1, 0],
        output_padding=[1, 2],
    ),
    _transposed(
        "output_padding above the pads",
        (1, 2, 2, 2),
        (2, 2, 2, 1),
        strides=[3, 2],
        pads=[0, 0, 1, 0],
        output_padding=[2, 1],
    ),
    _transposed(
        "output_shape",
        (1, 2, 3, 2),
        (2, 2, 3, 2),
        strides=[2, 2],
        output_shape=[6, 4],
        cut=[1, 0, 0, 0],
        no_reference=SHAPE,
    ),
    _transposed(
        "output_shape, SAME_UPPER",
        (1, 2, 3, 2),
        (2, 2, 3, 2),
        strides=[2, 2],
        output_shape=[6, 3],
        auto_pad="SAME_UPPER",
        cut=[0, 0, 1, 1],
    ),
    _transposed(
        "output_shape and output_padding",
        (1, 2, 3, 2),
        (2, 2, 3, 2),
        strides=[2, 2],
        output_shape=[6, 5],
        output_padding=[1, 1],
        cut=[1, 0, 1, 0],
        no_reference=SHAPE,
    ),
    _transposed(
        "output_shape beyond the whole result",
        (1, 2, 3, 2),
        (2, 2, 1, 2),
        strides=[3, 2],
        output_shape=[9, 5],
        cut=[0, 0, -2, -1],
        no_reference=SHAPE,
    ),
    _transposed(
        "SAME_UPPER",
        (1, 2, 3, 2),
        (2, 2, 3, 4),
        strides=[2, 2],
        auto_pad="SAME_UPPER",
        cut=[0, 1, 1, 1],
    ),
    _transposed(
        "SAME_LOWER",
        (1, 2, 3, 2),
        (2, 2, 3, 4),
        strides=[2, 2],
        auto_pad="SAME_LOWER",
        cut=[1, 1, 0, 1],
    ),
    _transposed("VALID", (1, 2, 3, 2), (2, 2, 3, 2), strides=[1, 2], auto_pad="VALID"),
    _transposed("NOTSET", (1, 2, 3, 2), (2, 2, 3, 2), pads=[1, 0, 0, 1], auto_pad="NOTSET"),
    _transposed(
        "groups", (2, 4, 2, 2), (4, 3, 2, 2), True, group=2, no_reference=GROUPED_TRANSPOSE
    ),
    _transposed(
        "groups, strided",
        (2, 4, 2, 2),
        (4, 1, 3, 2),
        True,
        group=2,
        strides=[2, 2],
        pads=[1, 0, 0, 0],
        no_reference=GROUPED_TRANSPOSE,
    ),
    _transposed("depthwise", (2, 3, 2, 2), (3, 1, 2, 2), group=3, strides=[2, 1]),
    _transposed("1d", (2, 2, 4), (2, 3, 3), True, strides=[2], pads=[1, 0], output_padding=[1]),
    _transposed("1d, SAME_UPPER", (1, 2, 4), (2, 2, 3), auto_pad="SAME_UPPER", cut=[1, 1]),
    _transposed("3d", (1, 2, 2, 2, 2), (2, 2, 2, 2, 1), True, strides=[2, 1, 2]),
    _transposed("3d, padded", (1, 2, 2, 2, 3), (2, 2, 2, 2, 2), pads=[1, 0, 0, 0, 1, 1]),
    *(
        _transposed(
            f"dynamic, {auto}",
            (2, 2, 3, 2),
            (2, 2, 3, 4),
            strides=[2, 2],
            auto_pad=auto,
            cut=cut,
            dims=NAMED,
        )
        for auto, cut in (("SAME_UPPER", [0, 1, 1, 1]), ("SAME_LOWER", [1, 1, 0, 1]))
    ),
    _transposed("dynamic", (2, 2, 3, 2), (2, 2, 3, 2), True, pads=[1, 0, 1, 1], dims=NAMED),
    _transposed(
        "dynamic, strided",
        (1, 2, 3, 2),
        (2, 2, 3, 2),
        strides=[2, 2],
        pads=[1, 0, 0, 1],
        output_padding=[1, 0],
        dims=NAMED,
    ),
]

EXACT: list[Exact] = []
