"""Images in folders, and the classes that folders name."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from ...errors import ImageError, UsageError, hint
from .bands import ARRAYS

__all__ = ["SUFFIXES", "beside", "class_folders", "image_files"]

SUFFIXES = frozenset(".bmp .gif .jfif .jpeg .jpg .png .ppm .tif .tiff .webp .avif".split())


def image_files(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The files themselves, and in place of each folder the images anywhere under it, sorted; links
    are followed. What turns out to be none (a link to nothing, a folder that can't be listed) is
    among them: `opened` says why.

    Raises ImageError for a path that isn't there and for a folder without images, UsageError for
    a model.
    """
    found: list[Path] = []
    for given in paths:
        path = Path(given)
        if not os.fspath(given):  # an unset variable of a script; to Path it is the folder here
            raise ImageError("an empty path; expected an image or a folder of images")
        if path.is_dir():
            inside = sorted(_under(path))
            # Beside pictures an array is a result, a mask, a vector.
            pictures = [f for f in inside if f.suffix.lower() not in ARRAYS or f.is_dir()]
            inside = pictures or inside
            if not inside:
                known = ", ".join(sorted(SUFFIXES | ARRAYS))
                raise ImageError(f"{path}: a folder without images; looked for {known}")
            found += inside
        elif path.suffix.lower() == ".onnx":  # else the bundled model would explain the rest
            raise UsageError(f"{path}: a model where an image is expected; see --model")
        elif path.exists():
            found.append(path)
        else:
            near = hint(str(path), ("bundled", *beside(os.fspath(given), SUFFIXES | ARRAYS)))
            raise ImageError(f"{path}: no such file; expected an image or a folder of images{near}")
    return list(dict.fromkeys(found))


def beside(given: str, suffixes: Collection[str]) -> list[str]:
    """The files of these suffixes in a file's folder, named as that file was: what a mistyped name
    may have meant. Of a large folder, some."""
    folder = os.path.dirname(given)
    try:
        with os.scandir(folder or ".") as entries:
            names = [entry.name for entry in islice(entries, 1000)]
    except (OSError, ValueError):  # no folder; a NUL in the name
        return []
    names = [name for name in names if os.path.splitext(name)[1].lower() in suffixes]
    return sorted(os.path.join(folder, name) for name in names)


def _under(folder: Path) -> Iterator[Path]:
    waiting: list[tuple[Path, frozenset[str]]] = [(folder, frozenset())]
    while waiting:
        at, above = waiting.pop()
        real = os.path.realpath(at)
        if real in above:  # a link to a folder that holds it
            continue
        try:
            found = list(os.scandir(at))
        except OSError:
            yield at
            continue
        for entry in found:
            if os.path.isdir(entry.path):
                waiting.append((Path(entry.path), above | {real}))
            elif Path(entry.name).suffix.lower() in SUFFIXES | ARRAYS:
                yield Path(entry.path)


def class_folders(given: Sequence[str | os.PathLike[str]]) -> dict[Path, str | None]:
    """The images under each path, each with the folder that it lies in where that names its class:
    where all images of a path lie in two or more folders. Raises ImageError."""
    found: dict[Path, str | None] = {}
    for path in given:
        files = image_files([path])
        inner = [f.relative_to(path).parts if f != Path(path) else () for f in files]
        # A folder here is one that can't be listed: it says nothing of the others.
        names = {
            parts[0] if len(parts) > 1 else None
            for file, parts in zip(files, inner, strict=True)
            if len(parts) > 1 or not file.is_dir()
        }
        classes = None not in names and len(names) > 1
        for file, parts in zip(files, inner, strict=True):
            found.setdefault(file, parts[0] if classes and parts else None)
    return found
