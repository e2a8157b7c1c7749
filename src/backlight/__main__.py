"""The command `backlight`, also as `python -m backlight`.

Does as little as possible before Ctrl-C has its handler: loading the command line takes a moment,
and Python answers a Ctrl-C in it with a traceback.
"""

from __future__ import annotations

import os

# The module behind `signal`, which loads for longer than all the rest here together.
from _signal import SIG_IGN, SIGINT, getsignal, signal  # type: ignore[import-not-found]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def main() -> None:
    """Run the command line and exit."""
    # Where it is ignored (a background job of a shell script), it stays ignored.
    if getsignal(SIGINT) != SIG_IGN:
        signal(SIGINT, _leave)
    from .engine.cli import main as run

    run()


def _leave(*_: Any) -> None:
    """Nothing is begun yet, nothing is to be tidied up."""
    os.write(2, b"backlight: interrupted\n")
    os._exit(130)


if __name__ == "__main__":
    main()
