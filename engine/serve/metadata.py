"""What the server and its models say of themselves."""

from __future__ import annotations

import json
from typing import Any

from .described import Declared
from .models import Models, Served

__all__ = ["EXTENSIONS", "model_metadata", "server_metadata"]

EXTENSIONS = ("binary_tensor_data", "model_repository", "explain")


def server_metadata(models: Models) -> dict[str, Any]:
    """Of `/v2`."""
    from ... import __version__

    return {
        "name": "backlight",
        "version": __version__,
        "extensions": list(EXTENSIONS),
        "models": [model.name for model in models],
    }


def model_metadata(served: Served) -> dict[str, Any]:
    """Of `/v2/models/M`: the protocol's fields, and in `parameters` what else there is to know."""
    model = served.described
    return {
        "name": served.name,
        "versions": [str(served.version)],
        "platform": "backlight_onnx",
        "inputs": [_declared(one) for one in model.taken.values()],
        "outputs": [_declared(one) for one in model.offered.values()],
        "parameters": {
            "hash": model.hash,
            "methods": [
                {"name": name, "output": model.maps[name].name, "about": about, "source": source}
                for name, (about, source) in model.about.items()
            ],
            "of": model.of,
            "scores": model.scores,
            "classes": model.classes,
            "labels": None if model.labels is None else list(model.labels),
            "preprocess": None if model.preprocess is None else json.loads(model.preprocess),
            "layers": list(model.layers),
            "target_class": model.baked or "input",
            "max_batch": model.most,
            "given": sorted(model.given),
        },
    }


def _declared(one: Declared) -> dict[str, Any]:
    return {"name": one.name, "datatype": one.datatype, "shape": one.shape}
