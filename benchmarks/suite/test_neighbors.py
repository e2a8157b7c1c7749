"""Claim: exact neighbours within 1.2 times faiss's flat index (benchmarks.embed)."""

from __future__ import annotations

import numpy as np
import pytest

from backlight.engine.similar.neighbors import Index

COUNT, WIDTH = 100_000, 512


@pytest.fixture(scope="module")
def rows():
    values = np.random.default_rng(0).standard_normal((COUNT, WIDTH), dtype=np.float32)
    return np.maximum(values, 0)


@pytest.mark.parametrize("asked", [1, 64])
@pytest.mark.parametrize("side", ["faiss", "auto", "numpy"])
def test_neighbors(benchmark, rows, side, asked):
    faiss = pytest.importorskip("faiss", reason="pip install '.[maps]'")
    benchmark.group = f"8 neighbours of {asked}"
    queries = rows[:asked] + np.float32(0.1)
    if side == "faiss":
        flat = faiss.IndexFlatL2(WIDTH)
        flat.add(rows)
        benchmark.pedantic(flat.search, (queries, 8), rounds=5, warmup_rounds=1)
        return
    index = Index(rows, "l2", side)
    benchmark.pedantic(index.search, (queries, 8), rounds=5, warmup_rounds=1)
