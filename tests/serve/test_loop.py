"""The event loop, which answers the probes, reads and writes nothing large itself."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import orjson
import pytest

from backlight.engine.serve import answering, ask, jsons
from backlight.engine.serve.answering import Front, Limits
from backlight.engine.serve.app import app
from backlight.engine.serve.described import Declared, Described
from backlight.engine.serve.logs import Log
from backlight.engine.serve.metrics import Metrics
from backlight.engine.serve.models import Served
from backlight.engine.serve.pool import Answer
from backlight.engine.serve.waiting import Waiting

from .running import binary

SIDE = 300
IMAGE = Declared("x", "FP32", (None, 3, SIDE, SIDE))
SCORES = Declared("y", "FP32", (None, 100_000))  # an answer worth a thread
MAP = Declared("saliency_m", "FP32", (None, SIDE, SIDE))
MODEL = Described(
    plain="", explaining="", hash="", image="x", inputs=(IMAGE,), outputs=(SCORES,),
    maps={"m": MAP}, scores="y", of="y", classes=None, labels=None, batch=None, baked="",
    contrasts=False, layout="nchw", preprocess=json.dumps({"size": [SIDE, SIDE]}), most=8,
    row_elements=3 * SIDE * SIDE,
)  # fmt: skip
PICTURE = b"\xff\xd8\xff" + bytes(1 << 20)
INLINE = answering.INLINE
# What goes through memory once is as quick as the way to a thread, for longer.
ROOM = dict.fromkeys(("_finite", "concatenate"), answering.INLINE_RAW)


class Calls:
    """What ran on the loop's own thread, with the bytes that it was given or gave."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.patch, self.loop = patch, threading.get_ident()
        self.here: list[tuple[str, int]] = []
        self.apart: set[str] = set()

    def watch(self, where: Any, name: str, size: Callable[..., int]) -> None:
        """Have its calls noted."""
        real = getattr(where, name)

        def noted(*args: Any, **more: Any) -> Any:
            made = real(*args, **more)
            if threading.get_ident() == self.loop:
                self.here.append((name, size(made, *args)))
            else:
                self.apart.add(name)
            return made

        self.patch.setattr(where, name, noted)


async def worker(waiting: Waiting) -> None:
    """Answers whatever is asked."""
    while True:
        for item in (await waiting.take()).items:
            job = item.payload.job
            found: dict[str, Any] = {"target": np.zeros(item.rows, np.int64)}
            found |= {n: np.zeros((item.rows, 100_000), np.float32) for n in job["outputs"]}
            found |= {f"heatmap_{n}": [PICTURE] * item.rows for n in job["heatmaps"]}
            shape = (item.rows, SIDE, SIDE)
            found |= {f"saliency_{n}": np.zeros(shape, np.float32) for n in job["maps"]}
            if not item.answer.done():
                item.answer.set_result(Answer(found, 0, 0, 0))


async def asked(served: Any, path: str, body: bytes, headers: Mapping[str, str]) -> int:
    """POST, in this loop; the status."""
    listed = [(k.lower().encode(), v.encode()) for k, v in headers.items()]
    scope = {"type": "http", "method": "POST", "path": path, "headers": listed,
             "query_string": b"", "root_path": ""}  # fmt: skip
    pieces = [body[at : at + (1 << 18)] for at in range(0, len(body), 1 << 18)]
    sent: list[Any] = []

    async def receive() -> Any:
        if not pieces:
            await asyncio.sleep(3600)
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    async def send(message: Any) -> None:
        sent.append(message)

    await served(scope, receive, send)
    return int(sent[0]["status"])


async def on_a_front(body: bytes, headers: Mapping[str, str], path: str, calls: Calls) -> int:
    waiting = Waiting(64, 1 << 30, 0.0, 1)
    pool: Any = SimpleNamespace(ready=1)
    model = Served("m", 1, MODEL, "1", None)  # type: ignore[arg-type]
    models: Any = SimpleNamespace(get=lambda *_: model)
    with ThreadPoolExecutor(2) as threads:
        front = Front(Limits(1 << 28, 64, 1 << 30, 60, 0), models, pool, waiting,
                      Metrics(waiting, pool), Log(), threads, loaded=True)  # fmt: skip
        working = asyncio.create_task(worker(waiting))
        calls.watch(orjson, "loads", lambda _, text: len(text))
        calls.watch(orjson, "dumps", lambda made, _: len(made))
        calls.watch(jsons, "lift", lambda _, text, __: len(text))
        calls.watch(base64, "b64decode", lambda _, text: len(text))
        calls.watch(base64, "b64encode", lambda _, data: len(data))
        calls.watch(json, "dumps", lambda made, *_: len(made))
        calls.watch(np, "concatenate", lambda made, *_: made.nbytes)
        calls.watch(ask, "_finite", lambda _, __, values: values.nbytes)
        try:
            return await asked(app(front, None), path, body, headers)
        finally:
            working.cancel()


def _listed(name: str) -> tuple[bytes, dict[str, str]]:
    values = np.full((1, 3, SIDE, SIDE), 0.25).ravel().tolist()
    one = {"name": "x", "datatype": "FP32", "shape": [1, 3, SIDE, SIDE], "data": values}
    return json.dumps({"inputs": [one], "outputs": [{"name": name}]}).encode(), {}


def _texts() -> tuple[bytes, dict[str, str]]:
    text = base64.b64encode(PICTURE).decode()
    one = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [text]}
    return json.dumps({"inputs": [one], "outputs": [{"name": "heatmap_m"}]}).encode(), {}


def _instances() -> tuple[bytes, dict[str, str]]:
    text = base64.b64encode(PICTURE).decode()
    return json.dumps({"instances": [{"image": {"b64": text}}] * 3}).encode(), {}


def _rows() -> tuple[bytes, dict[str, str]]:
    image = np.zeros((16, 3, SIDE, SIDE), np.float32)
    return binary([("x", "FP32", image)], parameters={"binary_data_output": True})


def _odd() -> tuple[bytes, dict[str, str]]:
    return b'{"inputs": [' + b"null, " * 400_000 + b"1]}", {}


INFER = "/v2/models/m/infer"
LARGE: dict[str, tuple[Any, str, int, set[str]]] = {
    "numbers, scores in JSON": (
        lambda: _listed("y"), INFER, 200, {"lift", "loads", "dumps"},
    ),
    "numbers, maps in JSON": (lambda: _listed("saliency_m"), INFER, 200, {"lift", "dumps"}),
    "a picture in base64": (_texts, INFER, 200, {"loads", "b64decode"}),
    "pictures, as V1": (
        _instances, "/v1/models/m:explain", 200, {"loads", "b64decode", "b64encode", "dumps"},
    ),
    "rows for two runs": (_rows, INFER, 200, {"_finite", "concatenate"}),
    "no numbers": (_odd, INFER, 400, {"loads"}),
}  # fmt: skip


@pytest.mark.parametrize("case", LARGE)
def test_large_bodies_and_answers_are_read_and_written_elsewhere(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, path, status, elsewhere = LARGE[case]
    body, headers = made()
    calls = Calls(monkeypatch)
    assert asyncio.run(asyncio.wait_for(on_a_front(body, headers, path, calls), 60)) == status
    large = [(name, size) for name, size in calls.here if size > ROOM.get(name, INLINE)]
    assert not large
    assert elsewhere <= calls.apart


def test_what_is_written_and_decoded_is_cut_into_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread hands the interpreter over between two calls of C, never within one."""
    sizes: list[int] = []
    real, decode = orjson.dumps, base64.b64decode

    def dumps(values: Any, option: int) -> bytes:
        sizes.append(len(values))
        return real(values, option=option)

    def decoded(text: bytes, validate: bool) -> bytes:
        sizes.append(len(text))
        return decode(text, validate=validate)

    monkeypatch.setattr(orjson, "dumps", dumps)
    monkeypatch.setattr(base64, "b64decode", decoded)
    values = np.random.default_rng(0).normal(size=(3, 100_000)).astype(np.float32)
    assert json.loads(jsons.listed(values)) == json.loads(
        real(values.ravel(), option=orjson.OPT_SERIALIZE_NUMPY)
    )
    assert jsons.text_of(base64.b64encode(PICTURE), "a picture") == PICTURE
    assert len(sizes) > 20 and max(sizes) <= 1 << 18


def test_values_are_bounded() -> None:
    many = b'{"inputs": [' + b"null," * (1 << 20) + b"1]}"
    with pytest.raises(ask.bad("").__class__, match="more than 1048576 values"):
        jsons.read(many)
    numbers = b"[" + b"0.5," * (1 << 21) + b"1]"
    assert len(jsons.read(numbers).arrays[0].values) == (1 << 21) + 1
