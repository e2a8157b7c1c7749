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
from ...export import choose, scores, seed
from ...export.graph import ModelLike, load
from ...export.preprocess import Preprocess
from ...export.saliency import explain_graph
from ..photos import images
from ..photos.images import InputSpec
from ..runtime import arrays
from ..runtime.session import Providers, Session, default_lowering, dims_of, numpy_dtype
from .taps import named

__all__ = ["Objective", "Pixelwise"]

KINDS = ("distance", "product")


class Objective:
    """A loss between a layer and a given array of its shape, per image, and its gradient.

    model: a path, bytes or an onnx.ModelProto. layer: a tensor or a node by name; None: the class
    scores before a closing Softmax.
    kind: "distance": half the squared Euclidean distance to the given array (Mahendran and
    Vedaldi 2015), seeded with phi(x) - given; "product": minus the inner product with it.

    Raises ModelError, UnsupportedNode, or UsageError for an unknown layer.
    """

    def __init__(
        self,
        model: ModelLike,
        layer: str | None,
        kind: str,
        *,
        providers: Providers = None,
        threads: int | None = None,
    ) -> None:
        assert kind in KINDS
        loaded = load(model)
        self.notes: tuple[str, ...] = ()
        of = None
        if layer is not None:
            plain = scores.plain_name(ir.convenience.create_value_mapping(loaded.graph), layer)
            value = named(loaded.graph, plain)
            if kind == "product" and plain == layer:  # a representation is of what was named
                value, self.notes = scores.unclosed(loaded.graph, value)
            of = value.name
        exported = explain_graph(
            loaded,
            ("vanilla",),
            of=of,
            lowering=default_lowering(providers),
            seed_of=seed.DISTANCE if kind == "distance" else seed.PRODUCT,
            alone=True,
        )
        self.layer, self._image = exported.of, exported.input
        if exported.wrt != exported.input:
            raise ModelError(
                f"input '{exported.input}' holds integers: no gradient reaches its pixels; "
                "expected a model whose image input is float"
            )
        self._gradient = exported.saliency["vanilla"]
        self.model = exported.model
        self.metadata: dict[str, str] = dict(exported.model.metadata_props)
        self.session = Session(exported.model, providers, threads)
        inputs = {i.name: i for i in self.session.inputs}
        others = [n for n in inputs if n not in (self._image, seed.GIVEN)]
        if others:
            raise ModelError(f"the model takes '{others[0]}' besides the image; expected one input")
        self._dtype = numpy_dtype(inputs[seed.GIVEN].type)
        image = inputs[self._image]
        axis = choose.channel_axis(_input(exported.model.graph, self._image))
        self._spec = (self._image, dims_of(image.shape), numpy_dtype(image.type), axis)
        self.dims = dims_of(inputs[seed.GIVEN].shape)
        self.batch = self._spec[1][0]

    @property
    def input(self) -> InputSpec:
        """The image input. Raises ModelError where pictures can't be fed to it."""
        return images.layout_of(*self._spec)

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
        count, step = len(x), self.batch or len(x)
        if count % step:  # a fixed batch is filled up
            rows = [*range(count), *[count - 1] * (-count % step)]
            x, given = x[rows], given[rows]
        parts = []
        for at in range(0, len(x), step):
            feeds = {self._image: x[at : at + step], seed.GIVEN: given[at : at + step]}
            if arrays.is_cuda(x):
                parts.append(arrays.run_on_cuda(self.session, feeds, names))
            else:
                host = {k: np.ascontiguousarray(v) for k, v in feeds.items()}
                parts.append(self.session.run(host, names))
        if len(parts) == 1:
            return parts[0][seed.LOSS][:count], parts[0][self._gradient][:count]
        xp = arrays.cupy() if arrays.is_cuda(x) else np
        loss, gradient = (xp.concatenate([p[n] for p in parts])[:count] for n in names)
        return loss, gradient


def _input(graph: ir.Graph, name: str) -> ir.Value:
    return next(v for v in graph.inputs if v.name == name)


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
