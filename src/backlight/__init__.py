"""Backlight: an ONNX image classifier in, an ONNX graph that also says why out.

The public names, all loaded on first use, so that `import backlight` costs next to nothing
and imports no runtime.
"""

from __future__ import annotations

from .errors import BacklightError

# The room `backlight.export` and the function `backlight.export()` share a name. Importing the
# room once, here, lets the function keep it: later imports of its modules don't rebind it.
from .export import __name__ as _room  # noqa: F401

# Not from typing: that alone takes longer to load than all the rest here.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    import onnx

    from .engine.activations import activations
    from .engine.deconvnet import deconvnet
    from .engine.embed import Embedder, embed
    from .engine.explainer import Explainer, Explanation
    from .engine.filters import filters
    from .engine.inversion import invert, maximize
    from .engine.neighbors import neighbors
    from .engine.occlusion import Occlusion
    from .engine.patches import patches
    from .engine.rise import Rise
    from .engine.segments import Segments
    from .engine.store import Embeddings
    from .export.graph import ModelLike

__version__ = "0.1.0"

__all__ = [
    "BacklightError",
    "Embedder",
    "Embeddings",
    "Explainer",
    "Explanation",
    "Occlusion",
    "Rise",
    "Segments",
    "__version__",
    "activations",
    "deconvnet",
    "embed",
    "export",
    "filters",
    "invert",
    "maximize",
    "neighbors",
    "patches",
]

_LAZY = {
    "Embedder": "backlight.engine.embed",
    "Embeddings": "backlight.engine.store",
    "Explainer": "backlight.engine.explainer",
    "Explanation": "backlight.engine.explainer",
    "Occlusion": "backlight.engine.occlusion",
    "Rise": "backlight.engine.rise",
    "Segments": "backlight.engine.segments",
    "activations": "backlight.engine.activations",
    "deconvnet": "backlight.engine.deconvnet",
    "embed": "backlight.engine.embed",
    "filters": "backlight.engine.filters",
    "invert": "backlight.engine.inversion",
    "maximize": "backlight.engine.inversion",
    "neighbors": "backlight.engine.neighbors",
    "patches": "backlight.engine.patches",
}


def export(
    model: ModelLike,
    rules: Sequence[str] = ("vanilla", "deconv", "guided"),
    *,
    of: str | Sequence[str] | None = None,
    wrt: str | Sequence[str] | None = None,
    target_class: str | int = "input",
    cotangent: str = "class",
    reduce: str = "none",
    for_: str = "portable",
    dtype: str = "float32",
) -> onnx.ModelProto:
    """Return the model with saliency outputs: an explicit backward pass in standard operators.

    model: a path, bytes or an onnx.ModelProto; it is not changed.
    rules: any of "vanilla", "deconv", "guided": the outputs `saliency_<rule>`.
    of: the tensor(s) to explain; default: the class scores, before a closing Softmax.
    wrt: the tensor(s) to take the gradient by; default: the first image input.
    target_class: "input" adds the input `target` (int64 [batch], -1: the row's top class);
        "top1" or a number bakes the choice in.
    cotangent: "class" seeds with a one-hot vector of the target class; "input" adds the input
        `cotangent`, shaped like `of`, instead of `target`.
    reduce: "none": signed, in the shape of `wrt`; "maxabs": [batch, H, W], the largest
        absolute value over channels (Simonyan et al. 2014).
    for_: "portable", "cpu", "cuda", "tensorrt" or "openvino": the operators chosen for a runtime.
    dtype: "float32" leaves the model's types alone; "float16" or "bfloat16" makes weights and
        activations half. Inputs and outputs keep their types.

    Raises ModelError, UnsupportedNode or UsageError. A model above 2 GB does not fit a
    ModelProto: use `backlight export`, which writes external data.
    """
    from .export.saliency import explain_graph

    return explain_graph(
        model,
        rules,
        of=of,
        wrt=wrt,
        target_class=target_class,
        cotangent=cotangent,
        reduce=reduce,
        lowering=for_,
        dtype=dtype,
    ).to_proto()


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'backlight' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
