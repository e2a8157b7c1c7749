"""Graph in, graph out: the model with saliency outputs. Knows onnx and onnx-ir, no runtime.

The room can be called: `backlight.export(model)` is `saliency.export(model)`, and its modules are
`backlight.export.graph` and so on.
"""

from __future__ import annotations

import sys

# Not from typing, nor from types: `import backlight` costs next to nothing.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any
else:
    ModuleType = type(sys)


class _Room(ModuleType):
    """A module that is the function of its name as well."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        from .saliency import export

        return export(*arguments, **options)

    @property
    def __wrapped__(self) -> Any:
        """The function, for `inspect.signature`."""
        from .saliency import export

        return export


sys.modules[__name__].__class__ = _Room
