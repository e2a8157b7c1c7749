"""The folders that models are reloaded from: what is there, and what has changed.

One look lists a folder once, whatever it holds, in a thread: a thousand models, or a disk that is
slow, keep no probe waiting.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import UsageError

__all__ = ["Look", "Signature", "Source", "checked_name", "look"]

_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}")
_KIND = "letters, digits, . _ - (NAME=FILE gives one)"

# Of a file: its inode, size and time of change.
Stat = tuple[int, int, int]


@dataclass(frozen=True)
class Source:
    """Where a model comes from. aliases: other names that it answers to."""

    name: str
    path: Path
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Signature:
    """What changes where a model may have. own: of its file; beside: of the files beside it that
    are no models; digest: of all of those."""

    own: Stat
    beside: Mapping[str, Stat]
    digest: int

    def same(self, other: Signature, files: Sequence[str] | None) -> bool:
        """Whether it is what it was. files: that its weights lie in; None: any beside it."""
        if files is None:
            return (self.own, self.digest) == (other.own, other.digest)
        return self.own == other.own and all(
            self.beside.get(name) == other.beside.get(name) for name in files
        )


@dataclass(frozen=True)
class Look:
    """What folders hold: models by name, and those that can't be served, and why."""

    sources: Mapping[str, Source]
    signatures: Mapping[str, Signature]
    left: Mapping[Path, str]


def checked_name(name: str, path: Path) -> str:
    """A name that a URL can hold. Raises UsageError."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"{path}: '{name}' as a model's name; expected {_KIND}")
    return name


def look(folders: Iterable[Path]) -> Look:
    """List folders. Raises OSError for one that can't be listed.

    Hidden files are passed over, and so is what is no file: folders, pipes, links to nothing. Of
    two models of one name the first folder's is meant.
    """
    sources: dict[str, Source] = {}
    signatures: dict[str, Signature] = {}
    left: dict[Path, str] = {}
    for folder in folders:
        models, beside = _listed(folder)
        digest = hash(tuple(sorted(beside.items())))
        for name, own in sorted(models.items()):
            path, stem = folder / name, name.removesuffix(".onnx")
            if not _NAME.fullmatch(stem):
                left[path] = f"its name can't be a model's; expected {_KIND}"
            elif stem in sources:
                left[path] = f"{sources[stem].path} has this name"
            else:
                sources[stem] = Source(stem, path)
                signatures[stem] = Signature(own, beside, digest)
    return Look(sources, signatures, left)


def _listed(folder: Path) -> tuple[dict[str, Stat], dict[str, Stat]]:
    """A folder's regular files: models, and others."""
    models: dict[str, Stat] = {}
    others: dict[str, Stat] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            try:
                about = entry.stat()
            except OSError:  # a link to nothing, a file that is gone already
                continue
            if stat.S_ISREG(about.st_mode):
                kind = models if entry.name.endswith(".onnx") else others
                kind[entry.name] = about.st_ino, about.st_size, about.st_mtime_ns
    return models, others
