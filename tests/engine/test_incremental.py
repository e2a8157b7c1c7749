"""`method="incremental"` in the engine: the maps of `dense`, for everything that it takes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import backlight
from backlight.engine.cli import run
from backlight.engine.cli.options import BUNDLED, PHOTOS
from backlight.engine.masked import incremental
from backlight.engine.masked.occlusion import Occlusion
from backlight.engine.photos import images
from backlight.engine.runtime.session import Session
from backlight.errors import ModelError, UsageError

from .. import models
from .nets import BODY, X, net

# Of the range of a map: float32 sums of a hundred terms in another order.
CLOSE = 1e-5


def both(model: object, x: object = X, call: dict | None = None, **settings: object):
    """The maps of the two methods, and that they are the same."""
    found = []
    for method in ("dense", "incremental"):
        occlude = Occlusion(
            model, method=method, **{"window": 5, "stride": 3, "threads": 1, **settings}
        )
        measured = occlude.measure(x, **(call or {}))
        assert measured.choice.method == method
        found.append(measured)
    dense, boxes = found
    span = max(float(np.ptp(dense.drops)), 1e-9)
    assert np.abs(dense.drops).max() > 1e-3, "the windows matter"
    assert np.abs(dense.heat - boxes.heat).max() <= CLOSE * span
    assert np.abs(dense.drops - boxes.drops).max() <= CLOSE * span
    np.testing.assert_allclose(dense.margins, boxes.margins, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(dense.top, boxes.top)
    return boxes


@pytest.mark.parametrize("kind", ["probability", "logit", "logprob"])
@pytest.mark.parametrize("edges", ["clip", "valid"])
def test_scores_and_edges(kind, edges):
    both(net(), score=kind, edges=edges, overlap="sum", call={"classes": "all"})


@pytest.mark.parametrize(
    "baseline",
    ["zero", "mean", "blur:2", "noise:3", (0.5, -1, 2), X[1] * 2],
    ids=["zero", "mean", "blur", "noise", "colour", "image"],
)
def test_baselines_of_each_image(baseline):
    boxes = both(net(), baseline=baseline)
    assert np.abs(boxes.heat[0] - boxes.heat[1]).max() > 1e-3


@pytest.mark.parametrize(
    ("window", "stride"), [((1, 5, 4), (1, 4, 4)), ((2, 7, 7), 5), ((4, 17), 3), (11, 4)], ids=str
)
def test_windows(window, stride):
    both(net(), window=window, stride=stride)


def test_several_classes():
    both(net(), call={"classes": [3, -1, 0]})


def test_channels_last_and_bytes():
    head = "y = Cast<to=1>(image) z = Transpose<perm=[0,3,1,2]>(y) x = Mul(z, unit)"
    model = net(head=head, dtype="uint8", shape="N,20,17,3")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(1 / 64), "unit"))
    pixels = np.random.default_rng(2).integers(0, 256, (2, 20, 17, 3), np.uint8)
    for baseline in ("mean", (10, 20, 200)):
        both(model, pixels, baseline=baseline)
    both(model, pixels, baseline="blur:1.5", window=(2, 5, 5))


def test_a_fixed_batch_and_an_exported_file():
    both(net(shape="2,3,20,17", output="float[2,5] prob"))
    both(backlight.export(net(), ("guided",)))


def test_batches_bound_a_run(monkeypatch):
    rows: list[int] = []
    run_session = Session.run

    def counting(self, feeds, outputs=None):
        made = run_session(self, feeds, outputs)
        rows.extend(len(v) for n, v in made.items() if n.startswith("cross/") or n == "scores")
        return made

    monkeypatch.setattr(Session, "run", counting)
    both(net(), batch=3, window=4, stride=1)
    assert max(rows) == 3


def test_a_budget_is_kept_or_refused():
    model = net()
    with pytest.raises(
        UsageError, match=r"too small for method 'incremental': accepted: [\d.]+ MB"
    ):
        Occlusion(model, window=5, method="incremental", memory="1MB")(X)
    small = Occlusion(model, window=5, stride=2, method="incremental", memory="20MB", threads=1)
    want = Occlusion(model, window=5, stride=2, method="dense", threads=1)(X)
    np.testing.assert_allclose(small(X), want, rtol=0, atol=1e-5)
    auto = Occlusion(model, window=5, method="auto", memory="1MB")
    assert auto.measure(X).choice.method == "dense"


def test_progress_counts_every_window():
    steps: list[int] = []
    occlude = Occlusion(net(), window=5, stride=1, method="incremental")
    occlude(X, progress=steps.append)
    assert sum(steps) == 2 * len(occlude.plan((3, 20, 17))) and len(steps) > 2


@pytest.mark.parametrize(
    ("model", "x", "kind", "match"),
    [
        (
            models.tiny(head="x = Unsqueeze(image, axis)", shape="N,8,8", channels=1),
            models.images(1, 8, 8), UsageError, "input 'image' has no channel axis; accepted: auto",
        ),
        (
            models.parsed(
                """<ir_version: 8, opset_import: ["": 18]>
dense (float[N,3,8,8] x) => (float[N,5] s) { f = Flatten(x) s = Gemm<transB=1>(f, v) }""",
                {"v": np.zeros((5, 192), np.float32)},
            ),
            models.images(1, 3, 8, 8), UsageError, r"whole maps from node '.*' \(Flatten\) on",
        ),
    ],
    ids=["no channels", "no convolution"],
)  # fmt: skip
def test_what_it_cannot_do_is_one_line(model, x, kind, match):
    if "image" in [i.name for i in model.graph.input]:
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1]), "axis"))
    with pytest.raises(kind, match=match):
        Occlusion(model, window=4, method="incremental")(x)
    assert Occlusion(model, window=4).measure(x).choice.method == "dense"


def test_further_inputs_are_refused():
    body = BODY.replace("scores = Gemm<transB=1>(f, v, c)", "g = Gemm<transB=1>(f, v, c) "
                        "scores = Mul(g, more)")  # fmt: skip
    model = net(body=body)
    more = onnx.helper.make_tensor_value_info("more", onnx.TensorProto.FLOAT, ["N", 5])
    model.graph.input.append(more)
    given = {"x": X, "more": np.ones((2, 5), np.float32)}
    with pytest.raises(ModelError, match=r"further inputs \(more\); accepted: auto, dense"):
        Occlusion(model, window=5, method="incremental")(given)
    assert Occlusion(model, window=5)(given).shape == (2, 20, 17)


def test_it_stays_on_the_cpu(monkeypatch):
    occlude = Occlusion(net(), window=5, method="incremental")
    monkeypatch.setattr(Session, "provider", "cuda")
    monkeypatch.setattr(Session, "on_cpu", False)
    with pytest.raises(UsageError, match="runs on the CPU, and the model on cuda"):
        occlude(X)


def test_auto_weighs_the_windows(monkeypatch):
    """With planning for nothing a small pass goes incrementally; else not, until images add up."""
    settings = {"window": 5, "stride": 1, "threads": 1}
    few = Occlusion(net(), **settings).measure(X).choice
    assert few.method == "dense" and "too few" in few.why
    for name in ("OUTLINE", "OUTLINE_NODE", "OUTLINE_BYTE", "READY_NODE", "READY_BYTE"):
        monkeypatch.setattr(incremental, name, 0)
    monkeypatch.setattr(incremental, "CLEARLY", 1)
    monkeypatch.setattr(incremental, "READY", 0)
    free = Occlusion(net(), **settings).measure(X).choice
    assert free.method == "incremental" and free.speedup > 1
    monkeypatch.setattr(incremental, "CLEARLY", free.speedup + 0.1)
    unclear = Occlusion(net(), **settings).measure(X).choice
    assert unclear.method == "dense" and unclear.speedup == free.speedup
    monkeypatch.setattr(incremental, "CLEARLY", 1)
    occlude = Occlusion(net(), **settings)
    seconds = occlude.scorer.room.footprint.seconds((3, 20, 17)) * len(occlude.plan((3, 20, 17)))
    monkeypatch.setattr(incremental, "READY", 2.5 * seconds * (1 - 1 / free.speedup))
    chosen = [occlude.measure(X[:1]).choice.method for _ in range(4)]
    assert chosen == ["dense", "dense", "incremental", "incremental"]


def test_external_weights(tmp_path: Path) -> None:
    file = tmp_path / "net.onnx"
    onnx.save(net(), file, save_as_external_data=True, size_threshold=0, location="net.data")
    both(str(file))


@pytest.mark.parametrize("photo", ["chelsea", "coffee"])
def test_the_map_of_a_photo(photo: str) -> None:
    """The bundled SqueezeNet: at most 1e-4 of the range of scores (measured: below 2e-6)."""
    maps = []
    for method in ("dense", "incremental"):
        occlude = Occlusion(BUNDLED, window=24, stride=20, method=method, threads=1, score="logit")
        spec, record = occlude.scorer.input, occlude.scorer.preprocess
        assert record is not None
        file = PHOTOS / f"{photo}.jpg"
        tensor = images.prepare(images.decode(file), record, spec).tensor
        found = occlude.measure(tensor[None], classes=[281, 967, 504, 812, 985, -1])
        maps.append((found.drops, found.heat))
    span = float(np.ptp(maps[0][0]))
    assert span > 1
    assert np.abs(maps[0][0] - maps[1][0]).max() <= 1e-4 * span
    assert np.abs(maps[0][1] - maps[1][1]).max() <= 1e-4 * np.ptp(maps[0][1])


def test_on_the_command_line(tmp_path, capsys):
    out = tmp_path / "out"
    command = ["occlude", str(PHOTOS / "coffee.jpg"), "-o", str(out), "--window", "48",
               "--stride", "48", "--necessity", "0", "--threads", "1"]  # fmt: skip
    assert run([*command, "--method", "incremental", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    scored = summary["images"][0]["scored"]
    assert summary["method"] == "incremental" and scored["method"] == "incremental"
    assert scored["estimated_speedup"] > 1
    assert run([*command, "--force"]) == 0
    summary = json.loads((out / "summary.json").read_text())
    scored = summary["images"][0]["scored"]
    assert summary["method"] == "auto" and scored["method"] == "dense"
    assert "too few to plan for" in scored["why"]
    file = tmp_path / "dense.onnx"
    onnx.save(
        models.parsed(
            """<ir_version: 8, opset_import: ["": 18]>
dense (float[N,3,8,8] x) => (float[N,5] s) { f = Flatten(x) s = Gemm<transB=1>(f, v) }""",
            {"v": np.zeros((5, 192), np.float32)},
        ),
        file,
    )
    capsys.readouterr()
    command = ["occlude", str(PHOTOS / "coffee.jpg"), "-m", str(file), "-o", str(out), "--window",
               "4", "--preprocess", "unit", "--force", "--method", "incremental"]  # fmt: skip
    assert run(command) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert "method 'incremental'" in lines[-1] and "accepted: auto, dense" in lines[-1]
