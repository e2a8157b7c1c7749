"""Work side by side: in order, no further ahead than said, nothing left running."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future

import numpy as np
import onnxruntime as ort
import pytest

from backlight.export import incremental
from backlight.kernels import sliding
from backlight.lanes import in_lanes

from .incremental.chains import chain


def test_side_by_side_and_in_order() -> None:
    both = threading.Barrier(2, timeout=300)  # broken if one waits for the other to end

    def work(item: int) -> int:
        both.wait()
        time.sleep(0.01 * (item % 2))
        return item * item

    assert list(in_lanes(work, range(8), 2)) == [i * i for i in range(8)]
    assert list(in_lanes(lambda i: -i, range(3), 1)) == [0, -1, -2]


def test_takes_items_as_they_are_needed() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for i in range(100):
            taken.append(i)
            yield i

    made = in_lanes(lambda i: i, items(), 2)
    assert next(made) == 0 and len(taken) == 4  # the one handed out, two lanes, one ahead
    made.close()  # type: ignore[attr-defined]
    assert len(taken) == 4
    assert not [t for t in threading.enumerate() if t.name.startswith("lane")]


def test_what_a_lane_raises_is_raised_and_the_rest_left_out() -> None:
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        if item == 1:
            raise ValueError("no")
        return item

    with pytest.raises(ValueError, match="no"):
        list(in_lanes(work, range(50), 2))
    assert len(begun) < 6
    assert not [t for t in threading.enumerate() if t.name.startswith("lane")]


def test_what_hasnt_begun_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first item is let through, the others once all that wait have been cancelled."""
    begun: list[int] = []
    left_out = threading.Event()
    cancel, cancelled = Future.cancel, [0]

    def counted(future: Future[int]) -> bool:
        done = cancel(future)
        cancelled[0] += 1
        if cancelled[0] == 50:
            left_out.set()
        return done

    def work(item: int) -> int:
        begun.append(item)
        if item:
            left_out.wait(300)  # for ever, but that a failure ends too
        return item

    monkeypatch.setattr(Future, "cancel", counted)
    made = in_lanes(work, range(60), 2, 50)
    assert next(made) == 0
    made.close()  # type: ignore[attr-defined]
    assert len(begun) <= 3
    assert not [t for t in threading.enumerate() if t.name.startswith("lane")]


@pytest.mark.parametrize("count", [None, 7, 1])
def test_a_plan_in_lanes_gives_what_it_gives_in_one(count: int | None) -> None:
    """Bit for bit where the batches are the same; each variant once in any case; a lane each even
    where few variants are wanted."""
    plan = incremental.plan(chain(3), sliding((3, 64, 64), 8, 8).boxes, (3, 64, 64))
    sessions = {
        part: ort.InferenceSession(getattr(plan, part).SerializeToString())
        for part in ("clean", "patch", "tail")
    }
    patches: list[int] = []

    def run(part: str, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        session = sessions[part]
        names = [o.name for o in session.get_outputs()]
        wanted = {i.name: feeds[i.name] for i in session.get_inputs()}
        if part == "patch":
            patches.append(threading.get_ident())
        return dict(zip(names, session.run(names, wanted), strict=True))

    image = np.random.default_rng(0).normal(size=(3, 64, 64)).astype(np.float32)
    taps = run("clean", plan.start(image, np.zeros((3, 1, 1), np.float32)))
    which = None if count is None else np.arange(0, len(plan), 3)[:count]

    def scores(lanes: int) -> dict[int, np.ndarray]:
        found: dict[int, np.ndarray] = {}
        for variants, made in plan.finish(run, taps, which, lanes=lanes):  # type: ignore[arg-type]
            assert not found.keys() & set(variants.tolist())
            found |= dict(zip(variants.tolist(), made["y"], strict=True))
        return found

    one, several = scores(1), scores(3)
    assert one.keys() == several.keys() == set(range(len(plan)) if which is None else which)
    for variant, want in one.items():
        np.testing.assert_allclose(several[variant], want, rtol=1e-5, atol=1e-6)
    patches.clear()
    list(plan.finish(run, taps, which, lanes=3))  # type: ignore[arg-type]
    assert len(patches) >= min(3, len(one))
    assert threading.get_ident() not in patches
