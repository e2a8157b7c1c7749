"""What REST and gRPC share: a parsed request in, tensors out, and everything that may come between:
a full queue, a deadline, a caller who has gone, a worker that ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .ask import Asked, Part, asked
from .logs import Log
from .metrics import Metrics
from .models import Models, Served
from .pool import Answer, Pool
from .protocol import Inference
from .refused import Refused, bad, busy, late
from .tensors import Tensor, datatype_of
from .waiting import Item, Waiting, now

__all__ = ["Front", "Gone", "Limits", "Reply"]

# Work on the event loop that takes longer than this many bytes of it goes to a thread.
INLINE = 1 << 15
INLINE_RAW = 1 << 21


# Given what to call when a request's caller goes away, has it called; gives what ends that.
Watch = Callable[[Callable[[], None]], Callable[[], Any]]


class Gone(Exception):  # noqa: N818  # nobody is left to be answered
    """The caller has gone."""


@dataclass(frozen=True)
class Limits:
    """body: bytes of a request. rows, size: of the queue. deadline: seconds. memory: bytes that
    the rows of one run may take, 0: unlimited."""

    body: int
    rows: int
    size: int
    deadline: float
    memory: int


@dataclass(frozen=True)
class Reply:
    """What is answered. tensors: each with whether it is wanted as raw bytes. names,
    probabilities: of the classes that were explained, where they are known."""

    served: Served
    tensors: tuple[tuple[Tensor, bool], ...]
    rows: int
    names: list[str] | None = None
    probabilities: list[float] | None = None


@dataclass
class Front:
    """The server's state, as its requests see it."""

    limits: Limits
    models: Models
    pool: Pool
    waiting: Waiting
    metrics: Metrics
    log: Log
    threads: ThreadPoolExecutor
    # Bodies that are read at once.
    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(16))
    draining: bool = False
    loaded: bool = False
    running: int = 0

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        return self.loaded and not self.draining and self.pool.ready > 0

    async def apart(self, call: Any, *args: Any) -> Any:
        """Work in a thread, off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self.threads, call, *args)

    def admit(self) -> None:
        """Whether there is any room at all. Raises Refused (503)."""
        if self.draining:
            raise busy("the server is shutting down", "draining", 5)
        if not self.loaded or not self.pool.ready:
            raise busy("no worker is ready", "not_ready", 2)
        self.waiting.check(1)

    async def answer(
        self, served: Served, request: Inference, *, size: int, begun: float,
        explains: bool = False, json: bool = True, watch: Watch | None = None,
        most: float | None = None,
    ) -> Reply:  # fmt: skip
        """Run a request. size: its bytes; begun: when it came; watch: tells when its caller goes
        away; most: seconds that its caller waits. Raises Refused, Gone."""
        own = float("inf") if most is None else most
        deadline = begun + min(self.limits.deadline, _timeout(request.parameters), own)

        def checked() -> Asked:
            return asked(
                request, served.described, served, room=self.limits.rows,
                memory=self.limits.memory, explains=explains, json=json,
            )  # fmt: skip

        with served.used():
            room = INLINE if _has_text(request) else INLINE_RAW
            plan = checked() if size < room else await self.apart(checked)
            loop = asyncio.get_running_loop()
            items = [self._item(part, plan, deadline, loop) for part in plan.parts]
            self.waiting.add(items)
            try:
                answers = await self._waited(items, deadline, watch)
            except BaseException:
                for item in items:
                    item.answer.cancel()
                self.waiting.sweep()
                raise
        if len(answers) > 1:  # to be joined
            joined: Reply = await self.apart(_reply, served, plan, answers)
            return joined
        return _reply(served, plan, answers)

    def _item(
        self, part: Part, plan: Asked, deadline: float, loop: asyncio.AbstractEventLoop
    ) -> Item:
        return Item(plan.key, part.rows, plan.most, part.size, deadline, part.payload,
                    loop.create_future())  # fmt: skip

    async def _waited(
        self, items: list[Item], deadline: float, watch: Watch | None
    ) -> list[Answer]:
        def ended(error: Exception) -> None:
            for item in items:
                if not item.answer.done():
                    item.answer.set_exception(error)

        left = max(deadline - now(), 0)
        timer = asyncio.get_running_loop().call_later(left, ended, late("its deadline passed"))
        unwatch = None if watch is None else watch(lambda: ended(Gone()))
        try:
            if len(items) == 1:
                return [await items[0].answer]
            return list(await asyncio.gather(*(item.answer for item in items)))
        finally:
            timer.cancel()
            if unwatch is not None:
                unwatch()


def _has_text(request: Inference) -> bool:
    """Whether there are pictures as text in it, which are decoded when it is checked."""
    return any(
        isinstance(tensor.values, list) and "binary_data_size" not in tensor.parameters
        for tensor in request.inputs.values()
    )


def _timeout(parameters: Mapping[str, Any]) -> float:
    """Seconds, of Triton's parameter `timeout` in microseconds. Raises Refused."""
    given = parameters.get("timeout")
    if given is None:
        return float("inf")
    if type(given) is not int or given < 0:
        raise bad("parameter 'timeout' is no number of microseconds")
    return given / 1e6 if given else float("inf")


def _reply(served: Served, plan: Asked, answers: list[Answer]) -> Reply:
    model = served.described
    own = {one.name: one for one in model.outputs}
    found: list[tuple[Tensor, bool]] = []
    for wanted in plan.outputs:
        parts = [a.outputs[wanted.name] for a in answers]
        if isinstance(parts[0], list):
            pictures = [png for part in parts for png in part]
            tensor = Tensor(wanted.name, "BYTES", (len(pictures),), pictures,
                            {"content_type": "image/png"})  # fmt: skip
        else:
            whole = wanted.name in own and not own[wanted.name].rows
            values = parts[0] if len(parts) == 1 or whole else np.concatenate(parts)
            tensor = Tensor(wanted.name, datatype_of(values.dtype), values.shape, values)
        found.append((tensor, wanted.binary))
    names, chances = None, None
    if all("target" in a.outputs for a in answers):
        chosen = [int(c) for a in answers for c in a.outputs["target"]]
        if model.labels is not None and max(chosen) < len(model.labels):
            names = [model.labels[c] for c in chosen]
        if all("target probability" in a.outputs for a in answers):
            chances = [float(p) for a in answers for p in a.outputs["target probability"]]
    return Reply(served, tuple(found), plan.rows, names, chances)


def told(refused: Refused) -> dict[str, str]:
    """An error's body."""
    return {"error": str(refused)}
