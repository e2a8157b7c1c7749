"""Maps: neighbours stay neighbours, new points join, no two pictures in one cell, a page alone."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from backlight.engine.similar.maps import Map, Principal, project
from backlight.errors import UsageError

from .groups import purity

GROUPS, EACH = 3, 20


def blobs(seed: int = 0, each: int = EACH) -> tuple[np.ndarray, np.ndarray]:
    """Groups of vectors far from each other, float32 [60, 12], and the group of each."""
    rng = np.random.default_rng(seed)
    middles = np.random.default_rng(9).standard_normal((GROUPS, 12)) * 10
    group = np.repeat(np.arange(GROUPS), each)
    return (middles[group] + rng.standard_normal((len(group), 12))).astype(np.float32), group


class TestPrincipal:
    def test_as_the_singular_vectors(self) -> None:
        x = np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32) * np.arange(1, 9)
        found = Principal.of(x, 3)
        centred = x - x.mean(axis=0)
        _, sizes, axes = np.linalg.svd(centred.astype(np.float64), full_matrices=False)
        np.testing.assert_allclose(np.abs(found.axes @ axes[:3].T), np.eye(3), atol=1e-5)  # fp32
        assert found.explained == pytest.approx((sizes[:3] ** 2).sum() / (sizes**2).sum())
        # fp32 product of 8 terms of size 10
        np.testing.assert_allclose(found(x), centred @ found.axes.T, rtol=1e-4, atol=1e-4)

    def test_equal_vectors(self) -> None:
        assert Principal.of(np.ones((5, 4), np.float32), 2).explained == 1.0


class TestProject:
    @pytest.mark.parametrize("method", ["tsne", "pca"])
    def test_groups_stay_together(self, method: str) -> None:
        pytest.importorskip("openTSNE")
        x, group = blobs()
        laid = project(x, method)
        np.testing.assert_array_equal(project(x, method).points, laid.points)
        assert purity(laid.points, group, laid.points, group) > 0.99
        assert laid.points.shape == (60, 2)

    @pytest.mark.slow  # compiles UMAP's loops at import
    def test_umap(self) -> None:
        pytest.importorskip("umap", reason="umap-learn isn't there: backlight[umap]")
        x, group = blobs()
        laid = project(x, "umap", seed=4)
        np.testing.assert_array_equal(project(x, "umap", seed=4).points, laid.points)
        assert purity(laid.points, group, laid.points, group) > 0.99
        with pytest.raises(UsageError, match="takes no new points"):
            laid.place(x)

    def test_an_absent_package_is_named_with_its_extra(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "umap", None)
        with pytest.raises(UsageError, match=r"umap-learn is not .*'backlight\[umap\]'"):
            project(blobs()[0], "umap")

    def test_the_seed_and_the_perplexity_count(self) -> None:
        pytest.importorskip("openTSNE")
        x, _ = blobs()
        first = project(x, perplexity=5).points
        assert not np.array_equal(project(x, perplexity=5, seed=1).points, first)
        assert not np.array_equal(project(x, perplexity=9).points, first)

    def test_equal_vectors(self) -> None:
        pytest.importorskip("openTSNE")
        assert np.isfinite(project(np.ones((9, 4), np.float32)).points).all()

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ({"perplexity": 30}, "perplexity 30 with 60 pictures; expected 1 to 19.67"),
            ({"perplexity": 0.5}, "perplexity 0.5"),
            ({"method": "som"}, "method 'som'; accepted: tsne, umap, pca"),
            ({"seed": -1}, "seed -1"),
            ({"components": 1}, "components 1; expected 2 or more"),
        ],
    )
    def test_refuses(self, arguments: dict[str, object], said: str) -> None:
        with pytest.raises(UsageError, match=said):
            project(blobs()[0], **arguments)  # type: ignore[arg-type]

    def test_refuses_few_pictures(self) -> None:
        with pytest.raises(UsageError, match="a map needs 4 pictures or more; there are 3"):
            project(np.ones((3, 4), np.float32))


class TestPlace:
    @pytest.mark.parametrize("method", ["tsne", "pca"])
    def test_new_points_join_their_group(self, method: str, tmp_path: Path) -> None:
        pytest.importorskip("openTSNE")
        x, group = blobs()
        more, of = blobs(seed=1, each=4)
        laid = project(x, method)
        joined = laid.joined(more)
        np.testing.assert_array_equal(joined.points[:60], laid.points)
        assert purity(joined.points[60:], of, laid.points, group) > 0.99
        (tmp_path / "map.npz").write_bytes(laid.to_bytes())
        again = Map.load(tmp_path / "map.npz")
        assert again.layout == laid.layout
        np.testing.assert_array_equal(again.place(more), joined.points[60:])

    def test_refuses_other_widths(self) -> None:
        laid = project(blobs()[0], "pca")
        with pytest.raises(UsageError, match=r"expected \[M, 12\]"):
            laid.place(np.ones((2, 5), np.float32))

    def test_what_is_no_map(self, tmp_path: Path) -> None:
        (tmp_path / "map.npz").write_bytes(b"PK nothing")
        with pytest.raises(UsageError, match="not a map"):
            Map.load(tmp_path / "map.npz")
        with pytest.raises(UsageError, match="no such file"):
            Map.load(tmp_path / "none.npz")
