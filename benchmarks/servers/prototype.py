"""The prototype that the server began as: Starlette on uvicorn, a bounded queue before threads that
run batches, 503 when it is full, 504 past a deadline. Nothing else: no check of what comes."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import uvicorn
from sessions import Sessions
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

ROWS, WAITING, DEADLINE = 8, 256, 30.0
CORES = min(len(os.sched_getaffinity(0)), 4)
HEADER = "inference-header-content-length"


class Queue:
    """Images that wait, for as many threads as there are cores."""

    def __init__(self, plain: str, explaining: str) -> None:
        self.sessions = [Sessions(plain, explaining, 1) for _ in range(CORES)]
        self.threads = ThreadPoolExecutor(CORES)
        self.waiting: asyncio.Queue[Any] = asyncio.Queue(WAITING)

    async def work(self, session: Sessions) -> None:
        """Batch after batch of what asks the same."""
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self.waiting.get()]
            most = max(1, min(ROWS, (self.waiting.qsize() + 1) // CORES))
            while len(batch) < most and not self.waiting.empty():
                batch.append(self.waiting.get_nowait())
            for names in {one[1] for one in batch}:
                mine = [one for one in batch if one[1] == names and not one[2].done()]
                if not mine:
                    continue
                images = np.concatenate([one[0] for one in mine])
                try:
                    found = await loop.run_in_executor(
                        self.threads, session.run, images, list(names)
                    )
                except Exception as err:
                    found = err
                at = 0
                for image, _, answer in mine:
                    rows, at = slice(at, at + len(image)), at + len(image)
                    if answer.done():
                        continue
                    if isinstance(found, Exception):
                        answer.set_exception(found)
                    else:
                        answer.set_result([values[rows] for values in found])


def read(body: bytes, header: str | None) -> tuple[Any, tuple[str, ...], bool]:
    """The image, the outputs asked for, and whether they are wanted as raw bytes."""
    size = len(body) if header is None else int(header)
    told = json.loads(body[:size])
    one = told["inputs"][0]
    flat = np.frombuffer(body[size:], "f4") if header else np.array(one["data"], "f4")
    names = tuple(o["name"] for o in told.get("outputs", ()))
    raw = told.get("parameters", {}).get("binary_data_output", False)
    return flat.reshape(one["shape"]), names, raw


def app(queue: Queue) -> Starlette:
    """The application."""

    async def health(_: Request) -> Response:
        return JSONResponse({})

    async def infer(request: Request) -> Response:
        body = await request.body()
        try:
            image, names, raw = await asyncio.to_thread(read, body, request.headers.get(HEADER))
        except (ValueError, KeyError, IndexError, TypeError):
            return JSONResponse({"error": "no request"}, 400)
        answer = asyncio.get_running_loop().create_future()
        try:
            queue.waiting.put_nowait((image, names, answer))
        except asyncio.QueueFull:
            return JSONResponse({"error": "busy"}, 503, {"Retry-After": "1"})
        try:
            found = await asyncio.wait_for(answer, DEADLINE)
        except TimeoutError:
            return JSONResponse({"error": "late"}, 504)
        names = names or tuple(queue.sessions[0].own)
        outputs: list[dict[str, Any]] = [
            {"name": name, "datatype": "FP32", "shape": list(values.shape)}
            for name, values in zip(names, found, strict=True)
        ]
        for one, values in zip(outputs, found, strict=True):
            if raw:
                one["parameters"] = {"binary_data_size": values.nbytes}
            else:
                one["data"] = values.ravel().tolist()
        head = json.dumps({"model_name": "bundled", "outputs": outputs}).encode()
        if not raw:
            return Response(head, media_type="application/json")
        whole = b"".join([head, *(values.tobytes() for values in found)])
        return Response(whole, 200, {HEADER: str(len(head))}, "application/octet-stream")

    @asynccontextmanager
    async def life(_: Starlette) -> Any:
        tasks = [asyncio.create_task(queue.work(session)) for session in queue.sessions]
        yield
        for task in tasks:
            task.cancel()

    probes = [Route(f"/v2/health/{name}", health) for name in ("live", "ready")]
    return Starlette(
        lifespan=life,
        routes=[*probes, Route("/v2/models/bundled/infer", infer, methods=["POST"])],
    )


if __name__ == "__main__":
    uvicorn.run(app(Queue(sys.argv[1], sys.argv[2])), port=int(sys.argv[3]), log_level="error")
