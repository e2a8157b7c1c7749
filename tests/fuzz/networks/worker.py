"""The process that judges networks, within limits. Reads requests, writes outcomes, as JSON lines.

{"seed": 7}    or    {"spec": {…}}
"""

from __future__ import annotations

from typing import Any

from ..drive import Outcome
from ..worker import serve
from .judge import judged
from .network import Spec, drawn


def answer(request: dict[str, Any]) -> Outcome:
    """What came of one network."""
    return judged(Spec.of_dict(request["spec"]) if "spec" in request else drawn(request["seed"]))


if __name__ == "__main__":
    serve(answer, [{"seed": 0}])
