"""A node as its rule sees it."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...errors import InputError, ModelError, UnsupportedNode
from .. import traits
from ..emit import LARGEST, Emitter, all_dims, fits

# What would do where sizes are dynamic: the way out for who has the file, not its source.
FIXED = "fixed sizes ('backlight export --shape INPUT=1,3,224,224' fixes them)"


def constant(value: ir.Value | None) -> NDArray[Any] | None:
    """The value as an array when it is an initializer or a Constant node's output.

    Raises ModelError for one whose data are missing, or of another type or shape than it says.
    """
    if value is None:
        return None
    try:
        tensor = ir.convenience.get_const_tensor(value)
        if tensor is None:
            return None
        array = tensor.numpy()
    except Exception as err:  # onnx-ir raises many kinds, AssertionError among them
        raise ModelError(f"tensor '{value.name}' can't be read: {err}") from err
    return np.asarray(array)


def first_input(node: ir.Node) -> ir.Value | None:
    """What a node reads first; None of one that reads nothing, as a Constant."""
    return node.inputs[0] if node.inputs else None


class guarded:  # noqa: N801 - used as a function; a walk enters two per node
    """Make an UnsupportedNode that names the node of whatever is raised inside.

    What reads a node trusts its attributes, shapes and types to be as the standard has them; a
    broken file's aren't, in more ways than rules could ask for.
    """

    __slots__ = ("op",)

    def __init__(self, op: Op) -> None:
        self.op = op

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, at: TracebackType | None
    ) -> None:
        if not isinstance(err, Exception) or isinstance(err, InputError):
            return
        if isinstance(err, MemoryError):
            why = "it takes more memory than there is"
            raise self.op.unsupported(why, "smaller sizes") from err
        why = f" ({err})" if str(err) else ""
        raise self.op.unsupported(
            f"its attributes or shapes contradict each other{why}", "a valid model"
        ) from err


def is_fixed(value: ir.Value | None, sizes: bool = False) -> bool:
    """Whether a value is computed from weights alone (a quantised weight has nodes behind it).
    sizes: or from the sizes of tensors."""
    waiting, seen = [value], {value}
    while waiting:
        here = waiting.pop()
        if here is None or here.const_value is not None or here.is_initializer():
            continue
        node = here.producer()
        if node is None:
            return False
        if sizes and node.op_type in traits.ASKS_SIZE:
            continue
        # CastLike reads its second operand for the type alone.
        given = node.inputs[:1] if node.op_type == "CastLike" else node.inputs
        new = [v for v in given if v not in seen]
        seen.update(new)
        waiting += new
    return True


class Op:
    """A node, its attributes with their defaults, what is known of its shapes.

    `wants[i]` is True when input i lies on the way to `wrt`: a rule may leave out the others.
    """

    def __init__(self, node: ir.Node, wants: tuple[bool, ...]) -> None:
        self.node = node
        self.wants = wants

    def __len__(self) -> int:
        return len(self.node.inputs)

    @property
    def x(self) -> ir.Value:
        """The first input, which every operator but few requires."""
        return self.need(0)

    @property
    def y(self) -> ir.Value:
        """The first output."""
        return self.node.outputs[0]

    def input(self, index: int) -> ir.Value | None:
        """Input `index`; None when it is left out."""
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def need(self, index: int) -> ir.Value:
        """Input `index`, which the operator requires."""
        value = self.input(index)
        if value is None:
            raise self.unsupported(f"input {index} is missing", "a valid model")
        return value

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute as a Python value (strings as str, lists as tuples)."""
        found = self.node.attributes.get(name)
        if found is None or found.value is None:
            return default
        return tuple(found.value) if isinstance(found.value, (list, tuple)) else found.value

    def const(self, index: int) -> NDArray[Any] | None:
        """Input `index` as an array where it is constant, else None."""
        return constant(self.input(index))

    def need_const(self, index: int, what: str) -> NDArray[Any]:
        """Input `index` as an array; raises UnsupportedNode where it is not constant."""
        array = self.const(index)
        if array is None:
            raise self.unsupported(f"{what} is computed at run time", f"a constant {what}")
        return array

    def axes(self, index: int, rank: int) -> tuple[int, ...] | None:
        """The axes in input `index`, counted from the front; None when left out or empty."""
        if self.input(index) is None:
            return None
        axes = self.need_const(index, "list of axes")
        return tuple(int(a) % rank for a in np.atleast_1d(axes)) or None

    def rank(self, value: ir.Value | None = None) -> int:
        """The rank of a value (default: the first input); raises UnsupportedNode if unknown."""
        value = self.x if value is None else value
        if value.shape is None:
            raise self.unsupported(f"the rank of '{value.name}' is unknown", "inferable shapes")
        return len(value.shape)

    def dims(self, value: ir.Value | None = None) -> tuple[int | None, ...]:
        """The dimensions of a value (default: the first input), None for dynamic ones."""
        value = self.x if value is None else value
        self.rank(value)
        assert value.shape is not None
        found = all_dims(value.shape)
        return tuple(dim if isinstance(dim, int) else None for dim in found)

    def static(self, value: ir.Value | None = None) -> tuple[int, ...] | None:
        """All dimensions of a value as numbers, or None where one is dynamic."""
        value = self.x if value is None else value
        if value.shape is None:
            return None
        dims = self.dims(value)
        return None if None in dims else tuple(d for d in dims if d is not None)

    def like(self, e: Emitter, value: ir.Value, primal: ir.Value | None = None) -> ir.Value:
        """`value` reshaped to the shape of a primal (default: the first input)."""
        primal = self.x if primal is None else primal
        if primal.shape is not None:
            dims = self.dims(primal)
            if dims.count(None) <= 1 and 0 not in dims:
                target = [-1 if d is None else d for d in dims]
                return e.Reshape(value, target, _shape=primal.shape)
        return e.Reshape(value, e.Shape(primal), _shape=primal.shape)

    def bounded(self, what: str, *sizes: int | None) -> None:
        """Raise UnsupportedNode where a constant of this shape would be too large."""
        if not fits(*sizes):
            shown = " x ".join(str(s) for s in sizes if s not in (None, 1))
            raise self.unsupported(f"{what} of {shown} elements", f"{LARGEST} elements at most")

    def unsupported(self, reason: str, accepted: str) -> UnsupportedNode:
        """The error to raise for this node; `accepted` says what would do."""
        name = self.node.name or next((v.name for v in self.node.outputs if v.name), "")
        return UnsupportedNode(
            f"{self.node.op_type} '{name}': {reason}; supported: {accepted}. See 'backlight check'."
        )
