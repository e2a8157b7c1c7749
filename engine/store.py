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
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import arguments as take
from ..errors import InputError, UsageError
from .images import Pixels

__all__ = ["Embeddings", "Row", "Scan", "Source", "parts_of", "pyarrow", "read_column", "scan"]

VERSION = "1"
VERSION_KEY = b"backlight.store"
SOURCE_KEY = b"backlight.source"
SKIPPED_KEY = b"backlight.skipped"
PREFIX, SUFFIX = "part-", ".parquet"


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

    path: the folder that `backlight embed` wrote. damaged: parts that can't be read, left out.
    skipped: pictures that could not be read, and why.

    Raises UsageError where there is no store, and for parts of several models.
    """

    @take.accepts(path=take.path)
    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
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
        values = np.empty((len(self), self.source.width), np.float32)
        self._fill("vector", values)
        return values

    @cached_property
    def pixels(self) -> Pixels:
        """uint8 [N, side, side, 3]: what the model saw, made small."""
        side = self.source.side
        values = np.empty((len(self), side, side, 3), np.uint8)
        self._fill("pixels", values)
        return values

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
        return found
    except Exception as err:  # pyarrow has no common class for what damage can do
        raise InputError(
            f"{part}: damaged: {' '.join(str(err).split())[:200]}; remove it, and run "
            "'backlight embed' again for what it held"
        ) from err


def parts_of(folder: Path, more: str = "") -> list[Path]:
    """The files of a store in order; more="*": those set aside as well."""
    return sorted(folder.glob(f"{PREFIX}[0-9]*{SUFFIX}{more}"))


def is_foreign(part: Path) -> bool:
    """Whether a file that is named as a part is a Parquet file of something else."""
    try:
        meta = pyarrow().read_metadata(part)
    except Exception:  # see `scan`
        return False
    return VERSION_KEY not in (meta.metadata or {})


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
        except (KeyError, TypeError, ValueError) as err:
            raise UsageError(f"{part}: its metadata is damaged: {err}; remove it") from err
        if found is None:
            found = Scan(source, [], [], damaged, {})
        found.source.check(source, folder)
        found.parts.append(part)
        found.rows.append(meta.num_rows)
        found.skipped.update(skipped)
    return found
