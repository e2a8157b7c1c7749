"""What hostile models do to the process that reads them, done on purpose: for test_isolated.py.

`python -m tests.engine.hostile FOLDER` is a stand-in for the child of `isolated`: the name of its
model says what happens as it is read.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def crash(_: str) -> None:
    os.write(2, b"terminate called after throwing an instance of 'std::bad_alloc'\n")
    ctypes.string_at(0)


def abort(_: str) -> None:
    os.write(2, b"free(): invalid pointer\n")
    os.abort()


def hang(model: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What it leaves behind is told by the model from what others leave at the same time.
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "left behind", model])
    time.sleep(60)


def fill(_: str) -> None:
    held = []
    while True:
        held.append(b"x" * (64 << 20))


def bug(_: str) -> None:
    raise IndexError("tuple index out of range\nand more")


def leave(_: str) -> None:
    os._exit(0)


DEEDS: dict[str, Callable[[str], None]] = {
    f.__name__: f for f in (crash, abort, hang, fill, bug, leave)
}


def hostile(real: Callable[..., Any]) -> Callable[..., Any]:
    """`read` of a model that does what its name says."""

    def read(model: Any) -> Any:
        deed = DEEDS.get(Path(model).stem) if isinstance(model, str) else None
        if deed is not None:
            deed(model)
        return real(model)

    return read


if __name__ == "__main__":
    from backlight.engine.cli import isolated as command
    from backlight.engine.runtime import isolated as function
    from backlight.export import check, graph

    graph.read = hostile(graph.read)
    check.read = hostile(check.read)
    if json.loads((Path(sys.argv[1]) / "job.json").read_text())["about"] is None:
        command.child()
    else:
        function.child()
