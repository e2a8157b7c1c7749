"""From a file to a graph that the transform can read: check, inline, upgrade, fold, infer, name."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from ..arguments import shapes as checked_shapes
from ..errors import InputError, ModelError
from . import traits
from .ends import without_maps
from .external import check_tensors, check_tensors_of
from .fold import Budget, fold_constants
from .guard import bared, hidden, suspects, unbounded
from .heap import seldom_collected
from .inline import inline
from .legacy import align_functions, harden, help_inference, soften, version
from .lone import with_batch
from .message import message
from .shrinking import waves
from .sizes import Shapes, fix_shapes, forget_no_sizes
from .sparse import densify
from .structure import check_nodes, check_structure

ModelLike = str | os.PathLike[str] | bytes | onnx.ModelProto | ir.Model

OLDEST_OPSET = 7
# The conservative form that runtimes of the last years read; newer sources keep their own.
EMITTED_OPSET = 18
EMITTED_IR = 10
# Of inferring and folding, in turn: Swin's legacy export needs one for each of its 24 blocks, whose
# windows are reckoned from the shape that the block before makes.
ROUNDS = 48
# Weights above this many bytes stay aside while ONNX's C++ passes run: those serialize the model,
# and protobuf ends at 2 GB. What is smaller may be a shape, which the passes need to see.
_LIGHT = 1024
# Where protobuf ends.
_LARGEST = 2**31
# In a model's `meta`: the files beside it that its data lies in, and its name for messages.
FILES = "backlight.files"
SOURCE = "backlight.source"


class Loaded(ir.Model):
    """A model in the transform's form, as `load` gives it: loading it again is a copy of the graph,
    in which the weights are the same arrays.

    shapes: what was said of inputs that leave theirs open. Whoever changes one keeps it in that
    form: names for all, and the shapes that are known.
    """

    def __init__(self, model: ir.Model, shapes: Shapes | None = None) -> None:
        super().__init__(
            model.graph,
            ir_version=model.ir_version,
            producer_name=model.producer_name,
            producer_version=model.producer_version,
            domain=model.domain,
            model_version=model.model_version,
            doc_string=model.doc_string,
            functions=tuple(model.functions.values()),
            metadata_props=dict(model.metadata_props),
            device_configurations=model.device_configurations,
        )
        self.meta.update(model.meta)
        self.shapes: Shapes = dict(shapes or {})

    def clone(self, deep_copy: bool = False) -> Loaded:
        """A copy to change; weights are shared."""
        copy = Loaded(super().clone(deep_copy), self.shapes)
        copy.meta.update(self.meta)
        return copy

    def serves(self, opset: int, shapes: Shapes | None) -> bool:
        """Whether loading it for these would leave it as it is."""
        return opset_of(self) >= opset and (not shapes or dict(shapes) == self.shapes)


@seldom_collected
def load(
    model: ModelLike,
    opset: int = EMITTED_OPSET,
    keep: Collection[str] = (),
    shapes: Shapes | None = None,
) -> Loaded:
    """Read a model and bring it into the transform's form; what was given is not changed. What was
    loaded already is only copied.

    Functions are inlined, opset 7 and up is upgraded to `opset` where lower, constant subgraphs are
    folded, shapes are inferred, every node and value has a name. Initializers are no longer inputs.
    An image input without a batch has a batch of 1 (see `lone.py`).
    Weights in external files stay there, memory-mapped. keep: tensors not to be folded away, nor
    what is computed from them: a gradient by a weight goes through its Transpose. shapes: of inputs
    that leave theirs open, by name.
    Raises ModelError, one line, for what isn't ONNX, is truncated, or keeps its data outside its
    folder.
    """
    shapes = checked_shapes("shapes", shapes)
    if isinstance(model, Loaded) and model.serves(opset, shapes):
        return model.clone()
    loaded, source = read(model)
    about = dict(loaded.meta)
    if opset_of(loaded) < OLDEST_OPSET:
        raise ModelError(f"{source}: opset {opset_of(loaded)}; supported: {OLDEST_OPSET} and up")
    check_structure(loaded, source)
    if shapes:
        fix_shapes(loaded, shapes)
    try:
        common.RemoveInitializersFromInputsPass()(loaded)
        if loaded.functions:
            align_functions(loaded)
            inline(loaded, source)
        check_nodes(loaded, opset_of(loaded), source)
        common.NameFixPass()(loaded)
        loaded = _upgrade(loaded, source, opset)
        settle_shapes(loaded, source, keep)
        common.NameFixPass()(loaded)
        with_batch(loaded)
    except InputError:
        raise
    except Exception as err:  # onnx and onnx-ir raise many kinds on a malformed graph
        raise ModelError(f"{source}: not a valid ONNX model: {_first_line(err)}") from err
    loaded.meta.update(about)  # ONNX's passes know nothing of it
    return Loaded(loaded, shapes)


def shaped(model: ModelLike, shapes: Shapes | None) -> ModelLike:
    """A model whose inputs have these shapes; itself where none are given. Raises UsageError."""
    if not shapes:
        return model
    loaded, _ = read(model)
    fix_shapes(loaded, shapes)
    return loaded


def opset_of(model: ir.Model) -> int:
    """The version of the standard operators that a model uses."""
    return model.graph.opset_imports.get("", EMITTED_OPSET)


def read(model: ModelLike) -> tuple[ir.Model, str]:
    """The model as it is, but for sizes that are none (they are unknown then), and its name for
    messages. Raises ModelError; see `load`."""
    if isinstance(model, ir.Model):
        # Not by way of a message: that forgets which folder the weights outside it lie in.
        source = str(model.meta.get(SOURCE) or model.graph.name or "the model")
        check_tensors_of(model, source)
        check_structure(model, source)  # which a copy fails at
        try:
            copy = ir.Model.clone(model)  # in no form: whoever reads may change what it likes
        except Exception as err:  # onnx-ir's, of a graph whose names contradict each other
            raise ModelError(f"{source}: not a valid ONNX model: {_first_line(err)}") from err
        copy.meta.update(model.meta)
        forget_no_sizes(copy)
        return copy, source
    message = read_message(model)
    proto, folder, source = without_maps(message.proto), message.folder, message.source
    try:
        loaded = ir.from_proto(densify(proto, source))
        for imports in (
            loaded.graph.opset_imports,
            *(f.opset_imports for f in loaded.functions.values()),
        ):
            if "ai.onnx" in imports:  # the standard domain, spelled out
                imports.setdefault("", imports.pop("ai.onnx"))
        loaded.meta[FILES], loaded.meta[SOURCE] = message.files, source
        if folder is not None:
            ir.external_data.set_base_dir(loaded.graph, folder)
        forget_no_sizes(loaded)
    except InputError:
        raise
    except Exception as err:  # a malformed graph: onnx-ir raises many kinds
        raise ModelError(f"{source}: not a valid ONNX model: {_first_line(err)}") from err
    return loaded, source


@dataclass(frozen=True)
class Message:
    """A model as a message, its folder where it has one, its name for messages, and the files
    beside it that its data lies in."""

    proto: onnx.ModelProto
    folder: Path | None
    source: str
    files: frozenset[Path]


def read_message(model: str | os.PathLike[str] | bytes | onnx.ModelProto) -> Message:
    """Parse a model, and hold every tensor in it to the rule of `external.py`. ModelError."""
    folder: Path | None = None
    if isinstance(model, onnx.ModelProto):
        proto, source = model, model.graph.name or "the model"
    else:
        proto = onnx.ModelProto()
        if isinstance(model, bytes):
            data, source = model, "the model's bytes"
        elif isinstance(model, (str, os.PathLike)):
            file = Path(model)
            source, folder = str(file), file.parent
            data = _content(file, source)
        else:
            raise ModelError(
                f"a model can't be a {type(model).__name__}; "
                "expected a path, bytes or an onnx.ModelProto"
            )
        if not data:
            raise ModelError(f"{source}: empty; expected an ONNX model")
        try:
            proto.ParseFromString(data)
        except Exception as err:  # protobuf's DecodeError, whose class moves between versions
            raise ModelError(f"{source}: not an ONNX model, or truncated") from err
    if not proto.graph.node and not proto.graph.output:
        raise ModelError(f"{source}: not an ONNX model: it has no graph")
    return Message(proto, folder, source, check_tensors(proto, folder, source))


def _content(file: Path, source: str) -> bytes:
    """A file's bytes; a pipe or a device is none, for it may never end. Raises ModelError."""
    try:
        about = file.stat()
        kind = about.st_mode
        if stat.S_ISREG(kind) and about.st_size <= _LARGEST:
            return file.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"{source}: no such file; expected an .onnx file") from None
    except OSError as err:
        raise ModelError(f"{source}: can't be read: {err.strerror}") from err
    except ValueError:  # a NUL in it
        raise ModelError(f"{source!r}: no file's name; expected an .onnx file") from None
    if stat.S_ISREG(kind):
        raise ModelError(
            f"{source}: larger than 2 GB, which no ONNX message is; "
            "larger weights lie in files beside it"
        )
    what = "a folder" if stat.S_ISDIR(kind) else "a pipe or device"
    raise ModelError(f"{source}: {what}; expected an .onnx file")


def _upgrade(model: ir.Model, source: str, wanted: int) -> ir.Model:
    """Convert to the wanted opset where the source's is older; raise IR to match."""
    opset = opset_of(model)
    if opset < wanted:
        from onnx import version_converter

        soften(model)
        stray = _stray(model)
        _refuse_suspects([*suspects(model), *stray], source, opset, wanted)
        declared = {v.name: v.shape for v in _made(model)}
        try:
            convert = partial(version_converter.convert_version, target_version=wanted)
            model = _through(model, convert, stray)
        except Exception as err:  # the C++ converter's errors have no common class
            raise ModelError(
                f"{source}: opset {opset} can't be upgraded to {wanted}: {_first_line(err)}"
            ) from err
        _declare(model, declared)
        infer_shapes(model)
        harden(model, opset)
    model.ir_version = max(model.ir_version, EMITTED_IR)
    return model


def _refuse_suspects(nodes: Iterable[ir.Node], source: str, opset: int, wanted: int) -> None:
    """What is hidden from the converter must be the same in both versions. Raises ModelError."""
    for node in nodes:
        if version(node.op_type, opset) != version(node.op_type, wanted):
            raise ModelError(
                f"{source}: {node.op_type} '{(node.name or '')[:120]}' (opset {opset}) can't be "
                f"upgraded to {wanted}: its attributes, or the constants it reads, don't fit it"
            )


def _made(model: ir.Model) -> Iterator[ir.Value]:
    return (v for n in model.graph for v in n.outputs)


def _declare(model: ir.Model, shapes: Mapping[str | None, ir.Shape | None]) -> None:
    """Take back the shapes that the converter has inferred: by the rules of the old opset, which
    has a Slice of version 10 keep a dimension of unknown size."""
    for value in _made(model):
        value.shape = shapes.get(value.name)


def settle_shapes(model: ir.Model, source: str, keep: Collection[str] = ()) -> None:
    """Infer shapes and fold constants, in turn, until neither finds more, or ROUNDS are over.
    Raises ModelError."""
    budget = Budget()
    try:
        for _ in range(ROUNDS):
            infer_shapes(model)
            told = help_inference(model)
            if not fold_constants(model, keep, budget) and not told:
                return
        infer_shapes(model)
    except InputError:
        raise
    except Exception as err:  # see `load`
        raise ModelError(f"{source}: not a valid ONNX model: {_first_line(err)}") from err


def infer_shapes(model: ir.Model) -> None:
    """Write what ONNX's shape inference finds into the model's values. In two steps: what a vector
    holds is carried on only where its length is known, and small."""
    stray = _stray(model)
    _write(model, _inferred(model, stray))
    if any(node.op_type in traits.ASKS_SIZE for node in model.graph.all_nodes()):
        # Nothing else makes a value of what isn't constant, and constants are folded.
        _write(model, _inferred(model, stray, carry=True))


def _stray(model: ir.Model) -> set[ir.Node]:
    """The nodes whose sizes would bring inference down, see `shrinking`."""
    *early, last = waves(model)
    found: set[ir.Node] = set()
    for late in early:
        found |= _unfit(model, _inferred(model, found | late))
    return found | last


def _unfit(model: ir.Model, inferred: onnx.ModelProto) -> set[ir.Node]:
    """The nodes that inference makes a size below 0 of."""
    names = {
        info.name
        for info in _infos(inferred.graph)
        if any(d.dim_value < 0 for d in info.type.tensor_type.shape.dim)
    }
    if not names:
        return set()
    return {n for n in model.graph.all_nodes() if any(v.name in names for v in n.outputs)}


def _write(model: ir.Model, inferred: onnx.ModelProto) -> None:
    found = {info.name: info for info in _infos(inferred.graph)}
    for name, value in ir.convenience.create_value_mapping(model.graph).items():
        if name not in found or value.is_graph_input():
            continue
        other = _told(found[name])
        if other.shape is not None:
            # Of a map too small for its kernel, inference makes a size below 0.
            negative = any(isinstance(d, int) and d < 0 for d in other.shape)
            dims = [None if isinstance(d, int) and d < 0 else d for d in other.shape]
            value.shape = ir.Shape(dims) if negative else other.shape
        if other.dtype is not None and value.dtype is None:
            value.dtype = other.dtype


def _told(info: onnx.ValueInfoProto) -> ir.Value:
    """What inference says of a value. A tensor's type is read here: onnx-ir's own reader is for
    all types, and takes six times as long, of each of a hundred thousand values."""
    kind = info.type
    if kind.WhichOneof("value") != "tensor_type":
        return ir.serde.deserialize_value_info_proto(info, None)
    tensor = kind.tensor_type
    shape = None
    if tensor.HasField("shape"):
        shape = ir.Shape(
            [
                d.dim_value if d.HasField("dim_value") else d.dim_param or None
                for d in tensor.shape.dim
            ]
        )
    type_ = ir.TensorType(ir.DataType(tensor.elem_type)) if tensor.elem_type else None
    return ir.Value(name=info.name, shape=shape, type=type_)


def _infos(graph: onnx.GraphProto) -> Iterator[onnx.ValueInfoProto]:
    """What is said of values, in subgraphs too; what an outer graph says counts."""
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _infos(inner)
    yield from graph.output
    yield from graph.value_info


def _inferred(
    model: ir.Model, apart: Collection[ir.Node] = (), carry: bool = False
) -> onnx.ModelProto:
    """The model as shape inference sees it: good for its shapes only. apart: nodes that it doesn't
    see. carry: values of shapes."""
    proto, _ = _light(model, [*apart, *(unbounded(model) if carry else ())])
    for node in proto.graph.node:
        if node.domain == "" and node.op_type in (
            "GroupNormalization",
            "MeanVarianceNormalization",
        ):
            # ONNX infers nothing for them (with axes left out): say that the shape stays.
            node.op_type = "Identity"
            del node.input[1:], node.attribute[:]
    try:
        return onnx.shape_inference.infer_shapes(
            proto, check_type=False, strict_mode=False, data_prop=carry
        )
    except Exception as err:  # of its C++: InferenceError, ValueError, MemoryError
        source = str(model.meta.get(SOURCE) or model.graph.name or "the model")
        raise ModelError(f"{source}: not a valid ONNX model: {_first_line(err)}") from err


def _light(
    model: ir.Model, apart: Collection[ir.Node] = ()
) -> tuple[onnx.ModelProto, dict[str, ir.TensorProtocol | None]]:
    """The model as a message for ONNX's C++ passes, without its heavy weights, and those. What
    may bring a pass down is hidden in it, and the nodes in `apart`."""
    graph = model.graph
    heavy = {
        name: value
        for name, value in graph.initializers.items()
        if value.const_value is not None and value.const_value.nbytes > _LIGHT
    }
    tensors = {name: value.const_value for name, value in heavy.items()}
    inputs = len(graph.inputs)
    for value in heavy.values():
        assert value.const_value is not None
        assert value.name is not None
        value.shape = ir.Shape(value.const_value.shape.numpy())
        value.dtype = value.const_value.dtype
        graph.initializers.pop(value.name)
        value.const_value = None
        graph.inputs.append(value)
    try:
        with hidden(model, {*suspects(model), *apart}):
            proto = message(model)
    finally:
        del graph.inputs[inputs:]
        for name, value in heavy.items():
            value.const_value = tensors[name]
            graph.register_initializer(value)
    return proto, tensors


def _through(
    model: ir.Model,
    call: Callable[[onnx.ModelProto], onnx.ModelProto],
    apart: Collection[ir.Node],
) -> ir.Model:
    """Run a C++ pass of ONNX over the model without its heavy weights, and put them back. apart:
    nodes that it doesn't see."""
    proto, tensors = _light(model, apart)
    result: ir.Model = ir.from_proto(call(proto))
    bared(result)
    by_name = {v.name: v for v in result.graph.inputs}
    for name, tensor in tensors.items():
        value = by_name[name]
        result.graph.inputs.remove(value)
        value.const_value = tensor
        result.graph.register_initializer(value)
    return result


def _first_line(err: BaseException) -> str:
    """The innermost cause of an error, as one line."""
    while err.__cause__ is not None:
        err = err.__cause__
    text = " ".join(str(err).split())
    return text[:200] or type(err).__name__
