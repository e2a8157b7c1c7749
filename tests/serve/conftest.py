"""One server for all tests that leave it as it was."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .running import Server

for _needed in ("starlette", "uvicorn", "orjson", "prometheus_client"):
    pytest.importorskip(_needed, reason="the extra 'serve' is not installed")


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """The bundled SqueezeNet with two methods, REST and gRPC."""
    with Server("bundled", "--method", "gradcam", "--method", "guided", "--max-body", "8MB",
                grpc=True) as running:  # fmt: skip
        yield running
        assert running.end() == 0
        odd = [*running.events("failure"), *running.events("library")]
        assert not odd, odd
