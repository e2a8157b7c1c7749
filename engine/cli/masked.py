"""Options of the commands that run a model on masked images, and what they ask for; and what
`explain` tells the methods that do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ... import written
from ...errors import UsageError, hint

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..masked.methods import Masking

__all__ = [
    "BaselineOption",
    "Memory",
    "MostRows",
    "Of",
    "Photos",
    "ScoreOption",
    "SpaceOption",
    "Targets",
    "array_of",
    "masking",
    "numbers",
    "segments_given",
]

Photos = Annotated[
    list[str] | None,
    typer.Argument(metavar="IMAGE…", help="Images and folders. [default: bundled photos]"),
]
Targets = Annotated[
    list[str] | None,
    typer.Option(
        "--target-class",
        metavar="C",
        help="top1, a class number or name; repeatable, at the price of one; or all. [top1]",
    ),
]
ScoreOption = Annotated[
    str | None,
    typer.Option(
        "--score",
        metavar="S",
        help="probability, logit or logprob. [probability; logit where a single score has none]",
    ),
]
BaselineOption = Annotated[
    str,
    typer.Option(
        "--baseline",
        metavar="B",
        help="What hides: mean, zero, blur:SIGMA, noise:SEED, a number, a colour such as "
        "124,116,104, a picture or an .npy file.",
    ),
]
SpaceOption = Annotated[
    str,
    typer.Option(
        "--baseline-space",
        metavar="HOW",
        help="Numbers and .npy files are in the model's input, or in pixels (0..255, RGB).",
    ),
]
Memory = Annotated[
    str | None,
    typer.Option("--memory", metavar="M", help="For a run, such as 2GB. [a quarter of the free]"),
]
MostRows = Annotated[
    int | None, typer.Option("--batch", metavar="N", help="At most N variants per run.")
]
Of = Annotated[
    str | None,
    typer.Option(
        "--of",
        metavar="T",
        help="Tensor to explain; T:as-is: not before its Softmax. [class scores]",
    ),
]


def array_of(file: Path) -> NDArray[Any]:
    """The array of an .npy file. Raises UsageError."""
    from ..photos.arrays import array_in

    try:
        return array_in(file)
    except (OSError, ValueError) as err:
        raise UsageError(f"{file}: no .npy file that can be read: {err}") from err


def refuse_missing(option: str, file: Path) -> None:
    """Raise UsageError for what is written as a file is, and isn't there: none of the option's
    names was meant. A word without a file's ending, such as `blur:1.5`, may be one of them."""
    if re.fullmatch(r"\.[A-Za-z]{3,4}", file.suffix) or file.parent != Path():
        what = "a folder" if file.is_dir() else "no such file"
        raise UsageError(f"{option} '{file}': {what}")


def masking(
    segments: str | None, hide: str | None, masks: int | None, seed: int | None, score: str | None,
    layer: Sequence[str] | None, fuse: bool, size: str, signed: bool,
) -> Masking:  # fmt: skip
    """What explain's options tell the engine's methods. Raises UsageError."""
    from ..masked.methods import Masking

    return Masking(
        segments=None if segments is None else segments_given(segments),
        masks=masks,
        seed=seed,
        hide=None if hide is None else _hidden_by(hide),
        score=score,  # type: ignore[arg-type]
        layer=tuple(layer or ()),
        fuse=fuse,
        size=size,
        signed=signed,
    )


def _hidden_by(given: str) -> Any:
    """--hide: a name or numbers. Raises UsageError."""
    from ...kernels import as_baseline
    from ..masked.attributed import OWN_MEAN

    if given == OWN_MEAN:
        return given
    try:
        return as_baseline(given)
    except UsageError:
        raise UsageError(
            f"--hide '{given}'; accepted: '{OWN_MEAN}' (its own mean colour), 'mean', 'zero', "
            "'blur:SIGMA', 'noise:SEED', a number, a colour"
            + hint(given.partition(":")[0], (OWN_MEAN, "mean", "zero", "blur", "noise"))
        ) from None


def segments_given(given: str) -> Any:
    """--segments: a name as it is, a file's map. Raises UsageError."""
    from ..masked.superpixels import as_superpixels
    from ..photos.decoding import label_map

    file = Path(given)
    if not file.is_file():
        refuse_missing("--segments", file)
        try:
            return as_superpixels(given)
        except UsageError as err:
            raise UsageError(f"--{err}, or a file of one") from None
    if file.suffix.lower() == ".npy":
        return as_superpixels(array_of(file), given)
    return as_superpixels(label_map(file), given)


def numbers(given: str, option: str) -> int | tuple[int, ...]:
    """`16`, `16,24` or `3,16,24` (x as well as commas). Raises UsageError."""
    found = [written.whole(part) for part in given.lower().replace("x", ",").split(",")]
    parts = tuple(part for part in found if part is not None and part < 1 << 31)
    if not 1 <= len(parts) == len(found) <= 3:
        raise UsageError(f"{option} '{given}'; accepted: such as 16, 16x24 or 3x16x24")
    return parts[0] if len(parts) == 1 else parts
