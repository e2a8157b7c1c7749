"""Logs: an object of JSON a line, on stderr. Of a request what it was and what came of it; nothing
of the pictures, tensors and labels in it."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import IO, Any

__all__ = ["Log"]


class Log:
    """Lines to a stream; None: stderr."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream = stream

    def event(self, event: str, level: str = "info", **fields: Any) -> None:
        """Write a line: time, level, event, and the fields that aren't None."""
        told = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "level": level,
                "event": event}  # fmt: skip
        told |= {k: v for k, v in fields.items() if v is not None}
        stream = self._stream or sys.stderr
        try:
            stream.write(json.dumps(told, default=str) + "\n")
            stream.flush()
        except (OSError, ValueError):  # nobody reads it any more
            return

    def failure(self, err: BaseException, **fields: Any) -> None:
        """An error that nobody expected: its kind and place, on one line."""
        last = traceback.extract_tb(err.__traceback__)[-1:]
        where = "".join(f"{frame.filename}:{frame.lineno}" for frame in last)
        self.event("failure", "error", error=f"{type(err).__name__}: {err}"[:500], where=where,
                   **fields)  # fmt: skip


class Handler(logging.Handler):
    """What libraries log, uvicorn's and gRPC's, as lines of the same form."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record's line."""
        text = " ".join(record.getMessage().split())
        self._log.event("library", record.levelname.lower(), logger=record.name, message=text[:500])
