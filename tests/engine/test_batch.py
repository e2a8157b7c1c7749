"""`backlight batch`: shards to parts, whole or not at all, and what is missing when run again."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import backlight
from backlight.engine.cli import run
from backlight.engine.scale import local
from backlight.engine.scale import run as scale
from backlight.engine.scale.maps import decoded
from backlight.errors import ModelError, OutputError, UsageError

from .. import models
from .batching import Here, manifest_of, rows_of, tar, tars, thumbnail
from .commands import SRC

pa = pytest.importorskip("pyarrow")


pq = pytest.importorskip("pyarrow.parquet")


HOW: dict[str, Any] = {"preprocess": "unit", "methods": ["guided"], "workers": 1, "threads": 1}


# Of a run in this process alone: what starts quickly.
QUICK: dict[str, Any] = HOW | {"isolate": False}


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that are no processes."""
    monkeypatch.setattr(scale, "Worker", Here)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    tars(tmp_path / "shards", 2, 5)
    return tmp_path / "shards"


@pytest.mark.usefixtures("here")
def test_a_model_of_a_thousand_classes_hints_at_their_names(shards: Path, tmp_path: Path) -> None:
    model, names = models.thousand(), [f"class {n}" for n in range(1000)]
    for folder, labels in (("bare", None), ("named", names)):
        done = scale.batch(model, [shards], tmp_path / folder, labels=labels, **HOW)
        assert any("--labels imagenet" in note for note in done.notes) is (labels is None)


@pytest.mark.usefixtures("here")
def test_a_part_holds_what_the_explainer_says(tiny: Path, tmp_path: Path) -> None:
    """Row by row against an Explainer on the same pictures; a broken one is a row with a reason."""
    pictures = {f"{n}.jpg": thumbnail(n) for n in range(11)} | {"z.jpg": b"no picture"}
    tar(tmp_path / "a.tar", pictures)
    (tmp_path / "names.txt").write_text("ant\nbee\ncat\ndog\nelk\n")
    found = backlight.batch(
        tiny, tmp_path / "a.tar", tmp_path / "out", batch=4, maps="float16", top=2,
        labels=["ant", "bee", "cat", "dog", "elk"], **{**QUICK, "methods": ["vanilla", "guided"]},
    )  # fmt: skip
    assert (found.rows, found.errors, found.written, found.failed) == (12, 1, 1, {})
    assert found.reasons == ["z.jpg: not an image that can be read; expected JPEG, PNG …"]
    rows = rows_of(tmp_path / "out")
    assert [r["key"] for r in rows] == list(pictures) and [r["row"] for r in rows] == [*range(12)]
    bad = rows.pop()
    assert bad.pop("error") == found.reasons[0]
    assert {k for k, v in bad.items() if v is not None} == {"key", "row"}
    explainer = backlight.Explainer(tiny, methods=["vanilla", "guided"], providers="cpu")
    for name, row in zip(pictures, rows, strict=False):
        (tmp_path / name).write_bytes(pictures[name])
        want = explainer(explainer.load([tmp_path / name], "unit"))
        chances = explainer.probabilities(want.scores)
        assert row["error"] is None and row["class"] == want.target[0] == row["top_classes"][0]
        assert row["name"] == ["ant", "bee", "cat", "dog", "elk"][row["class"]]
        best = np.sort(chances[0])[::-1][:2]
        np.testing.assert_allclose(row["top_scores"], best, rtol=1e-5)
        assert row["probability"] == pytest.approx(best[0], rel=1e-5)
        for method in ("vanilla", "guided"):
            got = decoded(row[f"saliency_{method}"], row[f"scale_{method}"], "float16", (3, 8, 8))
            largest = np.abs(want.saliency[method][0]).max()
            # Half precision of values up to 1, by the largest.
            np.testing.assert_allclose(got, want.saliency[method][0], rtol=0, atol=6e-4 * largest)
    field = pq.read_schema(found.parts[0]).field("saliency_guided")
    assert field.metadata == {b"form": b"float16", b"shape": b"3,8,8"}


@pytest.mark.usefixtures("here")
def test_every_kind_of_shard_gives_the_same_rows(tiny: Path, tmp_path: Path) -> None:
    pictures = {f"{n}.jpg": thumbnail(n) for n in range(6)}
    given = tmp_path / "given"
    (given / "loose").mkdir(parents=True)
    for name, data in pictures.items():
        (given / "loose" / name).write_bytes(data)
    tar(given / "a.tar", pictures)
    with open(given / "a.tar", "rb") as plain:
        import gzip

        (given / "b.tgz").write_bytes(gzip.compress(plain.read()))
    table = {"image": list(pictures.values()), "path": list(pictures), "label": [1] * 6}
    pq.write_table(pa.table(table), given / "c.parquet")
    inside = [{"bytes": data, "path": name} for name, data in pictures.items()]
    pq.write_table(pa.table({"image": inside}), given / "d.parquet")
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"given/loose/{name}\n" for name in pictures) + "\n")
    found = backlight.batch(tiny, [given, listed], tmp_path / "out", **QUICK)
    assert not found.failed and not found.errors
    assert sorted(p.name for p in found.parts) == [
        "a.tar.parquet", "b.tgz.parquet", "c.parquet.parquet", "d.parquet.parquet",
        "files-000000.parquet", "list.txt.parquet",
    ]  # fmt: skip
    tables = {p.name: pq.read_table(p).to_pylist() for p in found.parts}
    for rows in tables.values():
        for row, name in zip(rows, pictures, strict=True):
            assert row.pop("key").removeprefix("given/").removeprefix("loose/") == name
    first, *others = tables.values()
    assert all(rows == first for rows in others) and len(first) == 6
    table = found.table(["key", "class"])
    assert table.num_rows == 36 and table.column_names == ["key", "class"]


@pytest.mark.usefixtures("here")
def test_run_again_does_what_is_missing(tiny: Path, shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = backlight.batch(tiny, shards, out, **QUICK)
    assert (first.written, first.kept, first.rows) == (2, 0, 10)
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in first.parts}
    again = backlight.batch(tiny, shards, out, **QUICK)
    assert (again.written, again.kept, again.rows, again.notes) == (0, 2, 10, [])
    assert before == {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in again.parts}
    first.parts[1].unlink()
    tar(shards / "new.tar", {"a.jpg": thumbnail(1)})
    third = backlight.batch(tiny, shards, out, **QUICK)
    assert (third.written, third.kept, third.rows) == (2, 1, 11)
    assert first.parts[1].read_bytes() == before[first.parts[1]][0]
    said = manifest_of(out)
    assert said["complete"] and said["rows"] == 11 and not said["failed"]
    assert [s["part"] for s in said["shards"]] == [p.name for p in third.parts]
    assert not [p for p in out.iterdir() if p.name.startswith(".")]


@pytest.mark.usefixtures("here")
def test_a_changed_shard_is_noticed(tiny: Path, shards: Path, tmp_path: Path) -> None:
    """By its hash, where its size or time are others; with verify in any case."""
    out = tmp_path / "out"
    parts = backlight.batch(tiny, shards, out, **QUICK).parts
    file = shards / "0000.tar"
    os.utime(file)  # touched: the bytes are the same
    assert backlight.batch(tiny, shards, out, **QUICK).written == 0
    about = file.stat()
    tar(file, {f"{n:06d}.jpg": thumbnail(n) for n in range(5)})
    same = bytearray(file.read_bytes())
    same[600] ^= 1  # of a picture
    file.write_bytes(same)
    found = backlight.batch(tiny, shards, out, **QUICK)
    assert found.written == 1 and found.notes == ["1 part is made again: its shard has changed"]
    about = file.stat()
    same[600] ^= 1
    file.write_bytes(same)
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert backlight.batch(tiny, shards, out, **QUICK).written == 0
    assert backlight.batch(tiny, shards, out, verify=True, **QUICK).written == 1
    parts[1].write_bytes(parts[1].read_bytes()[:-100])
    found = backlight.batch(tiny, shards, out, **QUICK)
    assert found.written == 1 and found.notes == ["1 part is made again: cut short or damaged"]
    data = bytearray(parts[1].read_bytes())
    column = pq.read_metadata(parts[1]).row_group(0).column(7)
    data[column.data_page_offset + column.total_compressed_size // 2] ^= 255
    parts[1].write_bytes(data)
    assert backlight.batch(tiny, shards, out, **QUICK).written == 0
    assert backlight.batch(tiny, shards, out, verify=True, **QUICK).written == 1


@pytest.mark.usefixtures("here")
def test_another_model_or_other_options_are_refused(
    tiny: Path, shards: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    parts = backlight.batch(tiny, shards, out, **QUICK).parts
    held = [p.read_bytes() for p in parts]
    for change in ({"grid": 8}, {"maps": "png"}, {"top": 2}, {"target": 3}, {"methods": None},
                   {"preprocess": "none"}, {"labels": list("abcde")}):  # fmt: skip
        with pytest.raises(OutputError, match=r"a part of other options; .*--force"):
            backlight.batch(tiny, shards, out, **{**QUICK, **change})
    for same in ({"batch": 3}, {"workers": 2}, {"providers": "cpu"}, {"isolate": False}):
        assert backlight.batch(tiny, shards, out, **{**QUICK, **same}).kept == 2
    other = tmp_path / "other.onnx"
    proto = models.tiny()
    proto.doc_string = "another"
    onnx.save(proto, other)
    with pytest.raises(OutputError, match="a part of another model"):
        backlight.batch(other, shards, out, **QUICK)
    assert held == [p.read_bytes() for p in parts]
    found = backlight.batch(tiny, shards, out, force=True, grid=8, **QUICK)
    assert (found.written, found.kept) == (2, 0)
    pq.write_table(pa.table({"a": [1]}), parts[0])
    with pytest.raises(OutputError, match="not a part of batch"):
        backlight.batch(tiny, shards, out, grid=8, **QUICK)


@pytest.mark.usefixtures("here")
def test_a_shard_that_cannot_be_read_is_said_and_the_others_are_there(
    tiny: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (shards / "0000.tar").read_bytes()
    with tarfile.open(shards / "0000.tar") as archive:
        second = archive.getmembers()[1].offset
    cuts = {"header": second + 200, "members": second, "member": 700, "none": 0}
    for name, at in cuts.items():
        (shards / f"cut-{name}.tar").write_bytes(whole[:at])
    (shards / "junk.tar").write_bytes(b"junk" * 1000)
    (shards / "junk.parquet").write_bytes(b"junk" * 1000)
    pq.write_table(pa.table({"a": [1]}), shards / "none.parquet")
    pq.write_table(pa.table({"a": [b"1"], "b": [b"2"]}), shards / "two.parquet")
    tar(shards / "empty.tar", {})
    out = tmp_path / "out"
    words = ["batch", "-m", str(tiny), str(shards), str(tmp_path / "absent"), "-o", str(out)]
    words += ["--preprocess", "unit", "--rule", "guided", "--no-isolate", "--json"]
    assert run(words) == 2
    got = capsys.readouterr()
    said = json.loads(got.out)
    assert said["parts"] == 2 and said["rows"] == 10 and said["read"] == 10
    failed = {Path(one["file"]).name: one["error"] for one in said["skipped"]}
    assert set(failed) == {
        "absent", *(f"cut-{n}.tar" for n in cuts), "junk.tar", "junk.parquet", "none.parquet",
        "two.parquet", "empty.tar",
    }  # fmt: skip
    for name, says in (
        ("absent", "no such file"), ("cut-header.tar", "cut short"),
        ("cut-members.tar", "cut short"), ("cut-member.tar", "unexpected end of data"),
        ("junk.tar", "no tar file"),
        ("junk.parquet", "no Parquet file"), ("none.parquet", "it has none"),
        ("two.parquet", "a, b; --column names one"), ("empty.tar", "no pictures in it"),
    ):  # fmt: skip
        assert says in failed[name], failed[name]
    lines = got.err.splitlines()
    assert len(lines) == len(failed) and all("skipped: " in line for line in lines), lines
    assert sorted(p.name for p in out.iterdir()) == [
        "0000.tar.parquet", "0001.tar.parquet", "_manifest.json",
    ]  # fmt: skip
    assert not manifest_of(out)["complete"]


@pytest.mark.usefixtures("here")
def test_columns_of_parquet_shards(tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    table = {"a": [thumbnail(0)], "b": [thumbnail(1)], "n": ["one"], "key": [7]}
    pq.write_table(pa.table(table), file)
    keys = {}
    for name, more in {"own": {}, "n": {"key": "n"}}.items():
        out = tmp_path / name
        assert not backlight.batch(tiny, file, out, column="b", **QUICK, **more).failed
        keys[name] = rows_of(out)[0]["key"]
    assert keys == {"own": "7", "n": "one"}
    for more, says in (
        ({"column": "n"}, "no column 'n' of bytes; it has a, b"),
        ({"column": "a", "key": "x"}, "no column 'x'; it has a, b, n, key"),
    ):
        found = backlight.batch(tiny, file, tmp_path / "bad", **QUICK, **more)
        assert says in found.failed[str(file)]


@pytest.mark.usefixtures("here")
def test_one_row_never_brings_down_its_batch(tmp_path: Path) -> None:
    """Scores that aren't finite, of one picture: a row with a reason, and the others are right."""
    proto = models.tiny()
    file = tmp_path / "m.onnx"
    onnx.save(proto, file)
    black = io.BytesIO()
    from PIL import Image

    Image.new("RGB", (9, 9)).save(black, "PNG")
    tar(
        tmp_path / "a.tar",
        {"0.jpg": thumbnail(0), "1.png": black.getvalue(), "2.jpg": thumbnail(2)},
    )
    log = models.parsed(
        '<ir_version: 8, opset_import: ["": 18]>\n'
        "logs (float[N,3,8,8] x) => (float[N,3] y) { m = GlobalAveragePool(x)\n"
        "f = Flatten(m)\n y = Log(f) }",
        {},
    )
    onnx.save(log, file)
    found = backlight.batch(file, tmp_path / "a.tar", tmp_path / "out", **QUICK)
    rows = rows_of(tmp_path / "out")
    assert [bool(r["error"]) for r in rows] == [False, True, False] and found.errors == 1
    assert "NaN or infinite" in rows[1]["error"]


def test_the_model_is_read_in_a_process_of_its_own(
    tiny: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = sys.modules["backlight.export.graph"]

    def never(*_: object) -> None:
        raise AssertionError("the model was opened here")

    monkeypatch.setattr(graph, "read_message", never)
    assert backlight.batch(tiny, shards, tmp_path / "out", **HOW).rows == 10
    with pytest.raises(AssertionError, match="opened here"):
        backlight.batch(tiny, shards, tmp_path / "in", isolate=False, **HOW)


@pytest.mark.usefixtures("here")
def test_an_exported_file_is_taken_as_it_is(tiny: Path, shards: Path, tmp_path: Path) -> None:
    file = tmp_path / "e.onnx"
    line = f"export {tiny} -o {file} --method gradcam --rule guided --preprocess unit"
    assert run(line.split()) == 0
    backlight.batch(file, shards, tmp_path / "a")
    backlight.batch(
        tiny, shards, tmp_path / "b", methods=["gradcam"], rules=["guided"], preprocess="unit",
        isolate=False,
    )  # fmt: skip
    for got, want in zip(rows_of(tmp_path / "a"), rows_of(tmp_path / "b"), strict=True):
        assert got.keys() == want.keys() and got["class"] == want["class"]
        for name in ("saliency_guided", "saliency_gradcam"):
            np.testing.assert_allclose(got[name], want[name], rtol=1e-3, atol=1e-6)
    for more, says in (
        ({"layer": "h"}, "layer is in the file"),
        ({"methods": ["vanilla"]}, "has no"),
    ):
        with pytest.raises(UsageError, match=says):
            backlight.batch(file, shards, tmp_path / "c", **more)  # type: ignore[arg-type]


@pytest.mark.usefixtures("here")
def test_bad_usage_is_a_line(
    tiny: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"junk")
    (tmp_path / "bare").mkdir()
    own = ["-m", str(tiny), str(shards)]
    for words, says in (
        ([*own, "--maps", "jpeg"], "accepted: grid, float16, png"),
        ([*own, "--grid", "0"], "grid 0; expected 1 to 256"),
        ([*own, "--top", "0"], "top 0; expected 1 or more"),
        ([*own, "--batch", "0"], "batch 0; expected 1 or more"),
        ([*own, "--workers", "0"], "workers 0; expected 1 or more"),
        ([*own, "--shard-size", "0"], "shard-size 0; expected 1 or more"),
        ([*own, "--target-class", "9"], "the model has classes 0 to 4"),
        ([*own, "--target-class", "cat"], "--target-class 'cat'"),
        ([*own, "--method", "gradcamm"], "nearest: gradcam"),
        ([*own, "--gpus", "1"], "go with --ray"),
        ([*own, "--provider", "gpu"], "provider 'gpu'"),
        ([*own, "--isolate-seconds", "0"], "0 seconds"),
        (["-m", str(tmp_path / "broken.onnx"), str(shards)], "not an ONNX model"),
        (["-m", str(tmp_path / "none.onnx"), str(shards)], "no such file"),
        (["-m", str(tiny), str(tmp_path / "bare")], "a folder without shards or pictures"),
        (["-m", str(tiny), str(tmp_path / "bare" / "x")], "no such file or folder"),
        (["-m", str(tiny), str(tmp_path / "broken.onnx")], "no shard by its name"),
    ):
        assert run(["batch", *words, "-o", str(tmp_path / "out"), "--no-isolate"]) == 2, words
        err = capsys.readouterr().err
        lines = [line for line in err.splitlines() if "how it wants its images" not in line]
        assert len(lines) == 1 and says in lines[0] and lines[0].startswith("backlight: "), err
        assert not list((tmp_path / "out").glob("*.parquet"))
    more = models.parsed(
        '<ir_version: 8, opset_import: ["": 18]>\n'
        "two (float[N,3,8,8] x, float[N,3] meta) => (float[N,3] y) { m = GlobalAveragePool(x)\n"
        "f = Flatten(m)\n y = Add(f, meta) }",
        {},
    )
    onnx.save(more, tmp_path / "two.onnx")
    words = ["batch", "-m", str(tmp_path / "two.onnx"), str(shards), "-o", str(tmp_path / "out")]
    assert run([*words, "--no-isolate"]) == 2
    assert "the model takes 'meta'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert run([*words, "--no-isolate", "--input", "meta=0", "--preprocess", "unit"]) == 0
    assert run([*words, "--no-isolate", "--input", "meta=1", "--preprocess", "unit"]) == 2
    assert "a part of other options" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "out")
    assert run(["batch", *own, "-o", str(shards)]) == 2
    assert "the output's own folder" in capsys.readouterr().err


@pytest.mark.usefixtures("here")
def test_parts_among_their_shards_are_no_shards(tiny: Path, shards: Path) -> None:
    out = shards / "out"
    for written in (2, 0):
        found = backlight.batch(tiny, shards, out, **QUICK)
        assert (found.written, found.rows) == (written, 10)


@pytest.mark.usefixtures("here")
def test_two_at_once_in_one_folder_are_refused(tiny: Path, shards: Path, tmp_path: Path) -> None:
    from backlight.engine.photos.outputs import alone

    out = tmp_path / "out"
    out.mkdir()
    with alone(out), pytest.raises(OutputError, match="another backlight command"):
        backlight.batch(tiny, shards, out, **QUICK)


def test_a_worker_that_dies_costs_its_shard_another_try(
    tiny: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first two workers of a shard die of it; then one that always does."""
    code = """
import os, signal, sys
from pathlib import Path
from backlight.engine.scale import core, worker
inner, deaths = core.Explaining.explain, Path(sys.argv[1])
def explain(self, shard, folder, on_batch=None):
    if shard.name.startswith(sys.argv[2]) and len(list(deaths.iterdir())) < int(sys.argv[3]):
        (deaths / str(os.getpid())).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return inner(self, shard, folder, on_batch)
core.Explaining.explain = explain
worker.child()
"""
    deaths = tmp_path / "deaths"
    deaths.mkdir()
    command = [sys.executable, "-c", code, str(deaths), "0001"]
    monkeypatch.setattr(local, "COMMAND", [*command, "2"])
    found = backlight.batch(tiny, shards, tmp_path / "out", **QUICK)
    assert (found.written, found.retried, found.failed) == (2, 1, {})
    assert len(list(deaths.iterdir())) == 2
    monkeypatch.setattr(local, "COMMAND", [*command, "99"])
    found = backlight.batch(tiny, shards, tmp_path / "other", **QUICK)
    why = found.failed[str(shards / "0001.tar")]
    assert found.written == 1 and "3 workers died of it: it was killed (SIGKILL)" in why
    monkeypatch.setattr(local, "COMMAND", [sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(backlight.RunError, match="a worker of batch can't start"):
        backlight.batch(tiny, shards, tmp_path / "third", **QUICK)


def test_without_pyarrow_a_line_says_what_to_install(
    tiny: Path, shards: Path, tmp_path: Path
) -> None:
    code = (
        "import sys; sys.modules['pyarrow'] = None; sys.modules['pyarrow.parquet'] = None; "
        "from backlight.engine.cli import main; main(sys.argv[1:])"
    )
    words = ["batch", "-m", str(tiny), str(shards), "-o", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": SRC},
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "pip install 'backlight[batch]'" in done.stderr and not (tmp_path / "out").exists()


def test_the_python_function_refuses_what_it_cannot_use(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="target"):
        backlight.batch(tiny, tmp_path, tmp_path / "out", target=1.5)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="shards"):
        backlight.batch(tiny, 3, tmp_path / "out")  # type: ignore[call-overload]
    with pytest.raises(UsageError, match="shards is empty"):
        backlight.batch(tiny, [""], tmp_path / "out")
    with pytest.raises(ModelError):
        backlight.batch(b"junk", PHOTO_FOLDER, tmp_path / "out")
    assert scale.Batched(tmp_path).rate == 0


PHOTO_FOLDER = Path(backlight.__file__).parent / "engine" / "assets" / "photos"
