"""Backlight: an ONNX image classifier in, an ONNX graph that also says why out.

The public names, all loaded on first use, so that `import backlight` costs next to nothing
and imports no runtime.
"""

from __future__ import annotations

from .errors import (
    BacklightError,
    ImageError,
    InputError,
    ModelError,
    OutputError,
    RunError,
    UnsupportedNode,
    UsageError,
)

# Not from typing: that alone takes longer to load than all the rest here.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .engine.direct.explainer import Explainer, Explanation
    from .engine.evidence.bias import BiasFinder
    from .engine.inside.activations import activations
    from .engine.inside.concepts import Concepts
    from .engine.inside.deconvnet import deconvnet
    from .engine.inside.explanatory import ExplanatoryGraph
    from .engine.inside.filters import filters
    from .engine.inside.inversion import invert
    from .engine.inside.maximization import maximize
    from .engine.inside.patches import patches
    from .engine.masked.ablationcam import AblationCam
    from .engine.masked.kernelshap import KernelShap
    from .engine.masked.lime import Lime
    from .engine.masked.occlusion import Occlusion
    from .engine.masked.rise import Rise
    from .engine.masked.scorecam import ScoreCam
    from .engine.masked.segmentation import Segment, Segmentation
    from .engine.masked.segments import Segments
    from .engine.scale.run import Batched, batch
    from .engine.similar.embed import Embedder, embed
    from .engine.similar.neighbors import neighbors
    from .engine.similar.store import Embeddings
    from .engine.targeted.cem import Cem
    from .engine.targeted.counterfactual import Counterfactual
    from .export.check import check
    from .export.preprocess import Preprocess
    from .export.pytorch import from_pytorch
    from .export.saliency import export as export  # what calling the room does

else:
    # A room that can be called: `backlight.export(model)`; `backlight.export.graph` is in it.
    from . import export

__version__ = "0.1.0"

__all__ = [
    "AblationCam",
    "BacklightError",
    "Batched",
    "BiasFinder",
    "Cem",
    "Concepts",
    "Counterfactual",
    "Embedder",
    "Embeddings",
    "Explainer",
    "Explanation",
    "ExplanatoryGraph",
    "ImageError",
    "InputError",
    "KernelShap",
    "Lime",
    "ModelError",
    "Occlusion",
    "OutputError",
    "Preprocess",
    "Rise",
    "RunError",
    "ScoreCam",
    "Segment",
    "Segmentation",
    "Segments",
    "UnsupportedNode",
    "UsageError",
    "__version__",
    "activations",
    "batch",
    "check",
    "deconvnet",
    "embed",
    "export",
    "filters",
    "from_pytorch",
    "invert",
    "maximize",
    "neighbors",
    "patches",
]

_LAZY = {
    "AblationCam": "backlight.engine.masked.ablationcam",
    "Batched": "backlight.engine.scale.run",
    "BiasFinder": "backlight.engine.evidence.bias",
    "Cem": "backlight.engine.targeted.cem",
    "Concepts": "backlight.engine.inside.concepts",
    "Counterfactual": "backlight.engine.targeted.counterfactual",
    "Embedder": "backlight.engine.similar.embed",
    "Embeddings": "backlight.engine.similar.store",
    "Explainer": "backlight.engine.direct.explainer",
    "Explanation": "backlight.engine.direct.explainer",
    "ExplanatoryGraph": "backlight.engine.inside.explanatory",
    "KernelShap": "backlight.engine.masked.kernelshap",
    "Lime": "backlight.engine.masked.lime",
    "Occlusion": "backlight.engine.masked.occlusion",
    "Preprocess": "backlight.export.preprocess",
    "Rise": "backlight.engine.masked.rise",
    "ScoreCam": "backlight.engine.masked.scorecam",
    "Segment": "backlight.engine.masked.segmentation",
    "Segmentation": "backlight.engine.masked.segmentation",
    "Segments": "backlight.engine.masked.segments",
    "activations": "backlight.engine.inside.activations",
    "batch": "backlight.engine.scale.run",
    "check": "backlight.export.check",
    "deconvnet": "backlight.engine.inside.deconvnet",
    "embed": "backlight.engine.similar.embed",
    "filters": "backlight.engine.inside.filters",
    "from_pytorch": "backlight.export.pytorch",
    "invert": "backlight.engine.inside.inversion",
    "maximize": "backlight.engine.inside.maximization",
    "neighbors": "backlight.engine.similar.neighbors",
    "patches": "backlight.engine.inside.patches",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'backlight' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
