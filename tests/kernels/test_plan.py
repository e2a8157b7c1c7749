"""Plans: frozen, compact, and selected from."""

import dataclasses

import numpy as np
import pytest

from backlight.kernels import rise, sliding


def test_plans_are_frozen_and_compact():
    plan = rise((3, 224, 224), 4000)
    assert plan.grids.nbytes + plan.shifts.nbytes < 300_000
    with pytest.raises(ValueError, match="read-only"):
        plan.grids[0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.probability = 1


def test_select_takes_windows_by_index_or_by_mask():
    plan = sliding((1, 8, 8), 4, 2)
    assert plan.select([4, 0]).boxes.tolist() == plan.boxes[[4, 0]].tolist()
    assert len(plan.select(np.arange(9) > 6)) == 2
    assert plan.select([1]).counts is None
