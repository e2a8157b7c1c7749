"""`backlight serve` with more than it can take: see `python -m benchmarks.serve --help`."""

from __future__ import annotations

import itertools
import os
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serve import loaded, messages, server
from tests.serve.fuzz import mutated
from tests.serve.running import Server

__all__ = ["overload", "soak"]

ROOM = 24


def overload(seconds: float) -> dict[str, Any]:
    """Ten times the clients that the queue holds rows."""
    with server("--queue-rows", str(ROOM)) as running:
        load, probes = loaded(running.port, messages()["binary", "explained"], 10 * ROOM, seconds)
        code = running.end()
    found = {
        "clients": 10 * ROOM, "queue_rows": ROOM, "statuses": dict(load.statuses),
        "lost": load.lost, "probe_max_ms": 1000 * max(probes), "exit_code": code,
        "probe_p99_ms": 1000 * float(np.quantile(probes, 0.99)),
    }  # fmt: skip
    print(f"{10 * ROOM} clients for {ROOM} rows: {dict(load.statuses)}, {load.lost} lost; probes "
          f"{found['probe_p99_ms']:.0f} ms (p99), {found['probe_max_ms']:.0f} at most")  # fmt: skip
    return found


def megabytes(pid: int) -> float:
    """A process's resident memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def mark(running: Server, minute: float) -> dict[str, Any]:
    """What is held now."""
    return {
        "minute": minute, "server_mb": megabytes(running.process.pid),
        "workers_mb": [megabytes(pid) for pid in running.workers()],
        "files": len(os.listdir(f"/proc/{running.process.pid}/fd")),
    }  # fmt: skip


def soak(minutes: float) -> dict[str, Any]:
    """Overload and mutated requests, and what is held at the end of each minute, with one client
    left: in turn ten times what the queue holds, the workers' share, and one alone."""
    every = itertools.cycle(messages().values())
    statuses: Counter[int] = Counter()
    probes: list[float] = []
    marks, lost = [], 0
    rng, seed = random.Random(0), 0
    with server("--queue-rows", str(ROOM)) as running:
        begun = time.monotonic()
        each = min(60.0, 60 * minutes)
        while (at := (time.monotonic() - begun) / 60) < minutes:
            end = begun + each * (int(60 * at / each) + 1)
            for clients, share in ((10 * ROOM, 0.5), (16, 0.35), (1, 0.15)):
                left = max(end - time.monotonic(), 1.0)
                seconds = left if clients == 1 else min(share * each, left)
                load, seen = loaded(running.port, next(every), clients, seconds)
                statuses += load.statuses
                lost += load.lost
                probes += seen
                for _ in range(rng.randint(20, 60)):
                    seed += 1
                    body, headers, path = mutated(seed)
                    statuses[running.call("POST", path, body, headers).status] += 1
            marks.append(mark(running, (time.monotonic() - begun) / 60))
            now = marks[-1]
            print(f"{now['minute']:5.1f} min: {now['server_mb']:5.0f} MB server, "
                  f"{', '.join(f'{mb:.0f}' for mb in now['workers_mb'])} workers, "
                  f"{now['files']} files; probes {1000 * max(probes):.0f} ms at most, "
                  f"{1000 * float(np.quantile(probes, 0.99)):.0f} p99; {lost} lost; "
                  f"{dict(sorted(statuses.items()))}", flush=True)  # fmt: skip
        failures = running.events("failure") + running.events("worker")
        code = running.end()
    held = [m["server_mb"] + sum(m["workers_mb"]) for m in marks]
    print(f"memory at the end of each minute: {', '.join(f'{mb:.0f}' for mb in held)} MB; "
          f"{sum(statuses.values())} answers, {statuses[503]} of them 503, {lost} lost; longest "
          f"probe {1000 * max(probes):.0f} ms; {len(failures)} failures; exit code {code}",
          flush=True)  # fmt: skip
    return {
        "minutes": minutes, "marks": marks, "statuses": dict(statuses), "lost": lost,
        "probe_max_ms": 1000 * max(probes), "probe_p99_ms": 1000 * float(np.quantile(probes, 0.99)),
        "failures": failures, "exit_code": code,
    }  # fmt: skip
