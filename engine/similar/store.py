"""Embeddings in a folder of Parquet files, each written whole or not at all.

    STORE/part-000000.parquet, part-000001.parquet, …

Rows in the order of the parts: `path` (absolute), `label` (null where there is none), `vector`
(float32), `pixels` (a small RGB picture, for distances in pixel space and thumbnails). The schema's
metadata says what made the vectors (`Source`): two models never share a store. A part that is cut
short or damaged (pages carry checksums) counts as not there.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import arguments as take
from ...errors import InputError, UsageError
from ..photos.images import Pixels
from ..runtime.budget import free_host, shown

__all__ = ["Embeddings", "Row", "Scan", "Source", "parts_of", "pyarrow", "read_column", "scan"]

VERSION = "1"
VERSION_KEY = b"backlight.store"
SOURCE_KEY = b"backlight.source"
SKIPPED_KEY = b"backlight.skipped"
PREFIX, SUFFIX = "part-", ".parquet"
_NAMED = re.compile(rf"{PREFIX}\d{{1,12}}{re.escape(SUFFIX)}(\.\w+)?")
MOST_WIDE, MOST_SIDE = 1 << 20, 64
# The photos that come along, which the examples embed.
_BUNDLED = Path(__file__).parent.parent / "assets" / "photos"


def pyarrow() -> Any:
    """The module pyarrow.parquet. Raises UsageError, saying how to install it."""
    try:
        return importlib.import_module("pyarrow.parquet")
    except ImportError as err:
        raise UsageError(
            "stores of embeddings are Parquet files, which need pyarrow; "
            "pip install 'backlight[maps]'"
        ) from err


@dataclass(frozen=True)
class Source:
    """What made the vectors of a store.

    model: where the file was; hash: sha256 of the file and its external data. tensor, pooling:
    what was embedded. preprocess: the record, as JSON. width: of a vector. side: of the pixels.
    """

    model: str
    hash: str
    tensor: str
    pooling: str
    preprocess: str
    width: int
    side: int

    def __post_init__(self) -> None:
        """Raise ValueError for what no vectors are made of."""
        texts = (self.model, self.hash, self.tensor, self.pooling, self.preprocess)
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("a source's model, hash, tensor, pooling and preprocess are texts")
        for name, most in (("width", MOST_WIDE), ("side", MOST_SIDE)):
            number = getattr(self, name)
            if type(number) is not int or not 1 <= number <= most:
                raise ValueError(f"{name} {number!r}; expected 1 to {most}")

    def check(self, other: Source, store: Path) -> None:
        """Raise UsageError where vectors of `other` do not belong beside these."""
        if self.hash != other.hash:
            raise UsageError(
                f"{store}: made by another model, {self.model} (sha256 {self.hash[:12]}…), "
                f"not {other.model} ({other.hash[:12]}…); take another folder for the store"
            )
        for what in ("tensor", "preprocess", "side"):
            mine, theirs = getattr(self, what), getattr(other, what)
            if mine != theirs:
                raise UsageError(
                    f"{store}: made with {what} {mine}, not {theirs}; take another folder"
                )


@dataclass(frozen=True)
class Row:
    """One picture. vector: float32 [width]; pixels: uint8 [side, side, 3]."""

    path: str
    label: str | None
    vector: NDArray[np.float32]
    pixels: Pixels


@dataclass(frozen=True)
class Scan:
    """What lies in a store's folder. rows: of each part. damaged: parts that are cut short.
    skipped: pictures that could not be read, and why."""

    source: Source
    parts: list[Path]
    rows: list[int]
    damaged: list[Path]
    skipped: dict[str, str]


class Embeddings:
    """A store of embeddings, read lazily: a column comes with its first use.

    path: the folder that `backlight embed` wrote. pictures: folders that the store's pictures may
    be opened in; the folder that it lies in, and the photos that come with Backlight, are always
    among them. damaged: parts that can't be read, left out. skipped: pictures that could not be
    read, and why.

    Raises UsageError where there is no store, and for parts of several models.
    """

    @take.accepts(path=take.path)
    def __init__(
        self, path: str | os.PathLike[str], pictures: Sequence[str | os.PathLike[str]] = ()
    ) -> None:
        self.path = Path(path)
        for given in pictures:
            if not Path(given).is_dir():
                raise UsageError(f"{given}: no such folder; expected one of the store's pictures")
        folders = [*map(Path, pictures), Path(os.path.realpath(self.path)).parent, _BUNDLED]
        self._folders = [os.path.realpath(folder) for folder in folders]
        if not self.path.is_dir():
            what = "a file" if self.path.exists() else "no such folder"
            raise UsageError(f"{path}: {what}; expected a store that 'backlight embed' wrote")
        found = scan(self.path)
        if found is None:
            raise UsageError(
                f"{path}: no embeddings in it; expected a store that 'backlight embed' wrote"
            )
        self.source = found.source
        self.damaged = found.damaged
        self.skipped = found.skipped
        self._parts = found.parts
        self._count = sum(found.rows)

    def __len__(self) -> int:
        return self._count

    def picture(self, path: str) -> Path | None:
        """A file that a store (or a map) names, where it lies in a folder that was given, links
        resolved; else None: a store of a stranger's would show any picture of this machine."""
        try:
            real = Path(os.path.realpath(path))
            inside = any(real.is_relative_to(folder) for folder in self._folders)
            return real if os.path.isabs(path) and inside and real.is_file() else None
        except (OSError, ValueError):  # no file's name
            return None

    def outside(self, paths: Sequence[str]) -> int:
        """How many of the files are there and lie in no folder that was given."""
        return sum(self.picture(p) is None and _is_there(p) for p in paths)

    @cached_property
    def paths(self) -> list[str]:
        """[N] names of the files."""
        return [str(t) for p in self._parts for t in read_column(p, "path").to_pylist()]

    @cached_property
    def labels(self) -> list[str | None]:
        """[N] labels."""
        return [t for p in self._parts for t in read_column(p, "label").to_pylist()]

    @cached_property
    def vectors(self) -> NDArray[np.float32]:
        """float32 [N, width]."""
        values = self._room((self.source.width,), np.float32)
        self._fill("vector", values)
        return values

    @cached_property
    def pixels(self) -> Pixels:
        """uint8 [N, side, side, 3]: what the model saw, made small."""
        side = self.source.side
        values = self._room((side, side, 3), np.uint8)
        self._fill("pixels", values)
        return values

    def _room(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """An array for a column. Raises UsageError where memory doesn't hold it."""
        size = len(self) * math.prod(shape) * np.dtype(dtype).itemsize
        if size > free_host():
            raise UsageError(f"{self.path}: {shown(size)} of it, more than memory has free")
        return np.empty((len(self), *shape), dtype)

    def _fill(self, column: str, values: NDArray[Any]) -> None:
        """Copy a column of fixed-size rows, part by part."""
        if not len(values):  # of what was embedded nothing could be read
            return
        flat = values.reshape(len(values), -1).view(np.uint8)
        at = 0
        for part in self._parts:
            for chunk in read_column(part, column).chunks:
                held = chunk.values if column == "vector" else chunk
                rows = np.frombuffer(held.buffers()[1], np.uint8).reshape(-1, flat.shape[1])
                flat[at : at + len(chunk)] = rows[chunk.offset : chunk.offset + len(chunk)]
                at += len(chunk)
        assert at == len(values)


def read_column(part: Path, column: str) -> Any:
    """A column of a part, checksums verified. Raises InputError for a damaged page."""
    parquet = pyarrow()
    try:
        table = parquet.read_table(part, columns=[column], page_checksum_verification=True)
        found = table[column]
        # A damaged footer may say one thing of the part and another of a column.
        rows = parquet.read_metadata(part).num_rows
        if len(found) != rows:
            raise ValueError(f"{len(found)} rows of '{column}', {rows} in all")
        nulls = found.null_count + sum(
            c.values.null_count for c in found.chunks if column == "vector"
        )
        if nulls and column != "label":
            raise ValueError(f"rows of '{column}' that are null")
        found.validate(full=True)
        return found
    except Exception as err:  # pyarrow has no common class for what damage can do
        raise InputError(
            f"{part}: damaged: {' '.join(str(err).split())[:200]}; remove it, and run "
            "'backlight embed' again for what it held"
        ) from err


def parts_of(folder: Path, more: str = "") -> list[Path]:
    """The files of a store in order; more="*": those set aside as well."""
    found = [p for p in folder.glob(f"{PREFIX}[0-9]*{SUFFIX}{more}") if _NAMED.fullmatch(p.name)]
    for part in found:
        if part.is_symlink() or not part.is_file():
            raise UsageError(f"{part}: a link, folder, pipe or device; expected a store's part")
    return sorted(found)


def is_foreign(part: Path) -> bool:
    """Whether a file that is named as a part is a Parquet file of something else."""
    try:
        meta = pyarrow().read_metadata(part)
    except Exception:  # see `scan`
        return False
    return VERSION_KEY not in (meta.metadata or {})


def _is_there(path: str) -> bool:
    try:
        return os.path.exists(path)
    except (OSError, ValueError):
        return False


def _check_columns(part: Path, meta: Any, source: Source) -> None:
    """Raise ValueError unless a part's columns have the types of a store, and its file the length
    of its vectors: other types would be taken for these bit by bit."""
    pa = importlib.import_module("pyarrow")
    schema = meta.schema.to_arrow_schema()
    wanted = {"path": pa.string(), "label": pa.string(),
              "pixels": pa.binary(source.side * source.side * 3)}  # fmt: skip
    for name in ("path", "label", "vector", "pixels"):
        if schema.get_all_field_indices(name) != [schema.get_field_index(name)]:
            raise ValueError(f"it has no column '{name}', or several")
        kind = schema.field(name).type
        if name == "vector":
            fits = (
                pa.types.is_fixed_size_list(kind)
                and kind.list_size == source.width
                and kind.value_type == pa.float32()
            )
        else:
            fits = kind == wanted[name]
        if not fits:
            raise ValueError(f"its column '{name}' is {kind}")
    # Vectors are not compressed: a count of rows that a few bytes stand for is none of ours.
    if meta.num_rows < 0 or meta.num_rows * source.width * 4 > part.stat().st_size:
        raise ValueError(f"{meta.num_rows} rows in {part.stat().st_size} bytes")


def scan(folder: Path) -> Scan | None:
    """Look through the parts' footers; None where there are none to read. Raises UsageError."""
    parquet = pyarrow()
    found: Scan | None = None
    damaged: list[Path] = []
    for part in parts_of(folder):
        try:
            meta = parquet.read_metadata(part)
        except Exception:  # no footer: ArrowInvalid, OSError, or what thrift says
            damaged.append(part)
            continue
        held = meta.metadata or {}
        if held.get(VERSION_KEY) != VERSION.encode():
            raise UsageError(f"{part}: not a part of a store that this version of backlight reads")
        try:
            source = Source(**json.loads(held[SOURCE_KEY]))
            skipped = dict(json.loads(held[SKIPPED_KEY]))
            if not all(isinstance(t, str) for pair in skipped.items() for t in pair):
                raise ValueError("skipped files that are none")
            _check_columns(part, meta, source)
        except (KeyError, TypeError, ValueError, RecursionError) as err:
            raise UsageError(f"{part}: its metadata is damaged: {err}; remove it") from err
        if found is None:
            found = Scan(source, [], [], damaged, {})
        found.source.check(source, folder)
        found.parts.append(part)
        found.rows.append(meta.num_rows)
        found.skipped.update(skipped)
    return found
