"""Options of class activation maps, contrasts and variants, and what they ask for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from ... import written
from ...errors import UsageError

__all__ = [
    "SAMPLED",
    "Baseline",
    "Contrast",
    "ContrastForm",
    "Fuse",
    "Hide",
    "Layer",
    "Masks",
    "Noise",
    "Samples",
    "Seed",
    "Segments",
    "Signed",
    "Size",
    "Steps",
    "asking",
    "contrast_class",
]

# What `asking` says of variants of the image.
SAMPLED = ("samples", "noise", "steps", "baseline")

Layer = Annotated[
    list[str] | None,
    typer.Option(
        "--layer", metavar="NAME", help="Of class activation maps; repeatable. [before the head]"
    ),
]
Fuse = Annotated[bool, typer.Option("--fuse", help="Several layers as one map: the largest.")]
Size = Annotated[
    str, typer.Option("--size", metavar="OF", help="Of class activation maps: input or layer.")
]
Signed = Annotated[
    bool, typer.Option("--signed", help="Class activation maps with what speaks against, too.")
]
Contrast = Annotated[
    str | None,
    typer.Option(
        "--contrast", "--versus", metavar="C",
        help="Why this class rather than C: second, a class number, or a name from the labels.",
    ),
]  # fmt: skip
ContrastForm = Annotated[
    str,
    typer.Option("--contrast-form", metavar="FORM", help="loss (cross entropy to C) or logit."),
]
Samples = Annotated[
    int | None, typer.Option("--samples", metavar="N", help="Noisy images of smoothgrad … [16]")
]
Noise = Annotated[
    float | None,
    typer.Option("--noise", metavar="S", help="Their noise, by the image's own range. [0.15]"),
]
Steps = Annotated[
    int | None, typer.Option("--steps", metavar="N", help="Of integrated_gradients. [16]")
]
Baseline = Annotated[
    str | None,
    typer.Option(
        "--baseline", metavar="FROM",
        help="Of integrated_gradients: black, grey, white, mean, or a number in input space. "
        "[0]",
    ),
]  # fmt: skip

Segments = Annotated[
    str | None,
    typer.Option(
        "--segments", metavar="HOW",
        help="Of lime and kernelshap: slic:COUNT, quickshift, felzenszwalb, grid:7x9, or a label "
        "map, .npy or .png. [slic:50]",
    ),
]  # fmt: skip
Hide = Annotated[
    str | None,
    typer.Option(
        "--hide", metavar="B",
        help="What hides a segment: segment (its own mean colour), mean, zero, blur:SIGMA, a "
        "number, a colour. [segment]",
    ),
]  # fmt: skip
Masks = Annotated[
    int | None,
    typer.Option(
        "--masks", metavar="N",
        help="Variants of lime and kernelshap. [1000; 2 per segment + 2048, or all for 12]",
    ),
]  # fmt: skip
Seed = Annotated[int | None, typer.Option("--seed", metavar="N", help="Of the masks. [0]")]


def asking(
    *, layer: Sequence[str] | None, fuse: bool, size: str, signed: bool, contrast_form: str,
    samples: int | None, noise: float | None, steps: int | None, baseline: str | None,
    methods: Sequence[str] | None, contrast: str | None,
) -> dict[str, Any]:  # fmt: skip
    """What `backlight.export` and `backlight.Explainer` are told. methods, contrast: that are
    asked for. Raises UsageError for the form of a contrast where there is none."""
    if contrast is None and contrast_form == "logit":
        _refuse_form(methods)
    number = None if baseline is None else written.number(baseline)
    return {
        "layer": list(layer) if layer else None,
        "fuse": fuse,
        "size": size,
        "signed": signed,
        "contrast_form": contrast_form,
        "samples": samples,
        "noise": noise,
        "steps": steps,
        "baseline": baseline if number is None else number,
    }


def _refuse_form(methods: Sequence[str] | None) -> None:
    """Raise UsageError for the form of a contrast where none of the methods has one."""
    from ...export.methods import named

    rows = named(methods)
    if not any(row.tells_apart for row in rows):
        names = ", ".join(row.name for row in rows)
        raise UsageError(
            f"--contrast-form is of a contrast, and {names} has none; --contrast gives one"
        )


def contrast_class(given: str | None, labels: Sequence[str] | None) -> int | None:
    """The class of --contrast: -1 for "second"; None where it isn't given. Raises UsageError."""
    from ..classifier.labels import rival_number

    return None if given is None else rival_number(given, labels)
