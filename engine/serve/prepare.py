"""A model made ready to be served, in a process of its own: strangers' files are read there.

    described = prepared("resnet.onnx", into=folder, asked=Asked(methods=("gradcam",)))

The child copies the file first, so that what is served is what was hashed, whatever happens to the
original. It reads, checks and exports, writes two files, the plain model and the explaining one,
has ONNX Runtime load both, and tells what they are. See `engine/runtime/confined.py`.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ...errors import BacklightError, ModelError, UsageError
from ..runtime.budget import shown
from ..runtime.confined import Job, Limits
from ..runtime.isolated import tell, told_apart
from .described import Declared, Described

__all__ = ["Asked", "prepared"]


@dataclass(frozen=True)
class Asked:
    """How models are served: as the command line says.

    methods: None: what an exported file has, else the three rules; of an exported file those of
    them that it has, where it has any, else its own. preprocess, labels: as their options. inputs:
    what is fed beside the image, to models that have inputs of these names: .npy files or numbers.
    shapes: of inputs whose shape a model leaves open, likewise.
    providers: of the runtime. rows: of one run, at most. memory: of a worker, in
    bytes; hard: what doesn't fit is refused, where else its runs have one row.
    """

    methods: tuple[str, ...] | None = None
    preprocess: str | None = None
    labels: str | None = None
    inputs: Mapping[str, str] | None = None
    providers: tuple[str, ...] | None = None
    rows: int = 8
    memory: int | None = None
    hard: bool = False
    shapes: Mapping[str, Sequence[int]] | None = None


def prepared(
    model: str | os.PathLike[str], into: Path, asked: Asked, limits: Limits | None = None
) -> Described:
    """Make a model ready in the folder `into`. Raises what reading it raises, and ModelError, one
    line, where it crashes, hangs or takes more than its limits."""
    limits = limits or Limits(seconds=300)
    source = os.fspath(model)
    about = {"model": source, "into": str(into), "asked": asdict(asked)}
    return Described.from_dict(told_apart(__name__, [], limits, about))


def _made(source: Path, into: Path, asked: Asked) -> Described:
    from ...export.bare import bare
    from ...export.graph import read
    from ...export.lone import with_batch, with_rows
    from ...export.saliency import explain_graph
    from ...export.store import save_model
    from ..direct.explainer import Explainer
    from ..runtime.session import Session, default_lowering

    plain, explaining = into / "plain.onnx", into / "explaining.onnx"
    ready, files = _copied(source, plain, asked)
    ready.hash  # noqa: B018  # of the file as it came: it is kept
    notes: list[str] = []
    if ready.exported is None:
        graph = explain_graph(
            ready.read, asked.methods, lowering=default_lowering(asked.providers),
        )  # fmt: skip
        drawn, scores, changed = graph.model, ready.read, bool(ready.shapes)
        notes, of = list(graph.notes), graph.of
    else:
        if (into / "plain.onnx.data").exists():
            raise UsageError(f"{source}: exported with its weights aside; export it in one file")
        drawn, scores, changed = read(plain)[0], read(plain)[0], True
        bare(scores)
        of = ready.metadata.get("backlight.of", "")
    ranked, shown, scores = _ranked(drawn, scores)
    if ready.exported is None or shown:
        save_model(drawn, explaining)
    else:
        plain.rename(explaining)
    methods = asked.methods if ready.exported is None else _own(ready.exported, asked.methods)
    held = Explainer(explaining, methods=methods, providers=asked.providers,
                     inputs=ready.inputs)  # fmt: skip
    lone = with_batch(drawn)
    if held.fed.batch == 1:
        changed |= with_rows(scores, held.fed.name, len(held.fed.dims))
    if changed or shown:
        save_model(scores, plain)
    Session(plain, asked.providers)
    if shown:  # no output of the model's own
        scores.graph.outputs[:] = [v for v in scores.graph.outputs if v.name != ranked]
    made = _described(source, ready, held, (scores, drawn), asked, of, (plain, explaining), notes)
    return replace(made, ranked=ranked, lone=lone, given=_given(held, into), files=files)


def _own(exported: tuple[str, ...], asked: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Of an exported file's methods those that are asked for; None for all: it stands beside other
    models, which have them."""
    return tuple(m for m in asked or () if m in exported) or None


def _given(held: Any, into: Path) -> dict[str, str]:
    """What is fed beside the image, in files of the server's own."""
    import numpy as np

    files = {}
    for at, (name, array) in enumerate(held.fed.extras.arrays.items()):
        files[name] = str(into / f"given-{at}.npy")
        np.save(files[name], array)
    return files


def _ranked(drawn: Any, scores: Any) -> tuple[str | None, bool, Any]:
    """Have both models give the tensor that ranks the classes, so that a class asked for without
    its map is the one that the map is of: probabilities that round to 1 rank nothing. Its name,
    whether it had to be made an output, and the model of the scores: where an export made that
    tensor, the explaining one without its maps."""
    import onnx_ir as ir

    from ...export.bare import bare

    name = drawn.metadata_props.get("backlight.ranked", "")
    first, second = (
        ir.convenience.create_value_mapping(m.graph).get(name) for m in (drawn, scores)
    )
    if first is None or first.shape is None or len(first.shape) != 2:
        return None, False, scores
    shown = False
    if second is None:
        if not first.is_graph_output():
            drawn.graph.outputs.append(first)
        scores = drawn.clone()
        bare(scores, but=name)
        return name, True, scores
    for model, value in ((drawn, first), (scores, second)):
        if not value.is_graph_output():
            value.type, value.shape, shown = first.type, first.shape, True
            model.graph.outputs.append(value)
    return name, shown, scores


def _copied(source: Path, plain: Path, asked: Asked) -> tuple[Any, tuple[str, ...]]:
    """The model of a copy, which nobody changes on the way, and the files beside it, where it keeps
    its weights: they are taken in, by the rules for strangers' files. Of what is asked, shapes and
    what is fed beside the image are for inputs that it has. Raises ModelError."""
    import onnx_ir as ir

    from ...export.graph import FILES, read
    from ...export.store import save_model
    from ..classifier.ready import Ready
    from ..runtime.digest import model_hash

    model, _ = read(source)
    held = [v.const_value for v in model.graph.initializers.values()]
    digest = None
    if any(isinstance(t, ir.ExternalTensor) for t in held):
        digest = model_hash(source, model)
        save_model(model, plain)
    else:
        shutil.copyfile(source, plain)
    names = {v.name for v in model.graph.inputs}
    shapes = {n: tuple(s) for n, s in (asked.shapes or {}).items() if n in names}
    inputs = {n: v for n, v in (asked.inputs or {}).items() if n in names}
    ready = Ready(plain, shapes, inputs)
    ready.name, ready.source = source.stem, str(source)
    if digest is not None:
        ready.__dict__["hash"] = digest
    beside = model.meta.get(FILES, ())
    return ready, tuple(sorted(str(file.relative_to(source.parent)) for file in beside))


def _described(
    source: Path, ready: Any, held: Any, models: tuple[Any, Any], asked: Asked, of: str,
    files: tuple[Path, Path], notes: list[str],
) -> Described:  # fmt: skip
    from ...export.emit import all_dims
    from ...export.store import weight_bytes
    from ..classifier.intake import shares_batch
    from ..pictures.reading import base
    from ..runtime.session import dims_of, dtype_of
    from .tensors import datatype_of

    graph, fed = models[0].graph, held.fed
    inputs = {v.name: v for v in graph.inputs}
    image_shape = all_dims(inputs[fed.name].shape)

    def declared(value: Any, rows: bool) -> Declared:
        dims = () if value.shape is None else dims_of(all_dims(value.shape))
        return Declared(value.name, datatype_of(dtype_of(value)), dims, rows)

    own = tuple(declared(inputs[n], n not in fed.whole) for n in (fed.name, *fed.others))
    outputs = []
    for value in graph.outputs:
        known = value.shape is not None
        try:
            rows = not known or shares_batch(image_shape, all_dims(value.shape))
            outputs.append(declared(value, rows))
        except (ModelError, StopIteration):
            notes.append(f"output '{value.name}' has a type that isn't served")
    drawn = {v.name: v for v in models[1].graph.outputs}
    maps = {name: declared(drawn[output], True) for name, output in held.map_outputs.items()}
    kinds = {name: base(name)[0] for name in maps}
    preprocess, layout, more = _pictures(ready, held, asked)
    names = _labels(ready, held, asked)
    weights = 2 * weight_bytes(models[0])
    each, many, most = _memory(files[1], held, preprocess, asked, weights, source)
    return Described(
        plain=str(files[0]), explaining=str(files[1]), hash=ready.hash, image=fed.name,
        inputs=own, outputs=tuple(outputs), maps=maps, scores=held.score_output, of=of,
        classes=held.classes, labels=None if names is None else tuple(names), batch=fed.batch,
        baked="" if held.takes_target else str(held.metadata.get("backlight.target_class", "top1")),
        contrasts=held.contrasts, layout=layout, preprocess=preprocess, layers=held.layers,
        notes=(*notes, *more, *held.notes), weights=weights, row_bytes=each, row_elements=many,
        most=most, about={name: (row.about, row.source) for name, row in kinds.items()},
    )  # fmt: skip


def _pictures(ready: Any, held: Any, asked: Asked) -> tuple[str | None, str | None, list[str]]:
    """How pictures become inputs, as JSON, and the image's layout; None, None where they can't."""
    from ...export.preprocess import ASSUMED, parse
    from ..photos import images

    notes = []
    try:
        spec = held.input
        own = held.preprocess
        if asked.preprocess is not None:
            record = parse(asked.preprocess)
        elif own is not None:
            record = own
        else:
            name = "none" if spec.dtype.kind in "iu" else ASSUMED
            record = parse(name)
            notes.append(f"{ready.source} doesn't say how it wants its images: assuming {name} "
                         "(--preprocess changes it)")  # fmt: skip
        return images.fitted(record, spec).to_json(), spec.layout, notes
    except BacklightError as err:
        if asked.preprocess is not None:
            raise
        return None, None, [f"pictures can't be fed to {ready.source}: {err}"]


def _labels(ready: Any, held: Any, asked: Asked) -> list[str] | None:
    from ..classifier import labels

    if asked.labels is not None:
        given = labels.load_labels(asked.labels, held.classes)
        return labels.fitting(given, held.classes, asked.labels)
    own: list[str] | None = held.labels
    return None if own is None else labels.fitting(own, held.classes, "the metadata")


def _memory(
    explaining: Path, held: Any, preprocess: str | None, asked: Asked, weights: int, source: Path
) -> tuple[int, int, int]:
    """What a row of the explaining pass takes, its elements, and how many rows fit the budget."""
    import json

    from ...export.graph import read
    from ..runtime.budget import Footprint
    from .sizes import BASE

    fed = held.fed
    known = [224, 224] if preprocess is None else list(json.loads(preprocess)["size"])
    inner = []
    for at, d in enumerate(fed.dims[1:], 1):
        place = 3 if at == fed.channel_axis else None
        inner.append(d or place or known.pop(0))
        if d is not None and place is None and known:
            known.pop(0)
    each = Footprint(read(explaining)[0], fed.name, fed.dtype.itemsize)(tuple(inner))
    # A batch that the model fixes is run whole.
    step = fed.batch or 1
    most = max(asked.rows // step, 1) * step
    if asked.memory is None:
        return each, math.prod(inner), most
    room = asked.memory - BASE - weights
    if asked.hard and room < each * step:
        raise ModelError(
            f"{source}: takes {shown(BASE + weights + each * step)} to be served; --memory is "
            f"{shown(asked.memory)}"
        )
    fits = max(room // max(each, 1) // step, 1) * step
    return each, math.prod(inner), min(most, fits)


def _told(job: Job) -> dict[str, Any]:
    """One model, in the process of its own."""
    about, given = job.about, dict(job.about["asked"])
    lists = {k: None if given[k] is None else tuple(given[k]) for k in ("methods", "providers")}
    return asdict(_made(Path(about["model"]), Path(about["into"]), Asked(**{**given, **lists})))


if __name__ == "__main__":
    tell(_told)
