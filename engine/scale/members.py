"""The pictures in a shard, one after the other, in an order that is the same every time."""

from __future__ import annotations

import importlib
import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ...errors import ImageError, UsageError
from ..photos.folders import SUFFIXES
from .shards import Shard

__all__ = ["Columns", "Member", "members", "parquet"]

# Of one picture's file.
MOST = 1 << 28
_ROWS = 64
# Of the columns that hold pictures, and that name them, what data sets call them most.
IMAGES = ("image", "bytes", "jpg", "jpeg", "png", "webp", "content", "data", "picture", "img")
KEYS = ("path", "key", "__key__", "id", "image_id", "filename", "file_name", "name", "url")


@dataclass(frozen=True)
class Columns:
    """Of Parquet shards: which column holds the pictures, and which names them; None: by name."""

    image: str | None = None
    key: str | None = None


@dataclass(frozen=True)
class Member:
    """key: its name in the shard. data: a picture file's bytes or path, or why there is none."""

    key: str
    data: bytes | Path | ImageError


def parquet() -> Any:
    """The module pyarrow.parquet. Raises UsageError, saying how to install it."""
    try:
        return importlib.import_module("pyarrow.parquet")
    except ImportError as err:
        raise UsageError(
            "batch writes Parquet files, which need pyarrow; pip install 'backlight[batch]'"
        ) from err


def members(shard: Shard, columns: Columns) -> Iterator[Member]:
    """The pictures of a shard. Raises ImageError where it can't be read to its end: nobody could
    tell which of its pictures are missing."""
    return _KINDS[shard.kind](shard, columns)


def _loose(shard: Shard, _: Columns) -> Iterator[Member]:
    for name in shard.files:
        yield Member(name, shard.root / name)


def _tar(shard: Shard, _: Columns) -> Iterator[Member]:
    count = 0
    try:
        with open(shard.path, "rb") as file, tarfile.open(fileobj=file, mode="r:*") as archive:
            for info in archive:
                if not info.isfile() or Path(info.name).suffix.lower() not in SUFFIXES:
                    continue
                if os.path.basename(info.name).startswith("._"):  # macOS's own, beside each file
                    continue
                count += 1
                if info.size > MOST:
                    why = f"{info.name}: a file of {info.size} bytes; at most {MOST} are read"
                    yield Member(info.name, ImageError(why))
                    continue
                held = archive.extractfile(info)
                yield Member(info.name, held.read() if held else b"")
            _refuse_cut(archive, shard.path)
    except (ImageError, MemoryError):
        raise
    except Exception as err:  # of tarfile, three ways to pack, and headers within headers
        told = " ".join(str(err).split()) or type(err).__name__
        raise ImageError(f"{shard.path}: no tar file that can be read to its end: {told}") from err
    if not count:
        raise ImageError(
            f"{shard.path}: no pictures in it; looked for {', '.join(sorted(SUFFIXES))}"
        )


def _refuse_cut(archive: tarfile.TarFile, path: str) -> None:
    """Raise ImageError where the mark at the end is missing: Python takes a file that was cut
    between two members, or in a header, for a whole one."""
    inner: IO[bytes] | Any = archive.fileobj
    inner.seek(archive.offset)
    mark = inner.read(tarfile.BLOCKSIZE)
    if len(mark) < tarfile.BLOCKSIZE or any(mark):
        raise ImageError(f"{path}: cut short: a tar file ends with a block of zeros")


def _rows(shard: Shard, columns: Columns) -> Iterator[Member]:
    try:
        with parquet().ParquetFile(shard.path) as file:
            image, key = _chosen(file.schema_arrow, columns, shard.path)
            wanted = [image, *([key] if key else [])]
            row = 0
            for batch in file.iter_batches(_ROWS, columns=wanted):
                pictures = batch.column(batch.schema.get_field_index(image)).to_pylist()
                names: list[Any] = [None] * len(pictures)
                if key is not None:
                    names = batch.column(batch.schema.get_field_index(key)).to_pylist()
                for held, name in zip(pictures, names, strict=True):
                    inside = held if isinstance(held, dict) else {"bytes": held}
                    found = name if name is not None else inside.get("path")
                    yield _row(inside.get("bytes"), str(row if found is None else found))
                    row += 1
    except (ImageError, UsageError):
        raise
    except Exception as err:  # pyarrow's errors share no class with those of the system
        told = " ".join(str(err).split())[:200] or type(err).__name__
        raise ImageError(f"{shard.path}: no Parquet file that can be read: {told}") from err


def _row(data: bytes | None, key: str) -> Member:
    if data is None:
        return Member(key, ImageError(f"{key}: a row without a picture"))
    if len(data) > MOST:
        return Member(key, ImageError(f"{key}: {len(data)} bytes; at most {MOST} are read"))
    return Member(key, data)


def _chosen(schema: Any, columns: Columns, path: str) -> tuple[str, str | None]:
    """The column with the pictures, and the one with their names, None where there is none."""
    pa: Any = importlib.import_module("pyarrow")
    kinds = {field.name: field.type for field in schema}

    def binary(kind: Any) -> bool:
        if pa.types.is_struct(kind):
            return any(kind.field(i).name == "bytes" for i in range(kind.num_fields))
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    there = [name for name, kind in kinds.items() if binary(kind)]
    if columns.image is not None and columns.image not in there:
        has = ", ".join(there) or "none"
        raise ImageError(f"{path}: no column '{columns.image}' of bytes; it has {has}")
    known = [name for name in there if name.lower() in IMAGES]
    usual = there if len(there) == 1 else known
    if columns.image is None and len(usual) != 1:
        which = f"{', '.join(usual or there)}; --column names one" if there else "none"
        raise ImageError(f"{path}: expected one column with pictures' bytes; it has {which}")
    if columns.key is not None and columns.key not in kinds:
        raise ImageError(f"{path}: no column '{columns.key}'; it has {', '.join(kinds)}")

    def names(kind: Any) -> bool:
        text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        return bool(text or pa.types.is_integer(kind))

    lower = {name.lower(): name for name, kind in kinds.items() if names(kind)}
    key = columns.key or next((lower[name] for name in KEYS if name in lower), None)
    return columns.image or usual[0], key


_KINDS: dict[str, Callable[[Shard, Columns], Iterator[Member]]] = {
    "tar": _tar,
    "parquet": _rows,
    "list": _loose,
    "files": _loose,
}
