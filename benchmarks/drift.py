"""How far maps drift in 16 and in 8 bits: cosine, SSIM and overlap of the top 1%.

    python -m benchmarks.drift half        [--net mobilenet_v2 …] [--method gradcam …]
    python -m benchmarks.drift quantised   [--net mobilenet_v2 …] [--method gradcam …]

On the bundled photos, against the float32 graph, each image's top class there; means over the
images. SqueezeNet 1.1 has its real weights, and so have open-nsfw (ResNet-50), vgg16-tumor and
efficientnet_lite0, where `python -m benchmarks.fetch` has been. The others are torchvision's with
random weights. `half` is `--dtype float16`, run by ONNX Runtime, which casts where the CPU has no
half kernel. `quantised` is onnxruntime's static quantization (QDQ, uint8
activations, 7-bit weights per channel, calibrated on the photos themselves).
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from backlight.engine.cli.options import BUNDLED, PHOTOS
from backlight.engine.direct.explainer import Explainer
from backlight.engine.measure import compare
from backlight.engine.runtime.machine import versions
from backlight.export.saliency import explain_graph

RULES = ("vanilla", "deconv", "guided")
CACHE = Path(__file__).resolve().parent.parent / ".cache" / "real"
REAL = {"open-nsfw": "imagenet-caffe", "vgg16-tumor": "imagenet-caffe"}
RESULTS = Path(__file__).resolve().parent / "results"


def torch_weights(path: Path) -> Any:
    """A state dict."""
    import torch

    return torch.load(path, weights_only=True)


def half(model: Path, methods: Sequence[str], _: np.ndarray[Any, Any], __: Path) -> onnx.ModelProto:
    """The float16 graph."""
    return explain_graph(model, methods=methods, dtype="float16").to_proto()


def quantised(
    model: Path, methods: Sequence[str], x: np.ndarray[Any, Any], folder: Path
) -> onnx.ModelProto:
    """The graph of the quantised model."""
    from onnxruntime import quantization as q

    name = onnx.load(model, load_external_data=False).graph.input[0].name

    class Reader(q.CalibrationDataReader):  # type: ignore[misc, name-defined]
        rows = iter([{name: row[None]} for row in x])

        def get_next(self) -> dict[str, np.ndarray[Any, Any]] | None:
            return next(self.rows, None)

    out = folder / f"{model.stem}-quantised.onnx"
    logging.disable(logging.WARNING)  # its advice on preprocessing
    q.quantize_static(
        model, out, Reader(), quant_format=q.QuantFormat.QDQ, activation_type=q.QuantType.QUInt8,
        weight_type=q.QuantType.QInt8, per_channel=True, reduce_range=True,
    )  # fmt: skip
    logging.disable(logging.NOTSET)
    return explain_graph(out, methods=methods).to_proto()


def examined(name: str, methods: Sequence[str], make: Any, folder: Path) -> list[dict[str, Any]]:
    """A row per method of one network."""
    model, preprocess = BUNDLED, None
    if name in REAL:
        model, preprocess = CACHE / f"{name}.onnx", REAL[name]
    elif name == "efficientnet_lite0":
        from tests.networks import nets

        from .peers import built

        model, preprocess = folder / f"{name}.onnx", "unit"
        network = built(name)
        network.load_state_dict(torch_weights(CACHE / "lite0.pth"))
        nets.export(network, nets.Net(name), "legacy", model)
    elif name != "squeezenet1_1":
        from tests.networks import nets

        model, preprocess = folder / f"{name}.onnx", "imagenet-torch"
        nets.export(nets.build(nets.Net(name)), nets.Net(name), "legacy", model)
    plain = Explainer(str(model), methods=methods, for_="portable")
    files = sorted(PHOTOS.glob("*.jpg"))
    x = plain.load(files, preprocess)
    candidate = Explainer(make(model, methods, x, folder), methods=methods)
    found = compare.explained(candidate, plain, x, [f.stem for f in files])
    moved = candidate(x).scores - plain(x).scores
    rows = []
    for rule in methods:
        mine = [d for d in found if d.rule == rule]
        means = {
            m: float(np.mean([getattr(d, m) for d in mine])) for m in ("cosine", "ssim", "top")
        }
        worst = min(d.cosine for d in mine)
        rows.append({"network": name, "rule": rule, **means, "worst_cosine": worst,
                     "largest_score_difference": float(np.abs(moved).max())})  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=("half", "quantised"))
    parser.add_argument("--net", nargs="+", default=["squeezenet1_1", "mobilenet_v2"])
    parser.add_argument("--method", nargs="+", default=list(RULES), metavar="NAME")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    make = half if given.kind == "half" else quantised
    rows = []
    print(
        f"{'':16} {'method':20} {'cosine':>7} {'worst':>7} {'SSIM':>7} {'top 1%':>7} {'scores':>8}"
    )
    with tempfile.TemporaryDirectory(prefix="backlight-") as folder:
        for name in given.net:
            for row in examined(name, given.method, make, Path(folder)):
                rows.append(row)
                print(
                    f"{name:16} {row['rule']:20} {row['cosine']:7.4f} {row['worst_cosine']:7.4f} "
                    f"{row['ssim']:7.4f} {row['top']:7.4f} {row['largest_score_difference']:8.2g}"
                )
    path = given.json or RESULTS / f"drift-{given.kind}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"versions": versions(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
