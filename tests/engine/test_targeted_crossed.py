"""Options of targeted explanations crossed on the command line, against NumPy in float64.

The nets are a convolution, a rectifier, a global pool and a dense layer: every gradient in them is
written out here.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import backlight
from backlight.engine.cli import run

from .. import models
from ..export.harness import run_runtime

pytest.importorskip("onnxruntime")
X = models.images(2, 3, 8, 8)
NAMES = ["ant", "bee", "cat", "dog", "elk"]
RECTIFIED, WEIGHTS, LOGITS = "r_DequantizeLinear_Output", "v_DequantizeLinear_Output", "scores"
HEADS = ("softmax", "sigmoid", "one logit")
CAMS = (
    "gradcam", "gradcampp", "hirescam", "layercam", "xgradcam", "contrastcam", "counterfactualcam",
)  # fmt: skip
# What becomes of the scores' gradient: options, with what the target is told from.
TOLD: list[tuple[str, Any]] = [
    ("", None), ("--contrast input", "input"), ("--contrast second", "second"), ("--versus 3", 3),
    ("--versus cat", 2),
]  # fmt: skip


def net(head: str) -> onnx.ModelProto:
    if head == "softmax":
        return models.tiny()
    if head == "sigmoid":
        return models.tiny(tail="prob = Sigmoid(scores)")
    model = models.tiny(tail="prob = Sigmoid(scores)", output="float[N,1] prob")
    for held in model.graph.initializer:
        if held.name in ("v", "c"):
            values = onnx.numpy_helper.to_array(held)[:1]
            held.CopyFrom(onnx.numpy_helper.from_array(values, held.name))
    return model


class Written:
    """The net's layers h and r, the logits z of two classes or five, and gradients by them."""

    def __init__(self, head: str, x: np.ndarray = X) -> None:
        w = {k: v.astype(np.float64) for k, v in models.weights().items()}
        wide = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
        view = np.lib.stride_tricks.sliding_window_view(wide, (3, 3), axis=(2, 3))
        self.w = w["w"]
        self.h = np.einsum("nchwij,kcij->nkhw", view, w["w"]) + w["b"][:, None, None]
        self.r = np.maximum(self.h, 0)
        v, c = w["v"], w["c"]
        if head == "one logit":
            v, c = np.stack([-v[0], v[0]]), np.array([-c[0], c[0]])
        self.v, self.z = v, self.r.mean((2, 3)) @ v.T + c
        self.softmax = head == "softmax"

    def cotangent(self, target: np.ndarray, told: Any, form: str, given: int) -> np.ndarray:
        hot = np.eye(len(self.v))
        if told is None:
            return hot[target]
        others = self.z.copy()
        others[range(2), target] = -np.inf
        second = others.argmax(1)
        rival = {"second": second, "input": np.where(given < 0, second, given)}.get(
            told, np.full(2, told if isinstance(told, int) else 0)
        )
        if form == "logit" or not self.softmax:
            return hot[target] - hot[rival]
        p = np.exp(self.z - self.z.max(1, keepdims=True))
        return p / p.sum(1, keepdims=True) - hot[rival]

    def by(self, layer: str, ct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        g = np.broadcast_to((ct @ self.v / 64)[:, :, None, None], self.r.shape)
        return (self.r, g) if layer == "r" else (self.h, g * (self.h > 0))

    def cam(self, name: str, layer: str, ct: np.ndarray) -> np.ndarray:
        a, g = self.by(layer, ct)
        total = a.sum((2, 3), keepdims=True)
        if name == "hirescam":
            return (g * a).sum(1)
        if name == "layercam":
            return (np.maximum(g, 0) * a).sum(1)
        if name == "gradcampp":
            below = 2 + np.maximum(g, 0) * total
            alpha = np.where(below > 0, np.maximum(g, 0) / np.where(below > 0, below, 1), 0)
            weight = alpha.sum((2, 3), keepdims=True)
        elif name == "xgradcam":
            weight = (g * a).sum((2, 3), keepdims=True) / np.where(total == 0, 1, total)
        else:
            weight = g.mean((2, 3), keepdims=True)
        return (weight * a).sum(1) * (-1 if name == "counterfactualcam" else 1)

    def image(self, ct: np.ndarray) -> np.ndarray:
        """The gradient by the image."""
        _, g = self.by("h", ct)
        wide = np.pad(g, ((0, 0), (0, 0), (1, 1), (1, 1)))
        view = np.lib.stride_tricks.sliding_window_view(wide, (3, 3), axis=(2, 3))
        return np.einsum("nkhwij,kcij->nchw", view, self.w[:, :, ::-1, ::-1])


class Quantised(Written):
    """The same of a QDQ model, from its own layer and scores, and its class weights as it has them:
    the steps are passed straight through."""

    def __init__(self, model: onnx.ModelProto) -> None:
        shown, names = onnx.ModelProto(), [RECTIFIED, WEIGHTS, LOGITS]
        shown.CopyFrom(model)
        for name in names:
            shown.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
        found = run_runtime(shown, {"x": X})
        self.r, v, self.z = (found[n].astype(np.float64) for n in names)
        self.v, self.softmax = v, True


def exported(head: str, words: str, folder: Path) -> onnx.ModelProto:
    onnx.save(net(head), folder / "net.onnx")
    (folder / "names.txt").write_text("\n".join(NAMES if head != "one logit" else NAMES[:2]) + "\n")
    line = f"export {folder}/net.onnx -o {folder}/out.onnx --labels {folder}/names.txt {words}"
    assert run(line.split()) == 0, words
    return onnx.load(folder / "out.onnx")


def fed(proto: onnx.ModelProto, target: np.ndarray, contrast: int) -> dict[str, np.ndarray]:
    feeds = {"x": X, "target": target, "contrast": np.full(2, contrast)}
    names = {i.name for i in proto.graph.input}
    return run_runtime(proto, {k: v for k, v in feeds.items() if k in names})


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(("told", "who"), TOLD, ids=[t or "alone" for t, _ in TOLD])
@pytest.mark.parametrize("form", ["loss", "logit"])
def test_maps_and_gradients(head: str, told: str, who: Any, form: str, tmp_path: Path, capsys):
    """Two layers, signed and not, for two runtimes; the gradients of the same export with them."""
    if head == "one logit" and isinstance(who, int):
        pytest.skip("it has two classes")
    written, classes = Written(head), 2 if head == "one logit" else 5
    methods = [
        m for m in (*CAMS, "vanilla", "input_x_gradient") if who is None or m != "contrastcam"
    ]
    target = np.array([1, 0])
    for signed, runtime in itertools.product((True, False), ("portable", "cpu")):
        words = " ".join(f"--method {m}" for m in methods) + f" --layer r --layer h {told}"
        words += f" --size layer --contrast-form {form} --for {runtime}" + " --signed" * signed
        proto = exported(head, words + " --force", tmp_path)
        given = -1 if head == "one logit" else 4
        found = fed(proto, target, given)
        for name in methods:
            rival = "input" if name == "contrastcam" else who
            ct = written.cotangent(target, rival, form, given)
            assert ct.shape == (2, classes)
            if name in ("vanilla", "input_x_gradient"):
                want = written.image(ct) * (X if name == "input_x_gradient" else 1)
                np.testing.assert_allclose(
                    found[f"saliency_{name}"], want, rtol=2e-3, atol=2e-6, err_msg=name
                )
                continue
            for at, layer in enumerate("rh"):
                want = written.cam(name, layer, ct)
                want = want if signed else np.maximum(want, 0)
                got = found[f"saliency_{name}_{at}"]
                scale = 1e-5 * max(np.abs(written.cam(name, layer, ct)).max(), 1e-3)
                np.testing.assert_allclose(got, want, rtol=2e-3, atol=scale, err_msg=name)


@pytest.fixture(scope="module")
def codes(tmp_path_factory) -> Path:
    from ..export.quantised import quantised

    folder: Path = tmp_path_factory.mktemp("qdq")
    onnx.save(models.tiny(), folder / "net.onnx")
    # Wider than what is shown: at the range's end a gradient ends.
    return quantised(folder / "net.onnx", 1.5 * X, folder)


@pytest.mark.parametrize("runtime", ["portable", "cpu", "tensorrt"])
@pytest.mark.parametrize(("told", "who"), TOLD[:4], ids=[t or "alone" for t, _ in TOLD[:4]])
@pytest.mark.parametrize("form", ["loss", "logit"])
def test_quantised(told: str, who: Any, form: str, runtime: str, codes: Path, tmp_path, capsys):
    written, target, given = Quantised(onnx.load(codes)), np.array([1, 0]), 4
    methods = [m for m in CAMS if who is None or m != "contrastcam"]
    for signed in (True, False):
        words = " ".join(f"--method {m}" for m in methods) + f" {told} --contrast-form {form}"
        words += f" --size layer --for {runtime} --force" + " --signed" * signed
        line = f"export {codes} -o {tmp_path}/out.onnx {words}"
        assert run(line.split()) == 0
        found = fed(onnx.load(tmp_path / "out.onnx"), target, given)
        for name in methods:
            ct = written.cotangent(target, "input" if name == "contrastcam" else who, form, given)
            want = written.cam(name, "r", ct)
            scale = 1e-5 * max(np.abs(want).max(), 1e-3)
            want = want if signed else np.maximum(want, 0)
            np.testing.assert_allclose(
                found[f"saliency_{name}"], want, rtol=2e-3, atol=scale, err_msg=name
            )


def test_baked_fused_reduced_and_half(tmp_path: Path, capsys):
    written = Written("softmax")
    hot = np.eye(5)[[3, 3]]
    proto = exported(
        "softmax",
        "--method layercam --method vanilla --layer r --layer h --fuse --reduce maxabs "
        "--target-class dog", tmp_path,
    )  # fmt: skip
    found = fed(proto, np.zeros(2), 0)
    scaled = []
    for layer in "rh":
        m = np.maximum(written.cam("layercam", layer, hot), 0)
        top = m.max((1, 2), keepdims=True)
        scaled.append(np.tanh(2 * m / np.where(top > 0, top, 1)))
    np.testing.assert_allclose(
        found["saliency_layercam"], np.maximum(*scaled), rtol=1e-3, atol=1e-5
    )
    want = np.abs(written.image(hot)).max(1)
    np.testing.assert_allclose(found["saliency_vanilla"], want, rtol=1e-3, atol=1e-6)
    every = exported("softmax", "--method cam --target-class all --signed --force", tmp_path)
    want = np.einsum("ck,nkhw->nchw", written.v, written.r)
    np.testing.assert_allclose(
        fed(every, np.zeros(2), 0)["saliency_cam"], want, rtol=1e-3, atol=1e-5
    )
    half = exported(
        "softmax", "--method gradcam --method smoothgrad --dtype float16 --force", tmp_path
    )
    got = fed(half, np.array([3, 3]), 0)["saliency_gradcam"]
    want = np.maximum(written.cam("gradcam", "r", hot), 0)
    assert np.linalg.norm(got - want) <= 2e-2 * np.linalg.norm(want)


@pytest.mark.parametrize("contrast", ["", "--contrast second"])
def test_the_way_from_a_baseline(contrast: str, tmp_path: Path, capsys):
    """5 steps from a number, by the gradient written out; the engine the same, and the gap."""
    written = Written("softmax")
    words = (
        f"--method integrated_gradients --steps 5 --baseline 0.3 --contrast-form logit {contrast}"
    )
    words = words if contrast else words.replace("--contrast-form logit", "")
    target = np.array([1, 0])
    found = fed(exported("softmax", words, tmp_path), target, 0)
    ct = written.cotangent(target, "second" if contrast else None, "logit", -1)
    at, weight = np.polynomial.legendre.leggauss(5)
    total = np.zeros(X.shape)
    for t, share in zip((at + 1) / 2, weight / 2, strict=True):
        total += share * Written("softmax", 0.3 + t * (X - 0.3)).image(ct)
    want = total * (X - 0.3)
    got = found["saliency_integrated_gradients"]
    np.testing.assert_allclose(got, want, rtol=2e-3, atol=2e-5)
    z, z0 = written.z, Written("softmax", np.full(X.shape, 0.3)).z
    gap = want.sum((1, 2, 3)) - ((z - z0) * ct).sum(1)
    np.testing.assert_allclose(found["gap_integrated_gradients"], gap, rtol=1e-3, atol=1e-4)
    explain = backlight.Explainer(
        net("softmax"), methods=("integrated_gradients",), steps=5, baseline=0.3,
        **({"contrast": "second", "contrast_form": "logit"} if contrast else {}),
    )  # fmt: skip
    engine = explain(X, target)
    np.testing.assert_allclose(engine.saliency["integrated_gradients"], got, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(engine.gap, gap, rtol=1e-3, atol=1e-4)


def test_pictures_of_a_single_logit(tmp_path: Path, capsys):
    """Class 0 told from class 1, by name, from photo to summary."""
    models.noise_photo(tmp_path)
    exported("one logit", "--method contrastcam --preprocess unit", tmp_path)
    line = f"explain -m {tmp_path}/out.onnx {tmp_path}/photo.png -o {tmp_path}/o --json"
    assert run([*line.split(), "--target-class", "ant", "--versus", "bee"]) == 0
    said = capsys.readouterr().out
    (entry,) = json.loads(said[said.index("{") :])["images"]
    assert (entry["class"], entry["contrast"]) == (0, 1)
    assert run([*line.split(), "--force", "--target-class", "ant"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)["images"]
    assert (entry["class"], entry["contrast"]) == (0, 1)
