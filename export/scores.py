"""Which tensor is the class score, for every command; and leaves the scores alone.

An output that a Softmax, LogSoftmax or Sigmoid closes is explained before it, by default as well
as named by `--of`; `--of NAME:as-is` takes the tensor itself. Scores are [N, K] (or [N, K, 1, …]):
where the model has them in another shape, or one logit for two classes, a few nodes bring them
into that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ..errors import ModelError, UsageError
from . import choose, said
from .backward import FLOATS
from .bare import bare
from .closers import LAYOUT, Reading
from .emit import Emitter, all_dims
from .graph import opset_of
from .heads import PICKING, read
from .score_nodes import MADE, both, probabilities, real, renamed, routed
from .score_nodes import moved as moved_on
from .score_shapes import (
    classes_of,
    has_positions,
    is_matrix,
    laid_out,
    no_batch,
    refuse_maps,
)
from .unused import remove_unused

__all__ = [
    "MADE",
    "Score",
    "leave_scores",
    "plain_name",
    "score",
]

# What a head may do to raw scores behind all else: the tensor before it is explained.
_ENDS = LAYOUT | {"Log"}


@dataclass(frozen=True)
class Score:
    """What is explained of a model, or scored in variants of an image.

    of: the scores, [N, K] or [N, K, 1, …], or any tensor that was named. raw: the model's own
    tensor that they are made of. held: the tensor of it that was asked for: scores, or what closes
    them. output: the model output that holds them or their probabilities,
    None where none does. reading: how their probabilities are made, None where that isn't known.
    binary: whether `of` [N, 2] are the two classes of one logit z [N, 1]: -z and z. ranking: the
    tensor whose top class is a row's top class. notes: what was decided on the way, for people.
    """

    of: ir.Value
    raw: ir.Value
    held: ir.Value
    output: ir.Value | None
    reading: Reading | None
    binary: bool
    ranking: ir.Value
    notes: tuple[str, ...] = ()


def plain_name(graph_names: Sequence[str | None] | dict[str, ir.Value], name: str) -> str:
    """A tensor's name without `:as-is`, unless a tensor is called so."""
    return name.removesuffix(said.AS_IS) if name not in graph_names else name


def score(
    model: ir.Model, of: str | None = None, *, maps: bool = False, codes: bool = False
) -> Score:
    """The scores that a model is explained by. May add nodes behind the model's own.

    of: a tensor by name, perhaps with `:as-is`; None: the class scores: what a Softmax closes
    among the outputs, else the only one shaped [N, K], else the only one. maps: whether class
    scores may have positions. codes: whether scores that are quantised in the end are wanted as
    the codes say them, and not from before.
    Raises ModelError when that leaves several, or none, or scores with positions; UsageError for
    an unknown tensor.
    """
    graph = model.graph
    if of is None:
        output = _candidate(graph)
        if not maps:
            refuse_maps(graph, output)
        return _scored(model, output, output, named=False, codes=codes)
    name = plain_name(ir.convenience.create_value_mapping(graph), of)
    value = choose.tensor(graph, name)
    output_of, closed = _holding(graph, value)
    if name == of and (closed or output_of is value):
        return _scored(model, value, output_of, named=True, codes=codes)
    e = Emitter(graph, opset_of(model))
    ends = output_of is not None or value.is_graph_output()
    laid = laid_out(e, value, no_batch(graph, value)) if ends else value
    if laid is not value:
        renamed(laid)
    if closed:
        return Score(laid, value, value, output_of, None, False, laid)
    # The scores themselves, before what closes them: that says what they are the scores of.
    found = None if output_of is None else read(output_of)
    same = found is not None and found.alone and found.kind != "Mixture"
    quantized = output_of is not None and laid is value and _quantized(value, output_of)
    ranking = laid if output_of is None or not quantized else output_of
    return Score(laid, value, value, output_of, found if same else None, False, ranking)


def unclosed(graph: ir.Graph, value: ir.Value) -> tuple[ir.Value, tuple[str, ...]]:
    """The model's own tensor that is maximised in place of a named one: scores before what closes
    them, which is said; any other tensor is itself."""
    reading = read(value)
    if not _holding(graph, value)[1] or reading is None or not reading.logits:
        return value, ()
    raw = _unflattened(reading)
    if raw is value:
        return value, ()
    return raw, said.notes(value, raw, reading, False, True)


def _candidate(graph: ir.Graph) -> ir.Value:
    """The output that holds the class scores. Raises ModelError where several could."""
    floats = [v for v in graph.outputs if v.dtype is None or v.dtype in FLOATS]
    outputs = [v for v in floats if not choose.is_sorted(v)]
    readings = {v: read(v) for v in outputs}
    before = {v: v if r is None else r.before for v, r in readings.items()}
    softmax = [v for v, r in readings.items() if r is not None and not r.each]
    for candidates in (softmax, [v for v in outputs if is_matrix(v)], outputs):
        tensors = {before[v] for v in candidates}
        if len(tensors) == 1:
            return candidates[0]
        if tensors:
            break
    names = ", ".join(f"'{v.name}' {choose.shown(v)}" for v in graph.outputs) or "none"
    nearest = None if outputs else choose.behind_labels(graph)
    instance = (
        "" if nearest is None else f" (for instance '{nearest.name}' {choose.shown(nearest)})"
    )
    raise ModelError(
        f"{len(outputs)} outputs could be class scores ({names}); name one with --of{instance}, "
        "or --layer in a command without it"
    )


def _holding(graph: ir.Graph, value: ir.Value) -> tuple[ir.Value | None, bool]:
    """The model output that holds a tensor or what is made of it alone, and whether the tensor
    itself comes after what closes that head."""
    own = read(value)
    for output in graph.outputs:
        found = read(output)
        if found is None:
            if value in (output, before_quantizing(output)):
                return output, False
            continue
        if own is not None and own.before is found.before and own.closer is found.closer:
            return output, True
        raw = _unflattened(found)
        if value in (output, raw, found.before, before_quantizing(raw)):
            return output, False
    return None, False


def _scored(
    model: ir.Model, value: ir.Value, output: ir.Value | None, named: bool, codes: bool
) -> Score:
    """The scores of a tensor that holds them, or what is made of them."""
    graph = model.graph
    reading = read(value)
    e = Emitter(graph, opset_of(model))
    if reading is None:
        raw = value if codes else before_quantizing(value)
        of = laid_out(e, raw, no_batch(graph, raw))
        if of is not raw:
            renamed(of)
        ranking = value if raw is not value and of is raw else of
        return Score(of, raw, value, output, None, False, ranking)
    raw = real(e, reading, value) or _unflattened(reading)
    batchless = no_batch(graph, value)
    binary = reading.each and classes_of(value, batchless) == 1
    if reading.routes is not None:
        moved = raw
    elif reading.logits and not _same_classes(reading, raw, value, batchless):
        moved = moved_on(model, reading, raw)
    else:
        moved = raw if codes else before_quantizing(raw)
    of = moved
    if not has_positions(value):
        of = laid_out(e, moved, batchless)
    if reading.routes is not None and reading.pair is None:
        of = routed(e, of, reading.routes)
    if binary:
        of = both(e, of, reading)
    elif reading.pair is not None:
        of = both(e, of, reading, reading.pair)
    notes = () if raw is value else said.notes(value, raw, reading, binary, named)
    if raw is value:
        notes = said.notes_of_itself(value, reading, binary)
    if of is not moved or moved not in (raw, before_quantizing(raw)):
        renamed(of)
    quantized = of is moved and before_quantizing(raw) is moved and moved is not raw
    ranking = output if quantized and output is not None else of
    if not reading.ranks:
        ranking = probabilities(model, value, reading, binary)
    return Score(of, raw, value, output, reading, binary, ranking, notes)


def closing(found: Score) -> str | None:
    """How the output that holds the scores gives probabilities: Softmax and Sigmoid: it does;
    LogSoftmax: by its exponential; Odds: by its Sigmoid; Probability: several operators made it,
    and it does; Share: the same, but rows beyond 1 by their parts of the sum; Score: it has none;
    None: that isn't known."""
    return None if found.reading is None else closing_of(found.reading)


def closing_of(reading: Reading) -> str:
    """See `closing`."""
    if reading.log:
        return "Odds" if reading.odds else "LogSoftmax"
    return "Probability" if reading.kind == "Mixture" else reading.kind


def _unflattened(reading: Reading) -> ir.Value:
    """The scores in front of the Flatten that ONNX's converter puts around a Softmax of before
    opset 13."""
    node = reading.before.producer()
    if node is None or node.op_type not in ("Flatten", "Reshape"):
        return reading.before
    source, back = node.inputs[0], next(iter(reading.behind), None)
    if source is None or source.shape is None or back is None or back.op_type != "Reshape":
        return reading.before
    sizes = back.inputs[1].producer() if back.inputs[1] is not None else None
    if sizes is not None and sizes.op_type == "Shape" and sizes.inputs[0] is source:
        return source  # inference may call the same open size by another name
    again = back.outputs[0].shape
    same = again is not None and all_dims(source.shape) == all_dims(again)
    return source if same else reading.before


def _same_classes(reading: Reading, raw: ir.Value, value: ir.Value, batchless: bool) -> bool:
    """Whether the scores have the classes of what is made of them, in the same order and rows."""
    moving = [n for n in reading.behind if n.op_type in PICKING]
    if moving or raw.shape is None:
        return not moving
    turned = [n for n in reading.behind if n.op_type == "Transpose"]
    if reading.axis == 0 and turned:
        return False
    if has_positions(value) or has_positions(raw):
        return not has_positions(raw) or has_positions(value)
    mine, theirs = classes_of(raw, batchless), classes_of(value, batchless)
    return None in (mine, theirs) or mine == theirs


def before_quantizing(value: ir.Value) -> ir.Value:
    """The tensor before the first of the QuantizeLinear that close a head, else the value itself.

    A top score lies at the end of its range: saturated there, it would have no gradient at all.
    """
    found, node = value, value.producer()
    while node is not None and node.domain == "" and node.op_type in _ENDS:
        source = node.inputs[0]
        if source is None:
            break
        if node.op_type == "QuantizeLinear":
            found = source
        node = source.producer()
    return found


def _quantized(value: ir.Value, output: ir.Value) -> bool:
    """Whether a tensor is quantised on the way to the output that holds it. Codes tie, and the
    first one wins: the output says what the top class is."""
    found = read(output)
    raw = output if found is None else _unflattened(found)
    return value not in (output, raw) and before_quantizing(raw) is value


def leave_scores(model: ir.Model, of: str | None) -> tuple[ir.Value, ir.Value, str | None, Score]:
    """Leave the class scores, before their closing operator, as the only output; or, where they
    don't say what the probabilities are, those.

    Returns the image input, the scores [N, K, …], what closed them (see `closing`), and all that
    was found.
    """
    graph = model.graph
    bare(model)
    image = choose.image_input(graph).input
    found = score(model, of, codes=True)
    scores, closed, reading = found.of, None, found.reading
    if reading is None:
        # As it is: its values may be probabilities all the same.
        own = read(found.held)
        closed = None if own is None or own.log or own.scale != 1 else "Probability"
    elif reading.alone and reading.kind != "Mixture":
        closed = reading.kind
    else:
        scores = probabilities(model, found.held, reading, found.binary)
        closed = reading.kind if reading.kind in ("Share", "Score") else "Probability"
    graph.outputs[:] = [scores]
    remove_unused(model)
    graph.inputs[:] = [v for v in graph.inputs if v is image or v.uses() or v is scores]
    if not image.uses():
        raise UsageError(f"'{scores.name}' does not depend on the input '{image.name}'")
    return image, scores, closed, found
