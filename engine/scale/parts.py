"""Parts: what stands in the metadata of each, and what a run finds in a folder of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import OutputError
from ..photos.outputs import write_bytes
from ..photos.plain import as_json
from .members import parquet
from .shards import Shard

__all__ = ["KEY", "MANIFEST", "Done", "kept", "record_bytes", "record_of", "write_manifest"]

KEY = b"backlight.batch"
SUFFIX = ".parquet"
# Readers of a folder of Parquet files pass over names that begin with an underscore.
MANIFEST = "_manifest.json"
_FIELDS = {"shard": str, "kind": str, "path": str, "stamp": str, "sha256": str, "model_sha256": str,
           "asked_sha256": str, "rows": int, "errors": int}  # fmt: skip


@dataclass
class Done:
    """A part's record. reasons: the first few errors of it, for people."""

    record: dict[str, Any]
    reasons: list[str] = field(default_factory=list)

    @classmethod
    def begun(cls, shard: Shard, stamp: str, digest: str, model: str, asked: str) -> Done:
        """Of a shard, with no rows yet. stamp, digest: the shard's; model, asked: hashes."""
        return cls(
            {
                "shard": shard.name, "kind": shard.kind, "path": shard.path, "stamp": stamp,
                "sha256": digest, "model_sha256": model, "asked_sha256": asked, "rows": 0,
                "errors": 0,
            }
        )  # fmt: skip

    def count(self, error: str | None) -> None:
        """One row more."""
        self.record["rows"] += 1
        if error is not None:
            self.record["errors"] += 1
            if len(self.reasons) < 3:
                self.reasons.append(error)

    def path(self, folder: Path) -> Path:
        """Of the part."""
        return part_of(folder, self.record["shard"])


def part_of(folder: Path, name: str) -> Path:
    """The file of a shard's part."""
    return folder / f"{name}{SUFFIX}"


def record_bytes(record: dict[str, Any]) -> dict[bytes, bytes]:
    """A record as a part's metadata."""
    return {KEY: json.dumps(record, sort_keys=True).encode()}


def record_of(part: Path) -> dict[str, Any] | None:
    """What a part says of itself; None for a file that is none, is cut short or is no part."""
    try:
        if part.is_symlink() or not part.is_file():
            return None
        said = parquet().read_metadata(part).metadata or {}
        found = json.loads(said[KEY])
    except Exception:  # pyarrow's and the system's errors share no class
        return None
    if not isinstance(found, dict) or set(found) != set(_FIELDS):
        return None
    return found if all(type(found[k]) is kind for k, kind in _FIELDS.items()) else None


def kept(
    shard: Shard, folder: Path, model: str, asked: str, verify: bool
) -> tuple[dict[str, Any] | None, str]:
    """The record of a shard's part that is there and is of what the shard is now, or None; and why
    there is none, where there is a file. model, asked: hashes. verify: read the shard and the part
    anew, where sizes and times would do.

    Raises OutputError for a file that is no part, and for a part of another model or of other
    options: hours of work may lie in it.
    """
    part = part_of(folder, shard.name)
    if not part.exists() and not part.is_symlink():
        return None, ""
    record = record_of(part)
    if record is None:
        if _is_foreign(part):
            raise OutputError(f"{part}: not a part of batch; it is not overwritten")
        return None, "cut short or damaged"
    for what, key, want in (("model", "model_sha256", model), ("options", "asked_sha256", asked)):
        if record[key] != want:
            other = "another model" if what == "model" else "other options"
            raise OutputError(
                f"{part}: a part of {other}; take another folder, or --force to start anew"
            )
    try:
        same = record["stamp"] == shard.stamp() and record["kind"] == shard.kind and not verify
        if not same and record["sha256"] != shard.digest():
            return None, "its shard has changed"
    except OSError:
        return None, "its shard can't be read"
    if verify and not _sound(part):
        return None, "cut short or damaged"
    return record, ""


def _is_foreign(part: Path) -> bool:
    """Whether a file can be read as Parquet, and is none of ours."""
    try:
        parquet().read_metadata(part)
    except Exception:  # what is damaged may well have been ours
        return False
    return True


def _sound(part: Path) -> bool:
    """Whether all pages have their checksums."""
    try:
        with parquet().ParquetFile(part, page_checksum_verification=True) as file:
            for _ in file.iter_batches(64):
                pass
    except Exception:
        return False
    return True


def parts_in(folder: Path) -> Iterator[Path]:
    """The files in a folder that have a part's name."""
    for file in sorted(folder.glob(f"*{SUFFIX}")):
        if not file.name.startswith((".", "_")):
            yield file


def write_manifest(folder: Path, about: dict[str, Any]) -> None:
    """The manifest, whole. Raises OutputError."""
    text = as_json(about) + "\n"
    write_bytes(folder / MANIFEST, text.encode("utf-8", "backslashreplace"))
