"""`backlight methods`: what there is to explain a score with, for people and for programs."""

from __future__ import annotations

import json

from backlight.engine.cli import run
from backlight.export.methods import METHODS

NAMES = list(METHODS)


def test_the_command_lists_every_method(capsys):
    assert run(["methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == NAMES
    assert run(["methods", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == NAMES
    assert all(row["output"] == f"saliency_{row['name']}" for row in rows)


def test_each_row_says_all_that_is_said_of_a_method(capsys):
    """The keys are other people's to read: add, and take none away."""
    assert run(["methods", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    keys = ["name", "about", "source", "output", "held", "python", "rules", "by", "needs",
            "by_class", "picture"]  # fmt: skip
    for row in rows:
        assert list(row) == keys
        method = METHODS[row["name"]]
        assert row == {key: getattr(method, key) for key in keys}
