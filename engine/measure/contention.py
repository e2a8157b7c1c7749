"""Other work on the same cores, as production has it: a process that keeps them busy."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ...errors import RunError
from ...lanes import cores

__all__ = ["busy"]

# Hashing large blocks leaves Python's lock to the others. It ends with the process that asked.
_CHILD = """
import hashlib, os, sys, threading, time
block, parent = bytes(1 << 20), int(sys.argv[2])
def work():
    while True:
        hashlib.sha256(block).digest()
for _ in range(int(sys.argv[1])):
    threading.Thread(target=work, daemon=True).start()
print("busy", flush=True)
while os.getppid() == parent:
    time.sleep(0.2)
"""
_WARM = 0.3  # seconds, until the scheduler has spread it


@contextmanager
def busy(count: int | None = None) -> Iterator[int]:
    """Meanwhile a second process keeps `count` cores busy (None: all that this one may use); its
    process id. Raises RunError where it can't start."""
    command = [sys.executable, "-c", _CHILD, str(count or cores()), str(os.getpid())]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert child.stdout is not None
        if child.stdout.readline().strip() != b"busy":
            raise RunError("the process that keeps the cores busy did not start")
        time.sleep(_WARM)
        yield child.pid
    finally:
        child.kill()
        child.communicate()
