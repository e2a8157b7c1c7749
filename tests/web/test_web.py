"""The portable file runs unchanged in onnxruntime-web (WASM) and onnxruntime-node: the same maps.

Under Node, where npm is there; the packages go into `.cache/web`, once.
"""

from __future__ import annotations

import json
import subprocess
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest

import backlight

from ..export.harness import Array, run_runtime
from ..models import images
from .packages import PACKAGES, ROOT, UnavailableError, installed

pytest.importorskip("onnxruntime")

SQUEEZENET = ROOT / "engine" / "assets" / "squeezenet1_1.onnx"

# Installing takes longer than the runs: 140 and 290 MB.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=PACKAGES)
def runtime(request: pytest.FixtureRequest) -> Path:
    """The folder of a package; skips where it can't be had."""
    package: str = request.param
    try:
        return installed(package)
    except UnavailableError as err:
        pytest.skip(str(err))


def run_web(runtime: Path, model: onnx.ModelProto, feeds: dict[str, Array], work: Path) -> dict:
    """All outputs (float32), by the package."""
    (work / "model.onnx").write_bytes(model.SerializeToString())
    described = []
    for name, value in feeds.items():
        file = work / f"in_{name}.bin"
        file.write_bytes(value.tobytes())
        described.append(
            {"name": name, "type": str(value.dtype), "dims": value.shape, "file": str(file)}
        )
    (work / "feeds.json").write_text(json.dumps(described))
    script = Path(__file__).with_name("run.mjs")
    arguments = [runtime, work / "model.onnx", work / "feeds.json", work]
    done = subprocess.run(
        ["node", str(script), *map(str, arguments)], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    outputs = json.loads((work / "outputs.json").read_text())
    return {
        o["name"]: np.fromfile(work / f"{o['name']}.bin", np.float32).reshape(o["dims"])
        for o in outputs
    }


def mobilenet(path: Path) -> Path:
    """torchvision's MobileNetV2 with its own initial weights, as PyTorch exports it.

    Those are tame: networks.nets' weights make a float32 rounding grow to percents on the way
    through 35 layers, on one runtime with and without optimizations alike.
    """
    torch = pytest.importorskip("torch")
    # Not importorskip: torchvision's wheel needs builders.torchvision_models to be imported at all.
    if find_spec("torchvision") is None:
        pytest.skip("MobileNetV2 is torchvision's")
    from ..builders import torchvision_models
    from ..networks.nets import Net, export

    torch.manual_seed(0)
    model = torchvision_models().mobilenet_v2(weights=None).eval()
    export(model, Net("mobilenet_v2"), "dynamo", path / "mobilenet.onnx")
    return path / "mobilenet.onnx"


@pytest.mark.parametrize("name", ["squeezenet", "mobilenet"])
def test_the_same_maps_in_javascript(name: str, runtime: Path, tmp_path: Path) -> None:
    source = SQUEEZENET if name == "squeezenet" else mobilenet(tmp_path)
    model = backlight.export(source)
    image = next(v for v in model.graph.input if v.name != "target")
    batch, *shape = (d.dim_value for d in image.type.tensor_type.shape.dim)
    rows = batch or 2
    x = images(rows, *shape)
    if name == "squeezenet":  # rows without a unit within rounding of its kink, see runtimes.nets
        x = np.concatenate([images(1, *shape, seed=seed) for seed in (25, 93)[:rows]])
    feeds = {image.name: x, "target": np.array([-1, 7][:rows], np.int64)}
    want = run_runtime(model, feeds)
    got = run_web(runtime, model, feeds, tmp_path)
    assert got.keys() == want.keys()
    for output, values in want.items():
        assert got[output].shape == values.shape
        assert np.abs(values).max() > 0
        # Relative to the largest value: float32 sums in another order, and a gate or two at
        # rounding's distance from its kink.
        difference = np.abs(got[output] - values).max() / np.abs(values).max()
        assert difference <= 1e-3, f"{output}: {difference:.1e}"
