"""Appends embeddings to a store: whole batches, resumed where a kill left off."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from ...errors import InputError, OutputError
from ..photos.outputs import write_bytes
from .store import (
    PREFIX,
    SKIPPED_KEY,
    SOURCE_KEY,
    SUFFIX,
    VERSION,
    VERSION_KEY,
    Row,
    Source,
    is_foreign,
    parts_of,
    pyarrow,
    read_column,
    scan,
)

__all__ = ["Writer", "refuse_foreign"]

DAMAGED = ".damaged"


class Writer:
    """Appends whole batches to a store, one process at a time; makes it where it is missing.

    A batch (`add`) is either in the store or not: parts are written when enough rows wait, and in
    `close`. Raises UsageError for a store of another source, OutputError where it can't be written
    or another process is writing to it.
    """

    def __init__(self, path: str | os.PathLike[str], source: Source, force: bool = False) -> None:
        self.path = Path(path)
        self.source = source
        self.notes: list[str] = []
        self.known: dict[str, float] = {}
        self.failed: dict[str, str] = {}
        self._rows: list[Row] = []
        self._skipped: dict[str, str] = {}
        refuse_foreign(self.path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(self.path)
        except OSError as err:
            raise OutputError(f"{path}: can't be written: {err.strerror}") from err
        try:
            self._recover(force)
        except BaseException:
            self.unlock()
            raise

    def _recover(self, force: bool) -> None:
        """Find what is there already: `known` paths, with the time of their part, and `failed` ones
        with the reason."""
        if force:
            for part in parts_of(self.path):
                if is_foreign(part):
                    raise OutputError(f"{part}: not a part of a store; it is not overwritten")
            for part in parts_of(self.path, "*"):
                part.unlink()
        refuse_foreign(self.path)
        for left in self.path.glob(f".{PREFIX}*"):  # a write that a kill cut short
            left.unlink()
        store = scan(self.path)
        damaged = parts_of(self.path) if store is None else store.damaged
        if store is not None:
            store.source.check(self.source, self.path)
            for part in store.parts:
                try:
                    paths = read_column(part, "path").to_pylist()
                    # What a power cut spoils is the last part; to read all would take long.
                    if part == store.parts[-1]:
                        read_column(part, "vector")
                        read_column(part, "pixels")
                    self.known |= dict.fromkeys(paths, part.stat().st_mtime)
                except InputError:
                    damaged.append(part)
            self.failed = {p: e for p, e in store.skipped.items() if p not in self.known}
        numbers = [int(p.name[len(PREFIX) :].split(".")[0]) for p in parts_of(self.path, "*")]
        self._next = max(numbers, default=-1) + 1
        for part in damaged:
            part.rename(part.with_name(part.name + DAMAGED))
            self.notes.append(
                f"{part}: cut short or damaged; set aside as {part.name}{DAMAGED}, "
                "its pictures are embedded again"
            )

    @property
    def waiting(self) -> int:
        """Rows that no part holds yet."""
        return len(self._rows)

    def add(self, rows: Sequence[Row], skipped: dict[str, str]) -> None:
        """A batch, and the pictures of it that could not be read."""
        self._rows += rows
        self._skipped |= skipped

    def flush(self) -> None:
        """Write what waits as a part."""
        if not self._rows and not self._skipped:
            return
        data = _part(self._rows, self._skipped, self.source)
        write_bytes(self.path / f"{PREFIX}{self._next:06d}{SUFFIX}", data)
        self._next += 1
        self._rows, self._skipped = [], {}

    def unlock(self) -> None:
        """Let others write."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @contextlib.contextmanager
    def writing(self) -> Iterator[Writer]:
        """Whole batches are kept whatever happens inside."""
        try:
            yield self
        finally:
            try:
                self.flush()
            finally:
                self.unlock()


def refuse_foreign(path: Path) -> None:
    """Raise OutputError where a store can't be: a file, or a folder with other files. For before
    the work; `Writer` asks again."""
    if path.exists() and not path.is_dir():
        raise OutputError(f"{path}: a file; expected a folder for the store")
    inside = [f.name for f in path.iterdir()] if path.is_dir() else []
    strange = [name for name in inside if not name.startswith((".", PREFIX))]
    if strange and not parts_of(path, "*"):
        raise OutputError(
            f"{path}: a folder with other files ({strange[0]} …); expected a new folder, or a store"
        )


def _part(rows: Sequence[Row], skipped: dict[str, str], source: Source) -> bytes:
    """A Parquet file. Without nulls in the vectors, reading them is a copy."""
    pa = importlib.import_module("pyarrow")
    count, width, side = len(rows), source.width, source.side
    vectors = np.stack([r.vector for r in rows]) if rows else np.empty((0, width), np.float32)
    pixels = np.stack([r.pixels for r in rows]) if rows else np.empty((0, side, side, 3), np.uint8)
    vector = pa.list_(pa.field("element", pa.float32(), nullable=False), width)
    pixel = pa.binary(side * side * 3)
    schema = pa.schema(
        [
            pa.field("path", pa.string(), nullable=False),
            pa.field("label", pa.string()),
            pa.field("vector", vector, nullable=False),
            pa.field("pixels", pixel, nullable=False),
        ],
        metadata={
            VERSION_KEY: VERSION,
            SOURCE_KEY: json.dumps(asdict(source), sort_keys=True),
            SKIPPED_KEY: json.dumps(skipped),
        },
    )
    columns = [
        pa.array([r.path for r in rows], pa.string()),
        pa.array([r.label for r in rows], pa.string()),
        pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), type=vector),
        pa.FixedSizeBinaryArray.from_buffers(pixel, count, [None, pa.py_buffer(pixels)]),
    ]
    buffer = io.BytesIO()
    pyarrow().write_table(
        pa.Table.from_arrays(columns, schema=schema),
        buffer,
        compression={"path": "ZSTD", "label": "ZSTD", "vector": "NONE", "pixels": "ZSTD"},
        use_dictionary=["label"],
        write_statistics=False,
        write_page_checksum=True,
    )
    return buffer.getvalue()


def _locked(folder: Path) -> int | None:
    """A lock that goes with the process, None where the system has no such locks."""
    try:
        fcntl = importlib.import_module("fcntl")
    except ImportError:
        return None
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as err:
        os.close(handle)
        raise OutputError(f"{folder}: another 'backlight embed' is writing to it") from err
    return handle
