"""What a targeted explanation costs beside the score, and beside captum and pytorch-grad-cam.

    pip install '.[bench]' && pip install --no-deps grad-cam ttach opencv-python-headless
    python -m benchmarks.targeted [NAME …] [--batch 1 4] [--only cams guided ig] [--seconds 10]
                                  [--processor] [--json FILE]

Everything in one process and in turn, two threads, 224x224 (SqueezeNet: torchvision's), random
weights, `--for cpu`. The plain forward pass is the yardstick of the maps of a layer; the guided
rule that of guided Grad-CAM; 16 explaining passes at the same batch that of integrated gradients of
16 steps; what the peers draw is Grad-CAM of the layer that we take. Figures are medians. Results of
networks, batches and parts that weren't asked for stay in FILE as they are: `--only` takes a part,
cams (with the peers), guided (guided Grad-CAM) or ig. Of a transformer captum draws no map: it
takes tokens for channels. PyTorch's own forward pass is timed beside the peers: no map by PyTorch
takes less.

--processor: on one thread, by the seconds that the processor gives this process, which busy
neighbours change little; by itself into another FILE.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from backlight.engine.runtime.session import Session
from backlight.export.saliency import explain_graph
from backlight.export.sampling import Sampling

from .peers import LAYERS, Run, built, keep, measured, said, spread

RESULTS = Path(__file__).resolve().parent / "results" / "targeted.json"
BY_PROCESSOR = RESULTS.with_name("targeted-processor.json")
TRANSFORMERS = ("vit_b_16",)
THREADS, SIZE, STEPS = 2, 224, 16
ALL = ("gradcam", "gradcampp", "hirescam", "layercam", "xgradcam", "contrastcam")
FORWARD = "forward"
BOUND = "PyTorch, forward"
SUBJECTS: dict[str, tuple[str, ...]] = {
    **{name: (name,) for name in ("gradcam", "gradcampp", "contrastcam", "counterfactualcam")},
    "all of a layer": ALL,
    "guided": ("guided",),
    "guided_gradcam": ("guided_gradcam",),
    "vanilla": ("vanilla",),
    "integrated_gradients": ("integrated_gradients",),
}
PARTS = {
    "cams": (FORWARD, "gradcam", "gradcampp", "contrastcam", "counterfactualcam", "all of a layer"),
    "guided": ("guided", "guided_gradcam"),
    "ig": ("vanilla", "integrated_gradients"),
}
# Subject, yardstick, how many runs of that, at most so many times as much.
BOUNDS = (
    ("gradcam", FORWARD, 1, 1.15),
    ("gradcampp", FORWARD, 1, 1.15),
    ("contrastcam", FORWARD, 1, 1.15),
    ("counterfactualcam", FORWARD, 1, 1.15),
    ("all of a layer", FORWARD, 1, 1.25),
    ("guided_gradcam", "guided", 1, 1.1),
    ("integrated_gradients", "vanilla", STEPS, 1.05),
)
LEAST = 1.6  # times as fast as each peer


def ours(path: Path, x: Any, folder: Path, wanted: set[str], threads: int) -> dict[str, Run]:
    """The plain model, and a graph per subject, of those that are wanted."""
    import numpy as np

    def session(file: Path) -> Run:
        held = Session(str(file), "cpu", threads)
        feeds = {held.inputs[0].name: x.numpy()}
        for given in held.inputs[1:]:
            feeds[given.name] = np.full(len(x), -1, np.int64)
        return lambda: held.run(feeds)

    found = {FORWARD: session(path)} if FORWARD in wanted else {}
    for subject, methods in SUBJECTS.items():
        if subject not in wanted:
            continue
        file = folder / f"{path.stem}-{subject}.onnx"
        sampling = Sampling(steps=STEPS) if subject == "integrated_gradients" else None
        explain_graph(path, methods, target_class="top1", lowering="cpu", sampling=sampling).save(
            file
        )
        found[subject] = session(file)
    return found


def patches(tokens: Any) -> Any:
    """A vision transformer's tokens [N, 1 + side side, K] as a map [N, K, side, side]."""
    side = round((tokens.shape[1] - 1) ** 0.5)
    return tokens[:, 1:].reshape(len(tokens), side, side, -1).permute(0, 3, 1, 2)


def peers(model: Any, layer: Any, x: Any, transformer: bool) -> dict[str, Run]:
    """Grad-CAM by the others, told the class; and PyTorch's forward pass alone."""
    import torch

    from tests.builders import torchvision_models

    with torch.no_grad():
        top = model(x).argmax(dim=1)
    for parameter in layer.parameters():
        parameter.requires_grad_(True)  # hooks need a graph that reaches the layer

    def forward() -> None:
        with torch.no_grad():
            model(x)

    found: dict[str, Run] = {BOUND: forward}
    try:
        from captum.attr import LayerAttribution, LayerGradCam

        by_captum = LayerGradCam(model, layer)
        if not transformer:
            found["captum, LayerGradCam"] = lambda: LayerAttribution.interpolate(
                by_captum.attribute(x, target=top, relu_attributions=True), x.shape[2:]
            )
    except ImportError as err:
        print(f"without captum: {err}")
    torchvision_models()  # pytorch-grad-cam imports torchvision, whose operators may be missing
    try:
        from pytorch_grad_cam import GradCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        reshape = patches if transformer else None
        cam = GradCAM(model=model, target_layers=[layer], reshape_transform=reshape)
        targets = [ClassifierOutputTarget(int(t)) for t in top]
        found["pytorch-grad-cam, GradCAM"] = lambda: cam(input_tensor=x, targets=targets)
    except ImportError as err:
        print(f"without pytorch-grad-cam: {err}")
    return found


def examined(
    name: str, batches: list[int], parts: list[str], seconds: float, folder: Path, processor: bool
) -> list[dict[str, Any]]:
    """A row per batch."""
    import torch

    from tests.networks import nets

    threads, clock = (1, time.process_time) if processor else (THREADS, time.perf_counter)
    torch.set_num_threads(threads)
    model = built(name)
    path = folder / f"{name}.onnx"
    nets.export(model, nets.Net(name), "legacy", path)
    rows = []
    for batch in batches:
        x = torch.randn(batch, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
        wanted = {subject for part in parts for subject in PARTS[part]}
        beside = {}
        if "cams" in parts:
            beside = peers(model, LAYERS[name](model), x, name in TRANSFORMERS)
        taken = measured({**ours(path, x, folder, wanted, threads), **beside}, seconds, clock)
        times = spread(taken)
        middle = times["median_ms"]
        print(f"\n{name}, batch {batch}, {times['runs']} runs", flush=True)
        ratios = {}
        for subject, base, passes, most in BOUNDS:
            if subject not in wanted:
                continue
            ratio = ratios[subject] = round(middle[subject] / (passes * middle[base]), 3)
            unit = base if passes == 1 else f"{passes} x {base}"
            missed = "" if ratio <= most else "MISSED"
            print(f"  {subject:22}{middle[subject]:9.1f} ms  {ratio:6.2f} x {unit:13}"
                  f" (at most {most}) {missed}", flush=True)  # fmt: skip
        for peer in beside:
            if peer in middle:
                ratio = ratios[peer] = round(middle[peer] / middle["gradcam"], 2)
                aim = "" if peer == BOUND else f" (at least {LEAST})"
                missed = "MISSED" if aim and ratio < LEAST else ""
                print(f"  {peer:26}{middle[peer]:9.1f} ms: {ratio} times ours{aim} {missed}",
                      flush=True)  # fmt: skip
        rows.append({"network": name, "batch": batch, **times, "ratios": ratios})
    return rows


def merged(file: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, with what the file holds of parts that weren't measured now."""
    before = json.loads(file.read_text())["rows"] if file.exists() else []
    held = {(r["network"], r["batch"]): r for r in before}
    found = []
    for row in rows:
        old = held.get((row["network"], row["batch"]), {})
        tables = ("median_ms", "range_ms", "ratios")
        found.append({**row, **{t: {**old.get(t, {}), **row[t]} for t in tables}})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(LAYERS))
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART",
                        help=f"{', '.join(PARTS)} [all]")  # fmt: skip
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--processor", action="store_true",
                        help="one thread, by the processor's seconds")  # fmt: skip
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    file = given.json or (BY_PROCESSOR if given.processor else RESULTS)
    if unknown := sorted(set(given.names) - set(LAYERS)):
        parser.error(f"unknown: {unknown[0]}; one of {', '.join(LAYERS)}")
    found = said()
    with tempfile.TemporaryDirectory(prefix="backlight-") as folder:
        for name in given.names or LAYERS:
            rows = examined(
                name, given.batch, given.only, given.seconds, Path(folder), given.processor
            )
            keep(file, merged(file, rows), found)


if __name__ == "__main__":
    main()
