"""Metrics, as Prometheus reads them at /metrics."""

from __future__ import annotations

from typing import Any

from .pool import Pool
from .waiting import Batch, Waiting

__all__ = ["Metrics"]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """A registry of its own: several servers may live in one process."""

    def __init__(self, waiting: Waiting, pool: Pool) -> None:
        import prometheus_client as prom

        self._prom = prom
        self.registry = prom.CollectorRegistry()

        def histogram(name: str, about: str, labels: tuple[str, ...], buckets: Any) -> Any:
            return prom.Histogram(
                f"backlight_{name}", about, labels, buckets=buckets, registry=self.registry
            )

        self._parts: dict[tuple[Any, ...], Any] = {}
        model = ("model",)
        self._requests = histogram(
            "request_seconds", "A request, from its first byte to its answer.",
            ("path", "status"), _SECONDS,
        )  # fmt: skip
        self._queue = histogram("queue_seconds", "Rows waiting for a worker.", model, _SECONDS)
        self._held = histogram(
            "batch_wait_seconds", "Rows waiting for others, while a worker was free.", model,
            _SECONDS,
        )  # fmt: skip
        self._compute = histogram("compute_seconds", "A batch in the runtime.", model, _SECONDS)
        self._decode = histogram("decode_seconds", "A batch's pictures read.", model, _SECONDS)
        self._rows = histogram("batch_rows", "Rows of a batch.", model, _ROWS)
        self._rejected = prom.Counter(
            "backlight_rejected", "Requests answered with an error, by reason.", ("reason",),
            registry=self.registry,
        )  # fmt: skip
        self._ended = prom.Counter(
            "backlight_workers_ended", "Workers that ended by themselves.", registry=self.registry
        )
        for name, about, read in (
            ("queue_rows", "Rows that wait.", lambda: waiting.rows),
            ("queue_bytes", "Bytes of requests under way.", lambda: waiting.bytes),
            ("workers", "Workers that run.", lambda: pool.ready),
        ):
            prom.Gauge(f"backlight_{name}", about, registry=self.registry).set_function(read)

    def request(self, path: str, status: int, seconds: float) -> None:
        """One was answered. path: the route, not what stands in its place."""
        self._of(self._requests, path, str(status)).observe(seconds)

    def rejected(self, reason: str) -> None:
        """One was answered with an error."""
        self._rejected.labels(reason).inc()

    def ended(self) -> None:
        """A worker ended."""
        self._ended.inc()

    def batch(self, model: str, batch: Batch, decode: float, compute: float) -> None:
        """A batch ran."""
        self._of(self._rows, model).observe(batch.rows)
        self._of(self._compute, model).observe(compute)
        self._of(self._decode, model).observe(decode)
        waited, stood = self._of(self._queue, model), self._of(self._held, model)
        for queued, held in zip(batch.queued, batch.held, strict=True):
            waited.observe(queued)
            stood.observe(held)

    def _of(self, metric: Any, *labels: str) -> Any:
        """A metric's part with these labels: finding it takes longer than adding to it."""
        found = self._parts.get((metric, *labels))
        if found is None:
            found = self._parts[metric, *labels] = metric.labels(*labels)
        return found

    def text(self) -> tuple[bytes, str]:
        """The page, and its media type."""
        return self._prom.generate_latest(self.registry), self._prom.CONTENT_TYPE_LATEST
