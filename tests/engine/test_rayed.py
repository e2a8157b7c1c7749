"""`backlight batch --ray`: Ray Data schedules the shards; an actor's death costs a shard's try.

pip install 'backlight[ray]' && pytest -m slow tests/engine/test_rayed.py
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

import backlight
from backlight.engine.cli import run
from backlight.engine.scale import rayed
from backlight.engine.scale.run import Cluster

from .batching import manifest_of, rows_of, tars

pytest.importorskip("pyarrow")


def test_without_ray_a_line_says_what_to_install(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    tars(tmp_path / "shards", 1, 2)
    words = ["batch", "-m", str(tiny), str(tmp_path / "shards"), "--preprocess", "unit", "--ray"]
    assert run([*words, "--no-isolate", "-o", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "pip install 'backlight[ray]'" in err
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def ray() -> Any:
    """A cluster of this machine, of four workers whatever its cores."""
    found = pytest.importorskip("ray", reason="Ray is in the extra 'ray'")
    found.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield found
    found.shutdown()


@pytest.mark.slow
def test_it_gives_what_one_machine_gives(
    ray: Any, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two actors die of the first shard, every one of the second; run again, what is missing."""
    keys = tars(tmp_path / "shards", 6, 30)
    how: dict[str, Any] = {"preprocess": "unit", "methods": ["guided"], "threads": 2, "workers": 2}
    whole, out = tmp_path / "whole", tmp_path / "out"
    backlight.batch(tiny, tmp_path / "shards", whole, **how)
    kill, deaths = signal.SIGKILL, tmp_path / "deaths"
    deaths.mkdir()

    class Dying(rayed.Explainers):  # goes to the actors by value
        def explained(self, shard: Any) -> Any:
            first = shard.name.startswith("0000") and len(list(deaths.iterdir())) < 2
            if first or shard.name.startswith("0001"):
                (deaths / str(os.getpid())).touch()
                os.kill(os.getpid(), kill)
            return super().explained(shard)

    monkeypatch.setattr(rayed, "Explainers", Dying)
    found = backlight.batch(tiny, tmp_path / "shards", out, cluster=Cluster(cpus=1), **how)
    assert list(found.failed) == [str(tmp_path / "shards" / "0001.tar")]
    assert "3 workers died of it" in found.failed[str(tmp_path / "shards" / "0001.tar")]
    assert (found.written, found.retried) == (5, 1) and len(list(deaths.iterdir())) >= 4
    assert not manifest_of(out)["complete"]
    monkeypatch.undo()
    found = backlight.batch(tiny, tmp_path / "shards", out, cluster=Cluster(cpus=1), **how)
    assert (found.written, found.kept, found.failed) == (1, 5, {})
    assert [row["key"] for row in rows_of(out)] == keys
    assert manifest_of(out) == manifest_of(whole)
    assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in whole.iterdir())
    for part in whole.glob("*.parquet"):
        assert (out / part.name).read_bytes() == part.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        {"methods": ["gradcam"], "contrast": "second"},
        {"methods": ["guided"], "contrast": "1", "contrast_form": "logit", "maps": "float16"},
        {"methods": ["smoothgrad"], "samples": 3, "noise": 0.2},
        {"methods": ["integrated_gradients"], "steps": 3, "baseline": "mean"},
        {"methods": ["gradcam"], "signed": True, "size": "layer"},
        {"methods": ["layercam"], "layer": ["h", "r"], "fuse": True},
    ],
    ids=lambda more: " ".join(more),
)
def test_options_go_to_the_actors(
    ray: Any, tiny: Path, tmp_path: Path, more: dict[str, Any]
) -> None:
    tars(tmp_path / "shards", 2, 3)
    how: dict[str, Any] = {"preprocess": "unit", "threads": 2, "workers": 2, **more}
    backlight.batch(tiny, tmp_path / "shards", tmp_path / "whole", **how)
    backlight.batch(tiny, tmp_path / "shards", tmp_path / "out", cluster=Cluster(cpus=1), **how)
    for part in (tmp_path / "whole").iterdir():
        assert (tmp_path / "out" / part.name).read_bytes() == part.read_bytes()
