"""The README's commands and code, as they stand there, one after another, after its Start."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import backlight
from backlight.engine.cli import run
from backlight.export.preprocess import parse

from .commands import SRC

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
ACTIVATE = ". .venv/bin/activate"
# The same commands, in less time.
QUICK = {
    "bench": ["--runs", "1"],
    "occlude": ["--window", "76", "--stride", "76", "--necessity", "1"],
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def lines() -> list[str]:
    """The commands of the shell blocks, without those that make the environment."""
    every = [line for block in blocks("sh") for line in block.splitlines()]
    made = [line for line in every if line.startswith("python3 -m venv .venv && ")]
    assert len(made) == 2 and every[: len(made)] == made
    return [line for line in every if line not in made]


def checkout(folder: Path) -> None:
    """What a newcomer's folder has: this one, without what the commands write."""
    (folder / "engine").symlink_to(ROOT / "engine", target_is_directory=True)


def test_the_environment_is_activated_before_it_is_used():
    first, *rest = lines()
    assert first == ACTIVATE and len(rest) >= 6
    assert all(shlex.split(line)[0] == "backlight" for line in rest)
    inside = re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL)
    for given in re.findall(r"`backlight ([^`]*)`", inside):  # names of commands only: they'd run
        assert re.fullmatch(r"[a-z]+", given), given


def test_the_commands_run_as_pasted_if_quickly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    checkout(tmp_path)
    for line in lines()[1:]:
        words = shlex.split(line, comments=True)[1:]
        assert run([*words, *QUICK.get(words[0], [])]) == 0, (words, capsys.readouterr().err)
    # And the code after them: it reads what they wrote.
    names: dict[str, object] = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    assert names["guided"].shape == names["x"].shape == (2, 3, 227, 227)  # type: ignore[attr-defined]
    assert {o.name for o in names["proto"].graph.output} >= {"saliency_vanilla"}  # type: ignore[attr-defined]
    assert isinstance(names["explain"], backlight.Explainer)


@pytest.mark.slow
def test_the_commands_run_in_a_shell(tmp_path: Path):
    """In one shell with errors on, as pasted: pytest -m slow tests/engine/test_readme.py"""
    checkout(tmp_path)
    bin_ = tmp_path / ".venv" / "bin"
    bin_.mkdir(parents=True)
    script = f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m backlight "$@"\n'
    (bin_ / "backlight").write_text(script)
    (bin_ / "backlight").chmod(0o755)
    (bin_ / "activate").write_text('PATH="$PWD/.venv/bin:$PATH"\n')
    done = subprocess.run(
        ["sh", "-e"], input="\n".join(lines()), cwd=tmp_path, text=True, capture_output=True,
        env=os.environ | {"PYTHONPATH": SRC}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {p.name for p in tmp_path.iterdir()} >= {"pictures", "explaining.onnx", "occluded"}


def test_the_preprocessing_it_shows_is_one(tmp_path: Path):
    (block,) = blocks("json")
    file = tmp_path / "how.json"
    file.write_text(textwrap.dedent(block))
    assert parse(str(file)).size == tuple(json.loads(block)["size"])
