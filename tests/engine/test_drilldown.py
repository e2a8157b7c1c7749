"""`method="drilldown"`: which windows are scored, what the others get, and how near the map is."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from backlight.engine import images
from backlight.engine.cli import run
from backlight.engine.cli.options import BUNDLED, PHOTOS
from backlight.engine.compare import ssim, top_overlap
from backlight.engine.drilldown import SHARE, STRONGEST, corrected, drill, exact_share, interpolated
from backlight.engine.occlusion import Occlusion
from backlight.errors import UsageError

from .. import models
from .test_incremental import net


def field(counts: tuple[int, int, int]) -> Any:
    """Smooth but for a bump around (30, 12) of each channel, float64 [2, n]."""
    c, y, x = np.meshgrid(*(np.arange(n) for n in counts), indexing="ij")
    bump = np.exp(-((y - 30) ** 2 + (x - 12) ** 2) / 8) * (1 + c)
    return np.stack([bump + 0.001 * y, 0.002 * x + 0 * y]).reshape(2, -1)


def test_windows_go_where_the_map_changes() -> None:
    counts = (2, 41, 37)
    truth = field(counts)
    asked: list[Any] = []
    values, scored = drill(counts, 0.15, lambda w: asked.append(w) or truth[:, w])  # type: ignore
    assert len(scored) == round(0.15 * truth.shape[1]), "the budget is spent"
    every = np.concatenate(asked)
    assert len(np.unique(every)) == len(every) == len(scored), "no window is scored twice"
    np.testing.assert_array_equal(values[:, scored], truth[:, scored])
    mask = np.zeros(counts, bool)
    mask.reshape(-1)[scored] = True
    assert mask[:, ::4, ::4].all() and mask[:, -1, -1].all()
    near = mask[:, 24:37, 6:19].mean()
    assert near > 2 * mask[:, :20, 20:].mean()
    assert np.abs(values - truth).max() < 0.25 * np.ptp(truth)
    coarse, few = drill(counts, 0.01, lambda w: truth[:, w])
    assert len(few) == 2 * 11 * 10, "the coarse pass is whole"
    assert np.abs(values - truth).max() < np.abs(coarse - truth).max()


def test_rough_scores_keep_their_texture_and_lose_their_offset() -> None:
    """Rough scores that are off by a bilinear field are put right everywhere."""
    counts = (1, 21, 17)
    y, x = np.meshgrid(np.arange(21.0), np.arange(17.0), indexing="ij")
    truth = np.random.default_rng(0).normal(size=(2, 21 * 17))
    off = (1 + 2 * y - x + 0.1 * x * y).reshape(1, -1)
    seen: dict[str, Any] = {"rough": [], "exact": []}

    def look(name: str, values: Any) -> Any:
        return lambda w: seen[name].append(w) or values[:, w]

    got, exact = corrected(counts, 1.0, look("rough", truth + off), look("exact", truth))
    np.testing.assert_allclose(got, truth, atol=1e-11)
    assert len(exact) == 6 * 5 + round(STRONGEST * 21 * 17)
    assert abs(len(exact) - exact_share(counts) * 21 * 17) < 1
    asked = np.concatenate(seen["exact"])
    assert len(asked) == len(exact), "no window is scored twice"
    np.testing.assert_array_equal(np.sort(asked), exact)
    assert len(np.concatenate(seen["rough"])) == 21 * 17
    got, exact = corrected(counts, 0.5, look("rough", truth + off), look("exact", truth))
    np.testing.assert_allclose(got[:, exact], truth[:, exact], atol=1e-11)


def test_a_texture_that_alternates_along_an_axis_is_seen() -> None:
    """Every second row and column sees one of its two phases; half of all windows see both."""
    counts = (1, 41, 37)
    truth = np.broadcast_to((-1.0) ** np.arange(41)[:, None], (41, 37)).reshape(1, -1)
    values, scored = drill(counts, (21 * 19 + 20 * 18) / (41 * 37), lambda w: truth[:, w])
    assert len(scored) == 21 * 19 + 20 * 18
    seen = values[0].reshape(41, 37)
    pairs = (seen[1:] + seen[:-1])[2:-2] / 2
    means = (pairs[:, 1:] + pairs[:, :-1])[:, 2:-2] / 2
    assert np.abs(means).max() < 1e-12, "as the truth's; of even rows alone, 1"


def test_the_strongest_windows_are_scored_exactly() -> None:
    """A rough score says where, an exact one how much: in every row of scores its own."""
    counts = (1, 41, 37)
    y, x = np.meshgrid(np.arange(41), np.arange(37), indexing="ij")
    peaks = [(10, 30), (29, 6)]
    truth = np.stack(
        [
            100**at * np.exp(-((y - py) ** 2 + (x - px) ** 2) / 20)
            for at, (py, px) in enumerate(peaks)
        ]
    ).reshape(2, -1)
    texture = np.random.default_rng(0).normal(size=truth.shape) * np.array([[0.05], [5]])
    got, exact = corrected(counts, 0.5, lambda w: (truth + texture)[:, w], lambda w: truth[:, w])
    np.testing.assert_array_equal(got[:, exact], truth[:, exact])
    for row, (py, px) in enumerate(peaks):
        assert py * 37 + px in exact
        assert got[row].argmax() == truth[row].argmax()
    far = np.setdiff1d(np.arange(truth.shape[1]), exact)
    assert (got[:, far] != truth[:, far]).mean() > 0.9


def test_what_lies_between_is_bilinear() -> None:
    counts = (1, 22, 19)
    y, x = np.meshgrid(np.arange(22.0), np.arange(19.0), indexing="ij")
    truth = (1 + 2 * y + 3 * x + 0.5 * x * y)[None, None]
    scored = np.zeros(counts, bool)
    scored[np.ix_([0], [*range(0, 22, 4), 21], [*range(0, 19, 4), 18])] = True
    made = interpolated(np.where(scored, truth, 0.0), scored)
    np.testing.assert_allclose(made, truth, rtol=1e-12)


@pytest.mark.parametrize("counts", [(1, 3, 4), (1, 1, 1), (2, 4, 30)])
def test_few_windows_are_all_scored(counts: tuple[int, int, int]) -> None:
    truth = np.random.default_rng(0).normal(size=(1, int(np.prod(counts))))
    values, scored = drill(counts, 0.1, lambda w: truth[:, w])
    assert len(scored) == truth.shape[1]
    np.testing.assert_array_equal(values, truth)


def test_the_map_of_a_photo_is_near() -> None:
    """SqueezeNet on a photo, a quarter of the windows against all (measured: SSIM 0.955, 0.91 of
    the top 5%); interpolating the coarse pass alone is farther (0.914)."""
    settings: dict[str, Any] = {"window": 40, "stride": 8, "threads": 2}
    exact = Occlusion(BUNDLED, method="incremental", **settings)
    record = exact.scorer.preprocess
    assert record is not None
    file = PHOTOS / "flower.jpg"
    x = images.prepare(images.decode(file), record, exact.scorer.input).tensor[None]
    want = exact.measure(x)
    steps: list[int] = []
    near, coarse = (
        Occlusion(BUNDLED, method="drilldown", share=share, **settings).measure(
            x, progress=steps.append
        )
        for share in (0.25, 0.01)
    )
    assert sum(steps) == 2 * len(want.plan), "progress counts what is interpolated too"
    assert want.scored.all() and abs(near.scored.mean() - 0.25) < 0.01
    at = near.scored[0]
    span = np.ptp(want.drops)
    assert np.abs(near.drops[0, 0, at] - want.drops[0, 0, at]).max() <= 1e-4 * span
    np.testing.assert_array_equal(near.top[0, at], want.top[0, at])
    assert (near.top[0, ~at] == -1).all()
    close = ssim(near.heat[0, 0], want.heat[0, 0])
    assert close > 0.93 and top_overlap(near.heat[0, 0], want.heat[0, 0], 0.05) > 0.75
    assert close > ssim(coarse.heat[0, 0], want.heat[0, 0])


def test_cut_boxes_stand_in_for_exact_scores() -> None:
    """SqueezeNet on a photo: a share of the windows on cut boxes, exact scores for a coarse lattice
    and the strongest (measured: SSIM 0.886, 0.93 of the top 1%; on square lattices alone 0.862,
    without the strongest 0.91)."""
    settings: dict[str, Any] = {"window": 24, "stride": 6, "threads": 2}
    exact = Occlusion(BUNDLED, method="incremental", **settings)
    record = exact.scorer.preprocess
    assert record is not None
    file = PHOTOS / "chelsea.jpg"
    x = images.prepare(images.decode(file), record, exact.scorer.input).tensor[None]
    want = exact.measure(x)
    near = Occlusion(exact.scorer, method="drilldown", **settings)
    near._ways(want.plan, 1000)  # as if many images came: boxes pay for their planning
    steps: list[int] = []
    got = near.measure(x, progress=steps.append)
    assert sum(steps) == len(want.plan), "progress counts a window once"
    assert abs(got.rough.mean() - SHARE) < 0.01 and 0.1 < got.scored.mean() < 0.12
    assert (got.choice.speedup or 0) > 1.8 * (want.choice.speedup or 0)
    at = got.scored[0]
    assert np.abs(got.drops[0, 0, at] - want.drops[0, 0, at]).max() <= 1e-4 * np.ptp(want.drops)
    np.testing.assert_array_equal(got.top[0, at], want.top[0, at])
    assert (got.top[0, ~at] == -1).all()
    maps = got.heat[0, 0], want.heat[0, 0]
    assert ssim(*maps) > 0.875 and top_overlap(*maps, 0.01) > 0.92


@pytest.mark.parametrize(("method", "share"), [("drilldown", 1.0), ("dense", 0.1)])
def test_with_every_window_it_is_exact(method: str, share: float) -> None:
    x = models.images(2, 3, 20, 17)
    arguments: dict[str, Any] = {"window": 3, "stride": 1, "score": "logit", "threads": 1}
    want = Occlusion(net(), **arguments)(x, classes=[0, 3])
    got = Occlusion(net(), method=method, share=share, **arguments)(x, classes=[0, 3])
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-5)


def test_on_the_command_line(tmp_path, capsys):  # type: ignore[no-untyped-def]
    command = ["occlude", str(PHOTOS / "coffee.jpg"), "-o", str(tmp_path / "out"), "--window",
               "48", "--stride", "16", "--threads", "1", "--method", "drilldown"]  # fmt: skip
    command.append("--json")
    assert run([*command, "--share", "0.3"]) == 0
    summary = json.loads(capsys.readouterr().out)
    scored = summary["images"][0]["scored"]
    assert summary["method"] == "drilldown" and summary["share"] == 0.3
    assert scored["approximate"] is True and scored["windows"] == round(0.3 * summary["windows"])
    assert run([*command, "--force", "--share", "1.5"]) == 2
    assert "share 1.5; accepted: above 0, at most 1" in capsys.readouterr().err
    with pytest.raises(UsageError, match="share 0"):
        Occlusion(net(), method="drilldown", share=0)
