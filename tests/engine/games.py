"""Games of three or four segments, and their values by the definition."""

from __future__ import annotations

import itertools
from math import factorial

import numpy as np

from .. import models
from ..export.harness import run_runtime


def shapley(values, segments):
    """By the definition, over all subsets. values: from a tuple of 0/1 to a number."""
    found = np.zeros(segments)
    for s in range(segments):
        for row in itertools.product((0, 1), repeat=segments):
            if not row[s]:
                size = sum(row)
                weight = factorial(size) * factorial(segments - size - 1) / factorial(segments)
                more = (*row[:s], 1, *row[s + 1 :])
                found[s] += weight * (values[more] - values[row])
    return found


X = models.images(2, 3, 8, 8)


def logits(x):
    model = models.tiny(tail="", output="float[N,5] scores")
    return run_runtime(model, {"x": x})["scores"].astype(np.float64)
