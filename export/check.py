"""What stands in the way of a gradient, node by node, and the judgement calls on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from ..arguments import accepts, names, text
from ..errors import ModelError
from . import choose, half, said, scores, seed
from .asked_of import kept_names, names_of, refuse_wrt
from .backward import obstacle, operator_version, path
from .drawing import Drawing
from .emit import Emitter
from .explaining import Explaining
from .front import behind_preprocessing
from .graph import ModelLike, formed, load, opset_of, read
from .heap import seldom_collected
from .layer import Layer
from .lowering import emitter, lowered
from .lowering.support import TARGETS, Refusal, unsupported
from .methods import asked, chosen
from .noted import notes_on
from .report import Finding, OperatorCount, Report
from .rules import NO_GRADIENT, RuleMap
from .rules.spelled import all_spelled
from .saliency import explain_graph
from .sizes import Shapes, fix_shapes
from .trial import Trials

__all__ = ["Finding", "OperatorCount", "Refusal", "Report", "check"]


@accepts(of=text, wrt=text, rules=names, methods=names, layer=names, lowering=text, dtype=text)
@seldom_collected
def check(
    model: ModelLike,
    *,
    of: str | None = None,
    wrt: str | None = None,
    rules: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    lowering: str = "portable",
    dtype: str = "float32",
    layer: str | Sequence[str] | None = None,
    shapes: Shapes | None = None,
) -> Report:
    """Try the rule of every node between `of` and `wrt`, each by itself.

    rules, methods, layer, shapes: as in `backlight.export`.
    lowering: portable, cpu, cuda, tensorrt or openvino. For the last three the report also has
    what that target would refuse (`refused`) of the whole explaining graph; where obstacles
    prevent that, of the model. dtype: float16 or bfloat16 look at that graph as it would be
    narrowed.

    Raises ModelError for a file that can't be read or offers nothing to explain, UsageError for a
    name it doesn't have.
    """
    wanted = asked(rules, methods)
    rows = chosen(wanted)
    maps = {row.rules: lowered(row.rules, lowering) for row in rows}
    half.checked(dtype, lowering)
    source, name = read(model)
    declared = opset_of(source)
    fix_shapes(source, shapes)
    asks = any(row.takes_layer or row.varies for row in rows)
    kept = [*kept_names(of), *names_of(wrt)]
    # Where it is explained below as well, it isn't used up here, nor read again there.
    again = lowering in TARGETS or asks
    loaded = load(source, keep=kept) if again else formed(source, name, keep=kept)
    graph = loaded.graph
    own = frozenset(graph)
    refuse_wrt(graph, wrt, rows)
    score = scores.score(loaded, of)
    target = score.of
    image = None if wrt is not None else choose.image_input(graph)
    if image is not None:
        image = behind_preprocessing(graph, image, list(maps.values()), opset_of(loaded))
    start = choose.tensor(graph, wrt) if wrt is not None else image.wrt  # type: ignore[union-attr]

    opset = opset_of(loaded)
    e = emitter(graph, opset, lowering)
    drawn = Drawing.of(
        rows, [layer] if isinstance(layer, str) else layer or (), fuse=False, size="input",
        signed=False,
    )  # fmt: skip
    unfit: ModelError | None = None
    layers: Sequence[Layer] = ()
    try:
        layers = drawn.layers(_asking(e, target, start, maps), rows)
    except ModelError as err:
        unfit = err
    # What only class activation maps are asked of goes no further back than their layers.
    by_layer = layers and all(row.by == "layer" for row in rows)
    starts = [x.value for x in layers] if by_layer else [start]
    nodes, leads = path([target], starts)
    trials = Trials(e, leads, maps, opset)
    findings: list[Finding] = []
    blocked: set[ir.Node] = set()
    for node in nodes:
        found = trials.of(node)
        # Behind an obstacle shapes are unknown: what fails for that alone is no cause.
        unknown = any(v is not None and v in leads and v.shape is None for v in node.inputs)
        follows = blocked and unknown and obstacle_of(node, maps, opset) is None
        if found is not None and not follows:
            findings.append(found)
            blocked.add(node)
    if not nodes:
        findings.append(
            Finding(
                "obstacle", "", "", f"no gradient flows from '{target.name}' to '{start.name}'",
                "a differentiable way between the two",
            )
        )  # fmt: skip
    elif not blocked and target.shape is None:
        last = nodes[-1]
        why = f"'{target.name}' has no known rank{choose.culprit(target)}"
        findings.append(
            Finding("obstacle", last.name or "", last.op_type, why, "shapes that fit each other")
        )
        blocked.add(last)
    findings += notes_on(nodes, all_spelled(nodes), maps, declared, opset)
    findings += [Finding("note", "", "", text) for text in (() if image is None else image.notes)]
    refused: tuple[Refusal, ...] = ()
    if lowering in TARGETS:
        if blocked or not nodes:
            whole: ir.Model = load(source)
        else:
            whole = explain_graph(
                source, wanted, of=of, wrt=wrt, lowering=lowering, dtype=dtype, layer=layer
            ).model
        refused = unsupported(whole, lowering)
    findings += _closing(score)
    tried = lowering in TARGETS and dtype == "float32"  # the same graph, above
    if unfit is None and not blocked and nodes and asks and not tried:
        # Whether a method fits the model is for the method to say.
        try:
            explain_graph(source, wanted, of=of, wrt=wrt, lowering=lowering, layer=layer)
        except ModelError as err:
            unfit = err
    if unfit is not None:
        findings.append(Finding("obstacle", "", "", str(unfit)))
    findings += [
        Finding("note", "", "", f"class activation maps are of '{x.name}': {x.reason}")
        for x in layers
    ]
    return Report(
        model=name,
        opset=declared,
        nodes=len(own),
        of=(score.raw if target.name == scores.MADE else target).name or "",
        wrt=start.name or "",
        input=(start if image is None else image.input).name or "",
        classes=None if target.shape is None else seed.class_count(target),
        operators=_counted([n for n in nodes if n in own], blocked, opset),
        findings=tuple(findings),
        target=lowering,
        refused=refused,
        layers=tuple((layer.name, layer.reason) for layer in layers),
    )


def _asking(
    e: Emitter, target: ir.Value, start: ir.Value, maps: Mapping[str, RuleMap]
) -> Explaining:
    """What a drawing asks of an export: the tensors, no walk."""
    return Explaining(
        e=e,
        of=(target,),
        ranking=(target,),
        independent=False,
        wrt=(start,),
        image=None,
        target_class="top1",
        rule_map=maps.__getitem__,
        scaled=False,
    )


def _closing(score: scores.Score) -> list[Finding]:
    """What closes the head, and that the score is taken before it."""
    reading = score.reading
    node = None if reading is None else reading.closer
    if node is None or score.raw is score.held:
        return [Finding("note", "", "", text) for text in score.notes]
    reason = "closes the head: the gradient is that of the score before it"
    if score.notes and reading is not None:
        before = said.before_it(score.held, score.raw, reading, score.binary)
        reason = f"closes the head: {before}"
    return [Finding("note", node.name or "", node.op_type, reason)]


def obstacle_of(node: ir.Node, maps: dict[str, RuleMap], opset: int) -> str | None:
    """Why some variant has no rule for a node."""
    reasons = (obstacle(node, rules, opset) for rules in maps.values())
    return next((r for r in reasons if r is not None), None)


def _counted(
    nodes: Sequence[ir.Node], blocked: set[ir.Node], opset: int
) -> tuple[OperatorCount, ...]:
    counts = Counter(n.op_type for n in nodes)
    bad = {n.op_type for n in blocked}
    return tuple(
        OperatorCount(op, operator_version(op, opset), count, op not in bad)
        for op, count in sorted(counts.items())
        if op not in NO_GRADIENT
    )
