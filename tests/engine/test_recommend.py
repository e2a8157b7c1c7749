"""Which runtime the bench recommends."""

from __future__ import annotations

import pytest

from backlight.engine.measure.recommend import recommended
from backlight.engine.measure.report import Row

pytest.importorskip("onnxruntime")


def row(provider: str, p50: float, subject: str = "score + vanilla", **more: object) -> Row:
    return Row(subject, provider, 2, 1, 5, p50, p50, p50, 1, 1, 1, 1, 1, None, None, **more)


@pytest.mark.parametrize(
    ("rows", "provider", "times", "why"),
    [
        ([row("cpu", 4), row("openvino", 2)], "openvino", 2.0, "2.00 times as fast as cpu"),
        ([row("cpu", 4), row("openvino", 3.9)], "cpu", 1.0, "nothing is clearly faster"),
        ([row("cpu", 4), row("openvino", 5)], "cpu", 1.0, "the fastest"),
        # Explanations count, not scores; each graph as much as any other.
        (
            [row("cpu", 4), row("openvino", 2), row("cpu", 1, "score"),
             row("openvino", 9, "score")],
            "openvino", 2.0, "2.00 times",
        ),
        (
            [row("cpu", 4), row("cpu", 100), row("openvino", 1), row("openvino", 200)],
            "openvino", 1.41, "1.41 times",
        ),
        (
            [row("cpu", 4), row("openvino", 1, drift=0.3)],
            "cpu", 1.0, "openvino's maps drift by 0.3",
        ),
    ],
)  # fmt: skip
def test_what_is_recommended(rows, provider, times, why):
    found = recommended(rows, ["cpu", "openvino"])
    assert (found.provider, found.times, found.over) == (provider, times, "cpu")
    assert why in found.why
    assert recommended(rows, ["cpu"]) is None
