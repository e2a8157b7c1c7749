"""Load time and peak memory of a model, each taken in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ...errors import RunError
from .subjects import Subject

__all__ = ["loads", "peak"]

_CHILD = """
import json, resource, sys, time
import numpy as np
from backlight.engine.measure.subjects import Subject
subject, provider, threads, feeds = sys.argv[1:5]
subject = Subject.read(subject)
held = dict(np.load(feeds)) if feeds else None
start = time.perf_counter()
session = subject.opened(provider, int(threads) or None)
load = time.perf_counter() - start
held = held and {given.name: held[given.name] for given in session.inputs}
for _ in range(3 if held else 0):
    session.run(held)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
peak /= 1024 * 1024 if sys.platform == "darwin" else 1024
try:
    # Linux counts the parent's peak into a child's ru_maxrss; this it does not.
    status = open("/proc/self/status").read()
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024
except (OSError, IndexError):
    pass
print(json.dumps([1000 * load, peak]))
"""
LOADS = 3  # processes, subjects taking turns; their median counts


def _child(subject: Subject, provider: str, threads: int | None, feeds: str) -> tuple[float, float]:
    """Load time in ms and peak resident memory in MiB, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, subject.dumped(), provider, str(threads or 0), feeds],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RunError(f"a measuring process failed: {done.stderr.strip().splitlines()[-1:]}")
    load, peak = json.loads(done.stdout.splitlines()[-1])
    return float(load), float(peak)


def loads(subjects: Mapping[str, Subject], provider: str, threads: int | None) -> dict[str, float]:
    """Milliseconds until a session is ready."""
    taken: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(LOADS):
        for name, subject in subjects.items():
            taken[name].append(_child(subject, provider, threads, "")[0])
    return {name: float(np.median(values)) for name, values in taken.items()}


def peak(subject: Subject, provider: str, threads: int | None, feeds: Path) -> float:
    """Peak resident memory of three runs on what an .npz file holds, in MiB."""
    return _child(subject, provider, threads, str(feeds))[1]
