"""Requests that nobody would send: the mutator of `fuzz`, and schemathesis on the document."""

from __future__ import annotations

from typing import Any

import pytest

from .fuzz import campaign, held, mutated, quiet
from .running import Server


def test_the_mutator_makes_what_it_is_told_to() -> None:
    assert mutated(3) == mutated(3) != mutated(4)
    assert len({mutated(seed)[0] for seed in range(50)}) > 45
    # A seed is the same request whatever came before it. (7466 asks for an answer within 1 µs: the
    # one 504 among the first 20,000.)
    late = mutated(7466)
    for seed in range(300):
        mutated(seed)
    assert mutated(7466) == late and b'"timeout": 1}' in late[0]


def test_mutated_requests_end_in_answers(server: Server) -> None:
    outcome = campaign(server, range(300))
    assert not outcome.wrong, outcome.wrong[:5]
    assert outcome.statuses[200] > 20 and outcome.statuses[400] > 150
    assert quiet(server) and server.get("/v2/health/ready").status == 200
    assert not server.events("worker"), "a worker ended"


@pytest.mark.slow
def test_twenty_thousand_of_them_leave_nothing_behind(server: Server) -> None:
    """`python -m tests.serve.fuzz` shows the same with figures."""
    campaign(server, range(100_000, 102_000))
    before, files = held(server)
    outcome = campaign(server, range(20_000))
    assert not outcome.wrong, outcome.wrong[:5]
    after, files_after = held(server)
    assert after < before + 150, (before, after)  # MB: allocators keep some
    assert files_after <= files + 8 and quiet(server)


def test_schemathesis_on_the_document(server: Server) -> None:
    """Bounded: a few requests of each path that it thinks of, and all checks on the answers."""
    schemathesis: Any = pytest.importorskip("schemathesis")
    _explored(schemathesis, server, 3)


@pytest.mark.slow
def test_schemathesis_for_longer(server: Server) -> None:
    _explored(pytest.importorskip("schemathesis"), server, 300)


def _explored(schemathesis: Any, server: Server, examples: int) -> None:
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis import checks

    address = f"http://127.0.0.1:{server.port}"
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    # What the document says is what comes: its statuses, media types and schemas.
    wanted = [
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
        checks.response_headers_conformance,
    ]
    operations = [operation.ok() for operation in schema.get_all_operations()]
    assert len(operations) > 10
    for operation in operations:

        @settings(max_examples=examples, deadline=None, derandomize=True, database=None,
                  phases=[Phase.explicit, Phase.generate],
                  suppress_health_check=list(HealthCheck))  # fmt: skip
        @given(case=operation.as_strategy())
        def explore(case: Any) -> None:
            if case.path_parameters and len(case.path_parameters["model"]) % 2:
                case.path_parameters["model"] = "bundled"  # else nearly all are 404
            response = case.call(base_url=address)
            assert response.status_code < 500 or response.status_code in (503, 504)
            case.validate_response(response, checks=wanted)
            if response.status_code in (400, 404):
                assert list(response.json()) == ["error"]

        explore()
