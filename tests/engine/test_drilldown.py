"""`method="drilldown"`: which windows are scored, what the others get, and how near the map is."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from backlight.engine.cli import run
from backlight.engine.cli.options import BUNDLED, PHOTOS
from backlight.engine.masked.drilldown import STRONGEST, drill, interpolated
from backlight.engine.masked.occlusion import Occlusion
from backlight.engine.photos import images
from backlight.engine.pictures.likeness import ssim, top_overlap
from backlight.errors import UsageError

from .. import models
from .nets import net


def field(counts: tuple[int, int, int]) -> Any:
    """Smooth but for a bump around (30, 12) of each channel, float64 [2, n]."""
    c, y, x = np.meshgrid(*(np.arange(n) for n in counts), indexing="ij")
    bump = np.exp(-((y - 30) ** 2 + (x - 12) ** 2) / 8) * (1 + c)
    return np.stack([bump + 0.001 * y, 0.002 * x + 0 * y]).reshape(2, -1)


def test_windows_go_where_the_map_changes() -> None:
    counts = (2, 41, 37)
    truth = field(counts)
    asked: list[Any] = []
    values, scored = drill(counts, 0.18, lambda w: asked.append(w) or truth[:, w])  # type: ignore
    assert len(scored) == round(0.18 * truth.shape[1]), "the budget is spent"
    every = np.concatenate(asked)
    assert len(np.unique(every)) == len(every) == len(scored), "no window is scored twice"
    np.testing.assert_array_equal(values[:, scored], truth[:, scored])
    mask = np.zeros(counts, bool)
    mask.reshape(-1)[scored] = True
    assert mask[:, ::4, ::4].all() and mask[:, -1, -1].all()
    near = mask[:, 24:37, 6:19].mean()
    assert near > 2 * mask[:, :20, :20].mean()
    assert mask[:, :, 36].mean() > 0.5, "the second row's strongest"
    assert np.abs(values - truth).max() < 0.25 * np.ptp(truth)
    coarse, few = drill(counts, 0.01, lambda w: truth[:, w])
    assert len(few) == 2 * 11 * 10, "the coarse pass is whole"
    assert np.abs(values - truth).max() < np.abs(coarse - truth).max()


def test_a_texture_that_alternates_along_an_axis_is_seen() -> None:
    """Every second row and column sees one of its two phases; half of all windows see both."""
    counts = (1, 41, 37)
    truth = np.broadcast_to((-1.0) ** np.arange(41)[:, None], (41, 37)).reshape(1, -1)
    half = 21 * 19 + 20 * 18
    values, scored = drill(counts, half / (41 * 37) + STRONGEST, lambda w: truth[:, w])
    y, x = np.divmod(scored, 37)
    strongest = (y + x) % 2 == 1
    assert (~strongest).sum() == half and strongest.sum() == round(STRONGEST * 41 * 37)
    values[:, scored[strongest]] = 0  # as interpolated
    seen = values[0].reshape(41, 37)
    pairs = (seen[1:] + seen[:-1])[2:-2] / 2
    means = (pairs[:, 1:] + pairs[:, :-1])[:, 2:-2] / 2
    assert np.abs(means).max() < 1e-12, "as the truth's; of even rows alone, 1"


def test_the_strongest_windows_are_scored() -> None:
    """In every row of values its own, whatever the rows' ranges, and as many as the share says."""
    counts = (1, 41, 37)
    y, x = np.meshgrid(np.arange(41), np.arange(37), indexing="ij")
    peaks = [(10, 30), (29, 6)]
    truth = np.stack(
        [
            100**at * np.exp(-((y - py) ** 2 + (x - px) ** 2) / 20)
            for at, (py, px) in enumerate(peaks)
        ]
    ).reshape(2, -1)
    asked: list[Any] = []
    got, scored = drill(counts, 0.3, lambda w: asked.append(w) or truth[:, w])  # type: ignore
    assert len(asked[-1]) == round(STRONGEST * 41 * 37) and len(scored) == round(0.3 * 41 * 37)
    np.testing.assert_array_equal(got[:, scored], truth[:, scored])
    for row in (0, 1):
        strongest = np.argsort(-truth[row])[:13]
        assert np.isin(strongest, scored).all()
        np.testing.assert_array_equal(np.sort(np.argsort(-got[row])[:13]), np.sort(strongest))


def test_a_map_gets_the_windows_that_it_needs() -> None:
    """A smooth one the first two lattices and the strongest; noise half of all; the same for any
    unit and offset; and it's the rows' mean that counts."""
    counts = (1, 41, 37)
    y, x = np.meshgrid(np.arange(41.0), np.arange(37.0), indexing="ij")
    smooth = (1 + 2 * y + 3 * x).reshape(1, -1)
    rough = np.random.default_rng(0).normal(size=(1, 41 * 37))
    wave = np.sin(y / 2 + x / 2).reshape(1, -1)

    def share(*rows: Any) -> float:
        values = np.concatenate(rows)
        return len(drill(counts, None, lambda w: values[:, w])[1]) / values.shape[1]

    first, second = 11 * 10, 10 * 9
    assert share(smooth) == pytest.approx((first + second) / (41 * 37) + STRONGEST, abs=1e-3)
    assert share(rough) == pytest.approx(0.5 + STRONGEST, abs=1e-3)
    assert share(smooth) < share(wave) < share(rough)
    assert share(1e-6 * wave + 1e-3) == pytest.approx(share(wave), abs=1e-3)
    assert share(wave) < share(wave, rough) < share(rough)
    assert share(rough * np.nan) == pytest.approx(0.5 + STRONGEST, abs=1e-3)


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


def test_each_photo_gets_the_windows_that_it_needs() -> None:
    """SqueezeNet, on photos that need few and many, without a share (measured: 0.33 of
    them, SSIM 0.912, 0.92 of the top 5%; 0.53, 0.944, 0.95)."""
    settings: dict[str, Any] = {"window": 24, "stride": 6, "threads": 2}
    exact = Occlusion(BUNDLED, method="incremental", **settings)
    record = exact.scorer.preprocess
    assert record is not None
    shares = []
    for photo in ("coffee", "rocket"):
        file = PHOTOS / f"{photo}.jpg"
        x = images.prepare(images.decode(file), record, exact.scorer.input).tensor[None]
        want = exact.measure(x)
        got = Occlusion(exact.scorer, method="drilldown", **settings).measure(x)
        assert got.choice.method == "incremental", "a photo alone isn't too few to plan for"
        shares.append(float(got.scored.mean()))
        maps = got.heat[0, 0], want.heat[0, 0]
        assert ssim(*maps) > 0.9 and top_overlap(*maps, 0.05) > 0.88
    assert shares[0] < shares[1] - 0.05


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
    assert run([*command, "--force"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["share"] is None and summary["images"][0]["scored"]["windows"] > 0
    assert run([*command, "--force", "--share", "1.5"]) == 2
    assert "share 1.5; accepted: above 0, at most 1" in capsys.readouterr().err
    assert run(["occlude", "-o", str(tmp_path / "no"), "--share", "0.3"]) == 2
    assert "--share 0.3 with --way auto: that scores all windows" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
    with pytest.raises(UsageError, match="share 0"):
        Occlusion(net(), method="drilldown", share=0)
