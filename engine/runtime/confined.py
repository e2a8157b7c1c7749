"""Programs that may crash, hang or take all memory, run in a process of their own with limits.

    ended = confined("backlight.engine.cli.isolated", ["check", "m.onnx"], Limits(seconds=60))

ONNX's passes and ONNX Runtime are C++: a file made for it can crash them, and Python with them, or
keep them busy for good where no Ctrl-C reaches. A process of its own ends alone. It is no sandbox:
what runs in it may read and write all that this user may.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import UsageError
from .budget import free_host, shown

__all__ = [
    "Ended",
    "Job",
    "Limits",
    "can_limit_memory",
    "command_of",
    "confined",
    "ends_with_its_parent",
    "limit_memory",
    "started",
    "told_of",
]

SECONDS = 60.0
# What Python, NumPy, ONNX and ONNX Runtime take before they have seen a model.
LEAST = 256 << 20
_POLL = 0.1
# The child writes these; nothing else of what it leaves is read.
_JOB, _BEAT, _RESULT = "job.json", "beat", "result.json"
_MOST_RESULT = 1 << 26


@dataclass(frozen=True)
class Limits:
    """seconds: without a piece of work done (`Job.beat`); where there is only one piece, in all.
    memory: bytes of private memory; None: half of what is free. Raises UsageError."""

    seconds: float = SECONDS
    memory: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.seconds < 1e7:
            raise UsageError(
                f"a limit of {self.seconds:g} seconds; expected more than 0 and below 1e7"
            )
        if self.memory is not None and self.memory < LEAST:
            raise UsageError(
                f"a memory limit of {shown(self.memory)}; expected {shown(LEAST)} or more"
            )

    @property
    def bytes(self) -> int:
        """The limit of memory as a number."""
        return max(free_host() // 2, LEAST) if self.memory is None else self.memory


@dataclass(frozen=True)
class Ended:
    """How it ended. code: its exit code; None where it was ended or crashed, and `why` says which.
    result: what it left with `Job.done`, JSON; None where it left none."""

    code: int | None
    why: str = ""
    result: Any = None


def can_limit_memory() -> bool:
    """Whether this system limits a process's memory: Linux does, Windows and macOS do not."""
    return sys.platform.startswith("linux")


def confined(
    module: str,
    arguments: Sequence[str],
    limits: Limits | None = None,
    about: Any = None,
) -> Ended:
    """Run a module that begins with `Job.begun`, under limits; arguments, about (JSON): for it.

    Its stdout, and what Python writes to stderr, go where this process's do; what C++ writes to
    stderr is dropped: a crash is told by `Ended.why` alone. With this process it ends too (Linux).
    """
    limits = limits or Limits()
    with tempfile.TemporaryDirectory(prefix="backlight-") as name:
        folder = Path(name)
        job = {"arguments": list(arguments), "memory": limits.bytes, "about": about,
               "parent": os.getpid()}  # fmt: skip
        (folder / _JOB).write_text(json.dumps(job), encoding="ascii")
        (folder / _BEAT).touch()
        process = started(command_of(module, name), stderr=_stderr())
        try:
            late = not _waited(process, folder / _BEAT, limits.seconds)
        finally:
            _end(process)
        if late:
            return Ended(None, f"nothing done in {limits.seconds:g} seconds")
        return Ended(*_told(process.returncode), _result(folder / _RESULT))


def _stderr() -> int | None:
    """Python's stderr, which need not be file 2."""
    try:
        return sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):
        return None


def command_of(module: str, *arguments: str) -> list[str]:
    """What runs a module of this package."""
    # -P: a module of the current folder, where untrusted files lie, is never imported.
    return [sys.executable, "-P", "-m", module, *arguments]


def started(command: Sequence[str], **streams: Any) -> subprocess.Popen[Any]:
    """A process with this package where this one has it. streams: as Popen takes them. A Ctrl-C at
    the terminal is for this process alone, which ends the other."""
    own = str(Path(sys.modules[__package__.split(".")[0]].__file__ or "").parent.parent)
    paths = [own, *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        process_group=0 if os.name == "posix" else None, **streams,
    )  # fmt: skip


def _waited(process: subprocess.Popen[bytes], beat: Path, seconds: float) -> bool:
    """Wait for the end; False where so many seconds bring no beat."""
    seen, last = 0, time.monotonic()
    while True:
        try:
            process.wait(timeout=min(_POLL, seconds))
            return True
        except subprocess.TimeoutExpired:
            size = beat.stat().st_size
            if size != seen:
                seen, last = size, time.monotonic()
            elif time.monotonic() - last > seconds:
                return False
        except KeyboardInterrupt:
            # It is in a group of its own: the terminal has told this process only.
            _signal(process, signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5)
            raise


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    """To it and to what it has started."""
    try:
        if os.name == "posix":
            os.killpg(process.pid, number)
        else:
            process.terminate()
    except (ProcessLookupError, PermissionError):
        pass


def _end(process: subprocess.Popen[bytes]) -> None:
    if os.name == "posix":
        _signal(process, signal.SIGKILL)
    elif process.poll() is None:
        process.kill()
    process.wait()


def _told(code: int) -> tuple[int | None, str]:
    why = told_of(code)
    return (None if why else code), why


def told_of(code: int) -> str:
    """How a process was ended or crashed, by its exit code; empty where it ended by itself."""
    if code >= 0 and not (os.name == "nt" and code > 255):
        return ""
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"exit status {code}"
    # The kernel's answer to memory that runs out for the whole machine.
    what = "it was killed" if name == "SIGKILL" else "it crashed the process that read it"
    return f"{what} ({name})"


def _result(file: Path) -> Any:
    """What the child left. It is no more to be trusted than what it has read: JSON, of a size."""
    try:
        if file.is_symlink() or not file.is_file() or file.stat().st_size > _MOST_RESULT:
            return None
        return json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


class Job:
    """The child's side: what it is to do, and what it tells."""

    def __init__(self, folder: Path) -> None:
        said = json.loads((folder / _JOB).read_text(encoding="ascii"))
        self.arguments: list[str] = said["arguments"]
        self.about: Any = said["about"]
        self.memory: int = said["memory"]
        self.parent: int = said["parent"]
        self._folder = folder

    @classmethod
    def begun(cls) -> Job:
        """For a module run by `confined`: take up the job under its limits."""
        job = cls(Path(sys.argv[1]))
        _silence_libraries()
        limit_memory(job.memory)
        ends_with_its_parent(job.parent)
        job.beat()  # to start is no part of the work
        return job

    def beat(self) -> None:
        """A piece of work is done: the clock starts again."""
        with (self._folder / _BEAT).open("ab") as file:
            file.write(b".")

    def done(self, result: Any) -> None:
        """Leave a result, JSON."""
        (self._folder / _RESULT).write_text(json.dumps(result), encoding="ascii")


def _silence_libraries() -> None:
    """stderr for Python alone: "terminate called …" of a C++ library is more than one line."""
    own = os.dup(2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    sys.stderr = os.fdopen(own, "w", encoding=sys.stderr.encoding, errors="backslashreplace",
                           buffering=1)  # fmt: skip


def limit_memory(memory: int) -> None:
    """Set the limits that the system has; those that started this process may have set less."""
    try:
        resource: Any = importlib.import_module("resource")
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Private writable memory: RLIMIT_AS counts mapped weights and CUDA's reserved addresses too.
    kind = resource.RLIMIT_DATA if can_limit_memory() else resource.RLIMIT_AS
    _, hard = resource.getrlimit(kind)
    most = memory if hard == resource.RLIM_INFINITY else min(memory, hard)
    with contextlib.suppress(ValueError, OSError):  # macOS refuses it
        resource.setrlimit(kind, (most, hard))


def ends_with_its_parent(parent: int | None = None) -> None:
    """Where the parent is killed, or its thread that started this process ends, this process goes
    too. Linux alone has that. parent: its process, which may have ended before this call: nobody
    would hear of that any more."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if parent is not None and os.getppid() != parent:
            os._exit(1)
