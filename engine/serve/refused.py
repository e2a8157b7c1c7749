"""What is answered instead of a result: a status, a reason for the metrics, and one line."""

from __future__ import annotations

from ...errors import cleaned, one_line

__all__ = ["Refused", "bad", "busy", "late", "lost", "unknown"]


class Refused(Exception):  # noqa: N818  # what is answered, not what went wrong
    """An answer without a result.

    status: HTTP's. reason: a short word, the label of the metric. retry_after: seconds, for 503.
    """

    def __init__(
        self, status: int, reason: str, message: str, retry_after: int | None = None
    ) -> None:
        super().__init__(one_line(cleaned(" ".join(message.split()))))
        self.status, self.reason, self.retry_after = status, reason, retry_after


def bad(message: str, reason: str = "bad_request") -> Refused:
    """A request that can't be answered as it is: 400."""
    return Refused(400, reason, message)


def unknown(message: str) -> Refused:
    """A model, version or path that isn't there: 404."""
    return Refused(404, "unknown", message)


def busy(message: str, reason: str, seconds: float = 1.0) -> Refused:
    """More than there is room for: 503, and when to come again."""
    return Refused(503, reason, message, max(1, min(int(seconds + 0.999), 60)))


def late(message: str) -> Refused:
    """A deadline that has passed: 504."""
    return Refused(504, "deadline", message)


def lost(message: str) -> Refused:
    """A worker that ended before it answered: 503; another one takes its place."""
    return Refused(503, "worker_lost", message, 1)
