"""SIGKILL at random moments of a batch's driver and of its workers: started again, it gives what an
undisturbed run does, every picture once.

    pytest -m slow tests/engine/test_scale_worker.py      # 10,000 pictures, two models

The pictures are thumbnails, each cut from another place of the bundled photos, a hundredth of them
broken. The moment comes with a call of a function, Python's or C's, of any thread: no clock.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from backlight.engine.cli.options import BUNDLED

from .batching import manifest_of, rows_of, tars
from .commands import SRC

pytest.importorskip("pyarrow")
pytestmark = pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
DYING = """
import os, signal, sys, threading
def dies_after(left, mark=None):
    def count(frame, event, argument):
        nonlocal left
        left -= 1
        if left < 0:
            if mark is not None:
                open(mark, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
    threading.setprofile(count)
    sys.setprofile(count)
"""
# Counts from when the first shard is handed out: what is before is the same in every run.
DRIVER = f"""{DYING}
from backlight.engine.scale import local, running
calls, local.COMMAND = int(sys.argv[1]), [sys.executable, "-c", *sys.argv[2:6]]
inner = running.over_workers
def over_workers(*arguments):
    if calls:
        dies_after(calls)
    return inner(*arguments)
running.over_workers = over_workers
from backlight.engine.cli import main
main(sys.argv[6:])
"""
WORKER = f"""{DYING}
import random
from pathlib import Path
from backlight.engine.scale import core, worker
deaths, calls, seed = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
inner, begun = core.Explaining.explain, []
def explain(*arguments):
    if calls and not begun:
        begun.append(1)
        so_far = len(list(deaths.iterdir()))
        # The first dies of its first shard; each lives longer, so that they come to an end.
        most = 400_000 if not so_far else int(calls * 1.2**so_far)
        left = random.Random(f"{{seed}} {{os.getpid()}}").randrange(most)
        dies_after(left, deaths / str(os.getpid()))
    return inner(*arguments)
core.Explaining.explain = explain
worker.child()
"""


def batch(words: list[str], driver: int, deaths: Path, worker: int, seed: int) -> int:
    """Run a batch whose driver dies after so many calls (0: never), and its workers; the code."""
    deaths.mkdir(exist_ok=True)
    command = [
        sys.executable,
        "-c",
        DRIVER,
        str(driver),
        WORKER,
        str(deaths),
        str(worker),
        str(seed),
    ]
    done = subprocess.run(
        [*command, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False,
        env=os.environ | {"PYTHONPATH": SRC},
    )  # fmt: skip
    assert done.returncode in (2, -signal.SIGKILL), done.stderr
    return done.returncode


def survives(
    tmp_path: Path, model: Path, shards: int, each: int, driver: int, worker: int, kills: int
) -> None:
    """The rows, and every byte, are those of a run that nothing happened to."""
    keys = tars(tmp_path / "shards", shards, each)
    line = f"batch -m {model} {tmp_path}/shards --preprocess unit --rule guided --workers 2"
    words = [*line.split(), "--threads", "2", "--no-isolate", "-o"]
    whole, out, deaths = tmp_path / "whole", tmp_path / "out", tmp_path / "deaths"
    assert batch([*words, str(whole)], 0, tmp_path / "none", 0, 0) == 2
    rng = random.Random(0)
    killed = 0
    while killed < kills:
        calls = int(driver * rng.uniform(0.02, 0.7))
        code = batch([*words, str(out)], calls, deaths, worker, killed)
        if code == 2:
            break  # it got through
        killed += 1
    while not manifest_of(out)["complete"]:
        assert batch([*words, str(out)], 0, deaths, worker, killed) == 2
    print(f"killed: the driver {killed} times, workers {len(list(deaths.iterdir()))}")
    assert killed and list(deaths.iterdir()), "nothing was killed"
    assert Counter(row["key"] for row in rows_of(out)) == Counter(keys)
    assert manifest_of(out) == manifest_of(whole)
    assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in whole.iterdir())
    for part in whole.glob("*.parquet"):
        assert (out / part.name).read_bytes() == part.read_bytes(), part.name


def test_killed(tiny: Path, tmp_path: Path) -> None:
    survives(tmp_path, tiny, shards=8, each=40, driver=12_000, worker=2_000_000, kills=2)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["tiny", "bundled"])
def test_10000_pictures(model: str, tiny: Path, tmp_path: Path) -> None:
    file = tiny if model == "tiny" else BUNDLED
    survives(tmp_path, file, shards=100, each=100, driver=120_000, worker=4_000_000, kills=6)
