"""A worker: a process that explains the shards it is told, one after the other.

It is spoken to in lines of JSON. What it is told first is what is asked (`Asked`), then shards; it
answers `ready`, `rows` as they are done, and `done` or `failed` for a shard. A process of its own,
because a picture or a model can bring down the decoder and the runtime, which are native code: the
shard is tried again, and the others are none the wiser.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import IO, Any

from ...errors import BacklightError
from ..runtime.confined import ends_with_its_parent
from .asked import Asked
from .core import Explaining
from .shards import Shard

__all__ = ["described"]


def described(explaining: Explaining) -> dict[str, Any]:
    """What a worker says of itself as it is ready."""
    return {
        "settled": explaining.settled,
        "asked_sha256": explaining.sha256,
        "notes": explaining.notes,
        "provider": explaining.explainer.session.provider,
        "providers": explaining.explainer.session.providers,
        "labels": explaining.labels,
    }


def child() -> None:
    """Serve stdin until it ends."""
    ends_with_its_parent()
    said = _own_stdout()
    try:
        explaining = Explaining(Asked.of(json.loads(sys.stdin.readline())))
    except BacklightError as err:
        _say(said, error=type(err).__name__, message=str(err))
        return
    except MemoryError:
        _say(said, error="RunError", message="out of memory; fewer --workers may fit")
        return
    _say(said, ready=described(explaining))
    for line in sys.stdin:
        told = json.loads(line)
        shard = Shard.of(told["shard"])
        try:
            done = explaining.explain(shard, Path(told["folder"]), lambda n: _say(said, rows=n))
            _say(said, done=done.record, reasons=done.reasons)
        except BacklightError as err:
            _say(said, failed=type(err).__name__, message=str(err))
        except MemoryError:
            _say(said, failed="RunError", message=f"{shard.path}: out of memory")
        except Exception as err:  # one shard's, whatever it is: the others go on
            why = f"{shard.path}: failed inside: {type(err).__name__}: {err}"
            _say(said, failed="RunError", message=why[:1000])


def _say(to: IO[str], **what: Any) -> None:
    to.write(json.dumps(what) + "\n")
    to.flush()


def _own_stdout() -> IO[str]:
    """The pipe to the driver, out of reach of libraries that print; theirs go nowhere."""
    own = os.fdopen(os.dup(1), "w", encoding="ascii")
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    return own


if __name__ == "__main__":
    child()
