"""The OpenAPI document of the REST interface, as it stands with the models that are loaded."""

from __future__ import annotations

from typing import Any

from .answering import Limits
from .models import Models
from .protocol import MOST_NAME, MOST_TENSORS
from .tensors import DTYPES, MOST_RANK

__all__ = ["document"]

Schema = dict[str, Any]


def document(models: Models, limits: Limits) -> Schema:
    """OpenAPI 3.1. limits: what of them a client should know."""
    from ... import __version__

    paths: dict[str, Schema] = {
        "/v2": {"get": _get("What the server is", "Server")},
        "/v2/health/live": {"get": _get("Whether the server runs", "Live")},
        "/v2/health/ready": {"get": _get("Whether it takes requests", "Ready", more=(503,))},
        "/v2/models": {"get": _get("The models", "Index")},
        "/v2/repository/index": {"post": _get("The models, as Triton lists them", "Index")},
        "/v1/models/{model}": {"get": _get("A model, by V1", "ModelReady", _MODEL)},
        "/v1/models/{model}:explain": {
            "post": _post("Pictures in, heat maps out, by V1", "Instances", "Explanations", _MODEL)
        },
        "/metrics": {
            "get": {
                "summary": "Metrics, as Prometheus reads them",
                "responses": {"200": {"description": "text",
                                      "content": {"text/plain": {"schema": {"type": "string"}}}}},
            }
        },
    }  # fmt: skip
    one = "/v2/models/{model}"
    for place, where in ((one, _MODEL), (f"{one}/versions/{{version}}", (*_MODEL, *_VERSION))):
        paths[place] = {"get": _get("A model's inputs, outputs and methods", "Model", where)}
        paths[f"{place}/ready"] = {
            "get": _get("Whether a model takes requests", "ModelReady", where, more=(503,))
        }
        paths[f"{place}/infer"] = {"post": _infer("Scores, maps, heat maps", where)}
        paths[f"{place}/explain"] = {"post": _explain("The same, with all of it unasked", where)}
    served = [{"name": m.name, "version": str(m.version)} for m in models]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Backlight",
            "version": __version__,
            "description": "The Open Inference Protocol (V2) for image classifiers that explain "
            f"themselves. A body has at most {limits.body} bytes.",
        },
        "paths": paths,
        "components": {"schemas": _schemas()},
        "x-models": served,
    }


_MODEL: tuple[Schema, ...] = (
    {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}},
)
_VERSION: tuple[Schema, ...] = (
    {"name": "version", "in": "path", "required": True, "schema": {"type": "string"}},
)
_ERRORS = {
    "400": "The request can't be answered as it is",
    "401": "A bearer token is needed",
    "404": "No such model or version",
    "405": "Another method",
    "408": "The body didn't arrive in time",
    "413": "The body is too large",
    "415": "A content encoding that isn't known",
    "503": "Too much to do, or not ready: Retry-After says when to come again",
    "504": "The deadline passed",
}


def _json(name: str) -> Schema:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}


def _answers(name: str, errors: tuple[str, ...], more: Schema | None = None) -> Schema:
    found: Schema = {"200": {"description": "Done", "content": {**_json(name), **(more or {})}}}
    for status in errors:
        found[status] = {"description": _ERRORS[status], "content": _json("Error")}
    return found


def _get(
    summary: str, answer: str, where: tuple[Schema, ...] = (), more: tuple[int, ...] = ()
) -> Schema:
    responses = _answers(answer, ("401", "404") if where else ("401",))
    for status in more:
        responses[str(status)] = {"description": "Not ready", "content": _json(answer)}
    return {"summary": summary, "parameters": list(where), "responses": responses}


def _post(summary: str, body: str, answer: str, where: tuple[Schema, ...]) -> Schema:
    return {
        "summary": summary,
        "parameters": list(where),
        "requestBody": {"required": True, "content": _json(body)},
        "responses": _answers(answer, tuple(e for e in _ERRORS if e != "405")),
    }


def _infer(summary: str, where: tuple[Schema, ...]) -> Schema:
    made = _post(summary, "Inference", "Inferred", where)
    binary = {"schema": {"type": "string", "format": "binary"}}
    header = {
        "name": "Inference-Header-Content-Length",
        "in": "header",
        "required": False,
        "description": "The length of the JSON part, where raw tensors follow it.",
        "schema": {"type": "integer", "minimum": 0},
    }
    made["parameters"] = [*where, header]
    made["requestBody"]["content"]["application/octet-stream"] = binary
    made["responses"]["200"]["content"]["application/octet-stream"] = binary
    return made


def _explain(summary: str, where: tuple[Schema, ...]) -> Schema:
    made = _infer(summary, where)
    binary = {"schema": {"type": "string", "format": "binary"}}
    for kind in ("image/jpeg", "image/png"):
        made["requestBody"]["content"][kind] = binary
    made["responses"]["200"]["content"]["image/png"] = binary
    for name, about in (
        ("target", "Of a picture as body: the class to explain, a number or a label."),
        ("contrast", "Of a picture as body: the class that it is told from."),
        ("method", "Of a picture as body: methods, with commas, or again."),
    ):
        made["parameters"].append({"name": name, "in": "query", "required": False,
                                   "description": about, "schema": {"type": "string"}})  # fmt: skip
    return made


def _object(required: tuple[str, ...] = (), **properties: Any) -> Schema:
    return {"type": "object", "required": list(required), "properties": properties}


def _list(of: Any, **more: Any) -> Schema:
    return {"type": "array", "items": of, **more}


def _schemas() -> dict[str, Schema]:
    text: Schema = {"type": "string"}
    name: Schema = {"type": "string", "minLength": 1, "maxLength": MOST_NAME}
    whole: Schema = {"type": "integer"}
    free: Schema = {"type": "object"}
    kinds: Schema = {"type": "string", "enum": [*DTYPES, "BYTES"]}
    data: Schema = {"type": "array", "description": "Flat, or nested as the shape says."}
    dims = _list({"type": "integer", "minimum": 1}, maxItems=MOST_RANK)
    declared = _object(("name", "datatype", "shape"), name=text, datatype=text, shape=_list(whole))
    tensor = _object(("name", "datatype", "shape", "data"), name=name, datatype=kinds, shape=dims,
                     data=data, parameters=free)  # fmt: skip
    wanted = _object(("name",), name=name, parameters=_object(binary_data={"type": "boolean"}))
    answered = _object(("name", "datatype", "shape"), name=text, datatype=kinds,
                       shape=_list(whole), data={"type": "array"}, parameters=free)  # fmt: skip
    picture = _object(("b64",), b64=text)
    chosen: Schema = {"type": ["integer", "string"]}
    return {
        "Error": _object(("error",), error=text),
        "Live": _object(("live",), live={"type": "boolean"}),
        "Ready": _object(("ready",), ready={"type": "boolean"}),
        "ModelReady": _object(("name", "ready"), name=text, ready={"type": "boolean"}),
        "Server": _object(("name", "version", "extensions"), name=text, version=text,
                          extensions=_list(text), models=_list(text)),
        "Index": _list(_object(("name", "version", "state"), name=text, version=text, state=text,
                               reason=text)),
        "Model": _object(("name", "versions", "platform", "inputs", "outputs"), name=text,
                         versions=_list(text), platform=text, inputs=_list(declared),
                         outputs=_list(declared), parameters=free),
        "Inference": _object(("inputs",), id=text, inputs=_list(tensor, minItems=1,
                             maxItems=MOST_TENSORS), outputs=_list(wanted, maxItems=MOST_TENSORS),
                             parameters=free),
        "Inferred": _object(("model_name", "model_version", "outputs"), model_name=text,
                            model_version=text, id=text, outputs=_list(answered), parameters=free),
        "Instances": _object(("instances",), instances=_list(
            _object(("image",), image=picture, target=chosen, contrast=chosen)
            | {"additionalProperties": False}, minItems=1),
            target=chosen, contrast=chosen, methods=_list(text, minItems=1), id=text,
            signature_name=text) | {"additionalProperties": False},
        "Explanations": _object(("explanations",), explanations=_list(
            _object(("class", "heatmaps"), **{"class": whole}, contrast=whole, name=text,
                    probability={"type": "number"}, heatmaps=free))),
    }  # fmt: skip
