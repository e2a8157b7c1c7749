"""The fuzzer's short run, and that it tells what it finds.

The long one, in processes of its own: python -m tests.fuzz --models 100000 --minutes 30
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import onnx
import pytest

from backlight.errors import UsageError

from . import drive
from .__main__ import replay
from .campaign import Campaign, Limits, Worker
from .drive import Outcome, Use, used
from .files import Models
from .minimise import smaller
from .mutators import KINDS, mutant
from .sources import SOURCES, drawn

# The model of a seed takes what it takes; a hang is told from a slow machine by a wide margin.
PATIENT = Limits(seconds=120, megabytes=2048)


def test_the_sources_are_valid() -> None:
    """Unchanged, nearly all of them explain themselves."""
    assert len(SOURCES) > 8
    found = []
    for seed in range(60):
        _, data, source = mutant(seed, "none")
        found.append(used(data, source.files, Use(of=source.of, wrt=source.wrt, steps=("export",))))
    assert not [o for o in found if o.failed]
    assert sum(o.kind == "ok" for o in found) >= 55


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_few_models_of_each_kind(kind: str) -> None:
    for seed in range(6):
        _, data, source = mutant(seed, kind)
        outcome = used(data, source.files, Use.drawn(seed, source.of, source.wrt))
        assert not outcome.failed, f"seed {seed}, {kind}: {outcome.message}\n{outcome.trace}"


def test_a_model_is_drawn_from_its_number() -> None:
    for seed in (3, 17, 40):
        kind, data, source = mutant(seed)
        again = mutant(seed)
        assert (kind, data, source.of) == (again[0], again[1], again[2].of)
        assert Use.drawn(seed, None, None) == Use.drawn(seed, None, None)
    assert mutant(1)[1] != mutant(2)[1]
    assert Use.of_dict(json.loads(json.dumps(Use().to_dict()))) == Use()


def _raising(err: BaseException) -> None:
    raise err


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (UsageError("a class that isn't there"), "refusal"),
        (AssertionError(), "traceback"),
        (ZeroDivisionError("division by zero"), "traceback"),
        (MemoryError("Unable to allocate 15 GiB"), "memory"),
        (UsageError(""), "flood"),
    ],
)
def test_what_is_raised_is_told_apart(
    monkeypatch: pytest.MonkeyPatch, raised: BaseException, kind: str
) -> None:
    monkeypatch.setitem(drive.STEPS, "export", lambda model, use: _raising(raised))
    outcome = used(b"", {}, Use(steps=("export",)))
    assert outcome.kind == kind and outcome.failed == (kind != "refusal")


def test_memory_behind_a_refusal_is_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(model: object, use: object) -> None:
        try:
            raise MemoryError("Unable to allocate 15 GiB")
        except MemoryError as err:
            raise UsageError("the model is broken") from err

    monkeypatch.setitem(drive.STEPS, "export", refused)
    assert used(b"", {}, Use(steps=("export",))).kind == "memory"


@pytest.mark.skipif(sys.platform != "linux", reason="limits by Linux's /proc")
def test_a_worker_that_ends_is_a_crash_and_one_that_hangs_a_hang() -> None:
    worker = Worker(PATIENT)
    try:
        assert not worker.ask({"seed": 0, "only": "none"}).failed
        assert worker.process is not None
        os.kill(worker.process.pid, signal.SIGSEGV)
        crash = worker.ask({"seed": 0, "only": "none"})
        assert crash.kind == "crash" and str(-signal.SIGSEGV) in crash.message
        assert not worker.ask({"seed": 0, "only": "none"}).failed  # another one is started
        os.kill(worker.process.pid, signal.SIGSTOP)
        worker.limits = Limits(seconds=0.1)
        assert worker.ask({"seed": 0, "only": "none"}).kind == "hang"
    finally:
        worker.close()


def test_a_campaign_keeps_what_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(worker: Worker, request: dict[str, object]) -> Outcome:
        return Outcome("traceback", "export", "boom", "f:1", "…")

    monkeypatch.setattr(Worker, "ask", ask)
    campaign = Campaign(Models("none"), PATIENT, tmp_path)
    campaign.run(range(5), minutes=10, workers=1)
    assert campaign.counts["traceback"] == 5 and list(campaign.failures.values()) == [[*range(5)]]
    (folder,) = tmp_path.iterdir()
    kept = {p.name for p in folder.iterdir() if p.suffix in (".onnx", ".json", ".txt")}
    assert {"seed-0.onnx", "seed-0.json", "seed-0.txt", "seed-2.onnx", "smaller.onnx"} <= kept
    assert "seed-3.onnx" not in kept
    assert (folder / "seed-0.onnx").read_bytes() == mutant(0, "none")[1]
    assert "5 models: 0 ok" in campaign.summary() and "f:1" in campaign.summary()
    assert replay([folder / "seed-0.onnx"], PATIENT) == 1
    monkeypatch.setattr(Worker, "ask", lambda worker, request: Outcome("ok"))
    assert replay([folder / "seed-0.onnx", folder / "smaller.onnx"], PATIENT) == 0


def test_a_model_is_cut_down() -> None:
    import random

    data = drawn(random.Random(7)).model.SerializeToString()

    def has_nodes(candidate: bytes) -> bool:
        model = onnx.ModelProto()
        model.ParseFromString(candidate)
        return len(model.graph.node) > 0

    small = onnx.ModelProto()
    small.ParseFromString(smaller(data, has_nodes))
    assert len(small.graph.node) == 1
    assert not small.graph.input and not small.graph.initializer
    assert smaller(b"no model", has_nodes) == b"no model"
