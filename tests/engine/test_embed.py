"""Embeddings: which tensor, the same rows after a kill, one model per store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from PIL import Image

from backlight.engine.cli import run
from backlight.engine.cli.options import BUNDLED
from backlight.engine.inside.taps import Taps
from backlight.engine.similar.embed import Embedder, embed, model_hash
from backlight.engine.similar.store import Embeddings, parts_of
from backlight.errors import ImageError, InputError, OutputError, UsageError
from backlight.export.graph import read
from backlight.export.preprocess import PRESETS, attach

from ..models import images as random_images
from ..models import tiny, weights
from .nets import MATMUL, with_body

pytest.importorskip("pyarrow")


PHOTOS = BUNDLED.parent / "photos"


def pictures(folder: Path, count: int = 20, seed: int = 0) -> Path:
    """Small pictures of noise in two folders."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        file = folder / ("even" if index % 2 == 0 else "odd") / f"{index:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9, 10, 3)).astype(np.uint8)).save(file)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return pictures(tmp_path / "pictures")


def saved(path: Path, seed: int = 0) -> Path:
    """`tiny` in a file, saying how it wants its images."""
    proto = tiny()
    for held in list(proto.graph.initializer):
        proto.graph.initializer.remove(held)
    for name, value in weights(seed).items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    model, _ = read(proto)
    attach(model, PRESETS["unit"])
    onnx.save(ir.to_proto(model), path)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return saved(tmp_path / "tiny.onnx")


def same(one: Path, other: Path) -> None:
    """The same rows, bit for bit."""
    a, b = Embeddings(one), Embeddings(other)
    assert a.paths == b.paths
    assert a.labels == b.labels
    assert np.array_equal(a.vectors.view(np.uint32), b.vectors.view(np.uint32))
    assert np.array_equal(a.pixels, b.pixels)
    assert a.source == b.source


class TestEmbed:
    def test_rows_are_what_the_model_computes(
        self, model: Path, folder: Path, tmp_path: Path
    ) -> None:
        done = embed(model, folder, tmp_path / "store", batch=3, threads=2)
        assert (done.added, done.known, done.skipped) == (20, 0, {})
        store = done.embeddings
        files = sorted(folder.rglob("*.png"))
        assert store.paths == [str(f) for f in files]
        assert store.labels == [f.parent.name for f in files]
        taps = Taps(model, ["f"], providers="cpu", threads=1)
        want = taps(taps.load(files))["f"]
        np.testing.assert_allclose(store.vectors, want, rtol=1e-5, atol=1e-6)  # other batches
        assert store.pixels.shape == (20, 32, 32, 3)
        assert store.source.hash == model_hash(model)
        assert store.source.tensor == "f"

    def test_a_store_grows(self, model: Path, folder: Path, tmp_path: Path) -> None:
        embed(model, folder / "even", tmp_path / "store")
        more = embed(model, folder, tmp_path / "store")
        assert (more.added, more.known) == (10, 10)
        store = Embeddings(tmp_path / "store")
        assert len(store) == len(set(store.paths)) == 20
        assert store.labels == [None] * 10 + ["odd"] * 10
        assert embed(model, folder, tmp_path / "store").added == 0

    def test_unreadable_pictures_are_listed_and_tried_again(
        self, model: Path, folder: Path, tmp_path: Path
    ) -> None:
        bad = folder / "even" / "04.png"
        good = bad.read_bytes()
        bad.write_bytes(good[:60])
        done = embed(model, folder, tmp_path / "store", batch=4)
        assert (done.added, list(done.skipped)) == (19, [str(bad)])
        assert list(Embeddings(tmp_path / "store").skipped) == [str(bad)]
        assert list(embed(model, folder, tmp_path / "store").skipped) == [str(bad)]
        bad.write_bytes(good)
        assert embed(model, folder, tmp_path / "store").added == 1
        assert len(Embeddings(tmp_path / "store")) == 20

    def test_nan_is_no_vector(self, folder: Path, tmp_path: Path) -> None:
        broken = with_body(MATMUL)
        held = next(t for t in broken.graph.initializer if t.name == "b")
        held.CopyFrom(onnx.numpy_helper.from_array(np.full(4, np.inf, np.float32), "b"))
        done = embed(broken, folder, tmp_path / "store", preprocess="unit")
        assert (done.added, len(done.skipped)) == (0, 20)
        assert "NaN or infinite" in next(iter(done.skipped.values()))

    def test_a_fixed_batch_is_kept(self, folder: Path, tmp_path: Path) -> None:
        made = tiny(shape="8,3,8,8", output="float[8,5] prob")
        fixed = embed(made, folder, tmp_path / "fixed", preprocess="unit").embeddings
        free = embed(tiny(), folder, tmp_path / "free", preprocess="unit").embeddings
        np.testing.assert_allclose(fixed.vectors, free.vectors, rtol=1e-5, atol=1e-6)  # fp32

    def test_the_hash_sees_external_data(self, tmp_path: Path) -> None:
        proto = tiny()
        onnx.save(
            proto, tmp_path / "m.onnx", save_as_external_data=True, location="m.data",
            size_threshold=0,
        )  # fmt: skip
        before = model_hash(tmp_path / "m.onnx")
        data = bytearray((tmp_path / "m.data").read_bytes())
        data[5] ^= 1
        (tmp_path / "m.data").write_bytes(data)
        assert model_hash(tmp_path / "m.onnx") != before


KILLED = """
import os, signal, sys
from backlight.engine.similar import embed, store_writer
from backlight.engine.photos import outputs
embed.PART_SECONDS = 0  # a part per batch
model, folder, store, when = sys.argv[1:]
replace, count = os.replace, 0
def die(*a):
    os.kill(os.getpid(), signal.SIGKILL)
def counted(*a):
    global count
    count += 1
    if when == "before" and count == 3: die()
    replace(*a)
    if when == "after" and count == 3: die()
outputs.os.replace = counted
embed.embed(model, folder, store, batch=3, threads=2,
            on_batch=lambda done, of: die() if when == "between" and done >= 9 else None)
"""


def flipped(part: Path) -> bytes:
    """A part with a wrong byte in the page of the pixels."""
    from pyarrow import parquet

    held = parquet.read_metadata(part).row_group(0).column(3)
    assert held.path_in_schema == "pixels"
    data = bytearray(part.read_bytes())
    data[held.data_page_offset + held.total_compressed_size * 3 // 4] ^= 255
    return bytes(data)


class TestKilled:
    @pytest.mark.parametrize("when", ["before", "after", "between"])
    def test_goes_on_with_the_same_result(
        self, model: Path, folder: Path, tmp_path: Path, when: str
    ) -> None:
        (folder / "even" / "02.png").write_bytes(b"no picture")
        embed(model, folder, tmp_path / "whole", batch=3, threads=2)
        killed = subprocess.run(
            [sys.executable, "-c", KILLED, model, folder, tmp_path / "store", when],
            capture_output=True,
        )
        assert killed.returncode == -9, killed.stderr
        held = len(Embeddings(tmp_path / "store"))
        assert 0 < held < 19
        done = embed(model, folder, tmp_path / "store", batch=3, threads=2)
        assert done.added == 19 - held
        same(tmp_path / "store", tmp_path / "whole")
        assert not list((tmp_path / "store").glob(".part-*"))

    @pytest.mark.parametrize("how", ["cut", "empty", "flipped"])
    def test_a_damaged_part_is_set_aside(
        self,
        model: Path,
        folder: Path,
        tmp_path: Path,
        how: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("backlight.engine.similar.embed.PART_SECONDS", 0)
        embed(model, folder, tmp_path / "whole", batch=8)
        embed(model, folder, tmp_path / "store", batch=8)
        last = parts_of(tmp_path / "store")[-1]
        data = flipped(last)
        last.write_bytes({"cut": data[:-20], "empty": b"", "flipped": data}[how])
        if how != "flipped":
            cut = Embeddings(tmp_path / "store")
            assert (len(cut), cut.damaged) == (16, [last])
        done = embed(model, folder, tmp_path / "store", batch=8)
        assert done.added == 4
        assert "set aside" in done.notes[-1]
        same(tmp_path / "store", tmp_path / "whole")

    def test_damage_in_a_page_is_found_when_read(
        self, model: Path, folder: Path, tmp_path: Path
    ) -> None:
        store = embed(model, folder, tmp_path / "store").embeddings
        (part,) = parts_of(tmp_path / "store")
        part.write_bytes(flipped(part))
        with pytest.raises(InputError, match="damaged"):
            _ = store.pixels


class TestRefuses:
    def test_another_model(self, model: Path, folder: Path, tmp_path: Path) -> None:
        embed(model, folder, tmp_path / "store")
        before = [p.read_bytes() for p in parts_of(tmp_path / "store")]
        other = saved(tmp_path / "other.onnx", seed=1)
        with pytest.raises(UsageError, match="made by another model"):
            embed(other, folder, tmp_path / "store")
        with pytest.raises(UsageError, match="made with tensor f, not r"):
            embed(model, folder, tmp_path / "store", layer="r")
        with pytest.raises(UsageError, match="made with preprocess"):
            embed(model, folder, tmp_path / "store", preprocess="none")
        assert [p.read_bytes() for p in parts_of(tmp_path / "store")] == before
        assert embed(other, folder, tmp_path / "store", force=True).added == 20

    def test_two_writers(self, model: Path, folder: Path, tmp_path: Path) -> None:
        pytest.importorskip("fcntl")
        inner: list[str] = []

        def again(done: int, total: int) -> None:
            with pytest.raises(OutputError, match="another 'backlight embed'") as err:
                embed(model, folder, tmp_path / "store")
            inner.append(str(err.value))

        embed(model, folder, tmp_path / "store", batch=20, on_batch=again)
        assert len(inner) == 1

    def test_a_folder_with_other_things(self, model: Path, folder: Path) -> None:
        with pytest.raises(OutputError, match="a folder with other files"):
            embed(model, folder, folder)

    def test_parquet_files_of_others_stay(self, model: Path, folder: Path, tmp_path: Path) -> None:
        pyarrow = pytest.importorskip("pyarrow")
        (tmp_path / "store").mkdir()
        foreign = tmp_path / "store" / "part-00000.parquet"
        pyarrow.parquet.write_table(pyarrow.table({"a": [1]}), foreign)
        before = foreign.read_bytes()
        for force in (False, True):
            with pytest.raises(InputError, match="not a part of a store"):
                embed(model, folder, tmp_path / "store", force=force)
        assert foreign.read_bytes() == before

    def test_a_folder_that_cannot_be_listed_takes_no_label(
        self, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The pictures of the other classes keep theirs, and it is skipped."""
        for name in ("a", "b", "closed"):
            (tmp_path / "classes" / name).mkdir(parents=True)
            Image.new("RGB", (9, 9), "red").save(tmp_path / "classes" / name / "1.png")
        for name in ("scandir", "listdir"):
            listed = getattr(os, name)

            def refuse(path: Any = ".", listed: Any = listed) -> Any:
                if Path(path).name == "closed":
                    raise PermissionError(13, "Permission denied")
                return listed(path)

            monkeypatch.setattr(os, name, refuse)
        made = embed(model, tmp_path / "classes", tmp_path / "store", preprocess="unit")
        assert made.embeddings.labels == ["a", "b"]
        assert [Path(p).name for p in made.skipped] == ["closed"]

    def test_an_empty_folder(self, model: Path, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(ImageError, match="a folder without images"):
            embed(model, tmp_path / "empty", tmp_path / "store")
        assert not (tmp_path / "store").exists()

    def test_what_is_no_store(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        for path in (tmp_path / "none", tmp_path / "empty"):
            with pytest.raises(UsageError, match="expected a store"):
                Embeddings(path)


class TestCommand:
    def test_photos(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out = str(tmp_path / "store")
        assert run(["embed", "bundled", str(PHOTOS), "-o", out, "--threads", "1"]) == 0
        said = capsys.readouterr().out
        assert "5 pictures as 512 numbers each, 'fire9' (mean over 13 x 13 positions)" in said
        assert "images/s" in said
        assert run(["embed", "bundled", str(PHOTOS), "-o", out, "--json", "--threads", "1"]) == 0
        assert json.loads(capsys.readouterr().out)["known"] == 5

    def test_skipped_pictures_give_exit_code_2(
        self, model: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (folder / "odd" / "03.png").write_bytes(b"")
        out = str(tmp_path / "store")
        assert run(["embed", str(model), str(folder), "-o", out, "--threads", "1"]) == 2
        said = capsys.readouterr()
        assert "19 pictures" in said.out
        assert said.err.startswith("backlight: skipped: ")
        assert "03.png: empty" in said.err
        assert len(Embeddings(out)) == 19

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["--layer", "flat"], "no tensor 'flat'"),
            (["--batch", "0"], "--batch 0; expected 1 or more"),
            (["--threads", "0"], "threads 0; expected 1 or more"),
        ],
    )
    def test_mistakes(
        self,
        model: Path,
        folder: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        arguments: list[str],
        said: str,
    ) -> None:
        out = str(tmp_path / "store")
        assert run(["embed", str(model), str(folder), "-o", out, *arguments]) == 2
        err = capsys.readouterr().err
        assert said in err
        assert err.count("\n") == 1
        assert not (tmp_path / "store").exists()


def test_embedder_takes_arrays(model: Path) -> None:
    embedder = Embedder(model, providers="cpu", threads=1)
    x = random_images(5, 3, 8, 8)
    vectors = embedder(x)
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors[2:4], embedder(x[2:4]))
