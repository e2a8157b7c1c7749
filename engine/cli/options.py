"""Options that several commands share, and how they are read."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ...errors import ModelError
from ...export.preprocess import ASSUMED, Preprocess, parse
from ..classifier import labels as names_of_classes
from . import one_line

__all__ = [
    "BUNDLED",
    "PHOTOS",
    "Batch",
    "Force",
    "Json",
    "Labels",
    "Model",
    "OutputDir",
    "PreprocessOption",
    "Provider",
    "Rules",
    "Threads",
    "chosen_preprocess",
    "counted",
    "model_path",
    "photo_paths",
    "say",
]

_ASSETS = Path(__file__).parent.parent / "assets"
BUNDLED = _ASSETS / "squeezenet1_1.onnx"
PHOTOS = _ASSETS / "photos"

Model = Annotated[
    str | None,
    typer.Option("--model", "-m", metavar="MODEL", help="An ONNX file. [default: bundled]"),
]
OutputDir = Annotated[
    Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the results.")
]
Rules = Annotated[
    list[str] | None,
    typer.Option("--rule", metavar="RULE", help="vanilla, deconv or guided; repeatable. [all]"),
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
Labels = Annotated[
    str | None,
    typer.Option("--labels", metavar="FILE", help="Class names: 'imagenet', a text or JSON file."),
]
Provider = Annotated[
    list[str] | None,
    typer.Option("--provider", metavar="NAME", help="auto, cpu, cuda, tensorrt …; repeatable."),
]
Threads = Annotated[
    int | None, typer.Option("--threads", metavar="N", help="Threads of one operator.")
]
Batch = Annotated[int, typer.Option("--batch", metavar="N", help="Images per run.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite what is there already.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


def model_path(given: str | None) -> str:
    """The model's file; 'bundled', or none given, is the one in the package."""
    return str(BUNDLED) if given is None or _bundled(given) else given


def photo_paths(given: Sequence[str] | None) -> list[str]:
    """The images and folders; 'bundled', or none given, are the photos in the package."""
    return [str(PHOTOS) if _bundled(path) else path for path in given or [str(PHOTOS)]]


def _bundled(given: str) -> bool:
    # A file or folder of that name goes first: it is what the same word means to a shell.
    return given == "bundled" and not Path(given).exists()


def say(text: str) -> None:
    """A line for people, on stderr."""
    print(f"backlight: {one_line(text)}", file=sys.stderr)


def counted(number: int) -> str:
    """So many images, for people."""
    return "1 image" if number == 1 else f"{number} images"


def chosen_preprocess(
    given: str | None, own: Preprocess | None, model: str, dtype: Any
) -> tuple[Preprocess, str | None]:
    """What --preprocess says, else the model, else an assumption, which is said in a note."""
    if given is not None:
        return parse(given), None
    if own is not None:
        return own, None
    name = "none" if dtype.kind in "iu" else ASSUMED
    return parse(name), (
        f"{model} doesn't say how it wants its images: assuming {name} (--preprocess changes it)"
    )


def chosen_labels(given: str | None, own: list[str] | None, classes: int | None) -> Any:
    """The class names, checked against the number of classes; None where there are none."""
    names = own if given is None else names_of_classes.load_labels(given)
    if names is not None and classes is not None and len(names) != classes:
        raise ModelError(
            f"{given or 'the metadata'} names {len(names)} classes; the model has {classes}"
        )
    return names
