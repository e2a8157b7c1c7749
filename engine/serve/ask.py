"""A request held against a model: what is asked for, checked before anything waits or runs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UsageError, hint
from ..classifier.labels import class_number
from .described import CONTRAST, HEATMAP, IMAGE, TARGET, Declared, Described
from .jsons import text_of
from .pool import Payload
from .protocol import Inference, Wanted
from .refused import bad
from .tensors import DTYPES, Tensor, elements

__all__ = ["Asked", "Part", "asked", "number_of", "unasked"]


@dataclass(frozen=True)
class Part:
    """Rows of a request that fit a run."""

    rows: int
    size: int
    payload: Payload


@dataclass(frozen=True)
class Asked:
    """A request that can run. key: what rows must share to run together; most: rows of a run."""

    rows: int
    key: tuple[Any, ...]
    most: int
    parts: tuple[Part, ...]
    outputs: tuple[Wanted, ...]
    explains: bool


def unasked(model: Described, explains: bool) -> list[str]:
    """What is given where a request names no outputs: the model's own, and to `explain` the class
    and a picture of each map as well."""
    own = [one.name for one in model.outputs]
    if not explains:
        return own
    drawn = HEATMAP if model.layout is not None else ""
    said = [TARGET, CONTRAST] if model.contrasts else [TARGET]
    return [*own, *said, *(drawn + m if drawn else model.maps[m].name for m in model.maps)]


def asked(
    request: Inference, model: Described, who: object, *,
    room: int, memory: int, explains: bool = False, json: bool = True,
) -> Asked:  # fmt: skip
    """Check a request. who: stands for the model in the key. room: rows that a request may have;
    memory: bytes that a run may take. explains: what is given unasked. json: whether text in it
    came as JSON. Raises Refused (400)."""
    given = dict(request.inputs)
    _known(given, model)
    pictures = _pictures(given, model, json)
    feeds = _feeds(given, model, pictures)
    rows = len(pictures) if pictures is not None else len(feeds[model.image])
    if rows > room:
        raise bad(f"{rows} rows; at most {room} in one request")
    target = _classes(given.get(TARGET), request.parameters, TARGET, model, rows)
    contrast = _classes(given.get(CONTRAST), request.parameters, CONTRAST, model, rows)
    outputs = _outputs(request, model, explains)
    names = {w.name for w in outputs}
    maps = tuple(m for m, one in model.maps.items() if one.name in names)
    drawn = tuple(m for m in model.maps if HEATMAP + m in names)
    own = tuple(one.name for one in model.outputs if one.name in names)
    chosen = bool(names & {TARGET, CONTRAST})
    job: dict[str, Any] = {
        "outputs": own, "maps": maps, "heatmaps": drawn, "chosen": chosen, "image": model.image,
        "inputs": _inputs(model, feeds, pictures),
        "open": any(d is None for one in model.inputs for d in one.dims[1:]),
    }  # fmt: skip
    most = _most(model, job["inputs"], memory, bool(maps or drawn))
    whole = [one for one in model.inputs if not one.rows and one.name in feeds]
    told = b"".join(feeds[w.name].tobytes() for w in whole)
    digest = hashlib.sha256(told).hexdigest() if whole else ""
    key = (who, own, maps, drawn, chosen, str(job["inputs"]), digest)
    parts = []
    for at in range(0, rows, most):
        cut = slice(at, at + most)
        mine = {n: v if n in {w.name for w in whole} else v[cut] for n, v in feeds.items()}
        shown = None if pictures is None else pictures[cut]
        size = sum(v.nbytes for v in mine.values()) + sum(map(len, shown or ()))
        payload = Payload({**job, "model": str(who)}, {n: _raw(v) for n, v in mine.items()}, shown,
                          target[cut], contrast[cut])  # fmt: skip
        parts.append(Part(min(most, rows - at), size, payload))
    return Asked(rows, key, most, tuple(parts), outputs, bool(maps or drawn))


def _raw(values: NDArray[Any]) -> Any:
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)


def _known(given: Mapping[str, Tensor], model: Described) -> None:
    accepted = model.taken
    for name in given:
        if name not in accepted:
            near = hint(name, accepted, 1)
            raise bad(f"input '{name}'; the model takes {', '.join(accepted)}{near}")


def _pictures(given: dict[str, Tensor], model: Described, json: bool) -> list[bytes] | None:
    """The request's pictures, taken out of its inputs; None where it has a tensor."""
    tensor = given.get(IMAGE)
    if tensor is None or (IMAGE in model.by_name and tensor.datatype != "BYTES"):
        return None
    if model.layout is None:
        raise bad(f"input '{IMAGE}': pictures can't be fed to this model; it takes '{model.image}'")
    if tensor.datatype != "BYTES":
        raise bad(f"input '{IMAGE}' is {tensor.datatype}; expected BYTES, a JPEG or PNG each")
    if len(tensor.shape) != 1 and tensor.shape[1:] != (1,):
        raise bad(f"input '{IMAGE}' is shaped {list(tensor.shape)}; expected [B]")
    if model.image in given and model.image != IMAGE:
        raise bad(f"both '{IMAGE}' and '{model.image}' are given; expected one")
    del given[IMAGE]
    assert isinstance(tensor.values, list)
    if not json or "binary_data_size" in tensor.parameters:
        return tensor.values
    return [text_of(value, f"input '{IMAGE}'") for value in tensor.values]


def _feeds(
    given: Mapping[str, Tensor], model: Described, pictures: list[bytes] | None
) -> dict[str, NDArray[Any]]:
    feeds: dict[str, NDArray[Any]] = {}
    rows: int | None = None if pictures is None else len(pictures)
    for one in model.inputs:
        tensor = given.get(one.name)
        if tensor is None:
            if (one.name == model.image and pictures is not None) or one.name in model.given:
                continue
            instead = (
                f", or '{IMAGE}', pictures" if one.name == model.image and model.layout else ""
            )
            raise bad(f"input '{one.name}' is missing; expected {_shown(one)}{instead}")
        if tensor.datatype != one.datatype:
            raise bad(f"input '{one.name}' is {tensor.datatype}; expected {_shown(one)}")
        dims = (None, *one.dims[1:]) if one.rows else one.dims
        shape = tensor.shape
        if model.lone and one.name == model.image and len(shape) == len(dims) - 1:
            shape = (1, *shape)  # as the file has it, without a batch
        fits = len(dims) == len(shape) and all(
            d is None or d == have for d, have in zip(dims, shape, strict=True)
        )
        if not fits:
            raise bad(f"input '{one.name}' is shaped {list(tensor.shape)}; expected {_shown(one)}")
        values = np.asarray(tensor.values).reshape(shape)
        if one.rows:
            if rows is not None and len(values) != rows:
                raise bad(f"input '{one.name}' has {len(values)} rows; others have {rows}")
            rows = len(values)
        if values.dtype.kind == "f":
            _finite(one.name, values)
        feeds[one.name] = values
    return feeds


def _finite(name: str, values: NDArray[Any]) -> None:
    """One row that isn't finite would fail its batch in the runtime: it never gets there."""
    with np.errstate(all="ignore"):
        if np.isfinite(values.sum()):  # a third of the time: no array of what is finite is made
            return
    finite = np.isfinite(values)
    if not finite.all():
        sound = finite.reshape(len(values), -1).all(axis=1)
        raise bad(f"input '{name}': row {int(sound.argmin())} has NaN or infinite values",
                  "not_finite")  # fmt: skip


def _shown(one: Declared) -> str:
    dims = ["?" if d is None else str(d) for d in one.dims]
    return f"{one.datatype} [{','.join(['B', *dims[1:]] if one.rows and dims else dims)}]"


def _classes(
    tensor: Tensor | None, parameters: Mapping[str, Any], name: str, model: Described, rows: int
) -> NDArray[np.int64]:
    """The classes that are asked for: of a tensor, or of a parameter; -1 the top class."""
    said = parameters.get(name)
    if tensor is not None and said is not None:
        raise bad(f"'{name}' is an input and a parameter; expected one")
    if tensor is None and said is None:
        return np.full(rows, -1, np.int64)
    if name == CONTRAST and not model.contrasts:
        raise bad("this model takes no contrast")
    if said is not None:
        values = np.full(rows, number_of(said, name, model), np.int64)
    else:
        assert tensor is not None
        if tensor.datatype != "INT64" or tensor.shape not in ((rows,), (rows, 1)):
            raise bad(
                f"input '{name}' is {tensor.datatype} {list(tensor.shape)}; expected INT64 [{rows}]"
            )
        values = np.asarray(tensor.values, np.int64).reshape(rows)
    least, most = int(values.min()), int(values.max())
    wrong = least if least < -1 else most
    if least < -1 or (model.classes is not None and most >= model.classes):
        last = "" if model.classes is None else f" to {model.classes - 1}"
        raise bad(f"{name} {wrong} is out of range; expected 0{last}, or -1", f"{name}_range")
    if name == TARGET and model.baked and most >= 0 and str(most) != model.baked:
        raise bad(f"this model explains class {model.baked} only; leave out 'target'")
    return values


def number_of(said: Any, name: str, model: Described) -> int:
    if type(said) is int:
        if not -(2**62) < said < 2**62:
            raise bad(f"{name} {str(said)[:20]} is out of range", f"{name}_range")
        return said
    if not isinstance(said, str):
        raise bad(
            f"parameter '{name}' is neither a number nor a label; accepted: a class number, -1, or "
            "a name from the labels"
        )
    try:
        words = ("second" if name == CONTRAST else "top1", "-1")
        return class_number(said, model.labels, words, f"parameter '{name}'")
    except UsageError as err:
        raise bad(str(err).replace("; the model names no classes, --labels does", "")) from None


def _outputs(request: Inference, model: Described, explains: bool) -> tuple[Wanted, ...]:
    there = model.offered
    if request.outputs is None:
        return tuple(Wanted(name, request.binary) for name in unasked(model, explains))
    for wanted in request.outputs:
        if wanted.name not in there:
            near = hint(wanted.name, there, 1)
            raise bad(f"output '{wanted.name}'; the model gives {', '.join(there)}{near}")
    return request.outputs


def _inputs(
    model: Described, feeds: Mapping[str, NDArray[Any]], pictures: list[bytes] | None
) -> list[tuple[str, str, list[int], bool]]:
    """As the job's header has them: name, dtype, the shape of a row (or of all), has rows."""
    found = []
    for one in model.inputs:
        dtype = DTYPES[one.datatype].str
        if one.name not in feeds and one.name != model.image:
            continue
        if one.name in feeds:
            shape = list(feeds[one.name].shape[1 if one.rows else 0 :])
        else:
            assert pictures is not None
            shape = picture_shape(model)
        found.append((one.name, dtype, shape, one.rows))
    return found


def picture_shape(model: Described) -> list[int]:
    """The shape of one picture as the model takes it."""
    import json

    assert model.preprocess is not None
    height, width = json.loads(model.preprocess)["size"]
    dims = model.by_name[model.image].dims
    if model.layout == "nhw":
        return [height, width]
    if model.layout == "nchw":
        return [dims[1] or 3, height, width]
    return [height, width, dims[3] or 3]


def _most(
    model: Described, inputs: Sequence[tuple[str, str, list[int], bool]], memory: int, maps: bool
) -> int:
    """Rows of a run: of an input that is larger than usual, fewer. Raises Refused."""
    (shape,) = (shape for name, _, shape, _ in inputs if name == model.image)
    scale = elements(shape) / max(model.row_elements, 1)
    if scale <= 1:
        return model.most
    each = model.row_bytes * scale
    if memory and each > memory:
        raise bad(f"an input of {list(shape)} takes more memory than a run may have", "memory")
    return max(1, min(model.most, int(memory // each))) if memory else model.most
