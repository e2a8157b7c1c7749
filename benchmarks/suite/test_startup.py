"""Claims: importing and exporting are quick, and an explaining session loads within 1.5 times the
plain one's time (benchmarks.startup, benchmarks.saliency)."""

from __future__ import annotations

import subprocess
import sys

import pytest

import backlight
from backlight.engine.direct.optimized import save_optimized
from backlight.engine.runtime.session import Session
from backlight.export.saliency import explain_graph

from .conftest import RULES, THREADS


@pytest.mark.parametrize("code", ["pass", "import numpy", "import backlight"])
def test_importing(benchmark, code):
    benchmark.group = "a process that imports"
    command = [sys.executable, "-c", code]
    benchmark.pedantic(subprocess.run, (command,), {"check": True}, rounds=5, warmup_rounds=1)


@pytest.mark.parametrize("rules", [("vanilla",), RULES], ids="+".join)
def test_exporting(benchmark, model, rules):
    benchmark.group = "exporting"
    benchmark(backlight.export, model, rules)


@pytest.mark.parametrize("subject", ["plain", "vanilla", "three rules", "three rules, optimized"])
def test_loading(benchmark, model, explaining, subject, tmp_path):
    benchmark.group = "loading a session"
    path = model
    if subject == "three rules, optimized":
        path = tmp_path / "optimized.onnx"
        save_optimized(explain_graph(model, RULES, target_class="top1", lowering="cpu"), path)
    elif subject != "plain":
        path = explaining(*(RULES if subject == "three rules" else ("vanilla",)))
    benchmark.pedantic(Session, (str(path), "cpu", THREADS), rounds=7, warmup_rounds=1)
