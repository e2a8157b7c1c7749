"""Shards: what one Parquet part is made of.

    a.tar, a.tar.gz     members that are pictures, by their names (WebDataset's among them)
    a.parquet           a column of pictures' bytes, and one that names them
    a.txt               a list: a path a line, from the list's own folder
    a folder            its shards; or of loose pictures so many at a time, in the order of names

A shard is known by a hash of what is in it, so that a part can tell whether it is of this shard.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...errors import ImageError
from ..photos.folders import SUFFIXES, image_files
from ..photos.outputs import cut
from ..photos.stream import Skipped

__all__ = ["SIZE", "Shard", "found_shards"]

# Pictures of a shard that is cut from a folder or a long list.
SIZE = 1000
TAR = (".tar", ".tar.gz", ".tgz")
PARQUET = (".parquet",)
LIST = (".txt", ".list", ".lst")
_MOST_LINE = 1 << 16


@dataclass(frozen=True)
class Shard:
    """name: of its part, without the ending. kind: tar, parquet, list or files. path: the file; of
    loose files, the folder that their names start from. files: of loose files and lists."""

    name: str
    kind: str
    path: str
    files: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON; `Shard.of` reads it back."""
        return asdict(self)

    @classmethod
    def of(cls, said: dict[str, Any]) -> Shard:
        """Of `as_dict`."""
        return cls(**{**said, "files": tuple(said["files"])})

    @property
    def root(self) -> Path:
        """What the names of `files` start from."""
        return Path(self.path).parent if self.kind == "list" else Path(self.path)

    def stamp(self) -> str:
        """What tells cheaply that nothing was written to it: sizes and times. Raises OSError."""
        if self.kind in ("list", "files"):
            return self.digest()
        about = os.stat(self.path)
        return f"{about.st_size} {about.st_mtime_ns}"

    def digest(self) -> str:
        """sha256 of a file's bytes; of pictures that lie loose, of their names, sizes and times: to
        read them all would be the work itself. Raises OSError."""
        found = hashlib.sha256()
        if self.kind in ("list", "files"):
            for name in self.files:
                try:
                    about = os.stat(self.root / name)
                    line = f"{name}\0{about.st_size}\0{about.st_mtime_ns}\n"
                except (OSError, ValueError):  # a row with a reason, then
                    line = f"{name}\0\n"
                found.update(line.encode("utf-8", "surrogatepass"))
            return found.hexdigest()
        with open(self.path, "rb") as file:
            while block := file.read(1 << 20):
                found.update(block)
        return found.hexdigest()


def found_shards(
    given: Sequence[str | os.PathLike[str]], size: int = SIZE, output: Path | None = None
) -> tuple[list[Shard], list[Skipped]]:
    """The shards at paths and in folders, in the order of their names, and the paths that give
    none. size: pictures of a shard of loose files. output: a folder whose files are no shards: the
    parts of a run before. Names are the same in every run, whatever other
    shards there are: of two that would be one, each gets a part of its path's hash."""
    found: list[Shard] = []
    skipped: list[Skipped] = []
    for path in given:
        try:
            found += (
                _under(Path(path).absolute(), size, output)
                if os.fspath(path)
                else _refused("an empty path")
            )
        except ImageError as err:
            skipped.append(Skipped(str(path), err))
    once = list(dict.fromkeys(found))
    names = Counter(s.name.casefold() for s in once)
    return [_told_apart(s) if names[s.name.casefold()] > 1 else s for s in once], skipped


def _told_apart(shard: Shard) -> Shard:
    mark = hashlib.sha256(os.fsencode(os.path.abspath(shard.path))).hexdigest()[:8]
    return Shard(f"{shard.name}-{mark}", shard.kind, shard.path, shard.files)


def _refused(why: str) -> list[Shard]:
    raise ImageError(f"{why}; expected shards: a folder, .tar, .parquet, or a list of files (.txt)")


def kind_of(name: str) -> str | None:
    """What kind of shard a file is, by its name."""
    low = name.lower()
    for kind, endings in (("tar", TAR), ("parquet", PARQUET), ("list", LIST)):
        if low.endswith(endings):
            return kind
    return None


def _under(path: Path, size: int, output: Path | None) -> list[Shard]:
    if not path.exists():
        return _refused(f"{path}: no such file or folder")
    if path.is_dir():
        return _of_folder(path, size, output)
    if not path.is_file():
        return _refused(f"{path}: a pipe or device")
    kind = kind_of(path.name)
    if kind == "list":
        return _of_list(path, path.name, size)
    if kind is not None:
        return [Shard(_name(path.name), kind, str(path))]
    if path.suffix.lower() in SUFFIXES:
        return [Shard(_name(path.name), "files", str(path.parent), (path.name,))]
    return _refused(f"{path}: no shard by its name")


def _of_folder(folder: Path, size: int, output: Path | None) -> list[Shard]:
    files = sorted(_files(folder, output))
    shards = [
        Shard(_name(name), kind, str(folder / name))
        for name in files
        if (kind := kind_of(name)) in ("tar", "parquet")
    ]
    loose = []
    if any(Path(name).suffix.lower() in SUFFIXES for name in files):
        own = None if output is None else output.absolute()
        loose = [
            os.path.relpath(file, folder)
            for file in image_files([folder])
            if own is None or own not in file.parents
        ]
    shards += _cut("files", folder, loose, "files", size)
    if not shards:  # beside pictures a text is no list: who made them, their labels
        for name in files:
            if kind_of(name) == "list":
                shards += _of_list(folder / name, name, size)
    if not shards:
        return _refused(f"{folder}: a folder without shards or pictures")
    return shards


def _files(folder: Path, output: Path | None) -> Iterator[str]:
    """Names of the regular files anywhere under a folder, from the folder. Links to folders are not
    followed here: a shard has one name."""
    own = None if output is None else os.path.realpath(output)
    waiting = [""]
    while waiting:
        at = waiting.pop()
        if own is not None and os.path.realpath(folder / at) == own:
            if not at:
                raise ImageError(f"{folder}: the output's own folder; take another for it")
            continue
        try:
            found = list(os.scandir(folder / at))
        except OSError as err:
            raise ImageError(f"{folder / at}: can't be listed: {err.strerror}") from err
        for entry in found:
            name = os.path.join(at, entry.name)
            if entry.is_dir(follow_symlinks=not at):
                waiting.append(name)
            elif entry.is_file() and not entry.name.startswith((".", "_")):
                yield name


def _of_list(path: Path, name: str, size: int) -> list[Shard]:
    try:
        text = path.read_bytes().decode("utf-8", "surrogateescape")
    except OSError as err:
        raise ImageError(f"{path}: can't be read: {err.strerror}") from err
    files = [line for line in text.splitlines() if line.strip()]
    if not files:
        return _refused(f"{path}: a list of no files")
    if any("\0" in line or len(line) > _MOST_LINE for line in files):
        return _refused(f"{path}: no list of files, a path a line")
    if len(files) <= size:
        return [Shard(_name(name), "list", str(path), tuple(files))]
    return _cut("list", path, files, name, size)


def _cut(kind: str, path: Path, files: Sequence[str], name: str, size: int) -> list[Shard]:
    return [
        Shard(f"{_name(name)}-{number:06d}", kind, str(path), tuple(part))
        for number, part in enumerate(_parts(files, size))
    ]


def _parts(files: Iterable[str], size: int) -> Iterator[list[str]]:
    coming = iter(files)
    while part := list(itertools.islice(coming, min(size, sys.maxsize))):
        yield part


def _name(path: str) -> str:
    """A part's name, from the path of its shard in the folder: one folder holds all parts. Readers
    of Parquet pass over names that begin with a dot or an underscore."""
    flat = path.replace(os.sep, "--").lstrip("._") or "shard"
    shown = flat.encode("utf-8", "backslashreplace").decode().replace("\\", "-")
    kept = cut(shown, 160)
    if kept != shown or shown != flat:
        kept += f"-{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"
    return kept
