"""Photos in folders of their classes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from . import images

__all__ = ["class_folders"]


def class_folders(given: Sequence[str | os.PathLike[str]]) -> dict[Path, str | None]:
    """The images under each path, each with the folder that it lies in where that names its class:
    where all images of a path lie in two or more folders. Raises ImageError."""
    found: dict[Path, str | None] = {}
    for path in given:
        files = images.image_files([path])
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
