"""What tells two models apart: the hash that stores and saved passes carry."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from ...export.graph import FILES, ModelLike, read

__all__ = ["hash_with", "model_hash"]


def model_hash(model: ModelLike, loaded: ir.Model | None = None) -> str:
    """sha256 of a model, its external data included: of the file's bytes where it is a file.
    loaded: what `read` gave, where the model was read already."""
    digest = hashlib.sha256()
    if loaded is None:
        loaded, _ = read(model)
    if isinstance(model, (str, os.PathLike)):
        _add_file(digest, Path(model))
    elif isinstance(model, bytes):
        digest.update(model)
    else:
        digest.update(ir.to_proto(loaded).SerializeToString(deterministic=True))
    held = (v.const_value for v in loaded.graph.initializers.values())
    beside = {Path(t.path) for t in held if isinstance(t, ir.ExternalTensor)}
    if isinstance(model, (str, os.PathLike)):
        beside |= loaded.meta.get(FILES, frozenset())  # what is small was read already
    for file in sorted(beside):
        _add_file(digest, file)
    return digest.hexdigest()


def hash_with(own: str, beside: Mapping[str, NDArray[Any]]) -> str:
    """sha256 of a model that is fed the same arrays beside every image."""
    digest = hashlib.sha256(own.encode())
    for name in sorted(beside):
        value = beside[name]
        digest.update(f"\0{name}\0{value.dtype.str}{list(value.shape)}\0".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def _add_file(digest: Any, file: Path) -> None:
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
