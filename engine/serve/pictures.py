"""Pictures in, pictures out: `explain` for people with a photo and curl, and V1's form of it."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import hint
from .answering import Reply
from .ask import number_of
from .described import CONTRAST, HEATMAP, IMAGE, TARGET, Described
from .jsons import read, text_of
from .protocol import MOST_NAME, Inference, Wanted
from .refused import Refused, bad
from .tensors import Tensor

__all__ = ["IN_ADDRESS", "of_body", "of_instances", "read_instances"]

_MOST = 1024
# What an address may say of a picture as body.
IN_ADDRESS = (TARGET, CONTRAST, "method")
# Fields of V1, those of KServe's and TensorFlow Serving's that say nothing here among them.
_FIELDS = ("instances", "methods", TARGET, CONTRAST, "id", "signature_name")
_OF_ONE = ("image", "image_bytes", "b64", TARGET, CONTRAST)


def of_body(data: bytes, query: Sequence[tuple[str, str]], model: Described) -> Inference:
    """A request whose body is a picture; `?target=` and `?method=` (several with commas, or the
    word again) say the rest. Raises Refused."""
    if not data:
        raise bad("an empty body; expected a JPEG or PNG")
    parameters: dict[str, int | str] = {}
    methods: list[str] | None = None
    for key, text in query:
        if key == "method":
            methods = [*(methods or ()), *text.split(",")]
        elif key not in (TARGET, CONTRAST):
            raise bad(f"'{key}' in the address; accepted: {', '.join(IN_ADDRESS)}")
        elif key in parameters:
            raise bad(f"'{key}' is twice in the address; expected one class, for the one picture")
        else:
            parameters[key] = _class(text)
    inputs = {IMAGE: Tensor(IMAGE, "BYTES", (1,), [data])}
    return Inference(inputs, _outputs(methods, model), parameters)


def _class(text: str) -> int | str:
    digits = text.removeprefix("-")
    return int(text) if digits.isascii() and digits.isdecimal() and len(text) < 19 else text


def _outputs(methods: list[Any] | None, model: Described) -> tuple[Wanted, ...]:
    names = list(model.maps) if methods is None else list(dict.fromkeys(methods))
    for name in names:
        if name not in model.maps:
            shown = str(name)[:MOST_NAME]
            raise bad(f"method '{shown}'; the model was loaded with {', '.join(model.maps)}")
    own = [one.name for one in model.outputs]
    said = [TARGET, CONTRAST] if model.contrasts else [TARGET]
    return tuple(Wanted(n, False) for n in (*own, *said, *(HEATMAP + n for n in names)))


def read_instances(data: bytes | memoryview, model: Described) -> Inference:
    """V1: `{"instances": [{"image": {"b64": …}, "target": 281}], "methods": […]}`. An instance's
    picture is `{"b64": …}` or a string, also without `image` around it; `target` and `contrast` may
    stand beside `instances` for all of them. Raises Refused."""
    said = read(data).value
    listed = said.get("instances") if isinstance(said, dict) else None
    if not isinstance(listed, list) or not listed:
        raise bad("the request has no 'instances'; expected a list of pictures")
    if len(listed) > _MOST:
        raise bad(f"{len(listed)} instances; at most {_MOST}")
    _known(said, _FIELDS, "the request")
    for at, one in enumerate(listed):
        if isinstance(one, dict):
            _known(one, _OF_ONE, f"instance {at}")
    pictures = [_instance(one, at) for at, one in enumerate(listed)]
    methods = said.get("methods")
    if methods is not None and not (
        isinstance(methods, list) and methods and all(isinstance(m, str) for m in methods)
    ):
        raise bad(f"'methods' is no list of names; accepted: {', '.join(model.maps)}")
    inputs = {IMAGE: Tensor(IMAGE, "BYTES", (len(pictures),), pictures)}
    for name in (TARGET, CONTRAST):
        chosen = _classes(name, said, listed, model)
        if chosen is not None:
            inputs[name] = chosen
    return Inference(inputs, _outputs(methods, model))


def _known(said: Mapping[str, Any], accepted: Sequence[str], where: str) -> None:
    """A field that is mistyped would be one that isn't there."""
    for key in said:
        if key not in accepted:
            near = hint(key, accepted, 1)
            raise bad(f"{where} has '{key[:MOST_NAME]}'; accepted: {', '.join(accepted)}{near}")


def _classes(
    name: str, said: Mapping[str, Any], listed: list[Any], model: Described
) -> Tensor | None:
    """The classes that instances ask for; None where none does."""
    import numpy as np

    every = said.get(name)
    asked = [one.get(name, every) if isinstance(one, dict) else every for one in listed]
    if all(one is None for one in asked):
        return None
    numbers = [_class_of(one, name, model, at) for at, one in enumerate(asked)]
    return Tensor(name, "INT64", (len(numbers),), np.array(numbers, np.int64))


def _instance(one: Any, at: int) -> bytes:
    found = one
    for key in ("image", "image_bytes", "b64"):
        if isinstance(found, dict) and key in found:
            found = found[key]
    if not isinstance(found, str):
        raise bad(f'instance {at} has no picture; expected {{"image": {{"b64": "…"}}}}')
    return text_of(found.encode("utf-8", "surrogatepass"), f"instance {at}")


def _class_of(said: Any, name: str, model: Described, at: int) -> int:
    try:
        return -1 if said is None else number_of(said, name, model)
    except Refused as err:
        raise bad(f"instance {at}: {err}", err.reason) from None


def of_instances(reply: Reply) -> dict[str, Any]:
    """V1's answer: an explanation of each instance, its heat maps as base64 PNG."""
    found = {tensor.name: tensor for tensor, _ in reply.tensors}
    targets: Any = found[TARGET].values
    rivals: Any = found[CONTRAST].values if CONTRAST in found else None
    explanations = []
    for row in range(reply.rows):
        told: dict[str, Any] = {"class": int(targets[row])}
        if rivals is not None:
            told["contrast"] = int(rivals[row])
        if reply.names is not None:
            told["name"] = reply.names[row]
        if reply.probabilities is not None:
            told["probability"] = reply.probabilities[row]
        told["heatmaps"] = {
            name.removeprefix(HEATMAP): {
                "b64": base64.b64encode(tensor.values[row]).decode("ascii")
            }
            for name, tensor in found.items()
            if name.startswith(HEATMAP)
        }
        explanations.append(told)
    return {"explanations": explanations}
