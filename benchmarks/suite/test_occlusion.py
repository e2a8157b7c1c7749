"""Claims: incremental occlusion is exact and faster than dense, drill-down faster still
(benchmarks.incremental, benchmarks.drilldown)."""

from __future__ import annotations

import pytest

from backlight.engine.masked.occlusion import Occlusion
from backlight.engine.masked.scoring import Scorer
from backlight.engine.photos import images

from .conftest import THREADS


@pytest.mark.parametrize("method", ["dense", "incremental", "drilldown"])
def test_occlusion(benchmark, model, photo, method):
    """Window 16, stride 16: a sixteenth of the windows of README.md, each of them dearer."""
    benchmark.group = "occluding one photo"
    scorer = Scorer(str(model), threads=THREADS)
    record = images.fitted(scorer.preprocess, scorer.input)
    x = images.prepare(images.decode(photo), record, scorer.input).tensor[None]
    occlude = Occlusion(scorer, method=method, window=16, stride=16)
    benchmark.pedantic(occlude.measure, (x,), rounds=3, warmup_rounds=1)
