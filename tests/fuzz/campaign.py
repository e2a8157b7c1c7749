"""Many models or networks in workers of their own; what failed is kept, cut down to what it takes.

What is drawn from a number, and how it is kept and cut down, is a subject's: `files.Models`, or
`networks.subject.Networks`.
"""

from __future__ import annotations

import hashlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from .drive import OUTCOMES, Outcome

Request = dict[str, Any]

KEPT = 3  # files of one failure
RECYCLED = 500  # models of one worker
TOLD = ("guarded", "skip")  # no failures, but their places are counted


@dataclass(frozen=True)
class Limits:
    """Of one model: seconds of processor time (by the clock, ten times that), megabytes."""

    seconds: float = 20
    megabytes: int = 1024


class Worker:
    """A process that answers one request at a time, started when needed."""

    def __init__(self, limits: Limits, module: str = "tests.fuzz.worker") -> None:
        self.limits, self.module = limits, module
        self.process: subprocess.Popen[str] | None = None
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115  # open as long as the worker
        self._answered = 0

    def ask(self, request: dict[str, Any]) -> Outcome:
        """The outcome; a crash or a hang ends the process, and the next request starts another."""
        if self.process is None or self._answered >= RECYCLED:
            self.close()
            self._start()
        process = self.process
        assert process is not None and process.stdin is not None
        start = self._spent()
        self._said.truncate(0)
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = self._line(start)
        except BrokenPipeError:
            line = ""
        self._answered += 1
        if line:
            return Outcome(**json.loads(line))
        hung = line is None
        code = self._end(hung)
        self._said.seek(0)
        trace = self._said.read()[-6000:]
        place = next((t.strip() for t in trace.splitlines() if "/export/" in t), "")
        kind = "hang" if hung else "crash"
        if not hung and ("bad_alloc" in trace or "MemoryError" in trace or code == -signal.SIGKILL):
            kind = "memory"
        return Outcome(kind, "", "" if hung else f"exit status {code}", place, trace)

    def _start(self) -> None:
        self._answered = 0
        command = [sys.executable, "-m", self.module, str(self.limits.megabytes)]
        one = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        path = os.pathsep.join(filter(None, sys.path))
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, text=True,
            env={**os.environ, **one, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C is for who asks
        )  # fmt: skip
        assert self.process.stdout is not None
        if not self.process.stdout.readline():
            self._said.seek(0)
            raise RuntimeError(f"the worker didn't start: {self._said.read()[-2000:]}")

    def _spent(self) -> float:
        """Seconds of processor time of the process so far."""
        assert self.process is not None
        try:
            stat = Path(f"/proc/{self.process.pid}/stat").read_text()
        except OSError:
            return 0.0
        user, system = stat.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def _line(self, start: float) -> str | None:
        """A reply; "" where the process has ended, None where it takes too long."""
        assert self.process is not None and self.process.stdout is not None
        began = time.monotonic()
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while not selector.select(timeout=1):
                late = time.monotonic() - began > 10 * self.limits.seconds
                if late or self._spent() - start > self.limits.seconds:
                    return None
        return self.process.stdout.readline()

    def _end(self, hung: bool) -> int:
        assert self.process is not None
        if hung:
            self.process.send_signal(signal.SIGUSR1)
            time.sleep(0.5)
            self.process.kill()
        code = self.process.wait()
        self.process = None
        return code

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


class Subject(Protocol):
    """What a campaign is of. module: of its worker. noun: what it counts."""

    module: str
    noun: str

    def request(self, seed: int) -> Request:
        """What a worker is asked for a number."""

    def settled(
        self, worker: Worker, request: Request, outcome: Outcome
    ) -> tuple[Request, Outcome]:
        """A failure as it is told from others, and the least that still shows it."""

    def keep(self, worker: Worker, request: Request, outcome: Outcome, folder: Path) -> Path:
        """Write what failed; the file without its ending. Its .txt is the campaign's."""

    def keep_smaller(self, worker: Worker, least: Request, outcome: Outcome, kept: Path) -> None:
        """Write the least that still fails so, beside what was kept."""


@dataclass
class Campaign:
    """A run over models. folder: for what failed; None keeps nothing."""

    subject: Subject
    limits: Limits = field(default_factory=Limits)
    folder: Path | None = None
    counts: Counter[str] = field(default_factory=Counter)
    failures: dict[str, list[int]] = field(default_factory=dict)
    told: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _over: threading.Event = field(default_factory=threading.Event)

    def run(self, seeds: range, minutes: float, workers: int) -> None:
        """Go through the seeds, for so many minutes at most, or until Ctrl-C."""
        end = time.monotonic() + 60 * minutes
        waiting = iter(seeds)
        threads = [threading.Thread(target=self._work, args=(waiting, end)) for _ in range(workers)]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except KeyboardInterrupt:  # what was found is told
            self._over.set()
            for thread in threads:
                thread.join()

    def _work(self, waiting: Iterator[int], end: float) -> None:
        worker = Worker(self.limits, self.subject.module)
        try:
            while time.monotonic() < end and not self._over.is_set():
                with self._lock:
                    seed = next(waiting, None)
                if seed is None:
                    return
                self._one(worker, seed)
        finally:
            worker.close()

    def _one(self, worker: Worker, seed: int) -> None:
        request = self.subject.request(seed)
        outcome = worker.ask(request)
        least = request
        if outcome.failed:
            least, outcome = self.subject.settled(worker, request, outcome)
        with self._lock:
            self.counts[outcome.kind] += 1
            if outcome.kind in TOLD:
                self.told[f"{outcome.kind} {outcome.place}"] += 1
            if not outcome.failed:
                return
            seeds = self.failures.setdefault(outcome.signature, [])
            seeds.append(seed)
            number = len(seeds)
        if self.folder is not None and number <= KEPT:
            self._keep(worker, request, least, outcome, first=number == 1)

    def _keep(
        self, worker: Worker, request: Request, least: Request, outcome: Outcome, first: bool
    ) -> None:
        assert self.folder is not None
        name = hashlib.sha256(outcome.signature.encode()).hexdigest()[:8]
        folder = self.folder / f"{outcome.kind}-{name}"
        folder.mkdir(parents=True, exist_ok=True)
        kept = self.subject.keep(worker, request, outcome, folder)
        about = f"{outcome.kind} in {outcome.step or '?'}: {outcome.message}\n{outcome.place}\n"
        kept.with_suffix(".txt").write_text(f"{about}\n{outcome.trace}")
        if first:
            self.subject.keep_smaller(worker, least, outcome, kept)

    def summary(self) -> str:
        """Counts, and a line per failure."""
        total = sum(self.counts.values())
        counted = ", ".join(
            f"{self.counts[k]} {k}" for k in OUTCOMES if self.counts[k] or k == "ok"
        )
        lines = [f"{total} {self.subject.noun}: {counted}"]
        for signature, seeds in sorted(self.failures.items(), key=lambda f: -len(f[1])):
            shown = ", ".join(map(str, seeds[:4])) + (" …" if len(seeds) > 4 else "")
            lines.append(f"{len(seeds):6}  {signature}  (seeds {shown})")
        for place, count in self.told.most_common(12):
            lines.append(f"{count:6}  {place}")
        return "\n".join(lines)
