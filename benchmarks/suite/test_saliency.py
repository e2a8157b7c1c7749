"""Claim: an explanation costs one more forward pass, three rules three (benchmarks.saliency)."""

from __future__ import annotations

import pytest

from .conftest import RULES


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("rules", [(), ("vanilla",), ("deconv",), ("guided",), RULES], ids="+".join)
def test_saliency_against_scoring(benchmark, model, explaining, running, rules, batch):
    benchmark.group = f"saliency against scoring, batch {batch}"
    benchmark(running(explaining(*rules) if rules else model, batch))
