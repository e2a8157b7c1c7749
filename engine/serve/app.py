"""REST: the Open Inference Protocol's paths, `explain`, metrics and the OpenAPI document."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .answering import INLINE, Front, Gone, Reply, told
from .bodies import Body
from .metadata import model_metadata, server_metadata
from .openapi import document
from .pictures import IN_ADDRESS, of_body, of_instances, read_instances
from .protocol import Inference, parse, written
from .refused import Refused, bad, busy, unknown
from .sizes import MAGIC
from .traced import span
from .waiting import now

__all__ = ["app"]

_HEADER = "inference-header-content-length"
_FEW = 1 << 16
_OPEN = ("/v2/health/live", "/v2/health/ready")


class Pieces(Response):
    """A body in pieces, which are not copied into one."""

    def __init__(self, pieces: list[Any], media_type: str, headers: dict[str, str]) -> None:
        size = sum(len(p) for p in pieces)
        # A copy of little is less than another turn through all that a piece goes through.
        self.pieces = pieces if size > _FEW else [b"".join(pieces)]
        super().__init__(None, 200, {**headers, "content-length": str(size)}, media_type=media_type)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        for at, piece in enumerate(self.pieces):
            last = at == len(self.pieces) - 1
            await send({"type": "http.response.body", "body": piece, "more_body": not last})


def _refusal(error: Refused, more: Mapping[str, str] | None = None) -> JSONResponse:
    headers = dict(more or {})
    if error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(told(error), error.status, headers)


class Endpoints:
    """What is behind the paths."""

    def __init__(self, front: Front) -> None:
        self.front = front

    async def live(self, _: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(self, _: Request) -> Response:
        ready = self.front.ready
        return JSONResponse({"ready": ready}, 200 if ready else 503)

    async def server(self, _: Request) -> Response:
        return JSONResponse(server_metadata(self.front.models))

    async def index(self, _: Request) -> Response:
        state = "READY" if self.front.ready else "UNAVAILABLE"
        return JSONResponse(
            [{"name": m.name, "version": str(m.version), "state": state, "reason": ""}
             for m in self.front.models]
        )  # fmt: skip

    def _model(self, request: Request) -> Any:
        where = request.path_params
        if not self.front.loaded:
            raise busy("the models are being loaded", "not_ready", 2)
        return self.front.models.get(where["model"], where.get("version"))

    async def model(self, request: Request) -> Response:
        return JSONResponse(model_metadata(self._model(request)))

    async def model_ready(self, request: Request) -> Response:
        name = self._model(request).name
        ready = self.front.ready
        return JSONResponse({"name": name, "ready": ready}, 200 if ready else 503)

    async def v1_model(self, request: Request) -> Response:
        name = self._model(request).name
        return JSONResponse({"name": name, "ready": self.front.ready})

    async def infer(self, request: Request) -> Response:
        return await self._answered(request, self._infer, explains=False)

    async def explain(self, request: Request) -> Response:
        return await self._answered(request, self._infer, explains=True)

    async def v1_other(self, request: Request) -> Response:
        name, verb = self._model(request).name, request.path_params["verb"]
        raise unknown(f"'{name}:{verb[:40]}'; V1 has {name}:explain alone, scores are V2's infer")

    async def v1_explain(self, request: Request) -> Response:
        return await self._answered(request, self._v1, explains=True)

    async def metrics(self, _: Request) -> Response:
        text, kind = self.front.metrics.text()
        return Response(text, headers={"content-type": kind})

    async def openapi(self, _: Request) -> Response:
        return JSONResponse(document(self.front.models, self.front.limits))

    async def _answered(self, request: Request, call: Any, explains: bool) -> Response:
        begun = now()
        body = Body(self.front, request)
        self.front.running += 1
        try:
            model = self._model(request)
            request.state.model = model.name
            data = await body.read()
            made: Response = await call(request, model, data, begun, explains, body)
            return made
        except Refused:
            await body.refused()
            raise
        finally:
            self.front.running -= 1
            body.release()

    async def _parsed(self, data: memoryview, request: Request) -> Inference:
        header = request.headers.get(_HEADER)
        if header is not None and not (header.isascii() and header.isdecimal()):
            raise bad(f"{_HEADER} '{header[:40]}'; expected a number of bytes")
        length = None if header is None else int(header[:20])
        if (len(data) if length is None else length) <= INLINE:
            return parse(data, length)
        made: Inference = await self.front.apart(parse, data, length)
        return made

    async def _infer(
        self, request: Request, model: Any, data: memoryview, begun: float, explains: bool,
        body: Body,
    ) -> Response:  # fmt: skip
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        # curl says of a file that it is a form, unless it is told otherwise.
        raw = explains and (kind.startswith("image/") or bytes(data[:8]).startswith(MAGIC))
        if raw:
            asked = of_body(bytes(data), request.query_params.multi_items(), model.described)
        else:
            said = [key for key in request.query_params if explains and key in IN_ADDRESS]
            if said:
                raise bad(f"'{said[0]}' in the address goes with a picture as body; of tensors, "
                          "'outputs' and 'parameters' say it")  # fmt: skip
            asked = await self._parsed(data, request)
        reply = await self.front.answer(
            model, asked, size=len(data), begun=begun, explains=explains, json=not raw,
            watch=body.watch,
        )  # fmt: skip
        request.state.rows = reply.rows
        if raw and "image/png" in request.headers.get("accept", ""):
            return _picture(reply)
        return await self._written(reply, asked.id, explains)

    async def _v1(
        self, request: Request, model: Any, data: memoryview, begun: float, explains: bool,
        body: Body,
    ) -> Response:  # fmt: skip
        asked = await self.front.apart(read_instances, data, model.described)
        reply = await self.front.answer(
            model, asked, size=len(data), begun=begun, explains=True, json=False,
            watch=body.watch,
        )  # fmt: skip
        request.state.rows = reply.rows
        told: Response = await self.front.apart(lambda: JSONResponse(of_instances(reply)))
        return told

    async def _written(self, reply: Reply, name: str | None, explains: bool) -> Response:
        head: dict[str, Any] = {
            "model_name": reply.served.name, "model_version": str(reply.served.version)
        }  # fmt: skip
        if name is not None:
            head["id"] = name
        if explains:
            more = {"labels": reply.names, "probabilities": reply.probabilities}
            head["parameters"] = {k: v for k, v in more.items() if v is not None}
        listed = sum(tensor.size for tensor, binary in reply.tensors if not binary)
        if listed > INLINE:
            pieces, length = await self.front.apart(written, head, reply.tensors)
        else:
            pieces, length = written(head, reply.tensors)
        if length is None:
            return Pieces(pieces, "application/json", {})
        return Pieces(pieces, "application/octet-stream", {_HEADER: str(length)})


def _picture(reply: Reply) -> Response:
    """The first heat map as a picture."""
    for tensor, _ in reply.tensors:
        if isinstance(tensor.values, list) and tensor.values:
            return Response(tensor.values[0], media_type="image/png")
    raise bad("no heat map is among the outputs asked for")


class Guarded:
    """Around the paths: the token, errors as one line of JSON, traces, metrics and logs."""

    def __init__(self, inner: ASGIApp, front: Front, token: str | None) -> None:
        self.inner, self.front, self.token = inner, front, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.inner(scope, receive, send)
            return
        begun, status = now(), 0
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        state: dict[str, Any] = scope.setdefault("state", {})
        with span("backlight", headers) as trace:

            async def sent(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                    if trace is not None:
                        header = (b"traceparent", trace.header.encode("ascii"))
                        message = {**message, "headers": [*message.get("headers", ()), header]}
                await send(message)

            reason = error = None
            try:
                self._check(scope["path"], headers)
                scope["app"] = self  # for the router: it raises what it refuses
                await self.inner(scope, receive, sent)
            except (Refused, HTTPException) as err:
                refused = err if isinstance(err, Refused) else _of_router(err)
                reason, error = refused.reason, str(refused)
                headers_of = err.headers if isinstance(err, HTTPException) else None
                await _refusal(refused, headers_of)(scope, receive, sent)
            except Gone:
                reason, status = "cancelled", 499
            except Exception as err:
                reason = "internal"
                self.front.log.failure(err, path=scope["path"])
                if status == 0:
                    await JSONResponse({"error": "internal error"}, 500)(scope, receive, sent)
            self._note(scope, state, status, reason, error, now() - begun,
                       None if trace is None else trace.trace)  # fmt: skip

    def _check(self, path: str, headers: Mapping[str, str]) -> None:
        if self.token is None or path in _OPEN:
            return
        given = headers.get("authorization", "")
        wanted = f"Bearer {self.token}"
        if not hmac.compare_digest(given.encode("utf-8"), wanted.encode("utf-8")):
            raise Refused(401, "token", "a bearer token is needed")

    def _note(
        self, scope: Scope, state: Mapping[str, Any], status: int, reason: str | None,
        error: str | None, seconds: float, trace: str | None,
    ) -> None:  # fmt: skip
        endpoint = getattr(scope.get("endpoint"), "__name__", "other")
        self.front.metrics.request(endpoint, status, seconds)
        if reason is not None:
            self.front.metrics.rejected(reason)
        if scope["path"] in (*_OPEN, "/metrics"):
            return
        self.front.log.event(
            "request", method=scope["method"], path=scope["path"][:300], status=status,
            ms=round(1000 * seconds, 3), model=state.get("model"), rows=state.get("rows"),
            reason=reason, error=error, trace_id=trace,
        )  # fmt: skip


def _of_router(err: HTTPException) -> Refused:
    """What the router refuses: a path or method that isn't there."""
    if err.status_code == 405:
        allowed = (err.headers or {}).get("Allow", "another")
        return Refused(405, "method", f"this path takes {allowed}")
    return Refused(err.status_code, "unknown", "no such path; /openapi.json lists them")


def app(front: Front, token: str | None) -> ASGIApp:
    """The application."""
    at = Endpoints(front)
    get, post = ["GET"], ["POST"]
    one = "/v2/models/{model}"
    routes: list[tuple[str, Callable[[Request], Awaitable[Response]], list[str]]] = []
    # They are tried in turn: what is asked most often comes first.
    for place in (one, f"{one}/versions/{{version}}"):
        routes += [
            (f"{place}/infer", at.infer, post),
            (f"{place}/explain", at.explain, post),
            (f"{place}/ready", at.model_ready, get),
            (place, at.model, get),
        ]
    routes += [
        ("/v1/models/{model}:explain", at.v1_explain, post),
        ("/v1/models/{model}:{verb}", at.v1_other, post),
        ("/v1/models/{model}", at.v1_model, get),
        ("/v2", at.server, get),
        ("/v2/health/live", at.live, get),
        ("/v2/health/ready", at.ready, get),
        ("/v2/models", at.index, get),
        ("/v2/repository/index", at.index, post),
        ("/metrics", at.metrics, get),
        ("/openapi.json", at.openapi, get),
    ]
    # A slash at the end is no other path, and no reason for a redirect to a body's sender.
    inner = Router(
        [Route(path, call, methods=methods) for path, call, methods in routes],
        redirect_slashes=False,
    )
    return Guarded(inner, front, token)
