"""`backlight map`: what it writes, a store that joins a map, mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backlight.engine.cli import run
from backlight.engine.similar.embed import embed

from ..models import tiny
from .groups import purity


class TestCommand:
    def test_writes_pictures_and_points(
        self, map_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "map"
        assert run(["map", str(map_store), "-o", str(out), "--json", "--seed", "3"]) == 0
        said = json.loads(capsys.readouterr().out)
        assert (said["pictures"], said["seed"], said["perplexity"]) == (24, 3, 7.667)
        held = json.loads((out / "map.json").read_text())
        assert len({tuple(p["cell"]) for p in held["pictures"]}) == 24
        points = np.array([[p["x"], p["y"]] for p in held["pictures"]])
        group = np.array([p["label"] for p in held["pictures"]])
        assert purity(points, group, points, group) > 0.99
        assert not (out / "map.html").exists()
        assert run(["map", str(map_store), "-o", str(out)]) == 2
        assert "exists already" in capsys.readouterr().err

    def test_the_page_of_a_part_has_the_colours_of_the_whole(
        self, map_store: Path, tmp_path: Path
    ) -> None:
        """--limit leaves other numbers of each label; in the scatter all are counted."""
        for limit in ("24", "5", "1"):
            out = tmp_path / limit
            given = ["map", str(map_store), "-o", str(out), "--layout", "pca", "--html"]
            assert run([*given, "--limit", limit]) == 0
            page = (out / "map.html").read_text(encoding="utf-8")
            data = json.loads(page.split('id="data">')[1].split("</script>")[0])
            assert data["legend"] == ["blue", "green", "red"]
            assert data["colors"][:3] == ["#1f77b4", "#ff7f0e", "#2ca02c"]
            assert sum(data["counts"]) == int(limit)

    def test_a_store_joins_a_map(
        self, map_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        first, second = str(tmp_path / "first"), str(tmp_path / "second")
        assert run(["map", str(map_store), "-o", first, "--layout", "pca"]) == 0
        color = np.full((12, 12, 3), (200, 25, 25), np.uint8)
        (tmp_path / "new").mkdir()
        Image.fromarray(color).save(tmp_path / "new" / "one.png")
        embed(tiny(), tmp_path / "new", tmp_path / "more", layer="x", preprocess="unit")
        arguments = ["map", str(tmp_path / "more"), "--onto", first, "-o", second]
        assert run(arguments) == 0
        assert "25 pictures, 1 of them new" in capsys.readouterr().out
        old = json.loads((tmp_path / "first" / "map.json").read_text())["pictures"]
        *kept, new = json.loads((tmp_path / "second" / "map.json").read_text())["pictures"]
        assert [(p["x"], p["y"]) for p in kept] == [(p["x"], p["y"]) for p in old]
        assert new["new"]
        far = {p["file"]: abs(p["x"] - new["x"]) + abs(p["y"] - new["y"]) for p in kept}
        assert "/red/" in min(far, key=far.__getitem__)

    @pytest.mark.parametrize(
        ("more", "said"),
        [
            (["--perplexity", "5"], "--perplexity with --onto"),
            (["--seed", "0"], "--seed with --onto"),
            (["--components", "9"], "--components with --onto"),
            (["--layout", "umap"], "that map is of pca"),
        ],
    )
    def test_a_map_stays_as_it_was_laid_out(
        self, map_store: Path, tmp_path: Path, more: list[str], said: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        there = str(tmp_path / "map")
        assert run(["map", str(map_store), "-o", there, "--layout", "pca"]) == 0
        out = tmp_path / "out"
        assert run(["map", str(map_store), "--onto", there, "-o", str(out), *more]) == 2
        err = capsys.readouterr().err
        assert said in err and err.count("\n") == 1
        assert not out.exists()

    def test_a_store_of_another_tensor_does_not_join(
        self, map_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        first = str(tmp_path / "first")
        assert run(["map", str(map_store), "-o", first, "--layout", "pca"]) == 0
        embed(tiny(), map_store.parent / "pictures", tmp_path / "other", preprocess="unit")
        arguments = ["map", str(tmp_path / "other"), "--onto", first, "-o", str(tmp_path / "no")]
        assert run(arguments) == 2
        assert "a map of vectors with another tensor" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("more", "said"),
        [
            (["--perplexity", "20"], "perplexity 20 with 24 pictures; expected 1 to 7.667"),
            (["--layout", "som"], "--layout 'som'; accepted: tsne, umap, pca"),
            (["--limit", "0"], "--limit 0; expected 1 or more"),
            (["--onto", "nowhere"], "nowhere/map.npz: no such file"),
        ],
    )
    def test_mistakes(
        self,
        map_store: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        more: list[str],
        said: str,
    ) -> None:
        assert run(["map", str(map_store), "-o", str(tmp_path / "map"), *more]) == 2
        err = capsys.readouterr().err
        assert said in err
        assert err.count("\n") == 1
        assert not (tmp_path / "map" / "map.json").exists()
