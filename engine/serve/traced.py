"""W3C trace context: a caller's trace goes on through the server. https://www.w3.org/TR/trace-context

With opentelemetry-api installed (and an SDK set up by whoever runs the server), each request is a
span of that trace; without it the identifiers are handed on and logged.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

__all__ = ["Trace", "span"]

_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


@dataclass(frozen=True)
class Trace:
    """A place in a trace. trace, span: in hexadecimal; flags: of the caller."""

    trace: str
    span: str
    flags: str

    @classmethod
    def of(cls, parent: str | None) -> Trace | None:
        """This server's place below a caller's `traceparent`; None for none, and for what is no
        such header."""
        found = None if parent is None else _PARENT.fullmatch(parent.strip())
        if found is None or found[1] == "ff" or set(found[2]) == {"0"} or set(found[3]) == {"0"}:
            return None
        if found[1] == "00" and found[5]:
            return None
        return cls(found[2], secrets.token_hex(8), found[4])

    @property
    def header(self) -> str:
        """As `traceparent`."""
        return f"00-{self.trace}-{self.span}-{self.flags}"


@cache
def _telemetry() -> Any:
    if importlib.util.find_spec("opentelemetry") is None:
        return None
    try:
        return (importlib.import_module("opentelemetry.trace"),
                importlib.import_module("opentelemetry.propagate"))  # fmt: skip
    except ImportError:
        return None


@contextmanager
def span(name: str, headers: Mapping[str, str]) -> Iterator[Trace | None]:
    """A request's span, and its place in the caller's trace."""
    own = Trace.of(headers.get("traceparent"))
    found = _telemetry()
    if found is None or own is None:
        yield own
        return
    trace, propagate = found
    context = propagate.extract(dict(headers))
    with trace.get_tracer("backlight").start_as_current_span(name, context=context) as current:
        made = current.get_span_context()
        # Without an SDK it is the caller's own span that comes back.
        if made.is_valid and current.is_recording():
            yield Trace(f"{made.trace_id:032x}", f"{made.span_id:016x}",
                        f"{int(made.trace_flags):02x}")  # fmt: skip
        else:
            yield own
