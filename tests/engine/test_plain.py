"""JSON that every reader takes, and that no terminal acts upon."""

from __future__ import annotations

import json

import pytest

from backlight.engine.photos.plain import as_json, without_nan


def test_what_is_no_number_is_null() -> None:
    told = {"a": [1.5, float("nan")], "b": {"c": (float("inf"), -float("inf"), 0)}}
    want = {"a": [1.5, None], "b": {"c": [None, None, 0]}}
    assert without_nan(told) == want == json.loads(as_json(told))


@pytest.mark.parametrize("letter", ["\x1b", "\x9b", "\u2028", "\u202e", "\u2066"])
def test_what_acts_on_a_terminal_is_an_escape(letter: str) -> None:
    text = as_json({"név 日": letter})
    assert letter not in text and "név 日" in text
    assert json.loads(text) == {"név 日": letter}
