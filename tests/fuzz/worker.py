"""The process that uses models, within limits. Reads requests, writes outcomes, as lines of JSON.

    {"seed": 7, "only": null}    or    {"file": "7.onnx", "use": {…}, "aside": ["w.data"]}

Run by `campaign.py`; a crash of a library ends this process and no other.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import signal
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

# The tables of tests want PyTorch for their oracles alone; here it would only cost memory.
if __name__ == "__main__":
    sys.modules["torch"] = None  # type: ignore[assignment]

from .drive import Outcome, Use, used
from .mutators import mutant


def drawn(request: dict[str, Any]) -> tuple[str, bytes, dict[str, bytes], Use]:
    """The model that a request means, and how to use it."""
    if "file" in request:
        path = Path(request["file"])
        files = {n: (path.parent / n).read_bytes() for n in request.get("aside", ())}
        return "file", path.read_bytes(), files, Use.of_dict(request.get("use", {}))
    kind, data, source = mutant(request["seed"], request.get("only"))
    return kind, data, source.files, Use.drawn(request["seed"], source.of, source.wrt)


def answer(request: dict[str, Any]) -> Outcome:
    """What came of one request."""
    _, data, files, use = drawn(request)
    return used(data, files, use)


def _limit_memory(megabytes: int) -> None:
    """So many above what the process has now, loaded and warm."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + (megabytes << 20)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def serve(answer: Callable[[dict[str, Any]], Outcome], warm: Iterable[dict[str, Any]]) -> None:
    """Answer requests until the input ends. warm: what to try before memory is limited."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no reply
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=False)  # where a hang hangs
    warnings.simplefilter("ignore")
    for request in warm:
        answer(request)
    _limit_memory(int(sys.argv[1]))
    print("{}", file=replies, flush=True)
    for line in sys.stdin:
        print(json.dumps(asdict(answer(json.loads(line)))), file=replies, flush=True)


if __name__ == "__main__":
    serve(answer, [{"seed": seed, "only": "none"} for seed in range(3)])
