"""Options that several commands share, and how they are read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...errors import UsageError, hint
from ..classifier import labels as names_of_classes
from . import started
from .console import tell as say

if TYPE_CHECKING:
    from ...export.preprocess import Preprocess
    from ..classifier.ready import Ready

__all__ = [
    "BUNDLED",
    "PHOTOS",
    "Bands",
    "Batch",
    "Extra",
    "Force",
    "Json",
    "Labels",
    "Methods",
    "Model",
    "OutputDir",
    "PreprocessOption",
    "Provider",
    "Rules",
    "Shape",
    "TargetClass",
    "Threads",
    "Wrt",
    "at_least",
    "chosen_labels",
    "chosen_preprocess",
    "class_asked",
    "class_entry",
    "counted",
    "inputs_of",
    "is_bundled",
    "model_path",
    "named",
    "path_given",
    "photo_paths",
    "preprocess_of",
    "refuse_class",
    "renamed",
    "say",
    "say_renamed",
    "shapes_of",
    "shown_bands",
]

_ASSETS = Path(__file__).parent.parent / "assets"
BUNDLED = _ASSETS / "squeezenet1_1.onnx"
PHOTOS = _ASSETS / "photos"


Model = Annotated[
    str | None,
    typer.Option("--model", "-m", metavar="MODEL", help="Also as the first word. [bundled]"),
]


def path_given(text: str | Path) -> Path:
    """For options: an empty name, an unset variable of a script, isn't the folder here."""
    if not os.fspath(text):
        raise typer.BadParameter("an empty name; expected a file or folder")
    return Path(text)


OutputDir = Annotated[
    Path,
    typer.Option(
        "--output", "-o", metavar="DIR", help="Folder for the results.", parser=path_given
    ),
]
Rules = Annotated[
    list[str] | None,
    # By name, as the registry takes a second to load; a test holds the two together.
    typer.Option("--rule", metavar="RULE", help="vanilla, deconv or guided; repeatable. [all]"),
]
Methods = Annotated[
    list[str] | None,
    typer.Option(
        "--method", metavar="NAME", help="What 'backlight methods' lists; repeatable. [all rules]"
    ),
]
PreprocessOption = Annotated[
    str | None,
    typer.Option(
        "--preprocess",
        metavar="HOW",
        help="imagenet-torch, imagenet-caffe, tf, unit, none, or a JSON file. "
        "[default: what the model says]",
    ),
]
Bands = Annotated[
    str | None,
    typer.Option(
        "--bands",
        metavar="LIST",
        help="Shown as red, green and blue, counted from 1: 3,2,1; or one. [the first three]",
    ),
]
Shape = Annotated[
    list[str] | None,
    typer.Option(
        "--shape", metavar="INPUT=SIZES", help="Of an open input: x=1,3,224,224; repeatable."
    ),
]
Extra = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="NAME=WHAT",
        help="Of an input besides the image: an .npy file, or a number; repeatable.",
    ),
]
Wrt = Annotated[
    str | None,
    typer.Option(
        "--wrt", metavar="T", help="Tensor to take the gradient by. [the image, as a float tensor]"
    ),
]
TargetClass = Annotated[
    str,
    typer.Option(
        "--target-class", metavar="C", help="top1, a class number, or a name from the labels."
    ),
]
Labels = Annotated[
    str | None,
    typer.Option("--labels", metavar="FILE", help="Class names: 'imagenet', a text or JSON file."),
]
Provider = Annotated[
    list[str] | None,
    typer.Option("--provider", metavar="NAME", help="auto, cpu, openvino, cuda …; repeatable."),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads", metavar="N", help="Threads that compute, in all. [default: one per core]"
    ),
]
Batch = Annotated[int, typer.Option("--batch", metavar="N", help="Images per run.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite what is there already.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


def shapes_of(given: Sequence[str] | None) -> dict[str, tuple[int, ...]]:
    """What --shape says, by input. Raises UsageError."""
    from ...export.sizes import parse_shape

    return dict(map(parse_shape, given or []))


def inputs_of(given: Sequence[str] | None) -> dict[str, str]:
    """What --input says, by input. Raises UsageError."""
    from ..classifier.extras import given_inputs

    return given_inputs(given)


def model_path(given: str | None) -> str:
    """The model's file; 'bundled', or none given, is the one in the package. Raises UsageError for
    a file that isn't there where another of about that name is."""
    if given is None or is_bundled(given):
        return str(BUNDLED)
    if not os.path.lexists(given):
        from ..photos.folders import beside

        near = hint(given, ["bundled", *beside(given, (".onnx",))])
        if near:
            raise UsageError(f"{given}: no such file; expected an .onnx file{near}")
    return given


def photo_paths(given: Sequence[str] | None) -> list[str]:
    """The images and folders; 'bundled', or none given, are the photos in the package."""
    return [str(PHOTOS) if is_bundled(path) else path for path in given or [str(PHOTOS)]]


def is_bundled(given: str) -> bool:
    """Whether a word is `bundled`, and no file or folder of that name."""
    # A file or folder of that name goes first: it is what the same word means to a shell.
    return given == "bundled" and not Path(given).exists()


def renamed(new: str, given: str | None, old: str, before: str | None, known: Sequence[str]) -> str:
    """An option that had another name before, which works for one version more; `say_renamed` says
    so at the end. known: what it may be, the default first. Raises UsageError for another, and for
    both options."""
    if given is not None and before is not None:
        raise UsageError(f"{new} and {old} are one option; {old} is its older name")
    chosen = given if given is not None else before if before is not None else known[0]
    if chosen not in known:
        raise UsageError.unknown(new if before is None else old, chosen, known)
    return chosen


def say_renamed(new: str, old: str, before: str | None) -> None:
    """That an older name was used: at the end, as a mistake has one line on stderr."""
    if before is not None and not started.inside:
        say(f"{old} goes in the next version: it is {new} now")


def counted(number: int, what: str = "image") -> str:
    """So many images, or others, for people."""
    return f"1 {what}" if number == 1 else f"{number} {what}s"


# Fewer whole numbers than this between black and white are no picture.
_FEW_VALUES = 16


def chosen_preprocess(
    given: str | None,
    own: Preprocess | None,
    model: str,
    dtype: Any,
    channels: int | None = None,
    bands: str | None = None,
) -> tuple[Preprocess, str | None]:
    """What --preprocess says, else the model, else an assumption, which is said in a note; and
    what --bands says. channels: of the model, where they are known."""
    from dataclasses import replace

    from ...export.preprocess import ASSUMED, parse, parse_bands

    note = None
    record = own
    if given is not None:
        record = parse(given)
    elif record is None:
        plain = dtype.kind in "iu" or channels not in (None, 1, 3)
        name = "none" if plain else ASSUMED
        record = parse(name)
        note = (
            f"{model} doesn't say how it wants its images: assuming {name} (--preprocess changes "
            "it)"
        )
    if dtype.kind in "iu" and (span := _span(record)) < _FEW_VALUES:
        note = (
            f"{model} takes whole numbers ({dtype}), and its preprocessing brings pixels within "
            f"{span:.3g} of each other: next to nothing is left of them; --preprocess none gives "
            "pixels as they are"
        )
    if bands is not None:
        record = replace(record, bands=parse_bands(bands))
    return record, note


def _span(record: Preprocess) -> float:
    """How far apart black and white are as the model takes them, in the channel of most."""
    return 255 * record.scale / min(record.std, default=1.0)


def preprocess_of(
    ready: Ready, given: str | None, bands: str | None = None
) -> tuple[Preprocess, str | None]:
    """See `chosen_preprocess`, of a model that isn't compiled yet."""
    import numpy as np

    from ...export import choose
    from ...export.preprocess import of_metadata

    path = str(ready.given)
    image = choose.image_input(ready.read.graph).input
    dtype = np.dtype(np.float32) if image.dtype is None else image.dtype.numpy()
    own = of_metadata(ready.metadata, path)
    return chosen_preprocess(given, own, path, dtype, _channels_of(ready), bands)


def _channels_of(ready: Ready) -> int | None:
    """Of a model's images; None where they are open, or none that are pictures."""
    from ...errors import ModelError

    try:
        return ready.image.spec.channels
    except ModelError:
        return None


def shown_bands(record: Preprocess, channels: int | None) -> str | None:
    """Which bands are shown of images of others than a photo, where nobody said it. A note for the
    end: where nothing came out, there is nothing shown."""
    if record.bands is not None or channels in (None, 1, 3):
        return None
    assert channels is not None
    some = "bands 1, 2 and 3" if channels > 2 else "band 1"
    colours = "red, green and blue" if channels > 2 else "grey"
    are = "are" if channels > 2 else "is"
    return f"{some} of {channels} {are} shown as {colours} (--bands changes it)"


def at_least(option: str, given: float, least: int = 1) -> None:
    """Raise UsageError for a number below."""
    if given < least:
        raise UsageError(f"{option} {given}; expected {least} or more")


def chosen_labels(
    given: str | None, own: list[str] | None, classes: int | None, of: str | None = None
) -> tuple[Any, str | None]:
    """The class names, checked against the number of classes, None where there are none; and a note
    where a model seems to have ImageNet's classes and names none. of: a tensor that was named: what
    the metadata names may be another one's classes."""
    if given is not None:
        names = names_of_classes.load_labels(given, classes)
        return names_of_classes.fitting(names, classes, given), None
    if own is not None and (of is None or classes is None or len(own) == classes):
        return names_of_classes.fitting(own, classes, "the metadata"), None
    return None, names_of_classes.missing(classes) if of is None else None


def class_asked(
    given: str, labels: Sequence[str] | None, classes: int | None,
    words: Sequence[str] = ("top1",), option: str = "--target-class",
) -> int:  # fmt: skip
    """What --target-class says: a class, -1 for the top one, or another of the words. Raises
    UsageError; for a class that the model doesn't have too."""
    number = names_of_classes.class_number(given, labels, words, option)
    refuse_class(number, classes, option)
    return number


def refuse_class(number: int, classes: int | None, option: str) -> None:
    """Raise UsageError for a class that the model doesn't have. classes: where they are known."""
    if classes is not None and number >= classes:
        raise UsageError(
            f"{option} {number} is out of range; the model has classes 0 to {classes - 1}"
        )


def named(number: int, labels: Sequence[str] | None) -> str:
    """A class for people."""
    if labels is None or number >= len(labels):
        return f"class {number}"
    # The bundled names list synonyms: "tabby, tabby cat".
    return f"{labels[number].split(',')[0]} ({number})"


def class_entry(number: int, labels: Sequence[str] | None, chances: Any) -> dict[str, Any]:
    """A class, for the summary. chances: the probabilities of all, or None."""
    return {
        "class": number,
        "name": None if labels is None else labels[number],
        "probability": None if chances is None else round(float(chances[number]), 6),
    }
