"""Resize in each of its modes; Upsample, which is a Resize by the time that rules see it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ..harness import Exact, Row

try:
    import torch
    import torch.nn.functional as F
except ImportError:  # the rows' torch functions are then not called
    torch = None  # type: ignore[assignment]

FLAT = {"x": (3, 4)}
IMAGE = {"x": (1, 2, 2, 3)}
SHRUNK = (0.43, 1.5, 0.6)
# What exporters write for sizes of two axes and a batch of any size.
BATCH = """
    shape = Shape(x)
    front = Slice(shape, zero, two)
    sizes = Concat<axis = 0>(front, ends)
    y = Resize<mode = "linear">(x, , , sizes)"""
PICKED = """
    shape = Shape(x)
    images = Gather(shape, zero)
    sizes = Concat<axis = 0>(images, one, ends)
    y = Resize<mode = "linear">(x, , , sizes)"""

# Where output i of m lies among n inputs, at scale s, as the standard has it.
COORDINATES: dict[str, Callable[[int, int, int, float], float]] = {
    "half_pixel": lambda i, n, m, s: (i + 0.5) / s - 0.5,
    "half_pixel_symmetric": lambda i, n, m, s: n / 2 * (1 - m / (s * n)) + (i + 0.5) / s - 0.5,
    "pytorch_half_pixel": lambda i, n, m, s: (i + 0.5) / s - 0.5 if m > 1 else 0.0,
    "align_corners": lambda i, n, m, s: i * (n - 1) / (m - 1) if m > 1 else 0.0,
    "asymmetric": lambda i, n, m, s: i / s,
    "tf_half_pixel_for_nn": lambda i, n, m, s: (i + 0.5) / s,
}
NEAREST: dict[str, Callable[[float], int]] = {
    "round_prefer_floor": lambda p: math.ceil(p - 0.5),
    "round_prefer_ceil": lambda p: math.floor(p + 0.5),
    "floor": math.floor,
    "ceil": math.ceil,
}
Taps = Callable[[float, int], list[tuple[int, float]]]


def nearest(rounding: str) -> Taps:
    return lambda p, n: [(NEAREST[rounding](p), 1.0)]


def linear(p: float, n: int) -> list[tuple[int, float]]:
    low = math.floor(p)
    return [(low, 1 - p + low), (low + 1, p - low)]


def triangle(d: float) -> float:
    return max(1 - d, 0)


def keys(d: float, a: float = -0.75) -> float:
    """Keys' kernel, of parameter a."""
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


def cubic(a: float = -0.75, inside: bool = False) -> Taps:
    """Keys' kernel, of parameter a; inside: nothing outside the input has a weight."""

    def taps(p: float, n: int) -> list[tuple[int, float]]:
        places = [math.floor(p) + k for k in (-1, 0, 1, 2)]
        kept = [k for k in places if 0 <= k < n] if inside else places
        total = sum(keys(abs(p - k), a) for k in kept) if inside else 1.0
        return [(k, keys(abs(p - k), a) / total) for k in kept]

    return taps


def widened(kernel: Callable[[float], float], scale: float, inside: bool) -> Taps:
    """A kernel at 1 / scale times its width: what antialias does where it shrinks an image."""

    def taps(p: float, n: int) -> list[tuple[int, float]]:
        reach = math.ceil(2 / scale)
        places = range(math.floor(p) - reach, math.ceil(p) + reach + 1)
        kept = [k for k in places if 0 <= k < n or not inside]
        weights = [kernel(abs(p - k) * scale) for k in kept]
        return [(k, w / sum(weights)) for k, w in zip(kept, weights, strict=True)]

    return taps


def antialiased(
    x: Any, scales: Sequence[float], how: str, kernel: Callable[[float], float], inside: bool
) -> Any:
    for axis, scale in enumerate(scales):
        taps = widened(kernel, min(float(np.float32(scale)), 1.0), inside)
        x = by_scales((scale,), how, taps, (axis,))(x)
    return x


def resized(x: Any, axis: int, positions: Sequence[float], taps: Taps) -> Any:
    """x sampled at positions along an axis; what lies outside repeats the border."""
    n = x.shape[axis]
    lines = []
    for p in positions:
        parts = [w * x.select(axis, min(max(k, 0), n - 1)) for k, w in taps(p, n)]
        lines.append(sum(parts[1:], parts[0]))
    return torch.stack(lines, axis)


def by_scales(
    scales: Sequence[float],
    how: str,
    taps: Taps,
    axes: Sequence[int] = (),
    sizes: Sequence[int] = (),
) -> Callable[..., Any]:
    """Resize by scales, to sizes where they are not the scales' own, an axis after the other."""

    def function(x: Any, *_: Any) -> Any:
        for place, (axis, scale) in enumerate(zip(axes or range(len(scales)), scales, strict=True)):
            s = float(np.float32(scale))  # the standard's scales are float32
            n = x.shape[axis]
            m = sizes[place] if sizes else math.floor(n * s)
            x = resized(x, axis, [COORDINATES[how](i, n, m, s) for i in range(m)], taps)
        return x

    return function


def floats(name: str, values: Sequence[float]) -> str:
    """A constant that is float32 whatever x is."""
    return f"{name} = Constant<value = float[{len(values)}] {{{', '.join(map(str, values))}}}>()\n"


def attributes(**given: Any) -> str:
    parts = [f'{n} = "{v}"' if isinstance(v, str) else f"{n} = {v}" for n, v in given.items()]
    return f"<{', '.join(parts)}>" if parts else ""


def _scaled(
    name: str,
    scales: Sequence[float],
    function: Callable[..., Any],
    opsets: Sequence[int] = (18,),
    inputs: dict[str, Sequence[int]] = FLAT,
    more: dict[str, Any] | None = None,
    **given: Any,
) -> Row:
    """A Resize by scales; `given` are its attributes, `more` the row's."""
    return Row(
        "Resize",
        name,
        f"{floats('scales', scales)}y = Resize{attributes(**given)}(x, , scales)",
        inputs,
        function,
        opsets=opsets,
        **(more or {}),
    )


def _sized(
    name: str,
    sizes: Sequence[int],
    function: Callable[..., Any],
    opsets: Sequence[int] = (18,),
    inputs: dict[str, Sequence[int]] = FLAT,
    more: dict[str, Any] | None = None,
    **given: Any,
) -> Row:
    return Row(
        "Resize",
        name,
        f"y = Resize{attributes(**given)}(x, , , sizes)",
        inputs,
        function,
        consts={"sizes": np.array(sizes, np.int64)},
        opsets=opsets,
        **(more or {}),
    )


def _opset(how: str) -> tuple[int, ...]:
    return (19,) if how == "half_pixel_symmetric" else (18,)


# One axis grows and the other shrinks: by odd scales, far from ties, and by exact halves and
# quarters, where ties are many.
SCALES = {
    "odd": (1.7, 0.63),
    "odd, turned": (0.72, 1.43),
    "even": (2.0, 0.5),
    "quarters": (1.5, 0.75),
}
ROUNDED = "its align_corners divides by the size before it is rounded"
LAST_BIT = "it rounds what is 0 in float32, as it is in exact numbers, and not in float64"
SWEEP = [
    _scaled(
        f"{mode}{', ' * bool(rounding)}{rounding}, {how}, {kind}",
        scales,
        by_scales(scales, how, nearest(rounding) if rounding else taps),
        _opset(how),
        FLAT,
        {
            "no_reference": ROUNDED
            if how == "align_corners" and kind != "even"
            else LAST_BIT
            if (how, rounding, kind) == ("half_pixel_symmetric", "ceil", "quarters")
            else ""
        },
        mode=mode,
        coordinate_transformation_mode=how,
        **({"nearest_mode": rounding} if rounding else {}),
    )
    for how in COORDINATES
    if how != "tf_half_pixel_for_nn"
    for mode, rounding, taps in (
        *(("nearest", r, linear) for r in NEAREST),
        ("linear", "", linear),
        ("cubic", "", cubic()),
    )
    for kind, scales in SCALES.items()
]

OLD = "its Resize has the operands of opset 11"
NN = "it lacks tf_half_pixel_for_nn"
TWO = (1.0, 1.0, 2.0, 2.0)


def _interpolate(mode: str, **how: Any) -> Callable[..., Any]:
    return lambda x, *_: F.interpolate(x, mode=mode, **how)


def _crop(n: int, m: int, start: float, end: float) -> list[float]:
    """tf_crop_and_resize: from start to end of the axis, as fractions."""
    if m == 1:
        return [(start + end) * (n - 1) / 2]
    return [start * (n - 1) + i * (end - start) * (n - 1) / (m - 1) for i in range(m)]


def _cropped(x: Any, taps: Taps, sizes: Sequence[int], roi: Sequence[float], value: float) -> Any:
    """What lies outside of the input is the value."""
    for axis, m in enumerate(sizes):
        start, end = (float(np.float32(roi[axis + k * len(sizes)])) for k in (0, 1))
        at = _crop(x.shape[axis], m, start, end)
        outside = torch.tensor([p < 0 or p > x.shape[axis] - 1 for p in at])
        shape = [-1 if k == axis else 1 for k in range(x.dim())]
        x = torch.where(outside.reshape(shape), value, resized(x, axis, at, taps))
    return x


CROPS = [
    Row(
        "Resize",
        f"tf_crop_and_resize, {name}, {mode}",
        f"{floats('roi', roi)}y = Resize"
        + attributes(
            mode=mode,
            coordinate_transformation_mode="tf_crop_and_resize",
            extrapolation_value=0.5,
        )
        + "(x, roi, , sizes)",
        FLAT,
        lambda x, roi=roi, sizes=sizes, taps=taps: _cropped(x, taps, sizes, roi, 0.5),
        consts={"sizes": np.array(sizes, np.int64)},
        opsets=(11, 13, 18, 19),
    )
    for name, roi, sizes in (
        ("inside", (0.25, 0.125, 0.875, 0.75), (4, 3)),
        ("outside", (-0.375, 0.125, 0.75, 1.25), (4, 5)),
        ("the same size", (0.25, 0.0, 0.75, 1.0), (3, 4)),
        ("to one", (0.25, 0.0, 0.875, 0.75), (1, 2)),
    )
    for mode, taps in (("nearest", nearest("round_prefer_floor")), ("linear", linear))
]

ROWS: list[Row] = [
    *SWEEP,
    *CROPS,
    *[
        Row(
            "Resize",
            f"opset 10, {name}",
            f"{floats('scales', scales)}y = Resize{given}(x, scales)",
            FLAT,
            by_scales(scales, "asymmetric", taps),
            opsets=(10,),
            no_reference=OLD,
        )
        for name, given, scales, taps in (
            ("plain", "", (2.0, 3.0), nearest("floor")),
            ("odd", "", (1.0, 1.7), nearest("floor")),
            ("shrunk", "", (0.7, 0.6), nearest("ceil")),
            ("linear", '<mode = "linear">', (2.0, 0.7), linear),
        )
    ],
    Row(
        "Resize",
        "opset 10, shrunk and grown",
        f"{floats('scales', (0.4, 1.7))}y = Resize(x, scales)",
        {"x": (5, 4)},
        lambda x: by_scales((1.7,), "asymmetric", nearest("floor"), (1,))(
            by_scales((0.4,), "asymmetric", nearest("ceil"), (0,))(x)
        ),
        opsets=(10,),
        no_reference=OLD,
    ),
    Row(
        "Resize",
        "Upsample with attributes",
        'y = Upsample<mode = "nearest", scales = [1.0, 1.0, 2.0, 3.0]>(x)',
        IMAGE,
        lambda x: F.interpolate(x, scale_factor=(2, 3)),
        opsets=(7, 8),
        no_reference=OLD,
    ),
    *[
        Row(
            "Resize",
            f"Upsample, {mode}",
            f'{floats("scales", TWO)}y = Upsample<mode = "{mode}">(x, scales)',
            IMAGE,
            by_scales(TWO, "asymmetric", taps),
            opsets=(9,),
            no_reference=OLD,
        )
        for mode, taps in (("nearest", nearest("floor")), ("linear", linear))
    ],
    *[
        Row(
            "Resize",
            f"roi given and not used, {mode}",
            f"{floats('scales', TWO)}{floats('roi', (0, 0, 0, 0, 1, 1, 1, 1))}"
            f'y = Resize<mode = "{mode}">(x, roi, scales)',
            IMAGE,
            function,
            opsets=(11, 13, 18, 19),
        )
        for mode, function in (
            ("nearest", _interpolate("nearest", scale_factor=2)),
            ("linear", _interpolate("bilinear", scale_factor=2)),
            ("cubic", _interpolate("bicubic", scale_factor=2)),
        )
    ],
    *[
        Row(
            "Resize",
            f"tf_half_pixel_for_nn, {kind}",
            f"{floats('scales', scales)}{floats('roi', (0, 0, 1, 1))}y = Resize"
            + attributes(coordinate_transformation_mode="tf_half_pixel_for_nn")
            + "(x, roi, scales)",
            FLAT,
            by_scales(scales, "tf_half_pixel_for_nn", nearest("round_prefer_floor")),
            opsets=(11,),
            no_reference=NN,
        )
        for kind, scales in SCALES.items()
    ],
    # PyTorch's own interpolation, at the shapes of images.
    *[
        _sized(
            f"as PyTorch: {name}",
            (1, 2, *sizes),
            _interpolate(torch_mode, size=sizes, **({"align_corners": True} if align else {})),
            (13, 18, 19),
            IMAGE,
            mode=mode,
            coordinate_transformation_mode=how,
            **more,
        )
        for name, sizes, torch_mode, align, mode, how, more in (
            (
                "nearest",
                (5, 4),
                "nearest",
                False,
                "nearest",
                "asymmetric",
                {"nearest_mode": "floor"},
            ),
            (
                "nearest, down",
                (1, 2),
                "nearest",
                False,
                "nearest",
                "asymmetric",
                {"nearest_mode": "floor"},
            ),
            ("bilinear", (5, 4), "bilinear", False, "linear", "pytorch_half_pixel", {}),
            ("bilinear, down", (1, 2), "bilinear", False, "linear", "half_pixel", {}),
            ("bilinear, corners", (3, 5), "bilinear", True, "linear", "align_corners", {}),
            ("bicubic", (5, 4), "bicubic", False, "cubic", "half_pixel", {}),
            ("bicubic, corners", (3, 5), "bicubic", True, "cubic", "align_corners", {}),
        )
    ],
    *[
        _scaled(
            f"cubic, {name}, {kind}",
            scales,
            by_scales(scales, "half_pixel", taps),
            mode="cubic",
            **given,
        )
        for name, taps, given in (
            ("coefficient", cubic(-0.5), {"cubic_coeff_a": -0.5}),
            ("exclude_outside", cubic(inside=True), {"exclude_outside": 1}),
            ("both", cubic(-0.5, True), {"cubic_coeff_a": -0.5, "exclude_outside": 1}),
        )
        for kind, scales in SCALES.items()
    ],
    _scaled(
        "float32 decides",
        (1.0, 4 / 3),
        lambda x: F.interpolate(x[None], size=8, mode="nearest")[0],
        inputs={"x": (2, 6)},
        more={"no_reference": "it rounds 4 / float32(4/3), a little below 3, in float64"},
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    ),
    *[
        _scaled(
            f"antialias, {mode}, {how}{', inside' * inside}",
            SHRUNK,
            partial(antialiased, scales=SHRUNK, how=how, kernel=kernel, inside=bool(inside)),
            (18, 19),
            {"x": (7, 2, 6)},
            {"runtime": False},  # ONNX Runtime resizes two axes of three, beside the first
            mode=mode,
            antialias=1,
            exclude_outside=inside,
            coordinate_transformation_mode=how,
        )
        for mode, kernel in (("linear", triangle), ("cubic", keys))
        for how, inside in (("half_pixel", 0), ("half_pixel", 1), ("asymmetric", 0))
    ],
    *[
        _sized(
            f"antialias, PyTorch's {mode}",
            (1, 1, 3, 4),
            lambda x, mode=mode: F.interpolate(x, size=(3, 4), mode=f"bi{mode}", antialias=True),
            (18, 19),
            {"x": (1, 1, 7, 6)},
            mode=mode,
            antialias=1,
            exclude_outside=1,
            cubic_coeff_a=-0.5,
        )
        for mode in ("linear", "cubic")
    ],
    *[
        Row(
            "Resize",
            f"a batch of any size, by {name}",
            text,
            {"x": (2, 1, 2, 3)},
            lambda x: F.interpolate(x, size=(5, 4), mode="bilinear"),
            consts={
                "ends": np.array([5, 4]),
                "zero": np.array([0]),
                "one": np.array([1]),
                "two": np.array([2]),
            },
            dims={"x": ("N", 1, 2, 3)},
        )
        for name, text in (("Slice", BATCH), ("Gather", PICKED))
    ],
    _scaled(
        "antialias = 0",
        (1.0, 2.0),
        by_scales((1, 2), "half_pixel", linear),
        (18, 19),
        mode="linear",
        antialias=0,
    ),
    _scaled(
        "axes",
        (1.7, 2.0),
        by_scales((1.7, 2.0), "half_pixel", linear, (3, 2)),
        (18, 19),
        IMAGE,
        mode="linear",
        axes=[3, 2],
    ),
    _scaled(
        "negative axes",
        (2.0, 1.4),
        by_scales((2.0, 1.4), "half_pixel", nearest("round_prefer_floor"), (2, 3)),
        (18, 19),
        IMAGE,
        {"no_reference": "its Resize takes no negative axes"},
        axes=[-2, -1],
    ),
    _scaled(
        "a middle axis",
        (1.0, 2.5, 1.0),
        by_scales((1, 2.5, 1), "half_pixel", nearest("round_prefer_floor")),
        (13,),
        {"x": (2, 2, 2)},
    ),
    _scaled(
        "the first axis",
        (2.5, 1.0, 1.0),
        by_scales((2.5, 1, 1), "half_pixel", nearest("round_prefer_floor")),
        (13,),
        {"x": (2, 2, 2)},
    ),
    _scaled(
        "three axes",
        (2.0, 1.5, 0.5),
        by_scales((2, 1.5, 0.5), "half_pixel", nearest("round_prefer_floor")),
        (13,),
        {"x": (2, 2, 4)},
    ),
    *[
        _sized(
            f"sizes, {policy}",
            (5, 7),
            by_scales((s, s), "half_pixel", linear, sizes=sizes),
            (18, 19),
            mode="linear",
            keep_aspect_ratio_policy=policy,
        )
        for policy, s, sizes in (("not_larger", 5 / 3, (5, 7)), ("not_smaller", 7 / 4, (5, 7)))
    ],
    _sized(
        "sizes, stretch",
        (5, 7),
        by_scales((5 / 3, 7 / 4), "half_pixel", linear, sizes=(5, 7)),
        (18, 19),
        mode="linear",
        keep_aspect_ratio_policy="stretch",
    ),
    _sized(
        "sizes and axes, not_smaller",
        (6, 3),
        by_scales((2, 2), "half_pixel", linear, (3, 2)),
        (18,),
        IMAGE,
        mode="linear",
        axes=[3, 2],
        keep_aspect_ratio_policy="not_smaller",
    ),
    _scaled(
        "a scale that keeps the size",
        (1.2, 0.9),
        by_scales((1.2, 0.9), "half_pixel", linear),
        mode="linear",
    ),
    # Sizes that the run decides.
    _scaled(
        "dynamic rows",
        (1.0, 1.0, 1.5, 2.0),
        by_scales((1, 1, 1.5, 2), "half_pixel", linear),
        (18,),
        IMAGE,
        {"dims": {"x": ("N", "C", 2, 3)}},
        mode="linear",
    ),
    _scaled(
        "dynamic rows, repeated",
        TWO,
        _interpolate("nearest", scale_factor=2),
        (18,),
        IMAGE,
        {"dims": {"x": ("N", "C", 2, 3)}},
    ),
    *[
        _scaled(
            f"dynamic, repeated, {how}",
            TWO,
            _interpolate("nearest", scale_factor=2),
            _opset(how),
            IMAGE,
            {"dims": {"x": ("N", "C", "H", "W")}},
            coordinate_transformation_mode=how,
            **given,
        )
        for how, given in (
            ("half_pixel", {}),
            ("half_pixel_symmetric", {}),
            ("asymmetric", {"nearest_mode": "floor"}),
        )
    ],
    _scaled(
        "dynamic, one axis repeated",
        (1.0, 1.0, 3.0, 1.4),
        by_scales((1, 1, 3, 1.4), "half_pixel", nearest("round_prefer_floor")),
        (18,),
        IMAGE,
        {"dims": {"x": ("N", "C", "H", 3)}},
    ),
]

# Sizes that the run alone knows: the matrix is made there.
LATE = [
    replace(row, name=f"dynamic, {row.name}", dims={"x": ("H", "W")})
    for row in SWEEP
    if not row.name.startswith("cubic")
]
LATE += [
    _sized(
        f"dynamic, to sizes, {mode}, {how}",
        (1, 2, 5, 4),
        by_scales((1, 1, 5 / 2, 4 / 3), how, nearest("floor") if mode == "nearest" else linear),
        (18,),
        IMAGE,
        {"dims": {"x": ("N", 2, "H", "W")}},
        mode=mode,
        coordinate_transformation_mode=how,
        **({"nearest_mode": "floor"} if mode == "nearest" else {}),
    )
    for mode in ("nearest", "linear")
    for how in ("half_pixel", "align_corners", "asymmetric")
]
LATE += [
    Row(
        "Resize",
        f"dynamic, to the size of another, {how}",
        f"""hw = Shape<start = 2>(z)
        y = Resize<mode = "linear", axes = [2, 3], coordinate_transformation_mode = "{how}">
            (x, , , hw)""",
        {**IMAGE, "z": np.zeros((1, 1, 5, 1), np.float32)},
        by_scales((5 / 2, 1 / 3), how, linear, (2, 3), (5, 1)),
        dims={"x": ("N", "C", "H", "W"), "z": (1, 1, "P", "Q")},
        wrt=("x",),
        no_reference=no_reference,
    )
    for how, no_reference in (("pytorch_half_pixel", ""), ("align_corners", ""))
]
LATE += [
    Row(
        "Resize",
        "dynamic, by scales of the run",
        """s = Cast<to = 1>(t)
        y = Resize<mode = "linear">(x, , s)""",
        {**FLAT, "t": np.array([2, 3])},
        by_scales((2, 3), "half_pixel", linear),
        dims={"x": ("H", "W")},
        wrt=("x",),
    ),
]
ROWS += LATE

LINE = {"x": np.array([1.0, 2.0])}
EXACT: list[Exact] = [
    Exact(
        "Resize",
        f"ties, {rounding}",
        f'{floats("scales", (0.5,))}y = Resize<nearest_mode = "{rounding}">(x, , scales)',
        LINE,
        np.array([3.0]),
        {"x": np.array(want)},
    )
    for rounding, want in (
        ("round_prefer_floor", [3.0, 0.0]),
        ("round_prefer_ceil", [0.0, 3.0]),
        ("floor", [3.0, 0.0]),
        ("ceil", [0.0, 3.0]),
    )
] + [
    Exact(
        "Resize",
        "copies add up",
        f"{floats('scales', (2.0,))}y = Resize(x, , scales)",
        LINE,
        np.array([1.0, 2.0, 4.0, 8.0]),
        {"x": np.array([3.0, 12.0])},
    ),
]
