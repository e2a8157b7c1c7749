"""FISTA with a constant that is searched for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backlight.engine.targeted.fista import Search, search
from backlight.errors import RunError, UsageError


class TestSearch:
    def one(self, **how: Any) -> Any:
        """d in 0..1, reached where d > 0.5."""
        zeros = np.zeros((2, 1), np.float32)
        told: list[int] = []
        found = search(
            zeros, zeros, zeros + 1, lambda rows, d: (0.5 - d[:, 0], -np.ones_like(d)),
            Search(**how), told.append,
        )  # fmt: skip
        return found, told

    def test_it_ends_where_nothing_gets_better_and_tells_all_its_steps(self) -> None:
        found, told = self.one(patience=10)
        assert found.reached.all() and (found.d >= 0.5).all() and (found.d < 0.51).all()
        assert (found.steps < 600).all() and sum(told) == 2 * 3 * 200
        long, told = self.one(patience=600)
        assert (long.steps == 600).all() and sum(told) == 1200

    def test_a_margin_that_is_no_number_is_an_error(self) -> None:
        zeros = np.zeros((1, 1), np.float32)
        with pytest.raises(RunError, match="no finite number"):
            search(zeros, zeros, zeros + 1, lambda r, d: (d[:, 0] * np.nan, d), Search())

    @pytest.mark.parametrize(
        "wrong",
        [{"c": 0.0}, {"beta": -1.0}, {"kappa": -0.1}, {"rounds": 0}, {"steps": 0}, {"patience": 0}],
    )
    def test_settings_are_checked(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(UsageError, match=next(iter(wrong))):
            Search(**wrong)
