"""A process confined in time, memory and files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from backlight.engine.runtime import confined


class Busy:
    """A process that works for `steps` looks at it, with a beat at each of `beats`."""

    def __init__(self, beat: Path, beats: set[int], steps: int) -> None:
        self.beat, self.beats, self.steps, self.at = beat, beats, steps, 0

    def wait(self, timeout: float) -> int:
        self.at += 1
        if self.at > self.steps:
            return 0
        if self.at in self.beats:
            self.beat.write_bytes(self.beat.read_bytes() + b".")
        raise subprocess.TimeoutExpired("busy", timeout)


@pytest.mark.parametrize(
    ("beats", "through"),
    [(range(1, 100), True), (range(1, 100, 3), True), ((1, 2), False), ((), False)],
)  # fmt: skip
def test_pieces_of_work_start_the_clock_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beats: range, through: bool
) -> None:
    """100 seconds in all with a limit of 5, never without a beat for so long: a clock of a second
    a look."""
    beat = tmp_path / "beat"
    beat.touch()
    process = Busy(beat, set(beats), 100)
    monkeypatch.setattr(confined.time, "monotonic", lambda: float(process.at))
    assert confined._waited(process, beat, 5) is through  # type: ignore[arg-type]
    assert through or process.at < 10


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone tells of it")
@pytest.mark.parametrize("gone", [False, True])
def test_a_parent_may_have_ended_before_anybody_listens(gone: bool) -> None:
    """A child takes seconds to start; its parent may be killed in them, and it would run on."""
    code = (
        "from backlight.engine.runtime.confined import ends_with_its_parent\n"
        f"ends_with_its_parent({1 if gone else os.getpid()})\nprint('goes on')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == ((1, "") if gone else (0, "goes on\n")), done.stderr
