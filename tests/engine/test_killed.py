"""SIGKILL at random moments of real passes: started again, they give what an undisturbed one does.

pytest -m slow tests/engine/test_killed.py
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from backlight.engine.cli import run
from backlight.engine.cli.options import PHOTOS
from backlight.engine.similar.store import Embeddings

pytestmark = pytest.mark.slow
COPIES = 40
# The parts and the state are written with every batch here: more moments to be killed at.
# The moment comes with a call of a function, Python's or C's, of any thread: no clock.
OFTEN = """
import os, signal, sys, threading
from backlight.engine.similar import embed
from backlight.engine.inside import patches
embed.PART_SECONDS = 0
patches.patches.__wrapped__.__kwdefaults__["every"] = 0
from backlight.engine.cli import main
left = int(sys.argv[1])
def count(frame, event, argument):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
threading.setprofile(count)
sys.setprofile(count)
main(sys.argv[2:])
"""
# Counted as above: of about a million (embed) or nine (patches) for a whole run.
CALLS = 100_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos")
    for photo in sorted(PHOTOS.glob("*.jpg")):
        (path / photo.stem).mkdir()
        for number in range(COPIES):
            shutil.copy(photo, path / photo.stem / f"{number:02}.jpg")
    (path / "coffee" / "05.jpg").write_bytes(b"no picture")
    return path


def killed_often(arguments: list[str], rng: random.Random) -> int:
    """Run a command until it gets through; how often it was killed."""
    kills = 0
    while True:
        # Each try lasts longer, so that one gets through.
        calls = int(CALLS * rng.uniform(0.5, 1.5) * 1.5**kills)
        done = subprocess.run(
            [sys.executable, "-c", OFTEN, str(calls), *arguments],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        if done.returncode == -signal.SIGKILL:
            kills += 1
            continue
        assert done.returncode == 2, done.stderr  # one picture can't be read
        return kills


@pytest.mark.parametrize("seed", [0, 1])
def test_patches(folder: Path, tmp_path: Path, seed: int) -> None:
    common = ["patches", "bundled", str(folder), "-l", "fire2", "-l", "fire9", "-k", "20"]
    assert run([*common, "-o", str(tmp_path / "whole")]) == 2
    killed = tmp_path / "killed"
    assert killed_often([*common, "-o", str(killed)], random.Random(seed)) > 1
    want, got = (json.loads((d / "patches.json").read_text(encoding="utf-8"))
                 for d in (tmp_path / "whole", killed))  # fmt: skip
    assert got == want
    for name in ("fire2.png", "fire9.png"):
        assert (killed / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert sorted(p.name for p in killed.iterdir()) == [
        "fire2.png", "fire9.png", "patches.json", "summary.json",
    ]  # fmt: skip


@pytest.mark.parametrize("seed", [0, 1])
def test_embed(folder: Path, tmp_path: Path, seed: int) -> None:
    common = ["embed", "bundled", str(folder)]
    assert run([*common, "-o", str(tmp_path / "whole")]) == 2
    assert killed_often([*common, "-o", str(tmp_path / "store")], random.Random(seed)) > 1
    want, got = (Embeddings(tmp_path / n) for n in ("whole", "store"))
    assert (got.paths, got.labels) == (want.paths, want.labels)
    np.testing.assert_array_equal(got.vectors, want.vectors)
    np.testing.assert_array_equal(got.pixels, want.pixels)
    assert got.skipped == want.skipped
