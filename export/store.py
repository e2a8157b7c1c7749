"""Writes a model whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from ..errors import OutputError
from .message import message

try:
    import fcntl
except ImportError:  # Windows: nothing there tells a folder in use from one left behind
    fcntl = None  # type: ignore[assignment]

# Protobuf ends at 2 GiB; the rest is for the graph beside its weights.
PROTO_LIMIT = 2**31 - 2**26
PREFIX = ".backlight-"
_LOCK = ".lock"


def synced(path: Path) -> None:
    """Have a file, or a folder's names, on the disk: a rename may be there before what it names."""
    with contextlib.suppress(OSError):  # folders on Windows; file systems that can't
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """A folder for what is renamed into `parent` when it is whole; gone afterwards. Those that a
    killed process has left in `parent` are gone too: none holds their locks. Raises OSError."""
    _clear(parent)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    lock: Any = None
    try:
        if fcntl is not None:
            # Under its name only when it is held: without it, others leave the folder alone.
            lock = (folder / f"{_LOCK}ing").open("wb")
            fcntl.flock(lock, fcntl.LOCK_EX)
            (folder / f"{_LOCK}ing").rename(folder / _LOCK)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            lock.close()


def _clear(parent: Path) -> None:
    """Remove the temporary folders here whose process is gone."""
    if fcntl is None:
        return
    for folder in parent.glob(f"{PREFIX}*"):
        try:
            # Not a link to a folder elsewhere, nor somebody's own folder of such a name.
            if folder.is_symlink() or not (folder / _LOCK).is_file():
                continue
            with (folder / _LOCK).open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:  # in use, or another user's
            continue


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all initializers."""
    values = model.graph.initializers.values()
    return sum(v.const_value.nbytes for v in values if v.const_value is not None)


def fits_message(model: ir.Model) -> bool:
    """Whether a ModelProto holds the model with its weights."""
    return weight_bytes(model) <= PROTO_LIMIT


def save_model(model: ir.Model, path: Path, external: bool = False) -> None:
    """Write `model` to `path`; with `external`, or above 2 GB, its weights to `<name>.data` beside
    it.

    Everything is written to a temporary folder beside the target, synced, and renamed into place.
    Raises OutputError when that folder can't be written.
    """
    external = external or not fits_message(model)
    for file in (path, *([path.with_name(f"{path.name}.data")] if external else [])):
        # As root, a rename would take the place of a device.
        if file.exists() and not (file.is_file() or file.is_dir()):
            raise OutputError(f"{file}: a pipe or device; expected a file to write")
    try:
        with temporary_folder(path.parent) as folder:
            made = folder / path.name
            if external:
                ir.save(model, made, external_data=f"{path.name}.data")
            else:
                ir.external_data.load_to_model(model)
                onnx.save(message(model), made)
            files = [f for f in (folder / f"{path.name}.data", made) if f.exists()]
            for file in files:
                synced(file)
            # The data first: a reader never finds a model without its weights.
            for file in files:
                os.replace(file, path.parent / file.name)
            synced(path.parent)
    except OSError as err:
        raise OutputError(f"{path}: can't be written: {err.strerror or err}") from err
