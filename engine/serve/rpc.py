"""gRPC: the Open Inference Protocol's service, on the same event loop, queue and models as REST."""

from __future__ import annotations

import asyncio
import hmac
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import UsageError
from .answering import Front, Gone, Reply
from .fields import bounded
from .metadata import model_metadata, server_metadata
from .proto import METHODS, SERVICE, messages
from .protocol import MOST_NAME, MOST_TENSORS, Inference, Wanted
from .refused import Refused, bad, busy
from .tensors import DTYPES, Tensor, checked_shape, elements, raw_of, raw_tensor
from .traced import span
from .waiting import now

__all__ = ["started"]

# The field of InferTensorContents that holds a datatype.
_CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents",
    "INT32": "int_contents", "INT64": "int64_contents", "UINT8": "uint_contents",
    "UINT16": "uint_contents", "UINT32": "uint_contents", "UINT64": "uint64_contents",
    "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip
_STATUS = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 404: "NOT_FOUND", 413: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED",
}  # fmt: skip
_OPEN = ("ServerLive", "ServerReady")
# Numbers that become Python's without another thread's turn.
_PIECE = 1 << 16


@dataclass
class Running:
    """A server that listens. port: where."""

    server: Any
    port: int

    async def stop(self, seconds: float) -> None:
        """End it; calls under way have so long."""
        await self.server.stop(seconds)


async def started(front: Front, token: str | None, host: str, port: int) -> Running:
    """Listen. Raises UsageError where the port is taken."""
    grpc = importlib.import_module("grpc")
    aio = importlib.import_module("grpc.aio")
    made = aio.server(
        options=[
            ("grpc.max_receive_message_length", front.limits.body),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
        ],
    )
    service = _Service(front, token, grpc)
    handlers = {name: service.handler(name) for name in METHODS}
    made.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        bound = made.add_insecure_port(address)
    except RuntimeError:
        bound = 0
    if not bound:
        raise UsageError(f"{host}:{port}: gRPC can't listen there; another --grpc-port")
    await made.start()
    return Running(made, bound)


class _Service:
    """What is behind the calls."""

    def __init__(self, front: Front, token: str | None, grpc: Any) -> None:
        self.front, self.token, self.grpc = front, token, grpc
        self.messages = messages()

    def handler(self, name: str) -> Any:
        """A call's handler."""
        call: Callable[[Any, Any], Any] = getattr(self, f"_{name}")
        asked, answered = self.messages[f"{name}Request"], self.messages[f"{name}Response"]

        async def answer(data: bytes, context: Any) -> Any:
            return await self._guarded(name, call, asked, data, context)

        # Messages are read in here: gRPC would answer what is none with UNKNOWN, and a line about
        # its own insides.
        return self.grpc.unary_unary_rpc_method_handler(
            answer, response_serializer=answered.SerializeToString
        )

    async def _guarded(
        self, name: str, call: Callable[[Any, Any], Any], asked: Any, data: bytes, context: Any
    ) -> Any:
        begun, status, reason, error = now(), "OK", None, None
        request = None
        metadata = {k: v for k, v in context.invocation_metadata() or () if isinstance(v, str)}
        with span(f"backlight/{name}", metadata) as trace:
            if trace is not None:
                await context.send_initial_metadata((("traceparent", trace.header),))
            try:
                self._check(name, metadata)
                request = _read(asked, data)
                return await call(request, context)
            except Refused as refused:
                status, reason, error = (
                    _STATUS.get(refused.status, "UNKNOWN"),
                    refused.reason,
                    str(refused),
                )
                more = refused.retry_after
                if more is not None:
                    context.set_trailing_metadata((("retry-after", str(more)),))
            except (Gone, asyncio.CancelledError):
                status, reason = "CANCELLED", "cancelled"
                raise
            except Exception as err:
                status, reason, error = "INTERNAL", "internal", "internal error"
                self.front.log.failure(err, call=name)
            finally:
                self._note(name, status, reason, error, now() - begun, request,
                           None if trace is None else trace.trace)  # fmt: skip
            await context.abort(getattr(self.grpc.StatusCode, status), error)

    def _check(self, name: str, metadata: Mapping[str, str]) -> None:
        if self.token is None or name in _OPEN:
            return
        given = metadata.get("authorization", "")
        if not hmac.compare_digest(given.encode("utf-8"), f"Bearer {self.token}".encode()):
            raise Refused(401, "token", "a bearer token is needed")

    def _note(
        self, name: str, status: str, reason: str | None, error: str | None, seconds: float,
        request: Any, trace: str | None,
    ) -> None:  # fmt: skip
        self.front.metrics.request(f"grpc/{name}", _number(status), seconds)
        if reason is not None:
            self.front.metrics.rejected(reason)
        if name not in _OPEN:
            model = getattr(request, "model_name", getattr(request, "name", None))
            self.front.log.event(
                "request", method="gRPC", path=name, status=status, ms=round(1000 * seconds, 3),
                model=None if model is None else model[:200], reason=reason, error=error,
                trace_id=trace,
            )  # fmt: skip

    def _model(self, name: str, version: str) -> Any:
        if not self.front.loaded:
            raise busy("the models are being loaded", "not_ready", 2)
        return self.front.models.get(name, version or None)

    async def _ServerLive(self, _: Any, __: Any) -> Any:  # noqa: N802  # the protocol's names
        return self.messages["ServerLiveResponse"](live=True)

    async def _ServerReady(self, _: Any, __: Any) -> Any:  # noqa: N802
        return self.messages["ServerReadyResponse"](ready=self.front.ready)

    async def _ModelReady(self, request: Any, _: Any) -> Any:  # noqa: N802
        self._model(request.name, request.version)
        return self.messages["ModelReadyResponse"](ready=self.front.ready)

    async def _ServerMetadata(self, _: Any, __: Any) -> Any:  # noqa: N802
        told = server_metadata(self.front.models)
        return self.messages["ServerMetadataResponse"](
            name=told["name"], version=told["version"], extensions=told["extensions"]
        )

    async def _ModelMetadata(self, request: Any, _: Any) -> Any:  # noqa: N802
        told = model_metadata(self._model(request.name, request.version))
        told.pop("parameters")
        return self.messages["ModelMetadataResponse"](**told)

    async def _ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        begun, size = now(), request.ByteSize()
        self.front.admit()
        self.front.running += 1
        self.front.waiting.reserve(size)
        try:
            model = self._model(request.model_name, request.model_version)
            asked = await self.front.apart(_parsed, request)
            left = context.time_remaining()
            reply = await self.front.answer(
                model, asked, size=size, begun=begun, json=False, most=left
            )
            return await self.front.apart(self._written, reply, request.id)
        finally:
            self.front.waiting.release(size)
            self.front.running -= 1

    def _written(self, reply: Reply, name: str) -> Any:
        made = self.messages["ModelInferResponse"](
            model_name=reply.served.name, model_version=str(reply.served.version), id=name
        )
        for tensor, _ in reply.tensors:
            made.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
            pieces, _ = raw_of(tensor)
            made.raw_output_contents.append(b"".join(pieces))
        return made


def _read(kind: Any, data: bytes) -> Any:
    """A message of a kind. Raises Refused."""
    wrong = importlib.import_module("google.protobuf.message").DecodeError
    try:
        if bounded(data, kind.DESCRIPTOR):
            return kind.FromString(data)
    except wrong:
        pass
    raise bad(f"{len(data)} bytes that are no {kind.DESCRIPTOR.name}")


def _number(status: str) -> int:
    """As HTTP would have it, for the metric that both share."""
    return {"OK": 200, "CANCELLED": 499}.get(
        status, next((n for n, name in _STATUS.items() if name == status), 500)
    )


def _parsed(request: Any) -> Inference:
    """A call's message as the request that REST's body is. Raises Refused."""
    if not request.inputs:
        raise bad("the request has no inputs; expected tensors")
    if len(request.inputs) > MOST_TENSORS or len(request.outputs) > MOST_TENSORS:
        raise bad(f"more than {MOST_TENSORS} inputs or outputs")
    raw = list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        raise bad(f"{len(raw)} raw_input_contents for {len(request.inputs)} inputs")
    inputs: dict[str, Tensor] = {}
    for at, one in enumerate(request.inputs):
        name = _name(one.name, "an input")
        if name in inputs:
            raise bad(f"input '{name}' is given twice")
        inputs[name] = _tensor(one, name, raw[at] if raw else None)
    outputs = [Wanted(_name(o.name, "an output"), True) for o in request.outputs]
    twice = next((o.name for o in outputs if [w.name for w in outputs].count(o.name) > 1), None)
    if twice is not None:
        raise bad(f"output '{twice}' is asked for twice")
    return Inference(inputs, tuple(outputs) or None, _parameters(request.parameters), request.id,
                     True)  # fmt: skip


def _name(name: str, what: str) -> str:
    if not name or len(name) > MOST_NAME:
        raise bad(f"{what} has no name of at most {MOST_NAME} characters")
    return name


def _parameters(given: Any) -> dict[str, Any]:
    return {key: getattr(one, one.WhichOneof("parameter_choice") or "string_param")
            for key, one in given.items()}  # fmt: skip


def _tensor(one: Any, name: str, raw: bytes | None) -> Tensor:
    what = f"input '{name}'"
    shape = checked_shape(one.shape, what)
    if "shared_memory_region" in one.parameters:
        raise bad(f"{what}: 'shared_memory_region' is an extension that this server lacks")
    if raw is not None:
        if one.HasField("contents"):
            raise bad(f"{what} has both contents and raw_input_contents")
        return raw_tensor(name, one.datatype, shape, memoryview(raw))
    if one.datatype not in _CONTENTS:
        raise bad(f"{what}: datatype '{one.datatype[:40]}'; accepted: {', '.join(_CONTENTS)}")
    values = getattr(one.contents, _CONTENTS[one.datatype])
    if len(values) != elements(shape):
        raise bad(f"{what}: {len(values)} elements in its contents; its shape has "
                  f"{elements(shape)}")  # fmt: skip
    if one.datatype == "BYTES":
        return Tensor(name, "BYTES", shape, list(values))
    made = np.empty(len(values), DTYPES[one.datatype])
    for at in range(0, len(made), _PIECE):
        piece = _fitting(values[at : at + _PIECE], one.datatype, what)
        made[at : at + _PIECE] = np.array(piece, made.dtype)
    return Tensor(name, one.datatype, shape, made.reshape(shape))


def _fitting(values: list[Any], datatype: str, what: str) -> list[Any]:
    dtype = DTYPES[datatype]
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        if min(values) < info.min or max(values) > info.max:
            raise bad(f"{what}: data out of range for {datatype}")
    return values
