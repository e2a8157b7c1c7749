"""Maps: neighbours stay neighbours, new points join, no two pictures in one cell, a page alone."""

from __future__ import annotations

import itertools
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backlight.engine.cli import run
from backlight.engine.pictures.fonts import Face
from backlight.engine.similar import atlas
from backlight.engine.similar import snap as snapping
from backlight.engine.similar.atlas import Colors, scatter, thumbnails
from backlight.engine.similar.embed import embed
from backlight.engine.similar.mappage import map_page
from backlight.engine.similar.maps import Map, Principal, project
from backlight.engine.similar.snap import snap
from backlight.errors import UsageError

from ..models import tiny
from .browser import CHROMEDRIVER, CHROMIUM, Browser, browser

GROUPS, EACH = 3, 20
# The middle pixel of the card's picture, read from a copy: Chromium warns of reading the original.
MIDDLE = """
const copy = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
copy.drawImage(byId("large"), -190, -190);
return [...copy.getImageData(0, 0, 1, 1).data];
"""


def blobs(seed: int = 0, each: int = EACH) -> tuple[np.ndarray, np.ndarray]:
    """Groups of vectors far from each other, float32 [60, 12], and the group of each."""
    rng = np.random.default_rng(seed)
    middles = np.random.default_rng(9).standard_normal((GROUPS, 12)) * 10
    group = np.repeat(np.arange(GROUPS), each)
    return (middles[group] + rng.standard_normal((len(group), 12))).astype(np.float32), group


def purity(points: np.ndarray, group: np.ndarray, to: np.ndarray, of: np.ndarray) -> float:
    """How many of each point's five nearest among `to` are of its group."""
    far = np.linalg.norm(points[:, None] - to[None], axis=2)
    near = np.argsort(far, axis=1)[:, :5]
    return float((of[near] == group[:, None]).mean())


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


class TestSnap:
    @pytest.mark.parametrize("count", [0, 1, 2, 7, 64, 101])
    @pytest.mark.parametrize("optimal", [10**6, -1], ids=["assigned", "halved"])
    @pytest.mark.parametrize("ratio", [1.0, 1.7])
    def test_no_two_in_one_cell(
        self, count: int, optimal: int, ratio: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(snapping, "OPTIMAL", optimal)
        points = np.random.default_rng(count).standard_normal((count, 2))
        cells, (rows, columns) = snap(points, ratio)
        assert len({tuple(c) for c in cells.tolist()}) == count
        assert rows * columns >= count
        assert (cells >= 0).all()
        assert (cells < [rows, columns]).all()

    def test_the_least_moves(self) -> None:
        pytest.importorskip("scipy")
        points = np.random.default_rng(0).random((4, 2))
        cells, size = snap(points)
        assert size == (2, 2)
        low, high = points.min(axis=0), points.max(axis=0)
        unit = (points - low) / (high - low)
        place = np.stack([1 - unit[:, 1], unit[:, 0]], axis=1)
        orders = itertools.permutations([(0, 0), (0, 1), (1, 0), (1, 1)])
        least = min(((place - np.array(o)) ** 2).sum() for o in orders)
        assert ((place - cells) ** 2).sum() == pytest.approx(least)

    @pytest.mark.parametrize("optimal", [10**6, -1], ids=["assigned", "halved"])
    def test_a_grid_stays_as_it_is(self, optimal: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(snapping, "OPTIMAL", optimal)
        want = np.stack(np.divmod(np.arange(36), 6), axis=1)
        points = np.stack([want[:, 1], -want[:, 0]], axis=1).astype(np.float64)
        np.testing.assert_array_equal(snap(points)[0], want)


class TestPictures:
    def test_dots_are_where_the_points_are(self) -> None:
        points = np.array([[0.0, 0.0], [10.0, 0.0], [10.0, 10.0]])
        picture = np.asarray(scatter(points, [None] * 3, "three", "points"))
        coloured = (picture.astype(int) - picture.min(axis=2, keepdims=True)).max(axis=2) > 60
        ys, xs = np.nonzero(coloured)
        # The lower left, the lower right and the upper right corner of the plot.
        for x, y in ((xs.min(), ys.max()), (xs.max(), ys.max()), (xs.max(), ys.min())):
            assert coloured[max(y - 12, 0) : y + 12, max(x - 12, 0) : x + 12].any()
        assert not coloured[: ys.min() + 12, : xs.max() - 20].any()

    def test_a_name_does_not_hide_what_it_names(self) -> None:
        """A few points close together: the name is below them."""
        points = np.array([[0.0, 0.0], [0.02, 0.0], [10.0, 0.0], [10.02, 0.0]])
        picture = np.asarray(scatter(points, ["left name"] * 2 + ["right name"] * 2, "", ""), int)
        for color in Colors(["left name", "right name"]).values():
            seen = np.abs(picture - color).max(axis=2) < 40
            seen[:, 900 + 24 :] = False  # the legend
            assert seen.sum() > 0.7 * np.pi * 5.5**2

    def test_names_do_not_overlap(self) -> None:
        """Not at the lower edge either, where there is no room below."""
        count = 12
        points = np.array([[5.0, 0.01 * i] for i in range(count)] + [[0.0, 9.0], [9.0, 9.0]])
        labels = [f"name {i}" for i in range(count)] + ["a", "b"]
        plot = Image.new("RGB", (900, 900))
        taken: list[tuple[float, float]] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Face, "write", lambda _, draw, at, text, ink, **more: taken.append(at))
            placed, _ = atlas._fitted(points, 900, 24)
            atlas._names(plot, placed, labels, Colors(labels), 5.0)
        tops = sorted(top for left, top in taken if 300 < left < 600)
        assert len(tops) == count and np.diff(tops).min() >= 18
        assert tops[0] > 0 and tops[-1] <= 900 - 22

    def test_a_file_that_is_gone_has_the_stored_pixels(self, tmp_path: Path) -> None:
        red = np.zeros((8, 8, 3), np.uint8)
        red[..., 0] = 255
        gone = str(tmp_path / "gone.png")
        stored, grey = thumbnails([gone, gone], 16, lambda i: red if i == 0 else None)
        assert (stored == (255, 0, 0)).all()
        assert (grey == 200).all()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of three colours with noise, by a tiny model."""
    pytest.importorskip("pyarrow")
    pytest.importorskip("openTSNE")
    folder = tmp_path_factory.mktemp("map")
    rng = np.random.default_rng(0)
    for label, color in {"red": (200, 20, 20), "green": (20, 200, 20), "blue": (9, 9, 240)}.items():
        for index in range(8):
            file = folder / "pictures" / label / f"{index} & <b>.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            noise = rng.integers(0, 16, (12, 12, 3))
            Image.fromarray((np.array(color) + noise).astype(np.uint8)).save(file)
    embed(tiny(), folder / "pictures", folder / "store", layer="x", preprocess="unit")
    return folder / "store"


class TestCommand:
    def test_writes_pictures_and_points(
        self, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "map"
        assert run(["map", str(store), "-o", str(out), "--json", "--seed", "3"]) == 0
        said = json.loads(capsys.readouterr().out)
        assert (said["pictures"], said["seed"], said["perplexity"]) == (24, 3, 7.667)
        held = json.loads((out / "map.json").read_text())
        assert len({tuple(p["cell"]) for p in held["pictures"]}) == 24
        points = np.array([[p["x"], p["y"]] for p in held["pictures"]])
        group = np.array([p["label"] for p in held["pictures"]])
        assert purity(points, group, points, group) > 0.99
        assert not (out / "map.html").exists()
        assert run(["map", str(store), "-o", str(out)]) == 2
        assert "exists already" in capsys.readouterr().err

    def test_the_page_of_a_part_has_the_colours_of_the_whole(
        self, store: Path, tmp_path: Path
    ) -> None:
        """--limit leaves other numbers of each label; in the scatter all are counted."""
        for limit in ("24", "5", "1"):
            out = tmp_path / limit
            given = ["map", str(store), "-o", str(out), "--layout", "pca", "--html"]
            assert run([*given, "--limit", limit]) == 0
            page = (out / "map.html").read_text(encoding="utf-8")
            data = json.loads(page.split('id="data">')[1].split("</script>")[0])
            assert data["legend"] == ["blue", "green", "red"]
            assert data["colors"][:3] == ["#1f77b4", "#ff7f0e", "#2ca02c"]
            assert sum(data["counts"]) == int(limit)

    def test_a_store_joins_a_map(
        self, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        first, second = str(tmp_path / "first"), str(tmp_path / "second")
        assert run(["map", str(store), "-o", first, "--layout", "pca"]) == 0
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
        self, store: Path, tmp_path: Path, more: list[str], said: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        there = str(tmp_path / "map")
        assert run(["map", str(store), "-o", there, "--layout", "pca"]) == 0
        out = tmp_path / "out"
        assert run(["map", str(store), "--onto", there, "-o", str(out), *more]) == 2
        err = capsys.readouterr().err
        assert said in err and err.count("\n") == 1
        assert not out.exists()

    def test_a_store_of_another_tensor_does_not_join(
        self, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        first = str(tmp_path / "first")
        assert run(["map", str(store), "-o", first, "--layout", "pca"]) == 0
        embed(tiny(), store.parent / "pictures", tmp_path / "other", preprocess="unit")
        arguments = ["map", str(tmp_path / "other"), "--onto", first, "-o", str(tmp_path / "no")]
        assert run(arguments) == 2
        assert "a map of vectors with another tensor" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("more", "said"),
        [
            (["--perplexity", "20"], "perplexity 20 with 24 pictures; expected 1 to 7.667"),
            (["--layout", "som"], "method 'som'"),
            (["--limit", "0"], "--limit 0; expected 1 or more"),
            (["--onto", "nowhere"], "nowhere/map.npz: no such file"),
        ],
    )
    def test_mistakes(
        self,
        store: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        more: list[str],
        said: str,
    ) -> None:
        assert run(["map", str(store), "-o", str(tmp_path / "map"), *more]) == 2
        err = capsys.readouterr().err
        assert said in err
        assert err.count("\n") == 1
        assert not (tmp_path / "map" / "map.json").exists()


@pytest.fixture(scope="module")
def page(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "map"
    assert run(["map", str(store), "-o", str(out), "--html"]) == 0
    return out / "map.html"


class TestPage:
    def test_names_cannot_end_the_script(self) -> None:
        page = map_page(
            "</script>", "</script>", np.zeros((1, 2)), np.zeros((1, 2), np.int64), (1, 1),
            ["/a/</script><script>alert(1)</script>.png"], ["</script>"],
            [np.zeros((8, 8, 3), np.uint8)], np.zeros(1, bool),
        ).decode()  # fmt: skip
        assert len(re.findall("</script>", page)) == 2
        assert "alert(1)</script" not in page

    @pytest.mark.skipif(CHROMIUM is None or CHROMEDRIVER is None, reason="no Chromium")
    def test_labels_that_share_the_grey_keep_their_names(self, tmp_path: Path) -> None:
        labels = [*(f"label {i:02}" for i in range(30)), None, "<b>'\"${x}"]
        count = len(labels)
        places = np.stack([np.arange(count), np.arange(count) % 2], axis=1)
        page = map_page(
            "many", "labels", places.astype(float), places[:, ::-1], (2, count),
            [f"/a/{i} #%20日本.png" for i in range(count)], labels,
            [np.zeros((8, 8, 3), np.uint8)] * count, np.zeros(count, bool),
        )  # fmt: skip
        file = tmp_path / "map.html"
        file.write_bytes(page)
        with browser() as view:
            view.open(file)
            shown = view.run(
                "return data.names.map((n, i) => { show(-1); show(i, 9, 9);"
                " return [byId('name').textContent, byId('label').textContent] })"
            )
            assert view.console() == []
        want = [label or "other labels" for label in labels]
        assert shown == [[f"{i} #%20日本.png", label] for i, label in enumerate(want)]

    @pytest.mark.skipif(CHROMIUM is None or CHROMEDRIVER is None, reason="no Chromium")
    def test_in_a_browser(self, page: Path) -> None:
        with browser() as view:
            view.open(page)
            view.until("return sheets.every(s => s.complete && s.naturalWidth > 0)")
            assert view.run("return data.names.length") == 24
            for mode in ("points", "pictures", "grid"):
                view.run("modes.find(b => b.dataset.mode === arguments[0]).click()", mode)
                self.hovers(view, mode)
            self.pans_and_zooms(view)
            self.filters(view)
            assert view.console() == []
            view.run("console.error('seen')")  # the log works
            assert len(view.console()) == 1
            asked = view.requests()
            assert asked[0] == page.resolve().as_uri()
            assert all(a.startswith("data:") for a in asked[1:])

    def hovers(self, view: Browser, mode: str) -> None:
        """The card shows the picture, the name and the label of what is under the pointer."""
        for index in (2, 13, 20):
            x, y = self.place(view, index)
            view.move(x, y)
            view.until("return !byId('card').hidden")
            shown = int(view.run("return under"))
            if mode == "grid":  # elsewhere a neighbour may be as near
                assert shown == index
            name, label = view.run("return [byId('name').textContent, byId('label').textContent]")
            assert re.fullmatch(rf"{label}/\d & <b>\.png", name)
            color = view.run(MIDDLE)
            assert ("red", "green", "blue")[int(np.argmax(color[:3]))] == label
        view.move(5, 5)
        view.until("return byId('card').hidden")

    def pans_and_zooms(self, view: Browser) -> None:
        x, y = self.place(view, 7)
        view.scroll(round(x), round(y), -400)
        view.until("return view.zoom > 1.5")
        at = self.place(view, 7)
        assert np.hypot(at[0] - x, at[1] - y) < 3  # what is under the pointer stays there
        view.drag(600, 500, 700, 560)
        moved = self.place(view, 7)
        assert np.hypot(moved[0] - at[0] - 100, moved[1] - at[1] - 60) < 2
        view.run("byId('reset').click()")
        assert view.run("return view.zoom") == 1
        before = view.run("return view.x")
        view.run("canvas.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight'}))")
        assert view.run("return view.x") > before
        view.run("byId('reset').click()")

    def filters(self, view: Browser) -> None:
        """A label of the legend leaves the others out."""
        index = int(view.run("return data.labels.findIndex(l => l !== data.labels[0])"))
        x, y = self.place(view, index)
        view.run("byId('legend').children[data.labels[0]].click()")
        view.move(x, y)
        assert view.run("return byId('card').hidden")
        view.run("byId('legend').children[data.labels[0]].click()")
        view.move(x + 1, y)
        view.until("return !byId('card').hidden")

    def place(self, view: Browser, index: int) -> tuple[float, float]:
        """Where a picture is in the window."""
        x, y = view.run(
            "const p = onScreen(arguments[0]), r = canvas.getBoundingClientRect();"
            "return [p[0] + r.left, p[1] + r.top]",
            index,
        )
        return float(x), float(y)
