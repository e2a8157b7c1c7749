"""What an export gives: the graph, what was chosen on the way, and what says so in the file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from ..errors import ModelError
from . import seed
from .explaining import Explaining
from .layer import Layer
from .message import message
from .methods import Method
from .store import fits_message, save_model

__all__ = ["ExplainGraph", "contrast_metadata"]


@dataclass(frozen=True)
class ExplainGraph:
    """A model with saliency outputs, and what was chosen on the way."""

    model: ir.Model
    of: str
    wrt: str
    input: str
    methods: tuple[str, ...]
    saliency: Mapping[str, str]
    score_output: str | None
    classes: int | None
    notes: tuple[str, ...] = ()
    layers: tuple[Layer, ...] = ()
    added: tuple[str, ...] = ()
    ranking: str = ""

    def to_proto(self) -> onnx.ModelProto:
        """The model as a message, weights included. Raises ModelError above 2 GB."""
        if not fits_message(self.model):
            raise ModelError(
                "the model is larger than 2 GB, more than a ModelProto holds; "
                "write it with 'backlight export', which keeps the weights in a file beside it"
            )
        ir.external_data.load_to_model(self.model)
        return message(self.model)

    def save(self, path: str | os.PathLike[str], *, external: bool = False) -> None:
        """Write the model, whole or not at all; above 2 GB (or with external=True) the weights
        go to `<name>.data` beside it. Raises OutputError."""
        save_model(self.model, Path(path), external)

    def keeps_data_aside(self, external: bool = False) -> bool:
        """Whether `save` writes `<name>.data`: because it was asked to, or above 2 GB."""
        return external or not fits_message(self.model)


def contrast_metadata(
    x: Explaining, rows: Sequence[Method], contrast: str | int | None
) -> dict[str, str]:
    """What says so in the file, where a method has a contrast."""
    if contrast is None and all(row.seed is not seed.CONTRAST for row in rows):
        return {}
    form = "logit" if x.independent else x.contrast_form
    told = [row.name for row in rows if contrast is not None or row.seed is seed.CONTRAST]
    return {
        "backlight.contrast": str(x.contrast),
        "backlight.contrast_form": form,
        "backlight.contrasted": ",".join(told),
    }
