"""torchvision's builders beside a CPU-only torch, with random weights that keep signals alive."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from typing import Any


def torchvision_models() -> Any:
    """`torchvision.models`, its compiled operators missing or not.

    The wheel from the package index is built for another torch; at import it registers fake
    kernels for operators that then do not exist (nms, roi_align ...). Classifiers need none.
    """
    import torch

    original: Callable[..., Any] = torch.library.register_fake

    def tolerant(op: Any, *args: Any, **kwargs: Any) -> Any:
        register = original(op, *args, **kwargs)

        def attempt(function: Any) -> Any:
            with contextlib.suppress(RuntimeError):
                return register(function)
            return function

        return attempt if isinstance(op, str) and op.startswith("torchvision::") else register

    torch.library.register_fake = tolerant
    try:
        return importlib.import_module("torchvision").models
    finally:
        torch.library.register_fake = original
