"""Whether other Python threads run while native code does."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable


def turns(call: Callable[[], object]) -> int:
    """How many turns another thread got during a call, of up to 50. No thread is made to hand over
    the interpreter for an hour: another one can only run if the call itself lets go of it."""
    steps, done = [0], threading.Event()

    def count() -> None:
        while not done.is_set():
            steps[0] += 1
            time.sleep(0)  # hands over of its own accord

    old = sys.getswitchinterval()
    thread = threading.Thread(target=count)
    sys.setswitchinterval(3600)
    try:
        thread.start()
        seen = 0
        for _ in range(50):  # a busy machine may not get to the thread at once
            before = steps[0]
            call()
            seen = steps[0] - before
            if seen:
                break
    finally:
        done.set()
        sys.setswitchinterval(old)
        thread.join()
    return seen
