"""From a file to a graph that the transform can read: check, inline, upgrade, fold, infer, name."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from ..arguments import shapes as checked_shapes
from ..errors import InputError, ModelError
from .ends import without_maps
from .external import check_tensors, check_tensors_of
from .guard import suspects
from .heap import seldom_collected
from .inference import SOURCE, first_line, infer_shapes, settle_shapes, strays, through
from .inline import inline
from .legacy import align_functions, harden, soften, version
from .lone import with_batch
from .message import beside_graph
from .nested import name_all
from .sizes import Shapes, fix_shapes, forget_no_sizes
from .sparse import densify
from .structure import check_nodes, check_structure

ModelLike = str | os.PathLike[str] | bytes | onnx.ModelProto | ir.Model

OLDEST_OPSET = 7
# The conservative form that runtimes of the last years read; newer sources keep their own.
EMITTED_OPSET = 18
EMITTED_IR = 10
# Where protobuf ends.
_LARGEST = 2**31
# In a model's `meta`: the files beside it that its data lies in.
FILES = "backlight.files"


class Loaded(ir.Model):
    """A model in the transform's form, as `load` gives it: loading it again is a copy of the graph,
    in which the weights are the same arrays.

    shapes: what was said of inputs that leave theirs open. Whoever changes one keeps it in that
    form: names for all, and the shapes that are known.
    """

    def __init__(self, model: ir.Model, shapes: Shapes | None = None) -> None:
        super().__init__(model.graph, **beside_graph(model))
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
    return formed(*read(model), opset, keep, shapes)


def formed(
    loaded: ir.Model,
    source: str,
    opset: int = EMITTED_OPSET,
    keep: Collection[str] = (),
    shapes: Shapes | None = None,
) -> Loaded:
    """What `read` gave, which is used up, in the transform's form. See `load`."""
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
        name_all(loaded)
        loaded = _upgrade(loaded, source, opset)
        settle_shapes(loaded, source, keep)
        name_all(loaded)
        with_batch(loaded)
    except InputError:
        raise
    except Exception as err:  # onnx and onnx-ir raise many kinds on a malformed graph
        raise ModelError(f"{source}: not a valid ONNX model: {first_line(err)}") from err
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
            raise ModelError(f"{source}: not a valid ONNX model: {first_line(err)}") from err
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
        if folder is not None and message.files:
            ir.external_data.set_base_dir(loaded.graph, folder)
        forget_no_sizes(loaded)
    except InputError:
        raise
    except Exception as err:  # a malformed graph: onnx-ir raises many kinds
        raise ModelError(f"{source}: not a valid ONNX model: {first_line(err)}") from err
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
        stray = strays(model)
        _refuse_suspects([*suspects(model), *stray], source, opset, wanted)
        declared = {v.name: v.shape for v in _made(model)}
        try:
            convert = partial(version_converter.convert_version, target_version=wanted)
            model = through(model, convert, stray)
        except Exception as err:  # the C++ converter's errors have no common class
            raise ModelError(
                f"{source}: opset {opset} can't be upgraded to {wanted}: {first_line(err)}"
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
