"""The garbage collector is left as it was, whatever happens in between."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from backlight.export.heap import seldom_collected


@pytest.fixture(autouse=True)
def usual() -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(700, 10, 10)
    yield
    gc.set_threshold(*before)


@seldom_collected
def inside(then: Exception | None = None) -> tuple[int, ...]:
    if then is not None:
        raise then
    return gc.get_threshold()


def test_collections_are_far_apart_while_it_runs() -> None:
    assert inside()[0] >= 100_000
    assert gc.get_threshold() == (700, 10, 10)


def test_an_error_leaves_it_as_it_was() -> None:
    with pytest.raises(KeyError):
        inside(KeyError("x"))
    assert gc.get_threshold() == (700, 10, 10)


@pytest.mark.parametrize("theirs", [(0, 10, 10), (100_000_000, 5, 5)])
def test_what_is_off_or_farther_apart_stays(theirs: tuple[int, int, int]) -> None:
    gc.set_threshold(*theirs)
    assert inside() == theirs == gc.get_threshold()
