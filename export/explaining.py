"""One export in the making: what a method's seed and finish may ask for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from ..errors import UnsupportedNode
from .backward import Way, backward
from .choose import unreached
from .emit import Emitter, dim_of
from .one_class import head_of
from .picked import through_few
from .preprocess import Preprocess
from .rules import RuleMap
from .sampling import Sampling
from .scaling import Scaling

__all__ = ["Explaining", "Seed"]


@dataclass(frozen=True)
class Seed:
    """Where a walk starts from.

    build: (the export, the index of the tensor explained) -> its cotangent, shaped and typed like
    the tensor. It may add inputs and outputs to the graph.
    unit: whether its largest absolute value is 1, so that nobody needs to measure it.
    chosen: of a one-hot one, the class of the first tensor explained: int64 [N, 1], or one for all
    rows; always a class that there is.
    """

    build: Callable[[Explaining, int], ir.Value]
    unit: bool = False
    chosen: Callable[[Explaining], ir.Value | int] | None = None


@dataclass
class Explaining:
    """A loaded model, what is explained in it, and the backward walks, each taken once.

    of: the tensors explained; ranking: those whose top class is a row's top class. independent:
    whether a Sigmoid closes the scores: classes that share no softmax.
    wrt: what methods by the image take the gradient by: the image's first float tensor, or what
    --wrt names. image: the image input itself, where there is one.
    target_class: "input", "top1" or a class number.
    contrast: the class to tell it from: "input", "second" or a class number; contrast_form: "loss"
    or "logit", see `seed.CONTRAST`; contrasting: whether some method has a contrast.
    sampling: of methods that average over variants of the image; preprocess: how pixels become the
    model's input, for baselines that are colours.
    rule_map: the rules of a variant in the operators of the target, by the variant's name.
    scaled: whether cotangents need a scale to stay within float16's range. narrowed: whether half
    precision was asked for.
    """

    e: Emitter
    of: tuple[ir.Value, ...]
    ranking: tuple[ir.Value, ...]
    independent: bool
    wrt: tuple[ir.Value, ...]
    image: ir.Value | None
    target_class: str | int
    rule_map: Callable[[str], RuleMap]
    scaled: bool
    narrowed: bool = False
    contrast: str | int = "input"
    contrast_form: str = "loss"
    contrasting: bool = False
    sampling: Sampling = field(default_factory=Sampling)
    preprocess: Preprocess | None = None
    # Variants of an image explain the class that the image itself has, int64 [N, 1], and its rival.
    chosen: ir.Value | None = None
    rival: ir.Value | None = None
    _cotangents: dict[tuple[Seed, int], ir.Value] = field(default_factory=dict)
    _walks: dict[tuple[object, ...], list[ir.Value]] = field(default_factory=dict)
    _starts: dict[tuple[ir.Value, ...], ir.Value] = field(default_factory=dict)
    _ways: dict[tuple[ir.Value | None, ...], Way] = field(default_factory=dict)
    # By name, what seeds have added to the graph beside the model's own.
    inputs: dict[str, ir.Value] = field(default_factory=dict)
    # What `variations` has made, by its kind.
    varied: dict[str, object] = field(default_factory=dict)
    outputs: dict[str, ir.Value] = field(default_factory=dict)

    def input(self, name: str, shape: ir.Shape | None, type_: ir.TypeProtocol | None) -> ir.Value:
        """An input of the graph beside the model's own; the earlier one of that name."""
        if name not in self.inputs:
            made = ir.Value(name=name, shape=shape, type=type_)
            self.e.graph.inputs.append(made)
            self.inputs[name] = made
        return self.inputs[name]

    @property
    def batch(self) -> int | str | None:
        """The batch dimension: the scores' own when a number, else the image's name for it."""
        shape = self.of[0].shape
        dim = None if shape is None or not len(shape) else dim_of(shape, 0)
        if isinstance(dim, int) or self.image is None or self.image.shape is None:
            return dim
        return dim_of(self.image.shape, 0)

    def cotangent(self, seed: Seed, index: int = 0) -> ir.Value:
        """The seed's cotangent of a tensor explained."""
        if (seed, index) not in self._cotangents:
            with self.e.rooted(), self.e.scope("seed"):
                self._cotangents[seed, index] = seed.build(self, index)
        return self._cotangents[seed, index]

    def flat_cotangent(self, seed: Seed) -> ir.Value:
        """The seed's cotangent of the class scores as [N, K]."""
        ct, shape = self.cotangent(seed), self.of[0].shape
        if shape is None or len(shape) == 2:
            return ct
        return self.e.Flatten(ct, axis=1, _shape=[shape[0], shape[1] if len(shape) > 1 else 1])

    def walk(self, rules: str, seed: Seed, wrt: Sequence[ir.Value]) -> list[ir.Value]:
        """The cotangents of `wrt` under a variant's rules. Raises UsageError where no gradient
        flows, UnsupportedNode for a node on the way without a rule."""
        key = (rules, seed, *wrt)
        if key not in self._walks:
            scaling = self._scaling(seed)
            start = None if scaling is not None else self._behind_head(rules, seed, wrt)
            seeds = start or [(of, self.cotangent(seed, i)) for i, of in enumerate(self.of)]
            few = [(self._through_few(tensor, wrt), ct) for tensor, ct in seeds]
            way = self._way([tensor for tensor, _ in few], wrt)
            try:
                found = backward(self.e, few, wrt, self.rule_map(rules), scaling, way)
            except UnsupportedNode:
                if few == seeds:
                    raise
                # Names the model's own node, not our copy of it.
                scaling = self._scaling(seed)
                found = backward(self.e, seeds, wrt, self.rule_map(rules), scaling)
            made = []
            for tensor, ct in zip(wrt, found, strict=True):
                if ct is None:
                    raise unreached(f"'{tensor.name}'", self.of, "no gradient flows to it")
                made.append(ct)
            self._walks[key] = made
        return self._walks[key]

    def _through_few(self, of: ir.Value, wrt: Sequence[ir.Value]) -> ir.Value:
        """What a walk starts from in place of a tensor: its equal (see `picked.py`)."""
        key = (of, *wrt)
        if key not in self._starts:
            with self.e.rooted(), self.e.scope("picked"):
                nodes = self._way([of], wrt).nodes
                self._starts[key] = through_few(self.e, of, wrt, nodes)
        return self._starts[key]

    def _way(self, of: Sequence[ir.Value], wrt: Sequence[ir.Value]) -> Way:
        """What lies between, looked for once: the model's own nodes stay as they are."""
        key = (*of, None, *wrt)
        if key not in self._ways:
            self._ways[key] = Way.between(of, wrt)
        return self._ways[key]

    def _behind_head(
        self, rules: str, seed: Seed, wrt: Sequence[ir.Value]
    ) -> list[tuple[ir.Value, ir.Value]] | None:
        """Where a walk from one class goes on behind the head, and with what; None where the head
        isn't one that a single class goes through alone."""
        if seed.chosen is None or len(self.of) != 1:
            return None
        rule_map = self.rule_map(rules)
        head = head_of(self.of[0], wrt, rule_map, self.e.opset)
        if head is None:
            return None
        with self.e.rooted(), self.e.scope("head"):
            ct = head.cotangent(self.e, seed.chosen(self), rule_map)
        return [(head.source, ct)]

    def _scaling(self, seed: Seed) -> Scaling | None:
        """How one walk keeps its cotangents within float16's range, where they are float16."""
        half_already = any(v.dtype == ir.DataType.FLOAT16 for v in self.of)
        if not self.scaled and not half_already:
            return None
        image = self.image
        known = None if image is None or image.shape is None else dim_of(image.shape, 0)
        return Scaling(self.e, known, measured=not seed.unit)
