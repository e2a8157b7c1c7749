"""Saliency-seeded segmentation: seeds, cuts, a planted object, and the command."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

import backlight
from backlight.engine.cli import run
from backlight.engine.masked.incremental import Chooser
from backlight.engine.masked.segmentation import METHODS
from backlight.errors import ImageError, UsageError

from ..models import images, parsed, tiny
from .coloured import LIBRARIES, coloured, disc, overlap

OPTIONS: dict[str, Any] = {"preprocess": "unit", "providers": "cpu", "threads": 1}


def red_seer(shape: str = "N,3,48,48", head: str = "") -> onnx.ModelProto:
    """Class 1 is how much is redder than blue, smoothed; class 0 a constant; class 2 nothing."""
    source = "image" if head else "x"
    kernel = np.zeros((1, 3, 5, 5), np.float32)
    kernel[0, 0], kernel[0, 2] = 1 / 25, -1 / 25
    return parsed(
        f"""<ir_version: 8, opset_import: ["": 18]>
red (float[{shape}] {source}) => (float[N,3] prob) {{
    {head}
    h = Conv<pads=[2,2,2,2]>(x, w)
    r = Relu(h)
    p = GlobalAveragePool(r)
    f = Flatten(p)
    z = Gemm<transB=1>(f, v, c)
    prob = Softmax(z)
}}""",
        {"w": kernel, "v": np.float32([[0], [20], [0]]), "c": np.float32([0, -1, -9])},
    )


class TestPlanted:
    """A network that sees red, and red things."""

    want = np.stack([disc(48, 24, 20, 11), disc(48, 14, 30, 9)])
    x = np.stack([coloured(m, at) for at, m in enumerate(want)]).transpose(0, 3, 1, 2)
    x = (x / 255).astype(np.float32)

    @pytest.mark.parametrize("method", METHODS)
    def test_its_masks(self, method: str, way: str) -> None:
        segment = backlight.Segment(red_seer(), method=method, way=way, **OPTIONS)
        assert segment.way == way
        found = segment(self.x)
        assert isinstance(found, backlight.Segmentation)
        assert (found.target == 1).all() and found.found.all()
        for at, want in enumerate(self.want):
            # Half a convolution's window of its edge may go either way.
            assert overlap(found.mask[at], want) > 0.85, method
            left, top, right, bottom = found.box[at]
            inside = np.zeros_like(want)
            inside[top:bottom, left:right] = True
            assert (found.mask[at] <= inside).all()
            assert found.mask[at][top].any() and found.mask[at][:, right - 1].any()
        assert found.heat.shape == found.seeds.shape == (2, 48, 48)
        np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, rtol=1e-5)

    def test_a_row_is_what_it_is_alone_and_layouts_agree(self) -> None:
        pytest.importorskip("cv2")
        how = {"way": "grabcut", "method": "gradcam", **OPTIONS}
        together = backlight.Segment(red_seer(), **how)(self.x)
        alone = backlight.Segment(red_seer(), **how)(self.x[1:])
        np.testing.assert_array_equal(alone.mask[0], together.mask[1])
        last = red_seer("N,48,48,3", "x = Transpose<perm=[0,3,1,2]>(image)")
        found = backlight.Segment(last, **how)(self.x.transpose(0, 2, 3, 1).copy())
        np.testing.assert_array_equal(found.mask, together.mask)

    def test_a_class_that_is_nowhere_has_no_mask(self) -> None:
        pytest.importorskip("cv2")
        found = backlight.Segment(red_seer(), method="vanilla", **OPTIONS)(self.x, 2)
        assert not found.found.any() and not found.mask.any() and not found.box.any()

    def test_progress_tells_of_windows(self) -> None:
        pytest.importorskip("cv2")
        told: list[int] = []
        segment = backlight.Segment(red_seer(), method="occlusion", window=12, **OPTIONS)
        segment(self.x, progress=told.append)
        assert sum(told) == 2 * segment.work((48, 48)) == 2 * 49

    def test_photos_one_by_one_count_as_many(self, monkeypatch: Any) -> None:
        """Whether windows are scored incrementally goes by all images seen, not by a call's."""
        pytest.importorskip("cv2")
        seen: list[tuple[int, int]] = []
        inner = Chooser.__call__

        def counted(self: Chooser, windows: Any, images: int, share: float = 1.0) -> Any:
            seen.append((id(self), images))
            return inner(self, windows, images, share)

        monkeypatch.setattr(Chooser, "__call__", counted)
        segment = backlight.Segment(red_seer(), method="occlusion", window=12, **OPTIONS)
        for row in self.x:
            segment(row[None])
        assert len({one for one, _ in seen}) == 1 and sum(n for _, n in seen) == 2

    @pytest.mark.parametrize(
        ("given", "says"),
        [
            ({"method": "rise"}, "vanilla, gradcam, occlusion"),
            ({"way": "scissors"}, "auto, grabcut, random-walker"),
            ({"foreground": 1.0}, "foreground 1"),
            ({"foreground": 0.2}, "foreground 0.2, background 0.3"),
            ({"background": -0.1}, "background -0.1"),
            ({"iterations": 0}, "iterations 0"),
            ({"seed": -1}, "seed -1"),
            ({"window": 3}, "window goes with method 'occlusion'"),
            ({"foreground": "0.9"}, "foreground"),
        ],
    )
    def test_bad_settings(self, given: dict[str, Any], says: str) -> None:
        pytest.importorskip("cv2")
        with pytest.raises(UsageError, match=says):
            backlight.Segment(tiny(), **{**OPTIONS, **given})

    def test_bad_inputs(self) -> None:
        pytest.importorskip("cv2")
        segment = backlight.Segment(tiny(), method="vanilla", **OPTIONS)
        with pytest.raises(ImageError, match="shaped"):
            segment(images(1, 3, 9, 8))
        with pytest.raises(UsageError, match="out of range"):
            segment(images(1, 3, 8, 8), 5)


class TestCommand:
    @pytest.fixture
    def seer(self, tmp_path: Path) -> Path:
        path = tmp_path / "red.onnx"
        onnx.save(red_seer(), path)
        return path

    @pytest.fixture
    def things(self, tmp_path: Path) -> Path:
        folder = tmp_path / "things"
        folder.mkdir()
        for name, mask in zip(("a", "b"), TestPlanted.want, strict=True):
            Image.fromarray(coloured(mask)).save(folder / f"{name}.png")
        return folder

    def test_what_it_writes(self, tmp_path: Path, seer: Path, things: Path, capsys: Any) -> None:
        pytest.importorskip("cv2")
        out, record = tmp_path / "out", tmp_path / "record.json"
        record.write_text('{"preset": "unit", "crop": 1.0}')
        words = f"segment -m {seer} {things} -o {out} --preprocess {record} --json"
        assert run(words.split()) == 0
        said = json.loads(capsys.readouterr().out)
        assert said == json.loads((out / "summary.json").read_bytes())
        assert (said["method"], said["way"], len(said["images"])) == ("gradcam", "grabcut", 2)
        for entry, want in zip(said["images"], TestPlanted.want, strict=True):
            mask = np.asarray(Image.open(out / entry["mask"]))
            assert set(np.unique(mask)) == {0, 255} and overlap(mask > 0, want) > 0.85
            box = entry["box"]
            cut = Image.open(out / entry["cutout"])
            assert cut.mode == "RGBA"
            assert cut.size == (box["right"] - box["left"], box["bottom"] - box["top"])
            inside = mask[box["top"] : box["bottom"], box["left"] : box["right"]]
            np.testing.assert_array_equal(np.asarray(cut)[..., 3], inside)
            assert entry["share"] == pytest.approx((mask > 0).mean(), abs=1e-6)
            assert (out / entry["panel"]).exists()

    def test_a_photo_without_seeds_is_skipped_and_said(
        self, tmp_path: Path, seer: Path, things: Path, capsys: Any
    ) -> None:
        pytest.importorskip("cv2")
        Image.new("RGB", (48, 48), (0, 0, 250)).save(things / "blue.png")
        out = tmp_path / "out"
        words = f"segment -m {seer} {things} -o {out} --preprocess unit --target-class 1"
        assert run([*words.split(), "--seeds", "vanilla"]) == 2
        said = capsys.readouterr().err
        assert "blue.png" in said and "no seeds" in said
        summary = json.loads((out / "summary.json").read_bytes())
        assert len(summary["images"]) == 2 and len(summary["skipped"]) == 1
        assert not list(out.glob("blue*"))

    @pytest.mark.parametrize(
        ("more", "says"),
        [
            ("--method rise", "vanilla, gradcam, occlusion"),
            ("--way scissors", "grabcut, random-walker"),
            ("--foreground 2", "foreground 2"),
            ("--iterations 0", "iterations 0"),
            ("--window 3", "window"),
            ("--method occlusion --stride 0", "stride"),
            ("--batch 0", "--batch 0"),
            ("--target-class 7", "out of range"),
            ("--target-class fish", "fish"),
        ],
    )
    def test_a_line_for_a_mistake(
        self, more: str, says: str, tmp_path: Path, seer: Path, things: Path, capsys: Any
    ) -> None:
        pytest.importorskip("cv2")
        out = tmp_path / "out"
        words = f"segment -m {seer} {things} -o {out} --preprocess unit {more}"
        assert run(words.split()) == 2
        said = capsys.readouterr().err
        assert len(said.splitlines()) == 1 and says in said and not out.exists()

    def test_neither_library(self, tmp_path: Path, seer: Path, things: Path, capsys: Any,
                             monkeypatch: Any) -> None:  # fmt: skip
        for name in LIBRARIES.values():
            monkeypatch.setitem(sys.modules, name, None)
        words = f"segment -m {seer} {things} -o {tmp_path / 'out'} --preprocess unit"
        assert run(words.split()) == 2
        said = capsys.readouterr().err
        assert len(said.splitlines()) == 1 and "backlight[grabcut]" in said
