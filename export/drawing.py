"""How class activation maps are drawn: of which layers, at which size, signed or not, fused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

import onnx_ir as ir

from ..errors import UsageError
from .enlarge import resized
from .explaining import Explaining, Seed
from .finish import Walked
from .layer import Layer, default_layer, named_layer
from .methods import Method
from .rollout import attended, cotangents
from .seed import class_count

__all__ = ["USUAL", "Drawing"]

SIZES = ("input", "layer")
# What of the options of maps and contrasts says nothing: `backlight.export`'s defaults.
USUAL = {
    "layer": None, "fuse": False, "size": "input", "signed": False, "contrast": None,
    "contrast_form": "loss",
}  # fmt: skip

# (a map, what it is a map of) -> the map, with NaN in rows that can't be explained.
Mark = Callable[[ir.Value, ir.Value], ir.Value]


@dataclass(frozen=True)
class Drawing:
    """What --layer, --fuse, --size and --signed ask for. names: of layers; none: the default."""

    names: tuple[str, ...]
    fuse: bool
    size: str
    signed: bool

    @classmethod
    def of(
        cls, rows: Sequence[Method], names: Sequence[str], *, fuse: bool, size: str, signed: bool
    ) -> Drawing:
        """Checked. Raises UsageError for what doesn't go together."""
        wanted = any(row.takes_layer for row in rows)
        if size not in SIZES:
            raise UsageError.unknown("size", size, SIZES)
        if not wanted and (names or fuse or signed or size != "input"):
            raise UsageError(
                "layer, fuse, size and signed are of class activation maps (such as gradcam); "
                f"{', '.join(row.name for row in rows)} has none"
            )
        if (names or fuse) and all(row.needs for row in rows if row.takes_layer):
            name = next(row.name for row in rows if row.needs)
            raise UsageError(f"{name} goes through all attention layers; leave out --layer")
        if fuse and len(set(names)) < 2:
            raise UsageError("fuse needs two layers or more; give --layer several times")
        if fuse and (signed or size == "layer"):
            raise UsageError(
                "fused maps are rectified and at the image's size; leave out --signed, --size"
            )
        if size == "layer" and any(row.by == "both" for row in rows):
            name = next(row.name for row in rows if row.by == "both")
            raise UsageError(f"{name} is shaped like the image; accepted: --size input")
        return cls(tuple(dict.fromkeys(names)), fuse, size, signed)

    def layers(self, x: Explaining, rows: Sequence[Method]) -> list[Layer]:
        """The layers, named or the default one; none where no method takes one."""
        graph, of, wrt = x.e.graph, x.of[0], x.wrt[0]
        if not any(row.takes_layer for row in rows):
            return []
        if all(row.needs for row in rows if row.takes_layer):
            return [attended(x).layer]
        if not self.names:
            return [default_layer(of, wrt)]
        return [named_layer(graph, name, x.of, wrt) for name in self.names]

    def maps(
        self, x: Explaining, row: Method, start: Seed, layers: Sequence[Layer], mark: Mark
    ) -> list[ir.Value]:
        """A method's map of each layer, or the one that they are fused to, in float32. mark: puts
        NaN into rows that can't be explained."""
        if row.needs == "attention":
            layers = [attended(x).layer]
        # Before the finish: walks are as wide as the model. The layer's is the vanilla one.
        if row.by == "both":
            x.walk(row.rules, start, x.wrt)
        if row.walks and row.needs:
            cotangents(x, start)
        elif row.walks:
            for layer in layers:
                x.walk("vanilla", start, [layer.value])
        walks = [Walked(x, start, "vanilla", layer=layer) for layer in layers]
        with x.e.in_float32():
            if not self.fuse or row.by != "layer" or row.needs:
                return [self._map(walk, row, mark) for walk in walks]
            fused = _fused(x, [self._map(walk, row, _unmarked) for walk in walks])
            return [mark(fused, layers[0].value)]

    def _map(self, walk: Walked, row: Method, mark: Mark) -> ir.Value:
        e, layer = walk.x.e, walk.layer
        assert layer is not None
        every = row.every if walk.x.target_class == "all" else None
        value = e.cast((every or row.finish)(walk), ir.DataType.FLOAT)
        if row.by == "both":
            return mark(value, layer.value)
        if not self.signed:
            value = e.Relu(value)
        front = [walk.x.batch]
        if every is not None:
            front.append(class_count(walk.x.of[0]))
        value.shape = ir.Shape([*front, *layer.sizes])
        value = mark(value, layer.value)  # before it is large: what is NaN stays so
        return value if self.size == "layer" else resized(e, value, layer, walk.x)

    def metadata(self, layers: Sequence[Layer]) -> dict[str, str]:
        """What says so in the file."""
        if not layers:
            return {}
        return {
            "backlight.layer": ",".join(layer.name for layer in layers),
            "backlight.size": self.size,
            "backlight.signed": str(self.signed).lower(),
            "backlight.fuse": str(self.fuse).lower(),
        }


def _unmarked(value: ir.Value, wrt: ir.Value) -> ir.Value:
    return value


def _fused(x: Explaining, maps: Sequence[ir.Value]) -> ir.Value:
    """The largest over layers of tanh(2 m / max m), maps [N, H, W] (Jiang et al. 2021)."""
    e = x.e

    def scaled(values: ir.Value) -> ir.Value:
        top = e.ReduceMax(values, [1, 2], keepdims=1)
        part = e.Div(values, e.Where(e.Greater(top, 0.0), top, 1.0), _shape=values.shape)
        return e.Tanh(e.Mul(part, 2.0, _shape=values.shape))

    return reduce(lambda a, b: e.Max(a, b, _shape=a.shape), map(scaled, maps))
