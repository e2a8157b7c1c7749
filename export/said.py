"""What was decided of a head, for people."""

from __future__ import annotations

import onnx_ir as ir

from .closers import Reading
from .tried import Routes

__all__ = ["AS_IS", "before_it", "notes", "notes_of_itself"]

# `--of NAME:as-is`: the tensor itself, whatever closes it.
AS_IS = ":as-is"


def notes(
    value: ir.Value, raw: ir.Value, reading: Reading, binary: bool, named: bool
) -> tuple[str, ...]:
    kind = _closer(reading)
    plain = reading.logits and reading.kind == "Softmax" and reading.routes is None
    if reading.by < 0:
        of = "odds" if reading.odds else "probabilities"
        return (
            f"'{value.name}' holds negative logarithms of {of}, and the least is the top "
            f"class's: {before_it(value, raw, reading, binary)}",
        )
    if not named and not reading.each and plain:
        return ()  # the score before a closing Softmax is the contract
    node = "" if reading.closer is None else f" '{reading.closer.name}'"
    return (f"'{value.name}' is made by {kind}{node}: {before_it(value, raw, reading, binary)}",)


def before_it(value: ir.Value, raw: ir.Value, reading: Reading, binary: bool) -> str:
    """That the score is taken before what closes it, for people."""
    own, which = 1 if binary else reading.pair, ""
    if binary and reading.routes is not None and reading.routes.signs[0] < 0:
        own = 0
    if own is not None:
        which = f", for class {own}, and its negation for class {1 - own}"
    elif reading.routes is not None:
        which = _followed(reading.routes)
    return (
        f"the score explained is the tensor before it, '{raw.name}'{which}; "
        f"--of {value.name}{AS_IS} takes the output itself"
    )


def _followed(routes: Routes) -> str:
    """Which scores are those of which classes, for people."""
    if len(routes.index) <= 4:
        each = [
            f"for class {k} {'minus ' * (sign < 0)}its value {at}"
            for k, (at, sign) in enumerate(zip(routes.index, routes.signs, strict=True))
        ]
        return ", " + ", ".join(each)
    falls = sum(sign < 0 for sign in routes.signs)
    turned = "negated" if falls == len(routes.signs) else f"negated for {falls} of them"
    return ", for each class the value that its probability follows" + f", {turned}" * (falls > 0)


def notes_of_itself(value: ir.Value, reading: Reading, binary: bool) -> tuple[str, ...]:
    two = "; it is class 1, and class 0 is what is left" if binary else ""
    what = "the logarithm of a probability" if reading.log else "a probability"
    if reading.odds:
        what = "the logarithm of odds, log(p / (1 - p))"
    if reading.kind == "Score":
        end = reading.closer
        made = "made of probabilities and holds none"
        if end is not None:
            made = f"made by {end.op_type} '{end.name}' and holds no probabilities"
        return (
            f"'{value.name}' is {made}, as its values go below 0 or beyond 1: the score explained "
            "is the tensor itself",
        )
    return (
        f"'{value.name}' holds probabilities that several tensors make together, and none before "
        f"it ranks the classes: the score explained is the tensor itself, {what}{two}",
    )


def _closer(reading: Reading) -> str:
    """The operator that closes a head, for people."""
    node = reading.closer
    if node is None:
        return "a mixture"
    # What is divided by its own sum: by that Div.
    return node.op_type if _own(node) or reading.kind == "Mixture" else reading.kind


def _own(node: ir.Node) -> bool:
    return node.op_type in ("Softmax", "LogSoftmax", "Sigmoid")
