"""A loss of a layer and its gradient by the image, in one run of one graph.

The gradient is the export's backward pass of the layer, seeded inside the graph with the loss's
own derivative: there is no second one here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...errors import ModelError
from ...export import scores, seed
from ...export.graph import ModelLike
from ...export.preprocess import Preprocess
from ...export.saliency import explain_graph
from ..classifier.fed import Fed
from ..classifier.ready import Ready, Standing
from ..photos.images import InputSpec
from ..runtime import arrays
from ..runtime.session import Providers, Session, default_lowering
from .taps import named

__all__ = ["Objective", "Pixelwise"]

KINDS = {"distance": seed.DISTANCE, "product": seed.PRODUCT, "margin": seed.MARGIN}


class Objective(Standing):
    """A loss between a layer and a given array of its shape, per image, and its gradient.

    model: a path, bytes or an onnx.ModelProto. layer: a tensor or a node by name; None: the class
    scores before a closing Softmax.
    kind: "distance": half the squared Euclidean distance to the given array (Mahendran and
    Vedaldi 2015), seeded with phi(x) - given; "product": minus the inner product with it; "margin":
    how far the class that is one-hot in the given array is ahead of the best other one.

    Raises ModelError, UnsupportedNode, or UsageError for an unknown layer.
    """

    def __init__(
        self,
        model: ModelLike | Ready,
        layer: str | None,
        kind: str,
        *,
        providers: Providers = None,
        threads: int | None = None,
    ) -> None:
        assert kind in KINDS
        ready = Ready.of(model)
        loaded = ready.loaded
        self.notes: tuple[str, ...] = ()
        providers, placed = ready.placed(providers)
        of = None
        if layer is not None:
            plain = scores.plain_name(ir.convenience.create_value_mapping(loaded.graph), layer)
            value = named(loaded.graph, plain)
            if kind == "product" and plain == layer:  # a representation is of what was named
                value, self.notes = scores.unclosed(loaded.graph, value)
            of = layer if kind == "margin" else value.name
        exported = explain_graph(
            loaded,
            ("vanilla",),
            of=of,
            lowering=default_lowering(providers),
            seed_of=KINDS[kind],
            alone=True,
            by_class=kind == "margin" or layer is None,
        )
        self.layer = exported.of
        if exported.wrt != exported.input:
            raise ModelError(
                f"input '{exported.input}' holds integers: no gradient reaches its pixels; "
                "expected a model whose image input is float"
            )
        self._gradient = exported.saliency["vanilla"]
        graph = exported.model.graph
        super().__init__(ready, Fed.of(graph, exported.input, (seed.GIVEN,)))
        self.fed.needs()
        self.notes = (*self.notes, *placed)
        self.session = Session(exported.model, providers, threads)
        given = Fed.of(graph, seed.GIVEN)
        self._dtype = given.dtype
        # What is given, without the batch; None for what is open.
        self.dims = given.dims[1:]

    @property
    def on_cuda(self) -> bool:
        """Whether arrays can stay on the GPU between runs: CUDA runs first, and CuPy is there."""
        if self.session.providers[0] != "CUDAExecutionProvider":
            return False
        try:
            return bool(arrays.cupy().cuda.is_available())
        except Exception:  # no CuPy, or one without its libraries: the loop runs on the host
            return False

    def __call__(self, x: Any, given: Any) -> tuple[Any, Any]:
        """x: [N, ...] as the model takes it; given: [N, ...] shaped like the layer; in NumPy or
        CuPy memory. The loss, float32 [N], and its gradient, shaped like x, in the same memory."""
        names = [seed.LOSS, self._gradient]
        given = given.astype(self._dtype, copy=False)
        parts = []
        for feeds, rows in self.fed.runs({self.fed.name: x, seed.GIVEN: given}):
            if arrays.is_cuda(x):
                found = arrays.run_on_cuda(self.session, feeds, names)
            else:
                host = {k: np.ascontiguousarray(v) for k, v in feeds.items()}
                found = self.session.run(host, names)
            parts.append({n: found[n][:rows] for n in names})
        if len(parts) == 1:
            return parts[0][seed.LOSS], parts[0][self._gradient]
        xp = arrays.cupy() if arrays.is_cuda(x) else np
        loss, gradient = (xp.concatenate([p[n] for p in parts]) for n in names)
        return loss, gradient


class Pixelwise:
    """Between pixel units and the model's input: z is float [N, C, H, W] in -127.5 .. 127.5, in the
    model's channel order; x is what the model takes."""

    def __init__(self, preprocess: Preprocess, spec: InputSpec, xp: Any) -> None:
        def per_channel(values: Any) -> Any:
            return xp.asarray(np.asarray(values, np.float32).reshape(1, -1, 1, 1))

        self.xp, self.spec = xp, spec
        self._scale = np.float32(preprocess.scale)
        self._mean, self._std = per_channel(preprocess.mean), per_channel(preprocess.std)

    def to_input(self, z: Any) -> Any:
        """z -> x."""
        x = ((z + np.float32(127.5)) * self._scale - self._mean) / self._std
        return self.xp.ascontiguousarray(self._laid(x).astype(self.spec.dtype, copy=False))

    def gradient(self, by_x: Any) -> Any:
        """The gradient by x -> by z."""
        return self._unlaid(by_x).astype(np.float32) * (self._scale / self._std)

    def from_input(self, x: NDArray[Any]) -> Any:
        """x -> z."""
        z = self._unlaid(self.xp.asarray(x)).astype(np.float32)
        return (z * self._std + self._mean) / self._scale - np.float32(127.5)

    def _laid(self, z: Any) -> Any:
        if self.spec.layout == "nhw":
            return z[:, 0]
        return z.transpose(0, 2, 3, 1) if self.spec.layout == "nhwc" else z

    def _unlaid(self, x: Any) -> Any:
        if self.spec.layout == "nhw":
            return x[:, None]
        return x.transpose(0, 3, 1, 2) if self.spec.layout == "nhwc" else x
