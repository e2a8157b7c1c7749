"""Neighbours against brute force in float64, NumPy against faiss, and the command's strips."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import backlight
from backlight.engine.cli import run
from backlight.engine.cli.options import BUNDLED
from backlight.engine.similar import neighbors as engine
from backlight.engine.similar.embed import embed
from backlight.engine.similar.neighbors import METRICS, Index, Nearest, neighbors
from backlight.errors import UsageError

from ..models import BODY, tiny

HAS_FAISS = importlib.util.find_spec("faiss") is not None
PHOTOS = BUNDLED.parent / "photos"
METHODS = [
    "numpy",
    pytest.param("faiss", marks=pytest.mark.skipif(not HAS_FAISS, reason="faiss-cpu is absent")),
]


def brute(vectors: np.ndarray, queries: np.ndarray, k: int, metric: str) -> Nearest:
    """All distances in float64; of equal ones the first row first."""
    x, q = vectors.astype(np.float64), queries.astype(np.float64)
    if metric == "l2":
        d = np.sqrt(((x[None] - q[:, None]) ** 2).sum(axis=2))
    else:
        lengths = np.linalg.norm(q, axis=1)[:, None] * np.linalg.norm(x, axis=1)[None]
        d = 1 - np.divide(q @ x.T, lengths, out=np.zeros((len(q), len(x))), where=lengths > 0)
        d = np.round(d, 12)  # equal rows have equal distances
    order = np.argsort(d, axis=1, kind="stable")[:, :k]
    return Nearest(order, np.take_along_axis(d, order, axis=1))


def sets() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Vectors and queries, among them what float32 gets wrong."""
    rng = np.random.default_rng(0)
    normal = rng.standard_normal((700, 24)).astype(np.float32)
    doubled = np.repeat(normal[:40], 12, axis=0)
    far = (normal * 0.01 + 1000).astype(np.float32)  # |x|^2 + |q|^2 - 2xq has no digits left
    zeros = np.concatenate([np.zeros((3, 24), np.float32), normal[:50]])
    return {
        "normal": (normal, normal[:30] + 0.1),
        "equal rows": (doubled, normal[:5]),
        "far from zero": (far, far[:7] + np.float32(0.001)),
        "rows of zeros": (zeros, zeros[:6]),
        "one query": (normal, normal[3:4]),
        "no query": (normal, normal[:0]),
    }


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", sets())
def test_as_brute_force(
    name: str, metric: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_BLOCK", 24 * 100)  # several blocks, the last one short
    vectors, queries = sets()[name]
    found = neighbors(vectors, queries, 8, metric=metric, method=method)
    want = brute(vectors, queries, 8, metric)
    # Both are float64 from the same differences; the order of the sums is not the same.
    np.testing.assert_allclose(found.distances, want.distances, rtol=1e-9, atol=1e-11)
    np.testing.assert_array_equal(found.indices, want.indices)


@pytest.mark.skipif(not HAS_FAISS, reason="faiss-cpu is absent")
@pytest.mark.parametrize("metric", METRICS)
def test_numpy_and_faiss_agree(metric: str) -> None:
    rng = np.random.default_rng(1)
    vectors = np.maximum(rng.standard_normal((5000, 64)), 0).astype(np.float32)
    queries = np.maximum(rng.standard_normal((25, 64)), 0).astype(np.float32)
    one, other = (Index(vectors, metric, m).search(queries, 10) for m in ("numpy", "faiss"))
    np.testing.assert_array_equal(one.indices, other.indices)
    np.testing.assert_array_equal(one.distances, other.distances)


@pytest.mark.skipif(not HAS_FAISS, reason="faiss-cpu is absent")
def test_faiss_is_taken_for_large_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.ones((10, 4), np.float32)
    assert Index(vectors).method == "numpy"
    monkeypatch.setattr(engine, "FAISS_FROM", 40)
    assert Index(vectors).method == "faiss"
    assert Index(vectors, method="numpy").method == "numpy"


def test_bytes_are_not_copied_to_floats_at_once() -> None:
    rng = np.random.default_rng(2)
    pixels = rng.integers(0, 256, (300, 48)).astype(np.uint8)
    queries = rng.integers(0, 256, (4, 48)).astype(np.uint8)
    index = Index(pixels)
    assert index._rows is pixels
    np.testing.assert_array_equal(
        index.search(queries, 9).indices, brute(pixels, queries, 9, "l2").indices
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"k": 6}, "k 6; the set has 5: expected 1 to 5"),
        ({"k": 0}, "k 0"),
        ({"k": 2.5}, "k 2.5"),
        ({"queries": np.full((1, 3), np.nan)}, "NaN or infinite"),
        ({"queries": np.full((1, 3), 1e30)}, "too long for float32"),
        ({"vectors": np.full((5, 3), np.inf)}, "NaN or infinite"),
        ({"vectors": [1, 2]}, r"vectors are \[2\]"),
        ({"metric": "l1"}, "metric 'l1'; accepted: l2, cosine"),
        ({"method": "tree"}, "method 'tree'; accepted: auto, numpy, faiss"),
    ],
)
def test_refuses(arguments: dict[str, object], said: str) -> None:
    given = {"vectors": np.ones((5, 3)), "queries": [[1, 1, 1]], "k": 2}
    with pytest.raises(UsageError, match=said):
        neighbors(**(given | arguments))  # type: ignore[arg-type]


def test_refuses_other_widths() -> None:
    with pytest.raises(UsageError, match=r"queries are \[1, 4\]; expected \[Q, 3\]"):
        neighbors(np.ones((5, 3)), np.ones((1, 4)), 2)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Crops of three photos, by the bundled model."""
    pytest.importorskip("pyarrow")
    folder = tmp_path_factory.mktemp("crops")
    for name in ("chelsea", "coffee", "rocket"):
        with Image.open(PHOTOS / f"{name}.jpg") as photo:
            w, h = photo.size
            (folder / name).mkdir()
            for number in range(4):
                cut = number * 7
                part = photo.crop((cut, cut, w - 3 * cut, h - 2 * cut))
                part.save(folder / name / f"{number}.png")
    embed(BUNDLED, folder, folder.parent / "store", threads=1)
    return folder.parent / "store"


class TestCommand:
    def test_finds_the_photo_of_a_crop(
        self, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "out"
        code = run(
            ["neighbors", str(store), str(PHOTOS / "coffee.jpg"), str(PHOTOS / "chelsea.jpg"),
             "-k", "4", "-o", str(out), "--html", "--json"]
        )  # fmt: skip
        assert code == 0
        said = json.loads(capsys.readouterr().out)
        assert said == json.loads((out / "neighbors.json").read_text())
        for entry in said["images"]:
            stem = Path(entry["file"]).stem
            assert set(entry["nearest"]) == {"l2", "cosine", "pixels"}
            for space in ("l2", "cosine"):
                near = entry["nearest"][space]
                assert [n["label"] for n in near] == [stem] * 4
                assert [n["distance"] for n in near] == sorted(n["distance"] for n in near)
            # Number 0 is the photo itself, in another file.
            assert entry["nearest"]["l2"][0]["file"].endswith(f"{stem}/0.png")
            assert entry["nearest"]["pixels"][0]["file"].endswith(f"{stem}/0.png")
            with Image.open(out / entry["picture"]) as strip:
                assert strip.width > 5 * 112
        page = (out / "neighbors.html").read_text()
        assert page.count("data:image/png;base64") == 2
        assert not re.search(r"(src|href)=.?https?:", page)

    def test_a_picture_of_the_store_is_not_its_own_neighbour(
        self, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        query = backlight.Embeddings(store).paths[0]
        arguments = ["neighbors", str(store), query, "-o", str(tmp_path / "out"), "--json"]
        assert run([*arguments, "-k", "11", "--metric", "l2"]) == 0
        (entry,) = json.loads(capsys.readouterr().out)["images"]
        for near in entry["nearest"].values():
            assert len({n["file"] for n in near} - {query}) == 11
        assert run([*arguments, "-k", "12", "--force"]) == 2
        assert "-k 12;" in (err := capsys.readouterr().err)
        assert "expected 1 to 11" in err

    def test_unreadable_pictures_are_skipped(
        self, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "bad.png").write_bytes(b"nothing")
        arguments = [str(tmp_path / "bad.png"), str(PHOTOS / "rocket.jpg")]
        assert run(["neighbors", str(store), *arguments, "-o", str(tmp_path / "out")]) == 2
        assert "skipped: " in capsys.readouterr().err
        assert (tmp_path / "out" / "rocket.png").exists()

    def test_a_picture_without_a_finite_vector_is_skipped(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The logarithm of a black picture."""
        pytest.importorskip("pyarrow")
        body = BODY.replace("Conv<pads=[1,1,1,1]>(x, w, b)", "Log(x)")
        proto = tiny(body=body.replace("Gemm<transB=1>(f, v, c)", "Gemm<transB=1>(f, w3)"))
        proto.graph.initializer.append(
            onnx.numpy_helper.from_array(np.ones((5, 3), np.float32), "w3")
        )
        onnx.save(proto, tmp_path / "m.onnx")
        folder = tmp_path / "photos"
        folder.mkdir()
        for level in (90, 180, 250):
            Image.new("RGB", (9, 9), (level, 250, level)).save(folder / f"{level}.png")
        Image.new("RGB", (9, 9)).save(tmp_path / "black.png")
        store = str(tmp_path / "store")
        given = ["embed", str(tmp_path / "m.onnx"), str(folder), "-o", store, "-l", "h"]
        assert run([*given, "--preprocess", "none"]) == 0
        capsys.readouterr()
        asked = [str(tmp_path / "black.png"), str(folder / "90.png")]
        assert run(["neighbors", store, *asked, "-o", str(tmp_path / "out")]) == 2
        err = capsys.readouterr().err.splitlines()
        assert "black.png: the model's 'h' has NaN or infinite values" in err[0]
        assert err[1:] == ["backlight: 1 skipped, 1 read"]
        assert (tmp_path / "out" / "90.png").exists()

    @pytest.mark.parametrize(
        ("more", "said"),
        [
            (["-k", "13"], "-k 13;"),
            (["--metric", "l1"], "--metric 'l1'; accepted: l2, cosine"),
            (["--method", "hash"], "method 'hash'"),
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
        image = str(PHOTOS / "rocket.jpg")
        assert run(["neighbors", str(store), image, "-o", str(tmp_path / "out"), *more]) == 2
        err = capsys.readouterr().err
        assert said in err
        assert err.count("\n") == 1
        assert not (tmp_path / "out").exists()

    def test_a_store_of_another_model(
        self, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        other = tmp_path / "tiny.onnx"
        other.write_bytes(tiny().SerializeToString())
        image = str(PHOTOS / "rocket.jpg")
        assert run(["neighbors", str(store), image, "-m", str(other)]) == 2
        assert "tiny.onnx: not the model that" in capsys.readouterr().err
