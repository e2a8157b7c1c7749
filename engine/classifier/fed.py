"""The image input as a runtime takes it, the inputs beside it, and what a call feeds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir

from ...errors import ImageError, ModelError, UsageError
from ...export import choose
from ...export.emit import all_dims
from ..photos import images
from ..runtime import arrays
from ..runtime.session import dims_of, dtype_of, kind_of
from .extras import NO_EXTRAS, Beside, Extras
from .intake import shares_batch

__all__ = ["Fed"]


@dataclass(frozen=True)
class Fed:
    """The image input as the runtime takes it, and the inputs beside it.

    dims: with None for those that are open. others: their names; whole: those of them without a
    row per image; declared: how the graph has them. extras: what they are fed, where that is known.
    """

    name: str
    dims: tuple[int | None, ...]
    dtype: np.dtype[Any]
    channel_axis: int
    others: tuple[str, ...] = ()
    whole: frozenset[str] = frozenset()
    declared: tuple[Beside, ...] = ()
    extras: Extras = NO_EXTRAS

    @classmethod
    def of(cls, graph: ir.Graph, image: ir.Value | str, beside: Sequence[str] = ()) -> Fed:
        """As a graph declares it. beside: inputs that are no model's own, such as `target`.
        Raises ModelError for an input that isn't there, or of a type that NumPy lacks."""
        fed = {v.name or "": v for v in graph.inputs if v.name not in graph.initializers}
        name = image if isinstance(image, str) else image.name or ""
        if name not in fed:
            raise ModelError(f"the model has no input '{name}'; was its metadata changed?")
        others = tuple(n for n in fed if n != name and n not in beside)
        shape = all_dims(fed[name].shape)
        whole = frozenset(n for n in others if not shares_batch(shape, all_dims(fed[n].shape)))
        return cls(
            name,
            dims_of(shape),
            dtype_of(fed[name]),
            choose.channel_axis(fed[name]),
            others,
            whole,
            tuple(
                Beside(n, dims_of(all_dims(fed[n].shape)), kind_of(fed[n]), n in whole)
                for n in others
            ),
        )

    @property
    def batch(self) -> int | None:
        """The number of images per run, where the model fixes it."""
        return self.dims[0] if self.dims else None

    @cached_property
    def spec(self) -> images.InputSpec:
        """For photos. Raises ModelError where pictures can't be fed to it."""
        return images.layout_of(self.name, self.dims, self.dtype, self.channel_axis)

    def runs(
        self, feeds: Mapping[str, Any], step: int | None = None
    ) -> Iterator[tuple[dict[str, Any], int]]:
        """A call's feeds run by run, and how many rows of each count: a batch that the model fixes
        is filled up with its last row. step: rows at a time, where it doesn't; None: all."""
        count = len(feeds[self.name])
        step = self.batch or step or max(count, 1)
        for at in range(0, count, step):
            part = {k: v if k in self.whole else v[at : at + step] for k, v in feeds.items()}
            rows = min(step, count - at)
            left = [name for name in self.extras.arrays if name not in part]
            part |= self.extras.rows(len(part[self.name]), left)
            if rows < step and self.batch is not None:
                fill = [*range(rows), *[rows - 1] * (step - rows)]
                part = {k: v if k in self.whole else v[fill] for k, v in part.items()}
            yield part, rows

    def alone(self) -> Fed:
        """Itself. Raises UsageError where it needs more than the image."""
        self.needs()
        return self

    def needs(self) -> None:
        """Raise UsageError where the model takes more than the image, and it isn't given."""
        for one in self.declared:
            if one.name not in self.extras.arrays:
                raise UsageError(
                    f"the model takes '{one.name}' {one} besides the image '{self.name}'; "
                    f"--input {one.name}=FILE.npy gives it, or a number: --input {one.name}=0"
                )

    def taken(
        self, inputs: Any, lone: bool, check: Callable[[Any], None]
    ) -> tuple[Any, dict[str, Any], arrays.Back]:
        """A call's image [N, ...] and what is fed beside it, by name, both where they lie, and what
        puts results there.

        inputs: the image, in NumPy, CuPy or DLPack memory, or a mapping from input names. lone:
        whether the model's own image has no batch. check: raises where the image doesn't fit.
        Raises ImageError.
        """
        given = dict(inputs) if isinstance(inputs, Mapping) else {self.name: inputs}
        known = [n for n in self.extras.arrays if n not in given]
        wanted = {self.name, *self.others} - set(known)
        if set(given) != wanted:
            need, have = (", ".join(sorted(names)) for names in (wanted, given))
            raise ImageError(f"the model takes inputs {need}; got {have}")
        image, back = arrays.taken(given.pop(self.name))
        if lone and image.ndim == len(self.dims) - 1:
            image = image[None]  # as the file has it, without a batch
        check(image)
        beside = dict(self.extras.rows(len(image), known))
        for name, value in given.items():
            other, _ = arrays.taken(value)
            if name not in self.whole and other.shape[:1] != image.shape[:1]:
                raise ImageError(f"input '{name}' has no row per image")
            beside[name] = other
        return image, beside, back
