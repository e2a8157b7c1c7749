"""The queue: what runs together, in which order, and what is dropped before it costs anything."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from backlight.engine.serve import wire
from backlight.engine.serve.pool import Pool, Settings
from backlight.engine.serve.refused import Refused, busy
from backlight.engine.serve.waiting import Batch, Item, Waiting, now


def item(key: str = "a", rows: int = 1, most: int = 4, seconds: float = 60) -> Item:
    future = asyncio.get_running_loop().create_future()
    return Item(key, rows, most, rows * 10, now() + seconds, None, future)


def queue(**how: Any) -> Waiting:
    return Waiting(**{"rows": 16, "size": 1000, "wait": 0.05, "workers": 1, **how})


def on_a_loop(run: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    """A coroutine as a test."""

    def runs() -> None:
        asyncio.run(asyncio.wait_for(run(), 20))  # type: ignore[arg-type]

    runs.__name__ = run.__name__
    runs.__doc__ = run.__doc__
    return runs


async def batches(waiting: Waiting, count: int) -> list[list[Item]]:
    return [list((await waiting.take()).items) for _ in range(count)]


@on_a_loop
async def test_rows_of_one_key_run_together_and_no_others() -> None:
    waiting = queue()
    items = [item(k) for k in "abaab"]
    for one in items:
        waiting.add([one])
    first, second = await batches(waiting, 2)
    assert first == [items[0], items[2], items[3]] and second == [items[1], items[4]]
    assert waiting.rows == 0


@on_a_loop
async def test_a_run_has_so_many_rows_at_most() -> None:
    waiting = queue()
    items = [item(rows=n) for n in (3, 2, 2, 4)]
    waiting.add(items)
    assert await batches(waiting, 3) == [items[:1], items[1:3], items[3:]]


@on_a_loop
async def test_a_full_run_waits_for_nobody() -> None:
    waiting = queue(wait=1000)
    waiting.add([item(rows=2), item(rows=2)])
    assert (await waiting.take()).rows == 4


@on_a_loop
async def test_rows_wait_for_others_within_the_bound() -> None:
    waiting = queue(wait=0.2)
    waiting.add([item()])
    taking = asyncio.create_task(waiting.take())
    await asyncio.sleep(0.01)
    waiting.add([item()])
    batch: Batch = await taking
    assert batch.rows == 2
    assert batch.held[0] > batch.held[1] > 0  # a worker was free all the time


@on_a_loop
async def test_a_worker_takes_its_share_of_what_waits() -> None:
    """One that took all would leave the other with nothing."""
    waiting = queue(workers=2, wait=0)
    waiting.add([item(most=8) for _ in range(8)])
    assert (await waiting.take()).rows == 4
    assert (await waiting.take()).rows == 2


@on_a_loop
async def test_what_was_given_up_is_dropped() -> None:
    waiting = queue(wait=0)
    gone, late, there = item(), item(seconds=-1), item()
    waiting.add([gone, late, there])
    gone.answer.cancel()
    assert (await waiting.take()).items == (there,)
    assert waiting.rows == 0
    with pytest.raises(Refused) as refused:
        late.answer.result()
    assert refused.value.status == 504


@on_a_loop
async def test_it_is_bounded_in_rows() -> None:
    waiting = queue(rows=4)
    waiting.add([item(rows=3)])
    with pytest.raises(Refused) as refused:
        waiting.add([item(), item()])  # all of a request, or nothing
    assert refused.value.status == 503 and refused.value.reason == "queue_rows"
    assert (refused.value.retry_after or 0) >= 1 and waiting.rows == 3
    waiting.add([item()])


@on_a_loop
async def test_it_is_bounded_in_bytes() -> None:
    waiting = queue(size=100)
    waiting.reserve(80)
    with pytest.raises(Refused) as refused:
        waiting.reserve(30)
    assert refused.value.reason == "queue_bytes"
    waiting.release(80)
    waiting.reserve(100)


@on_a_loop
async def test_several_workers_share_without_a_row_lost_or_doubled() -> None:
    waiting = queue(rows=10_000, workers=3, wait=0.001)
    done: list[Item] = []

    async def work() -> None:
        while True:
            batch = await waiting.take()
            await asyncio.sleep(0)
            for one in batch.items:
                one.answer.set_result(None)
                done.append(one)

    workers = [asyncio.create_task(work()) for _ in range(3)]
    items = [item(k) for k in "abc" * 300]
    for at, one in enumerate(items):
        waiting.add([one])
        if at % 7 == 0:
            await asyncio.sleep(0)
    await asyncio.gather(*(one.answer for one in items))
    for worker in workers:
        worker.cancel()
    assert len(done) == len(items) and set(done) == set(items) and waiting.rows == 0


@on_a_loop
async def test_all_that_waits_can_be_answered_at_the_end() -> None:
    waiting = queue()
    items = [item("a"), item("b")]
    waiting.add(items)
    waiting.fail_all(busy("the end", "draining"))
    assert waiting.rows == 0
    assert all(isinstance(one.answer.exception(), Refused) for one in items)


@on_a_loop
async def test_what_needs_no_waiting_is_there_at_once() -> None:
    waiting = queue(wait=1000)
    assert waiting.ripe(now()) is None
    waiting.add([item()])
    assert waiting.ripe(now()) is None
    waiting.add([item(rows=3)])
    batch = waiting.ripe(now())
    assert batch is not None and batch.rows == 4 and waiting.rows == 0


@on_a_loop
async def test_what_is_put_back_comes_before_all_that_waits() -> None:
    waiting = queue(rows=100)
    first, second, later = item("a", rows=2), item("a", rows=2), item("a", rows=4)
    waiting.add([first, second])
    batch = waiting.ripe(now())
    assert batch is not None and batch.items == (first, second)
    waiting.add([later])
    waiting.put_back(batch)
    assert waiting.rows == 8
    again = waiting.ripe(now())
    assert again is not None and again.items == (first, second)


class Linked:
    """A worker that has its runs until they are ended here."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()
        self.runs: list[tuple[Batch, asyncio.Future[Any]]] = []

    def run(self, batch: Batch) -> asyncio.Future[Any]:
        made = asyncio.get_running_loop().create_future()
        self.runs.append((batch, made))
        return made

    def ends(self, run: int) -> None:
        told = {"compute": 0, "decode": 0, "errors": {}}
        self.runs[run][1].set_result((told, {0: {}}))


async def turns() -> None:
    """What is under way on the loop comes to rest."""
    for _ in range(20):
        await asyncio.sleep(0)


def working(waiting: Waiting, count: int) -> tuple[Linked, list[Item], asyncio.Task[None]]:
    """A worker with so many runs' items before it."""
    pool = Pool(Settings(1, None, None, 0, 60), waiting, lambda *_: None, lambda _: None)
    items = [item(rows=4) for _ in range(count)]
    for one in items:
        one.payload = SimpleNamespace(job={"open": False})
        waiting.add([one])
    link = Linked()
    return link, items, asyncio.create_task(pool._work(link))  # type: ignore[arg-type]


@on_a_loop
async def test_a_worker_has_a_run_ahead_and_no_more() -> None:
    link, items, task = working(queue(wait=0), 4)
    for ended in range(4):
        await turns()
        assert len(link.runs) == min(ended + 2, 4), "what it is at, and the next"
        link.ends(ended)
        await turns()
        assert [one.answer.done() for one in items] == [at <= ended for at in range(4)]
    assert [batch.items for batch, _ in link.runs] == [(one,) for one in items]
    task.cancel()


@on_a_loop
async def test_a_run_ahead_is_handed_over_late() -> None:
    """What comes until then can be in it, and an idle worker takes what there is."""
    waiting = queue(wait=0)
    waiting.seconds_per_row = 1000
    link, items, task = working(waiting, 2)
    await turns()
    assert len(link.runs) == 1 and waiting.rows == 4
    link.ends(0)
    await turns()
    assert len(link.runs) == 2 and items[0].answer.done()
    task.cancel()


@on_a_loop
async def test_a_run_that_a_worker_had_ahead_goes_to_another() -> None:
    """It was never begun, and is no reason for the end."""
    waiting = queue(wait=0)
    link, items, task = working(waiting, 2)
    await turns()
    for _, made in link.runs:
        made.set_exception(wire.GoneError("ended"))
    await task
    assert isinstance(items[0].answer.exception(), Refused) and not items[1].answer.done()
    batch = waiting.ripe(now())
    assert batch is not None and batch.items == (items[1],)


@on_a_loop
async def test_a_worker_goes_on_before_the_answers_of_its_run_are_written() -> None:
    waiting = queue(wait=0)
    waiting.seconds_per_row = 1000
    link, items, task = working(waiting, 2)
    await turns()
    had: list[int] = []
    items[0].answer = SimpleNamespace(  # type: ignore[assignment]
        done=lambda: bool(had), set_result=lambda _: had.append(len(link.runs))
    )
    link.ends(0)
    await turns()
    assert had == [2]
    task.cancel()
