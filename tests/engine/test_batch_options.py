"""What `explain` takes, `batch` takes: the same maps, and a line for what means nothing there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import backlight
from backlight.engine.cli import run
from backlight.engine.scale import run as scale
from backlight.engine.scale.maps import decoded

from .. import models
from .batching import Here, rows_of, tar, thumbnail

pq = pytest.importorskip("pyarrow.parquet")
LABELS = ["ant", "bee", "cat", "dog", "elk"]
# By option of the command line, what it is called in Python.
ASKED: list[tuple[list[str], dict[str, Any]]] = [
    (["--method", "guided", "--contrast", "2"], {"contrast": "input"}),
    (["--method", "vanilla", "--versus", "cat", "--contrast-form", "logit"],
     {"contrast": "input", "contrast_form": "logit"}),
    (["--method", "contrastcam", "--contrast", "second"], {}),
    (["--method", "smoothgrad", "--samples", "4", "--noise", "0.3"], {"samples": 4, "noise": 0.3}),
    (["--method", "integrated_gradients", "--steps", "40", "--baseline", "0.5"],
     {"steps": 40, "baseline": 0.5}),
    (["--method", "vanilla", "--of", "prob:as-is"], {"of": "prob:as-is"}),
    (["--method", "vanilla", "--of", "r"], {"of": "r"}),
    (["--method", "vanilla", "--wrt", "h"], {"wrt": "h"}),
    (["--method", "gradcam", "--layer", "r", "--size", "layer", "--signed"],
     {"layer": "r", "size": "layer", "signed": True}),
    (["--method", "layercam", "--layer", "h", "--layer", "r", "--fuse"],
     {"layer": ["h", "r"], "fuse": True}),
]  # fmt: skip


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A model of five classes, four pictures in a tar, and names."""
    monkeypatch.setattr(scale, "Worker", Here)
    onnx.save(models.tiny(shape="N,3,8,8"), tmp_path / "tiny.onnx")
    pictures = {f"{n}.jpg": thumbnail(n) for n in range(4)}
    tar(tmp_path / "a.tar", pictures)
    for name, data in pictures.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "names.txt").write_text("\n".join(LABELS))
    return ["batch", str(tmp_path / "a.tar"), "-m", str(tmp_path / "tiny.onnx"), "-o",
            str(tmp_path / "out"), "--preprocess", "unit", "--maps", "float16", "--labels",
            str(tmp_path / "names.txt"), "--workers", "1", "--threads", "1"]  # fmt: skip


def _part(folder: Path) -> Path:
    (part,) = (folder / "out").glob("*.parquet")
    return part


@pytest.mark.parametrize(("words", "python"), ASKED, ids=[" ".join(w[1:]) for w, _ in ASKED])
def test_maps_are_those_of_explain(
    words: list[str], python: dict[str, Any], given: list[str], tmp_path: Path
) -> None:
    if python.get("of") == "r":  # of channels: the classes' names are none of theirs
        given = [w for w in given if w not in ("--labels", str(tmp_path / "names.txt"))]
    assert run([*given, *words, "--no-isolate"]) == 0
    explain = backlight.Explainer(
        tmp_path / "tiny.onnx", methods=[words[1]], providers="cpu", **python
    )
    x = explain.load([tmp_path / f"{n}.jpg" for n in range(4)], "unit")
    rival = {"2": 2, "cat": 2}.get(words[3]) if explain.contrasts else None
    want = explain(x, None, rival)
    field = pq.read_schema(_part(tmp_path)).field(f"saliency_{words[1]}")
    said = {k.decode(): v.decode() for k, v in field.metadata.items()}
    shape = tuple(int(n) for n in said["shape"].split(","))
    for at, row in enumerate(rows_of(tmp_path / "out")):
        assert row["error"] is None and row["class"] == want.target[at]
        got = decoded(row[field.name], row[f"scale_{words[1]}"], said["form"], shape)
        values = want.saliency[words[1]][at]
        # Half precision, and operators chosen for the CPU beside portable ones.
        np.testing.assert_allclose(got, values, rtol=0, atol=2e-3 * np.abs(values).max())
        assert ("contrast" in row) == (want.contrast is not None)
        if want.contrast is not None:
            assert row["contrast"] == want.contrast[at]
            assert row["contrast_name"] == LABELS[row["contrast"]]
        if python.get("of") == "r":
            assert row["probability"] is None
            sums = np.asarray(want.scores)[at].sum(axis=(1, 2))
            np.testing.assert_allclose(row["top_scores"], np.sort(sums)[::-1], rtol=1e-5)
    # Parts are of these options: with others they would be others.
    assert run([*given, "--method", words[1], "--no-isolate"]) == (2 if python else 0) or (
        words[1] == "contrastcam"
    )


def test_in_a_process_of_its_own_they_are_the_same(given: list[str], tmp_path: Path) -> None:
    words = ["--method", "smoothgrad", "--samples", "3", "--contrast", "second", "--of", "r"]
    given = [w for w in given if w not in ("--labels", str(tmp_path / "names.txt"))]
    assert run([*given, *words]) == 0
    apart = _part(tmp_path).read_bytes()
    assert run([*given, *words, "--no-isolate", "--force"]) == 0
    assert _part(tmp_path).read_bytes() == apart


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--method", "guided", "--samples", "4"], "are of methods that vary the image"),
        (["--method", "smoothgrad", "--samples", "0"], "samples 0; expected 1 to 4096"),
        (["--method", "smoothgrad", "--noise", "x"], "--noise 'x'; expected a number"),
        (["--method", "integrated_gradients", "--baseline", "red"], "baseline 'red'; accepted"),
        (["--contrast", "9"], "--contrast 9 is out of range; the model has classes 0 to 4"),
        (["--contrast", "cow"], "--contrast 'cow'"),
        (
            ["--contrast", "1", "--target-class", "1", "--contrast-form", "logit"],
            "the target itself",
        ),
        (["--contrast", "1", "--contrast-form", "x"], "contrast form 'x'"),
        (["--of", "nothing"], "nothing"),
        (["--wrt", "f"], "a tensor of [N,4] has no picture"),
        (["--method", "guided", "--layer", "r"], "layer"),
        (["--method", "gradcam", "--size", "x"], "size 'x'"),
        (["--method", "lime"], "lime"),
        (["--bands", "1"], "--bands"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_what_means_nothing_is_a_line(
    words: list[str], says: str, given: list[str], tmp_path: Path, capsys: Any
) -> None:
    assert run([*given, *words, "--no-isolate"]) == 2
    err = capsys.readouterr().err
    assert says in err and "Traceback" not in err and len(err.strip().splitlines()) == 1, err
    assert not list((tmp_path / "out").glob("*.parquet"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--of", "prob"], "exported already; of is in the file"),
        (["--wrt", "h"], "exported already; wrt is in the file"),
        (["--samples", "3"], "exported already; samples is in the file"),
        (["--fuse"], "exported already; fuse is in the file"),
        (["--contrast", "1"], "is exported already and takes none"),
    ],
)
def test_what_an_exported_file_holds_is_refused(
    words: list[str], says: str, given: list[str], tmp_path: Path, capsys: Any
) -> None:
    made = backlight.export(tmp_path / "tiny.onnx", methods=["guided"])
    onnx.save(made, tmp_path / "tiny.onnx")
    assert run([*given, *words, "--no-isolate"]) == 2
    assert says in capsys.readouterr().err
    made = backlight.export(models.tiny(), methods=["guided"], contrast="input")
    onnx.save(made, tmp_path / "tiny.onnx")
    assert run([*given, "--contrast", "dog", "--no-isolate"]) == 0
    assert {row["contrast"] for row in rows_of(tmp_path / "out")} == {3}


@pytest.mark.parametrize("isolate", [[], ["--no-isolate"]], ids=" ".join)
def test_a_colour_as_baseline_is_what_preprocess_makes_of_it(
    isolate: list[str], given: list[str], tmp_path: Path
) -> None:
    """The model doesn't say how pixels become its input; `--preprocess unit` does: white is 1."""
    words = [*given, "--method", "integrated_gradients", "--steps", "3", *isolate]
    maps = []
    for baseline in ("white", "1", "0"):
        assert run([*words, "--baseline", baseline, "--force"]) == 0
        found = [row["saliency_integrated_gradients"] for row in rows_of(tmp_path / "out")]
        maps.append(np.frombuffer(b"".join(found), np.float16))
    np.testing.assert_allclose(maps[0], maps[1], rtol=2e-3, atol=1e-3)
    assert not np.allclose(maps[0], maps[2], rtol=2e-3, atol=1e-3)
