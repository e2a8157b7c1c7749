"""Which class a photo is of, by the folder that it lies in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import ImageError, UsageError
from ..classifier.labels import class_number
from ..photos.folders import class_folders

__all__ = ["Named", "classes_named"]

# Photos of a folder that say which class it is, where nothing else does.
VOTES = 16


@dataclass(frozen=True)
class Named:
    """names: of classes by number. number: int64 [N], each photo's class; -1: the predicted one.
    notes: for people."""

    names: dict[int, str]
    number: NDArray[np.int64]
    notes: tuple[str, ...]


def classes_named(
    given: Sequence[str | Path], files: Sequence[Path], labels: Sequence[str] | None,
    classes: int | None, predicted: Callable[[Sequence[Path]], list[int]],
) -> Named:  # fmt: skip
    """The classes of files, which are what there is at the paths given.

    labels, classes: the model's names, and how many it has; None: unknown. predicted: the top
    classes of some photos: a folder of a model that names none is what most of its photos are.
    """
    names = dict(enumerate(labels or ()))
    notes: list[str] = []
    folders: dict[Path, str | None] = {}
    for path in given:
        try:
            for file, label in class_folders([path]).items():
                folders.setdefault(file, label)
        except ImageError:  # it is among the skipped already
            continue
    told = sorted({f for f in folders.values() if f is not None})
    number: dict[str, int] = {}
    for name in told:
        try:
            found = class_number(name, labels)
        except UsageError:
            continue
        if found >= 0 and (classes is None or found < classes):
            number[name] = found
    if not number and labels is None and told:
        number = _by_prediction(folders, told, predicted)
        names = {at: name for name, at in number.items()}
        if number:
            notes.append(
                "the model names no classes: each folder is taken for the class that most of "
                "its photos are predicted as"
            )
    other = [name for name in told if name not in number]
    if other:
        some = ", ".join(other[:3]) + (" …" if len(other) > 3 else "")
        notes.append(
            f"{len(other)} of {len(told)} folders are named as no class is ({some}): their "
            "photos go by the predicted one"
        )
    of = [number.get(folders.get(file) or "", -1) for file in files]
    return Named(names, np.array(of, np.int64), tuple(notes))


def _by_prediction(
    folders: dict[Path, str | None], told: Sequence[str],
    predicted: Callable[[Sequence[Path]], list[int]],
) -> dict[str, int]:  # fmt: skip
    """The class that most of a folder's photos are predicted as, by some of them; empty where two
    folders would be one class."""
    number: dict[str, int] = {}
    for name in told:
        own = [file for file, folder in folders.items() if folder == name]
        some = np.linspace(0, len(own) - 1, min(len(own), VOTES)).astype(int)
        votes = predicted([own[i] for i in some])
        if votes:
            number[name] = int(np.bincount(votes).argmax())
    return number if len(set(number.values())) == len(number) else {}
