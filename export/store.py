"""Writes a model whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import onnx_ir as ir

from ..errors import OutputError


def save_model(model: ir.Model, path: Path, external: bool) -> None:
    """Write `model` to `path`; with `external`, its weights to `<name>.data` beside it.

    Everything is written to a temporary folder beside the target and renamed into place.
    Raises OutputError when that folder can't be written.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix=".backlight-", dir=path.parent))
    except OSError as err:
        raise OutputError(f"{path}: can't be written: {err.strerror}") from err
    try:
        made = folder / path.name
        if external:
            ir.save(model, made, external_data=f"{path.name}.data")
        else:
            ir.external_data.load_to_model(model)
            ir.save(model, made)
        # The data first: a reader never finds a model without its weights.
        for file in sorted(folder.iterdir(), key=lambda f: f == made):
            os.replace(file, path.parent / file.name)
    except OSError as err:
        raise OutputError(f"{path}: can't be written: {err.strerror or err}") from err
    finally:
        shutil.rmtree(folder, ignore_errors=True)
