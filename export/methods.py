"""The methods, a row each: everything else in the code iterates them.

A row says which rules its walk takes, by what, from which seed, and what is made of primal and
cotangent at the end. Adding one: a row here, a case in `tests/export/test_methods.py`, a line in
the docs (docs/how-it-works.md, "Add a method").

What runs the model on masked variants is a row as well, held by the engine: no graph has it, and
`engine/masked/methods.py` says which class makes its maps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from ..errors import UsageError
from . import cam, finish, reciprocam, rollout, seed, variations
from .explaining import Seed
from .variants import VARIANTS

__all__ = ["METHODS", "RULES", "Method", "asked", "chosen", "method", "named"]

Picture = Literal["magnitude", "colours", "signed", "heat"]


@dataclass(frozen=True)
class Method:
    """One way to explain a score. Its output is `saliency_<name>`.

    held: by what: a graph, or the engine, which runs the model many times. python: the class of
    `backlight` that makes it.
    rules: of the walk, a key of `VARIANTS`, which lowerings are looked up by too.
    by: what the gradient is taken by: the image (or what --wrt names), a layer, whose maps are
    [N, H, W], or both: a layer, for a map shaped like the image. Or superpixels, whose maps are
    [N, H, W], each pixel its segment's value.
    walks: whether it needs a backward walk at all. contrasts: whether its seed may be one of a
    contrast.
    varies: the variants of the image that it averages over.
    needs: what a model must have: "attention" of all tokens to all tokens, whose maps it is made of
    instead of a layer. by_class: whether its map depends on the class at all.
    every: what gives the maps of all classes at once, [N, K, H, W], where there is such a thing.
    seed: where the walk starts.
    finish: what becomes of primal and cotangent.
    picture: how a map is read. "magnitude": the largest |value| over channels, in grey;
    "colours": signed, per colour; "signed": the sum over channels, for and against; "heat": over
    the photo, with a scale.
    red: what the positive values of a map speak for, for captions.
    about: what it says, in a line. source: who described it.
    """

    name: str
    about: str
    source: str
    rules: str = "vanilla"
    by: Literal["image", "layer", "both", "superpixels"] = "image"
    walks: bool = True
    contrasts: bool = True
    varies: Literal["", "noise", "path"] = ""
    needs: Literal["", "attention"] = ""
    by_class: bool = True
    seed: Seed = seed.ONE_HOT
    every: Callable[[finish.Walked], ir.Value] | None = None
    finish: Callable[[finish.Walked], ir.Value] = finish.cotangent
    picture: Picture = "magnitude"
    red: str = "for the class"
    held: Literal["graph", "engine"] = "graph"
    python: str = "Explainer"

    @property
    def output(self) -> str:
        """The name of its output."""
        return f"saliency_{self.name}"

    @property
    def is_rule(self) -> bool:
        """Whether the map is the walk's own cotangent: what --rule names."""
        return self.name == self.rules

    def shaped_as_image(self, reduce: str) -> bool:
        """Whether its map has the shape of what it is by, and not [batch, H, W]."""
        return self.by == "both" or (self.by == "image" and reduce == "none")

    @property
    def tells_apart(self) -> bool:
        """Whether it tells the class from others without being told to."""
        return self.seed is seed.CONTRAST or self.finish is cam.causal

    @property
    def takes_layer(self) -> bool:
        """Whether it is drawn of a layer, or of a transformer's attention."""
        return self.by in ("layer", "both")


def _cam(
    name: str,
    about: str,
    source: str,
    made: Callable[[finish.Walked], ir.Value],
    start: Seed = seed.ONE_HOT,
    walks: bool = True,
    contrasts: bool = True,
    needs: Literal["", "attention"] = "",
    by_class: bool = True,
    every: Callable[[finish.Walked], ir.Value] | None = None,
) -> Method:
    return Method(
        name, about, source, by="layer", walks=walks, contrasts=contrasts, needs=needs,
        by_class=by_class, seed=start, finish=made, every=every, picture="heat",
    )  # fmt: skip


_ROWS = (
    Method(
        "vanilla",
        "the gradient of the class score by the image: what changes it most",
        "Simonyan et al. 2014",
    ),
    Method(
        "deconv",
        "rectifiers pass on positive cotangents alone: sharp structures, hardly class-specific",
        "Zeiler and Fergus 2014",
        rules="deconv",
        picture="colours",
    ),
    Method(
        "guided",
        "rectifiers pass on positive cotangents where they were on: sharp, hardly class-specific",
        "Springenberg et al. 2015",
        rules="guided",
        picture="colours",
    ),
    Method(
        "input_x_gradient",
        "the image times its gradient: what each value adds to the score, to first order",
        "Shrikumar et al. 2016",
        finish=finish.product,
        picture="signed",
    ),
    Method(
        "integrated_gradients",
        "the gradient's average on the way from a baseline, times the way: parts of the rise",
        "Sundararajan et al. 2017",
        finish=variations.integral,
        varies="path",
        picture="signed",
    ),
    Method(
        "smoothgrad",
        "the mean gradient of the image under noise: less of what one pixel's change decides",
        "Smilkov et al. 2017",
        finish=variations.mean,
        varies="noise",
    ),
    Method(
        "squaregrad",
        "the mean squared gradient of the image under noise",
        "Hooker et al. 2019",
        finish=variations.mean_square,
        varies="noise",
    ),
    Method(
        "vargrad",
        "the variance of the gradient of the image under noise",
        "Adebayo et al. 2018",
        finish=variations.variance,
        varies="noise",
    ),
    _cam(
        "gradcam",
        "the layer's channels, weighted by the mean of their gradient: where the class is",
        "Selvaraju et al. 2017",
        cam.grad_cam,
    ),
    _cam(
        "gradcampp",
        "as gradcam, weighted by positive gradients alone: several instances of a class",
        "Chattopadhay et al. 2018",
        cam.grad_cam_pp,
    ),
    _cam(
        "hirescam",
        "the layer times its gradient, place by place: what the score is made of",
        "Draelos and Carin 2020",
        cam.hires_cam,
    ),
    _cam(
        "layercam",
        "the layer times its positive gradient, place by place: shallow layers too",
        "Jiang et al. 2021",
        cam.layer_cam,
    ),
    _cam(
        "xgradcam",
        "as gradcam, weighted so that the map sums to what the layer adds to the score",
        "Fu et al. 2020",
        cam.x_grad_cam,
    ),
    _cam(
        "cam",
        "the layer through the class's own weights: heads that are pooled and linear",
        "Zhou et al. 2016",
        cam.class_map,
        walks=False,
        every=cam.class_maps,
    ),
    Method(
        "guided_gradcam",
        "guided times gradcam: sharp structures, where the class is",
        "Selvaraju et al. 2017",
        rules="guided",
        by="both",
        finish=cam.guided_grad_cam,
        picture="colours",
    ),
    _cam(
        "contrastcam",
        "why this class, rather than that one: gradcam of the contrast between the two",
        "Prabhushankar et al. 2020",
        cam.grad_cam,
        seed.CONTRAST,
    ),
    Method(
        "counterfactualcam",
        "what if not this class: gradcam of the negated score, what speaks against it",
        "Selvaraju et al. 2017",
        by="layer",
        finish=cam.negative,
        picture="heat",
        red="against the class",
    ),
    _cam(
        "causalcam",
        "gradcam without what tells the class from the five next: what it shares with them",
        "Prabhushankar and AlRegib 2021",
        cam.causal,
        contrasts=False,  # it tells the class from others by itself
    ),
    _cam(
        "reciprocam",
        "the score with one place of the layer left, for each place: no gradient",
        "Byun and Lee 2022",
        reciprocam.recipro_cam,
        walks=False,
    ),
    _cam(
        "rollout",
        "what a transformer's class token has seen through all layers: the same for every class",
        "Abnar and Zuidema 2020",
        rollout.rollout,
        walks=False,
        contrasts=False,
        needs="attention",
        by_class=False,
    ),
    _cam(
        "gradient_rollout",
        "as rollout, of the attention that speaks for the class: by its gradient",
        "Chefer et al. 2021",
        rollout.gradient_rollout,
        needs="attention",
    ),
)


def _engine(
    name: str, about: str, source: str, by: Literal["layer", "superpixels"], python: str
) -> Method:
    return Method(
        name, about, source, by=by, walks=False, contrasts=False, picture="heat", held="engine",
        python=python,
    )  # fmt: skip


_HELD_BY_THE_ENGINE = (
    _engine(
        "lime",
        "superpixels switched off at random: each one's weight in a linear model of the score",
        "Ribeiro et al. 2016",
        "superpixels",
        "Lime",
    ),
    _engine(
        "kernelshap",
        "superpixels' Shapley values: parts of what hiding all of them costs",
        "Lundberg and Lee 2017",
        "superpixels",
        "KernelShap",
    ),
    _engine(
        "scorecam",
        "the layer's channels, weighted by the score of the image masked with each: no gradient",
        "Wang et al. 2020",
        "layer",
        "ScoreCam",
    ),
    _engine(
        "ablationcam",
        "the layer's channels, weighted by what the score loses without each: no gradient",
        "Desai and Ramaswamy 2020",
        "layer",
        "AblationCam",
    ),
)

METHODS: Mapping[str, Method] = {m.name: m for m in (*_ROWS, *_HELD_BY_THE_ENGINE)}
# What an export has unless it is told otherwise, and what --rule names.
RULES: tuple[str, ...] = tuple(m.name for m in _ROWS if m.is_rule)
assert set(RULES) == set(VARIANTS)


def method(name: str) -> Method:
    """A row by its name; raises UsageError with the nearest names for an unknown one."""
    if not isinstance(name, str) or name not in METHODS:
        raise UsageError.unknown("method", str(name), tuple(METHODS))
    return METHODS[name]


def named(names: str | Sequence[str] | None) -> tuple[Method, ...]:
    """Rows by their names, each once, whoever holds them; None: the three rules. Raises
    UsageError."""
    rows = [method(n) for n in (RULES if names is None else _listed(names))]
    if not rows:
        raise UsageError(f"no method given; one or more of: {', '.join(METHODS)}")
    return tuple(dict.fromkeys(rows))


def chosen(names: str | Sequence[str] | None) -> tuple[Method, ...]:
    """As `named`, of rows that a graph can hold. Raises UsageError for others, with what has
    them."""
    rows = named(names)
    for row in rows:
        if row.held == "engine":
            raise UsageError(
                f"method '{row.name}' runs the model on masked images, which no graph holds: "
                f"'backlight explain --method {row.name}' does, and backlight.{row.python}"
            )
    return rows


def asked(
    rules: str | Sequence[str] | None, names: str | Sequence[str] | None
) -> tuple[str, ...] | None:
    """The methods of a call that takes both `rules`, the three, and `methods`, whoever holds them;
    None where it gives neither. Raises UsageError for unknown ones."""
    if rules is None and names is None:
        return None
    for rule in _listed(rules or ()):
        if rule not in RULES:
            raise UsageError.unknown("rule", rule, RULES)
    if rules is not None and not rules:
        raise UsageError(f"no rule given; one or more of: {', '.join(RULES)}")
    if names is not None and not names:
        raise UsageError(f"no method given; one or more of: {', '.join(METHODS)}")
    return tuple(m.name for m in named([*_listed(rules or ()), *_listed(names or ())]))


def _listed(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)
