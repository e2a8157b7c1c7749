"""What the commands that look inside a model share: layers, channel numbers, pages."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...errors import UsageError
from .console import show, show_json
from .options import path_given, preprocess_of, say, shapes_of

if TYPE_CHECKING:
    from ..classifier.ready import Ready
    from ..inside.taps import Layer
    from ..photos.outputs import OutputFolder
    from ..pictures.page import Page
    from ..similar.store import Embeddings

__all__ = [
    "Html",
    "Layers",
    "List",
    "ModelArgument",
    "Per",
    "Pictures",
    "drop_older",
    "file_name",
    "file_names",
    "list_skipped",
    "listed",
    "numbers",
    "opened_store",
    "print_layers",
    "results_in",
    "wanted_layers",
    "write_page",
]

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="An ONNX file; 'bundled': the SqueezeNet that comes along."
    ),
]
Layers = Annotated[
    list[str] | None,
    typer.Option("--layer", "-l", metavar="L", help="A tensor or node by name; repeatable."),
]
Html = Annotated[bool, typer.Option("--html", help="Also write one self-contained page.")]
Pictures = Annotated[
    list[Path] | None,
    typer.Option(
        "--pictures",
        metavar="DIR",
        help="Where STORE's pictures may be opened; repeatable. [STORE's own folder]",
        parser=path_given,
    ),
]
List = Annotated[bool, typer.Option("--list", help="Print the layers, and do nothing else.")]
Per = Annotated[str, typer.Option("--per", metavar="SCOPE", help="What shares a grey scale.")]


def wanted_layers(given: Sequence[str] | None) -> list[str]:
    """The layers asked for. Raises UsageError for none."""
    if not given:
        raise UsageError("no layer given; --layer NAME, and --list shows the names")
    return list(dict.fromkeys(given))


def numbers(given: str | None, option: str) -> list[int] | None:
    """ "0-3,7" -> [0, 1, 2, 3, 7]. Raises UsageError."""
    if given is None:
        return None
    found: list[int] = []
    for part in given.split(","):
        match = re.fullmatch(r"\+?([0-9]{1,7})(?:-([0-9]{1,7}))?", part.strip())
        if match is None or (match[2] and int(match[2]) < int(match[1])):
            raise UsageError(f"{option} '{given}'; expected numbers and ranges, such as 0-7,12")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return list(dict.fromkeys(found))


def file_name(layer: str) -> str:
    """A tensor's name as the beginning of a file's."""
    from ..photos.outputs import cut

    return cut(re.sub(r"[^\w.-]+", "_", layer).strip("._"), 90) or "layer"


def file_names(layers: Sequence[str]) -> dict[str, str]:
    """A file name for each tensor, no two the same."""
    from ..photos.outputs import numbered

    return dict(zip(layers, numbered(map(file_name, layers)), strict=True))


def listed(
    path: str | Ready,
    preprocess: str | None,
    shape: Sequence[str] | None = None,
    *,
    convolutions: bool = False,
) -> list[Layer]:
    """The model's layers for images of the size that --preprocess says, else the model's metadata,
    where the model leaves it open."""
    from ..classifier.ready import Ready
    from ..inside.taps import layers

    ready = Ready.of(path, shapes_of(shape))
    return layers(ready, preprocess_of(ready, preprocess)[0].size, convolutions=convolutions)


def print_layers(found: Sequence[Layer], json: bool) -> None:
    """The listing, on stdout."""
    if json:
        show_json([layer.as_dict() for layer in found])
        return
    head = ("name", "operator", "shape", "weights", "stride", "receptive field")
    rows = [head]
    for layer in found:
        stride = "" if layer.strides is None else "x".join(map(str, layer.strides))
        if layer.strides and len(set(layer.strides)) == 1:
            stride = str(layer.strides[0])
        weights = "" if layer.weights is None else " x ".join(map(str, layer.weights))
        shape = " x ".join(map(str, layer.dims))
        rows.append((layer.name, layer.op, shape, weights, stride, str(layer.field)))
    used = [i for i in range(len(head)) if any(row[i] for row in rows[1:])]
    widths = {i: max(len(row[i]) for row in rows) for i in used}
    for row in rows:
        show("  ".join(row[i].ljust(widths[i]) for i in used).rstrip())


def opened_store(path: Path, pictures: Sequence[Path] | None = None) -> Embeddings:
    """What 'backlight embed' wrote; parts that can't be read are named, and how many pictures lie
    in no folder that was given. Raises UsageError, for a store without a picture too."""
    from ..similar.store import Embeddings

    held = Embeddings(path, pictures or ())
    for part in held.damaged:
        say(f"{part}: cut short; left out (run 'backlight embed' again for what it held)")
    if not len(held):
        why = f"; {len(held.skipped)} could not be used" if held.skipped else ""
        raise UsageError(f"{path}: a store without pictures{why}; 'backlight embed' adds some")
    outside = held.outside(held.paths)
    if outside:
        say(
            f"{outside} pictures of {path} lie outside its folder and --pictures: shown as the "
            "store has them, small"
        )
    return held


@contextmanager
def results_in(output: Path, expected: Sequence[str], force: bool) -> Iterator[OutputFolder]:
    """The folder for the results; a run that fails leaves no empty one behind."""
    from ..photos.outputs import OutputFolder, alone

    made = [p for p in (output, *output.parents) if not p.exists()]
    folder = OutputFolder(output, expected, force)
    try:
        with alone(output):
            yield folder
    except BaseException:
        with suppress(OSError):  # it holds something: whole results, a saved state
            for path in made:
                path.rmdir()
        raise


def drop_older(folder: OutputFolder, about: str, wanted: Sequence[str]) -> None:
    """Remove pictures of an earlier run into the same folder (--force) that this one doesn't write:
    those that its JSON file `about` names, and no others."""
    try:
        text = (folder.path / about).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return
    for name in set(re.findall(r'"picture": "(\w+/[^"/\\]+\.png)"', text)) - set(wanted):
        with suppress(OSError):
            (folder.path / name).unlink()


def write_page(folder: OutputFolder, name: str, page: Page) -> None:
    """The page, beside the pictures."""
    folder.data(name, page.to_bytes())


def list_skipped(page: Page, errors: Sequence[Exception], read: int) -> None:
    """What couldn't be read, on the page."""
    if errors:
        page.section("Skipped files", f"{len(errors)} skipped, {read} read.")
        page.table(("file, and why",), [(error,) for error in errors])
