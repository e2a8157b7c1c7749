"""Backlight beside its peers: PyTorch's autograd, torch.compile, captum, pytorch-grad-cam.

    pip install '.[bench]' && pip install --no-deps grad-cam ttach opencv-python-headless
    python -m benchmarks.fetch                # EfficientNet-Lite0's code
    python -m benchmarks.peers [--net NAME] [--batch 1 4] [--seconds 15] [--json FILE]

Everything in one process and in turn, two threads, 224x224, random weights: each side is given a
batch and returns the scores and the gradient of each row's top score (captum and pytorch-grad-cam
return maps only, and are told the class, which spares them a step). The plain forward pass on ONNX
Runtime and OpenVINO is the yardstick. Rounds of blocks go on for `--seconds` per network and batch,
two at least; figures are medians. A peer that is not installed, or fails, is left out and says why.

pytorch-grad-cam explains one image at a time: a batch is a loop. It runs on a copy, whose modules
it replaces, and drags in OpenCV and more that this needs nothing of: hence --no-deps.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from backlight.engine.runtime.machine import device, installed, versions
from backlight.engine.runtime.session import Session
from backlight.export.saliency import explain_graph

RESULTS = Path(__file__).resolve().parent / "results" / "peers.json"
NETS = ("resnet50", "vgg16", "squeezenet1_1", "mobilenet_v2", "efficientnet_lite0")
THREADS, SIZE, PAUSE, BLOCK = 2, 224, 0.05, 3
SLOW = 3.0  # seconds
OURS = "Backlight "
YARDSTICKS = ("ONNX Runtime, forward", "OpenVINO, forward")
# Each network's module whose output is the layer that we take by default.
LAYERS = {
    "resnet50": lambda n: n.layer4[-1],
    "mobilenet_v2": lambda n: n.features[-1],
    "squeezenet1_1": lambda n: n.features[-1],
    "vit_b_16": lambda n: n.encoder.layers[-1].ln_1,
}
Run = Callable[[], Any]


def built(name: str) -> Any:
    """The network in PyTorch, in eval mode, its rectifiers out of place: hooks need that."""
    import torch

    from tests.networks import nets

    if name == "efficientnet_lite0":
        sys.path.insert(0, str(Path(__file__).resolve().parent.parent / ".cache" / "real"))
        from efficientnet_lite_pytorch import EfficientNet

        torch.manual_seed(0)
        model = EfficientNet.from_name("efficientnet-lite0").eval()
    else:
        model = nets.build(nets.Net(name))
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


def peers(model: Any, x: Any) -> dict[str, Run]:
    """Name -> the call. x: a torch tensor [N, 3, H, W]."""
    import torch

    from tests.builders import torchvision_models

    def gradient(network: Any) -> Run:
        def run() -> Any:
            image = x.detach().requires_grad_(True)
            scores = network(image)
            (found,) = torch.autograd.grad(scores.max(dim=1).values.sum(), image)
            return scores.detach(), found

        return run

    with torch.no_grad():
        top = model(x).argmax(dim=1)
    found = {
        "PyTorch, eager": gradient(model),
        "PyTorch, torch.compile": gradient(torch.compile(model)),
    }
    try:
        from captum.attr import Deconvolution, GuidedBackprop, Saliency

        for method in (Saliency, GuidedBackprop, Deconvolution):
            attribute = method(copy.deepcopy(model)).attribute
            found[f"captum, {method.__name__}"] = lambda a=attribute: a(
                x.detach().requires_grad_(True), target=top
            )
    except ImportError as err:
        print(f"without captum: {err}")
    torchvision_models()  # pytorch-grad-cam imports torchvision, whose operators may be missing
    try:
        from pytorch_grad_cam import GuidedBackpropReLUModel

        guided = GuidedBackpropReLUModel(copy.deepcopy(model), device="cpu")
        found["pytorch-grad-cam, guided"] = lambda: [
            guided(x[i : i + 1].detach(), int(top[i])) for i in range(len(x))
        ]
    except ImportError as err:
        print(f"without pytorch-grad-cam: {err}")
    return found


def ours(path: Path, array: np.ndarray[Any, Any], folder: Path) -> dict[str, Run]:
    """The graph of each rule, of all three, and the plain forward pass of the same file."""
    name = Session(str(path), "cpu", THREADS).inputs[0].name

    def session(file: Path) -> Run:
        held = Session(str(file), "cpu", THREADS)
        return lambda: held.run({name: array})

    found = {YARDSTICKS[0]: session(path)}
    for rules in (("vanilla",), ("deconv",), ("guided",), ("vanilla", "deconv", "guided")):
        file = folder / f"{path.stem}-{'-'.join(rules)}.onnx"
        explain_graph(path, rules, target_class="top1", lowering="cpu").save(file)
        found[OURS + (rules[0] if len(rules) == 1 else "all three")] = session(file)
    try:
        import openvino

        core = openvino.Core()
        settings = {"INFERENCE_NUM_THREADS": THREADS, "PERFORMANCE_HINT": "LATENCY",
                    "INFERENCE_PRECISION_HINT": "f32"}  # fmt: skip
        request = core.compile_model(str(path), "CPU", settings).create_infer_request()
        found[YARDSTICKS[1]] = lambda: request.infer({0: array})
    except ImportError as err:
        print(f"without OpenVINO: {err}")
    return found


def measured(
    runs: dict[str, Run], seconds: float, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Milliseconds of each call, sides taking turns in blocks; the first run of a block is free.
    Calls of seconds come once a block, and none is free: they are their own warm-up.

    clock: time.process_time counts what the processor does for this process alone.
    """
    alive, slow = {}, set()
    for name, run in runs.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                start = time.perf_counter()
                run()
                if time.perf_counter() - start > SLOW:
                    slow.add(name)
                else:
                    run()
            alive[name] = run
        except Exception as err:  # a peer's failure is its own
            print(f"without {name}: {' '.join(str(err).split())[:120]}")
    taken: dict[str, list[float]] = {name: [] for name in alive}
    end = time.perf_counter() + seconds
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        blocks = 0
        while time.perf_counter() < end or blocks < 2:
            blocks += 1
            for name, run in alive.items():
                # The other runtime's threads spin for a while, and its weights fill the caches.
                time.sleep(PAUSE)
                if name not in slow:
                    run()
                for _ in range(1 if name in slow else BLOCK):
                    start = clock()
                    run()
                    taken[name].append(1e3 * (clock() - start))
    return taken


def examined(name: str, batches: list[int], seconds: float, folder: Path) -> list[dict[str, Any]]:
    """A row per batch: the median and the spread of every side, and the ratios."""
    import torch

    from tests.networks import nets

    torch.set_num_threads(THREADS)
    model = built(name)
    path = folder / f"{name}.onnx"
    nets.export(model, nets.Net(name), "legacy", path)
    rows = []
    for batch in batches:
        x = torch.randn(batch, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
        taken = measured({**ours(path, x.numpy(), folder), **peers(model, x)}, seconds)
        times = spread(taken)
        middle = times["median_ms"]
        those = [n for n in middle if not n.startswith(OURS) and n not in YARDSTICKS]
        best = min(those, key=lambda n: middle[n])
        row = {
            "network": name, "batch": batch, **times,
            "best_peer": best,
            "times_the_best_peer": round(middle[best] / middle[f"{OURS}vanilla"], 2),
        }  # fmt: skip
        rows.append(row)
        print(f"\n{name}, batch {batch}, {row['runs']} runs")
        base = middle[YARDSTICKS[0]]
        for side, took in sorted(middle.items(), key=lambda item: item[1]):
            print(f"  {side:28}{took:9.1f} ms {1e3 * batch / took:8.1f} images/s"
                  f" {took / base:6.2f} x forward")  # fmt: skip
        print(f"  {row['times_the_best_peer']} times the best peer's throughput ({best})",
              flush=True)  # fmt: skip
    return rows


def said() -> dict[str, str]:
    """The versions, the peers' too; printed with the device."""
    found = versions() | installed(("torch", "captum", "grad-cam", "lime", "shap", "openvino"))
    print(f"{device()}; " + ", ".join(f"{k} {v}" for k, v in found.items()), flush=True)
    return found


def keep(file: Path, rows: list[dict[str, Any]], found: dict[str, str]) -> None:
    """Write the rows, beside those of earlier calls on other networks and batches."""
    file.parent.mkdir(parents=True, exist_ok=True)
    before = json.loads(file.read_text())["rows"] if file.exists() else []
    mine = {(r["network"], r["batch"]) for r in rows}
    kept = [r for r in before if (r["network"], r["batch"]) not in mine]
    report = {"device": device(), "versions": found, "rows": kept + rows}
    file.write_text(json.dumps(report, indent=1) + "\n")


def spread(taken: dict[str, list[float]]) -> dict[str, Any]:
    """What a row says of times: how many, the median and the range of each side."""
    return {
        "runs": min(map(len, taken.values())),
        "median_ms": {n: round(statistics.median(t), 2) for n, t in taken.items()},
        "range_ms": {n: [round(min(t), 2), round(max(t), 2)] for n, t in taken.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", action="append", choices=NETS, help="repeatable [all]")
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--json", type=Path, default=RESULTS)
    given = parser.parse_args()
    found = said()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="backlight-") as folder:
        for name in given.net or NETS:
            rows += examined(name, given.batch, given.seconds, Path(folder))
            keep(given.json, rows, found)


if __name__ == "__main__":
    main()
