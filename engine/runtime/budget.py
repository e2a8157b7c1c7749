"""Memory as a budget: how much is free, and how many variants of an image fit into it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import onnx_ir as ir

from ... import written
from ...errors import UsageError
from ...export import traits
from ...export.emit import all_dims, dim_of
from ...export.incremental import dense_seconds
from ...export.inference import infer_shapes
from .interface import Compiled

__all__ = ["Footprint", "free_host", "parse_memory", "rows_within", "shown"]

# Taken when nothing says how much is free.
ASSUMED_FREE = 4 << 30
# Of the activations that are alive at once, what a run really takes, where no runtime says.
SLACK = Compiled.slack
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# A runtime writes these over their input, or only renames it, where that input dies.
_IN_PLACE = traits.RESHAPES | frozenset(
    "Relu Clip LeakyRelu PRelu Sigmoid Tanh Elu Selu HardSigmoid HardSwish Dropout Add Sub Mul Div "
    "BatchNormalization Softmax".split()
)


def parse_memory(given: str | int) -> int:
    """Bytes from a number or from text such as 512MB, 1.5G or 2GiB. Raises UsageError."""
    text = str(given).strip()
    match = re.fullmatch(r"(.*?)([KMGT]?)(I?)B?", text.upper(), re.DOTALL)
    number = written.number(match[1]) if match else None
    if match is None or number is None or number <= 0 or (match[3] and not match[2]):
        raise UsageError(f"memory '{given}'; accepted: bytes, or such as 512MB, 1.5GB, 2GiB")
    found = number * (_BINARY if match[3] else _UNITS)[match[2]]
    if not 1 <= found < 1 << 63:
        raise UsageError(f"memory '{given}'; expected 1 byte to {(1 << 63) - 1}")
    return int(found)


def shown(size: float) -> str:
    """Bytes for people."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" or size >= 10 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def free_host() -> int:
    """Bytes that this process may still take: the machine's, or what its container leaves."""
    free = []
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        found = re.search(r"MemAvailable:\s+(\d+) kB", text)
        free += [1024 * int(found[1])] if found else []
    except OSError:
        pass
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    ):
        try:
            top = Path(limit).read_text(encoding="ascii").strip()
            if top != "max":
                free.append(int(top) - int(Path(used).read_text(encoding="ascii")))
        except (OSError, ValueError):
            continue
    if not free:
        try:
            free.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES"))
        except (AttributeError, OSError, ValueError):
            return ASSUMED_FREE
    return max(min(free), 0)


def rows_within(budget: int, each: int, *, at_least: int, at_most: int) -> int:
    """How many rows of `each` bytes a budget holds. Raises UsageError when `at_least` don't fit:
    1, or all rows of a batch that the model fixes."""
    rows = budget // max(each, 1)
    if rows < at_least:
        what = "one variant" if at_least == 1 else f"the model's batch of {at_least} variants"
        raise UsageError(
            f"a memory budget of {shown(budget)} is too small for {what}: "
            f"accepted: {shown(np.ceil(1.01 * each * at_least))} or more"
        )
    return max(min(rows, at_most), at_least)


class Footprint:
    """Bytes that one variant occupies in a run, from the shapes of the activations.

    model: an ir.Model that nobody else uses: its weights are dropped here, its shapes rewritten.
    slack: of the runtime, see `Compiled`.
    """

    def __init__(self, model: ir.Model, image: str, itemsize: int, slack: float = SLACK) -> None:
        self._slack = slack
        _drop_weights(model)
        self._model, self._itemsize = model, itemsize
        self._image = next(v for v in model.graph.inputs if v.name == image)
        self._known: dict[tuple[int, ...], int] = {}
        self._seconds: dict[tuple[int, ...], float] = {}
        self.nodes = len(model.graph)

    def seconds(self, shape: tuple[int, ...]) -> float:
        """Of one core, for one variant, by the cost model."""
        self(shape)
        return self._seconds[shape]

    def __call__(self, shape: tuple[int, ...]) -> int:
        """shape: of one image, in the input's layout, without the batch."""
        if shape not in self._known:
            declared = self._image.shape
            first = 1 if declared is None else dim_of(declared, 0)
            rows = first if isinstance(first, int) and first > 0 else 1
            self._image.shape = ir.Shape([rows, *shape])
            for node in self._model.graph:
                for value in node.outputs:
                    value.shape = None
            infer_shapes(self._model)
            own = int(np.prod(shape)) * self._itemsize
            live = _largest_live_set(self._model.graph) / rows
            self._known[shape] = own + int(self._slack * live)
            self._seconds[shape] = dense_seconds(self._model.graph)
            self._image.shape = declared
        return self._known[shape]


def _drop_weights(model: ir.Model) -> None:
    """Turn initializers into inputs of the same shape, but for the small ones that make shapes."""
    graph = model.graph
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or tensor.nbytes <= 1024:
            continue
        value.shape, value.dtype = ir.Shape(tensor.shape.numpy()), tensor.dtype
        graph.initializers.pop(name)
        value.const_value = None
        graph.inputs.append(value)


def _largest_live_set(graph: ir.Graph) -> float:
    """The most bytes of activations that are needed at once, node after node."""
    last = {v: node for node in graph for v in node.inputs if v is not None}
    outputs = set(graph.outputs)
    sizes: dict[ir.Value, float] = {}
    live = most = 0.0
    for node in graph:
        dying = [v for v in dict.fromkeys(node.inputs) if v in sizes and last.get(v) is node]
        dying = [v for v in dying if v not in outputs]
        largest = max((sizes[v] for v in node.inputs if v in sizes), default=0.0)
        for value in node.outputs:
            if not value.uses() and value not in outputs:
                continue
            sizes[value] = _bytes(value, largest)
            live += sizes[value]
        if node.op_type in _IN_PLACE:
            # The output takes its dying input's place: never both at once.
            taken = [v for v in dying if sizes[v] == sizes.get(node.outputs[0])][:1]
            live -= sum(sizes[v] for v in taken)
            dying = [v for v in dying if v not in taken]
        most = max(most, live)
        live -= sum(sizes[v] for v in dying)
    return most


def _bytes(value: ir.Value, otherwise: float) -> float:
    """Of a tensor; one of unknown shape counts as much as what it is made from."""
    if value.shape is None:
        return otherwise
    dims = all_dims(value.shape)
    if not all(isinstance(d, int) for d in dims):
        return otherwise
    width = 4 if value.dtype is None else value.dtype.itemsize
    return float(np.prod([d for d in dims if isinstance(d, int)], dtype=np.float64)) * width
