"""A network's description: drawn from a number, built, exported, made smaller."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from .heads import CLOSINGS, POOLS, SCORES
from .kit import Kit, Tensor
from .mixing import MIXING
from .pointwise import BOUNDS, EXTREMA, JUMPS, POINTWISE, RECTIFIERS, SMOOTH
from .spatial import LP_POOL, SPATIAL
from .tokens import TOKENS

BLOCKS: dict[str, Callable[[Tensor, Kit], Tensor]] = {
    **POINTWISE, **SPATIAL, **LP_POOL, **MIXING, **TOKENS,
}  # fmt: skip
# What vanilla alone has a reference for: next to a rectifier, bounds are a part of it or not.
_VANILLA = {**BOUNDS, **LP_POOL, "distances": MIXING["distances"]}
# By how often they are drawn.
_FAMILIES: tuple[tuple[int, dict[str, Any]], ...] = (
    (8, RECTIFIERS), (2, _VANILLA), (4, SMOOTH), (1, JUMPS), (1, EXTREMA), (8, SPATIAL),
    (5, MIXING), (2, TOKENS),
)  # fmt: skip
LOWERINGS = ("portable", "cpu", "cuda", "tensorrt", "openvino")
CAMS = ("gradcam", "gradcampp", "hirescam", "layercam", "xgradcam", "contrastcam", "causalcam",
        "counterfactualcam", "guided_gradcam")  # fmt: skip
# The first opset for which PyTorch's older exporter has them; 99: its newer one alone.
_SINCE = {
    "affine grid": 20, "grid sample": 16, "unfold": 18, "triangle": 14, "rotate": 99, "cos of": 99,
    "expm1": 99, "sinh": 99, "median": 99, "fourier": 99, "bilinear form": 99, "logaddexp": 99,
    "threshold": 99, "bilinear, smoothed": 99, "adaptive average 3": 99, "unpool": 99,
    "attention": 14, "transformer": 14, "class token": 14, "rotary": 14, "power of itself": 13,
    "mish": 18,
}  # fmt: skip
# More in one map are seldom what a network has, and cost time.
_LARGEST = 4096


@dataclass(frozen=True)
class Part:
    """Blocks in a row. key: of its weights; parts of one key share them. adds: whether the part's
    input is added to its output, where they fit."""

    key: int
    blocks: tuple[str, ...]
    adds: bool = False


@dataclass(frozen=True)
class Spec:
    """A network, an image, how it is exported and what is asked of it. layer: after which part
    class activation maps are drawn; None: none. extra: a method beside the rule."""

    seed: int
    parts: tuple[Part, ...]
    pool: str = "mean"
    scores: str = "linear"
    classes: int = 5
    closing: str = "none"
    second: bool = False
    size: tuple[int, int] = (9, 8)
    batch: int = 2
    scale: float = 1.0
    image: str = "normal"
    dtype: str = "float32"
    dynamo: bool = False
    opset: int = 17
    dynamic: str = "batch"
    lowering: str = "portable"
    rule: str = "vanilla"
    spellings: bool = True
    target: str | int = "input"
    contrast: str = ""
    reduce: str = "none"
    layer: int | None = None
    extra: tuple[str, ...] = ()
    masked: bool = False

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of_dict(cls, given: dict[str, Any]) -> Spec:
        kept = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
        kept["parts"] = tuple(Part(p["key"], tuple(p["blocks"]), p["adds"]) for p in given["parts"])
        return cls(**kept)

    def described(self) -> str:
        """In a line: the parts, and what differs from the plainest."""
        parts = " | ".join(
            ", ".join(p.blocks) + (" (+)" if p.adds else "") + f" #{p.key}" for p in self.parts
        )
        plain = Spec(self.seed, self.parts)
        other = {
            k: v for k, v in asdict(self).items()
            if k != "parts" and v != asdict(plain)[k]
        }  # fmt: skip
        return f"{parts}; " + ", ".join(f"{k}={v}" for k, v in other.items())


def _block(rng: random.Random, rule: str, opset: int) -> str:
    while True:
        weights = [w for w, _ in _FAMILIES]
        family = rng.choices([f for _, f in _FAMILIES], weights)[0]
        name = rng.choice(list(family))
        if (rule == "vanilla" or name not in _VANILLA) and _SINCE.get(name, 0) <= opset:
            return name


def drawn(seed: int) -> Spec:
    """The network of a number."""
    rng = random.Random(f"network {seed}")
    rule = rng.choices(("vanilla", "deconv", "guided"), (5, 2, 3))[0]
    dynamo = rng.random() < 0.08
    opset = rng.choice((18, 20, 21)) if dynamo else rng.randint(11, 20)
    latest = 99 if dynamo else opset
    parts = []
    for i in range(rng.randint(1, 4)):
        first = rng.choice(("conv", "conv", "conv 1", "conv, batch norm", "conv, strided"))
        if i and rng.random() < 0.4:
            first = _block(rng, rule, latest)
        blocks = (first, *(_block(rng, rule, latest) for _ in range(rng.randint(1, 3))))
        parts.append(Part(rng.randrange(10**6), blocks, rng.random() < 0.3))
    if len(parts) > 1 and rng.random() < 0.1:  # weights shared by two parts
        parts.append(parts[-1])
    dynamic = rng.choices(("", "batch", "sizes"), (4, 6, 0 if dynamo else 1.5))[0]
    dtype = rng.choices(("float32", "float64", "float16"), (18, 1, 1))[0]
    closing = rng.choices(list(CLOSINGS), (5, 3, 1, 1))[0]
    classes = 1 if closing in ("none", "sigmoid") and rng.random() < 0.15 else rng.randint(2, 7)
    target = rng.choices(("input", "top1", rng.randrange(classes)), (8, 1, 1))[0]
    extra: list[str] = []
    if rng.random() < 0.12:
        extra.append("input_x_gradient")
    if dynamic and rng.random() < 0.12:
        extra.append("integrated_gradients")
    if dynamic == "sizes" and rng.random() < 0.5:
        extra.append(rng.choice(("smoothgrad", "squaregrad", "vargrad")))
    layer = rng.randrange(len(parts)) if rng.random() < 0.3 else None
    contrast = rng.choice(("loss", "logit")) if classes > 2 and rng.random() < 0.15 else ""
    if layer is not None:
        contrast = ""
        known = CAMS if classes > 1 else CAMS[:5]
        vanilla = any(b in _VANILLA for p in parts for b in p.blocks)
        extra += rng.sample(known[:-1] if vanilla and known is CAMS else known, 3)
    return Spec(
        seed,
        tuple(parts),
        rng.choice(list(POOLS)),
        rng.choices(list(SCORES), [6] + [1] * (len(SCORES) - 1))[0],
        classes,
        closing,
        rng.random() < 0.15,
        rng.choice(((9, 8), (9, 8), (8, 8), (7, 12))),
        rng.choice((2, 2, 3)),
        rng.choice((1e-3, 0.05, 1.0, 1.0, 1.0, 20.0)),
        rng.choices(("normal", "zeros", "dead", "steps"), (14, 1, 1, 2))[0],
        dtype,
        dynamo,
        opset,
        dynamic,
        "portable" if dtype == "float64" else rng.choices(LOWERINGS, (4, 3, 1, 2, 2))[0],
        rule,
        rng.random() < 0.7,
        target,
        contrast,
        "maxabs" if rng.random() < 0.08 else "none",
        layer,
        tuple(extra),
        rng.random() < 0.12,
    )


class Net(torch.nn.Module):
    """A description's network. Gives out its output, its second output where it has one, and the
    layer where one is asked for; without a rule as it is exported.

    dither: how much noise is added to every block's output, which settles ties inside.
    """

    def __init__(self, spec: Spec, rule: str | None = None, dither: float = 0.0) -> None:
        super().__init__()
        self.spec, self.rule, self.dither = spec, rule, dither
        self.given = torch.nn.ParameterDict()
        self(torch.zeros(spec.batch, 3, *spec.size))  # makes the weights

    def _weight(self, name: str, shape: Sequence[int], std: float) -> Tensor:
        if name not in self.given:
            rng = torch.Generator().manual_seed(hash_of(name, self.spec.seed))
            self.given[name] = torch.nn.Parameter(torch.randn(*shape, generator=rng) * std)
        return self.given[name]

    def kit(self, key: int) -> Kit:
        return Kit(key, self._weight, self.rule, self.spec.spellings)

    def scores(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The unnormalised scores, and the layer."""
        layer = None
        for i, part in enumerate(self.spec.parts):
            k, y = self.kit(part.key), x
            for name in part.blocks:
                y = BLOCKS[name](y, k)
                if self.dither:
                    y = y + self.dither * torch.randn_like(y)
            if y.numel() > _LARGEST * y.shape[0] or y.shape[1] > 16 or y.dim() != 4:
                raise ValueError("too large a map")
            x = x + y if part.adds and y.shape == x.shape else y
            if i == self.spec.layer:
                x = layer = x * 1.0
        k = self.kit(0)
        return SCORES[self.spec.scores](POOLS[self.spec.pool](x, k), k, self.spec.classes), layer

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        z, layer = self.scores(x)
        found = [CLOSINGS[self.spec.closing](z)]
        if self.spec.second:
            found.append(torch.topk(z, 1, dim=1)[0].flatten(1) * 2 + z.mean(1, keepdim=True))
        return (*found, *(() if layer is None else (layer,)))


def hash_of(name: str, seed: int) -> int:
    return random.Random(f"{name} {seed}").getrandbits(60)


def image_of(spec: Spec) -> Tensor:
    """Images [N, 3, H, W], in float32: of normals, or with what lies on kinks."""
    rng = torch.Generator().manual_seed(spec.seed)
    x = torch.randn(spec.batch, 3, *spec.size, generator=rng) * spec.scale
    if spec.image == "zeros":
        x[0] = 0
    elif spec.image == "dead":
        x[:, 1] = 0
        x[0, :, :4] = 0
    elif spec.image == "steps":  # as pictures are: equal numbers, side by side
        x = torch.round(x * 4 / spec.scale).clamp(-8, 8) / 4 * spec.scale
    return x.half().float() if spec.dtype == "float16" else x


def targets_of(spec: Spec) -> list[int]:
    """The class of each row, -1 the top one."""
    rng = random.Random(f"targets {spec.seed}")
    if spec.target != "input":
        return [-1 if spec.target == "top1" else int(spec.target)] * spec.batch
    return [rng.choice((-1, *range(classes_of(spec)))) for _ in range(spec.batch)]


def rivals_of(spec: Spec) -> list[int]:
    """What each row is told from, -1 the best class but its own."""
    rng = random.Random(f"rivals {spec.seed}")
    return [rng.choice((-1, -1, *range(classes_of(spec)))) for _ in range(spec.batch)]


def classes_of(spec: Spec) -> int:
    """How many there are to explain: one logit behind a Sigmoid is two."""
    return 2 if spec.classes == 1 and spec.closing == "sigmoid" else spec.classes


def exported(spec: Spec) -> bytes:
    """The ONNX file. Raises what PyTorch raises."""
    net = Net(spec).eval()
    x = image_of(spec)
    if spec.dtype != "float32":
        kind = {"float64": torch.float64, "float16": torch.float16}[spec.dtype]
        net, x = net.to(kind), x.to(kind)
    names = ["y", *(["second"] if spec.second else []), *([] if spec.layer is None else ["layer"])]
    axes = {"batch": {0: "N"}, "sizes": {0: "N", 2: "H", 3: "W"}}.get(spec.dynamic, {})
    if spec.dynamo:
        dims = {0: torch.export.Dim("N")} if axes else None
        program = torch.onnx.export(
            net, (x,), input_names=["x"], output_names=names, opset_version=spec.opset,
            dynamo=True, dynamic_shapes=(dims,) if dims else None, verbose=False,
        )  # fmt: skip
        made: bytes = program.model_proto.SerializeToString()
        return made
    file = io.BytesIO()
    torch.onnx.export(
        net, x, file, input_names=["x"], output_names=names, opset_version=spec.opset,
        dynamo=False, dynamic_axes={"x": axes, **{n: {0: "N"} for n in names}} if axes else None,
    )  # fmt: skip
    return file.getvalue()


def smaller(spec: Spec) -> Iterator[Spec]:
    """Descriptions with a little less in them, the boldest first."""
    parts = spec.parts
    for i in range(len(parts)):
        if len(parts) > 1:
            layer = spec.layer
            if layer is not None:
                layer = max(0, layer - (i <= layer))
            yield replace(spec, parts=parts[:i] + parts[i + 1 :], layer=layer)
    plain = Spec(spec.seed, parts)
    for name in (
        "masked", "extra", "layer", "contrast", "second", "reduce", "closing", "scores", "pool",
        "target", "dtype", "dynamo", "dynamic", "lowering", "rule", "spellings", "image", "scale",
        "opset", "size", "batch", "classes",
    ):  # fmt: skip
        value = getattr(plain, name)
        if name == "dynamic" and {*spec.extra} & {"smoothgrad", "squaregrad", "vargrad"}:
            continue  # the noise is an input of files with open sizes alone
        if getattr(spec, name) != value:
            yield replace(spec, **{name: value})
    for name in spec.extra if len(spec.extra) > 1 else ():
        yield replace(spec, extra=(name,))
    for i, part in enumerate(parts):
        for j in range(len(part.blocks)):
            if len(part.blocks) > 1:
                less = replace(part, blocks=part.blocks[:j] + part.blocks[j + 1 :])
                yield replace(spec, parts=(*parts[:i], less, *parts[i + 1 :]))
        if part.adds:
            yield replace(spec, parts=(*parts[:i], replace(part, adds=False), *parts[i + 1 :]))
