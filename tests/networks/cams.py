"""Writes docs/coverage-cams.md: class activation maps of torchvision's networks against autograd.

    python -m tests.networks.cams [--only resnet18,vgg11] [--json FILE] [--write FILE]

Of each network the default layer, by the name that `export` chose. In PyTorch, in float64, the
tensor with the same values is found among what every function returns (hooks miss functions), and
its gradient is asked of autograd.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from torch.overrides import TorchFunctionMode

from backlight.engine.inside.taps import Taps
from backlight.export.layer import Layer
from backlight.export.saliency import explain_graph

from .nets import EXPORTERS, NETS, Net, build, export, images

LIMIT = 1e-3
METHODS = ("gradcam", "gradcampp", "hirescam", "contrastcam")
HEAD = f"""# Coverage: class activation maps against autograd

Each of torchvision's networks, random weights, two images, the layer that `backlight export` takes
by itself. Errors are norm-relative, the exported graph in float32 against the method's formula on
PyTorch's autograd in float64, at the tensor of the same values; contrastcam by logits, against the
second class. At most {LIMIT:g} is asked. Written by

    python -m tests.networks.cams --write docs/coverage-cams.md

"""


@dataclass(frozen=True)
class Outcome:
    """One network by one exporter. errors: by method."""

    net: str
    exporter: str
    layer: str
    errors: dict[str, float]

    @property
    def ok(self) -> bool:
        return all(e <= LIMIT for e in self.errors.values())  # NaN is none


class Returned(TorchFunctionMode):
    """Every tensor of a shape that some function returns."""

    def __init__(self, like: np.ndarray[Any, Any]):
        super().__init__()
        self.like, self.found = like, []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and tuple(made.shape) == self.like.shape:
            apart = float((made.detach() - torch.from_numpy(self.like)).abs().max())
            if apart <= 1e-3 * float(np.abs(self.like).max()) and made.requires_grad:
                self.found.append(made)
        return made


def compare(net: Net, exporter: str) -> Outcome:
    """Export, run, and hold against autograd."""
    model = build(net)
    x = images(net)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        export(model, net, exporter, path)
        graph = explain_graph(path, METHODS, size="layer", signed=True, contrast_form="logit")
        layer = graph.layers[0]
        session = ort.InferenceSession(graph.to_proto().SerializeToString())
        values = next(iter(Taps(path, [layer.name])(x.numpy()).values()))
    double = model.double()
    with Returned(values.astype(np.float64)) as seen:
        scores = double(x.double().requires_grad_())
    held = seen.found[-1]
    order = scores.detach().argsort(dim=1, descending=True)
    feeds = {
        graph.input: x.numpy(),
        "target": order[:, 0].numpy(),
        "contrast": order[:, 1].numpy(),
    }
    found = dict(
        zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True)
    )
    chosen = scores.gather(1, order[:, :1]).sum()
    rival = scores.gather(1, order[:, 1:2]).sum()
    (g,) = torch.autograd.grad(chosen, held, retain_graph=True)
    (other,) = torch.autograd.grad(rival, held)
    a, g, other = (_laid(t.detach(), layer) for t in (held, g, other))
    errors = {}
    for name in METHODS:
        got, want = found[f"saliency_{name}"], by_formula(name, a, g, other).numpy()
        errors[name] = float(np.linalg.norm(got - want) / (np.linalg.norm(want) or 1.0))
    return Outcome(net.name, exporter, layer.name, errors)


def _laid(t: torch.Tensor, layer: Layer) -> torch.Tensor:
    """A layer's tensor as maps [N, K, h, w]: of tokens those of the patches, which come last."""
    if layer.grid is None:
        return t if layer.channel_axis == 1 else t.permute(0, 3, 1, 2)
    maps = t if layer.channel_axis == 1 else t.permute(0, 2, 1)
    height, width = layer.grid.sizes
    assert isinstance(height, int) and isinstance(width, int)
    return maps[..., -height * width :].unflatten(2, (height, width))


def by_formula(name: str, a: torch.Tensor, g: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """A signed map [N, h, w] from [N, K, h, w] each."""
    if name == "hirescam":
        return (g * a).sum(1)
    if name == "gradcampp":
        below = 2 + g * a.sum((2, 3), keepdim=True)
        alpha = torch.where(below > 0, torch.relu(g) / torch.where(below > 0, below, 1.0), 0.0)
        return (alpha.sum((2, 3), keepdim=True) * a).sum(1)
    cotangent = g - other if name == "contrastcam" else g
    return (cotangent.mean((2, 3), keepdim=True) * a).sum(1)


def page(outcomes: list[Outcome]) -> str:
    """The table under its heading."""
    names = [net.name for net in NETS]
    rows = sorted(outcomes, key=lambda o: (names.index(o.net), o.exporter))
    lines = [f"| network | exporter | layer | {' | '.join(METHODS)} |", "|---" * 7 + "|"]
    for o in rows:
        figures = " | ".join(f"{o.errors[m]:.1e}" for m in METHODS)
        lines.append(f"| {o.net} | {o.exporter} | `{o.layer}` | {figures} |")
    absent = [n for n in names if n not in {o.net for o in rows}]
    rest = f"\nNot measured in this run: {', '.join(absent)}.\n" if absent else ""
    over = [f"{o.net} ({o.exporter})" for o in rows if not o.ok]
    rest += f"\nOut of bounds: {', '.join(over)}.\n" if over else ""
    return HEAD + "\n".join(lines) + "\n" + rest


def main(argv: list[str] | None = None) -> int:
    """Exit code 1 when a figure is out of bounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="names, comma-separated")
    parser.add_argument("--exporters", default=",".join(EXPORTERS))
    parser.add_argument("--json", type=Path, help="rows as JSON; others' rows in it are kept")
    parser.add_argument("--write", type=Path, help="the Markdown file to write")
    asked = parser.parse_args(argv)
    wanted = [n for n in NETS if not asked.only or n.name in asked.only.split(",")]
    done = []
    if asked.json and asked.json.exists():
        again = {n.name for n in wanted}
        done = [Outcome(**r) for r in json.loads(asked.json.read_text()) if r["net"] not in again]
    for net in wanted:
        for exporter in asked.exporters.split(","):
            outcome = compare(net, exporter)
            done.append(outcome)
            print(outcome, flush=True)
            if asked.json:
                asked.json.write_text(json.dumps([asdict(o) for o in done], indent=1) + "\n")
    if asked.write:
        asked.write.write_text(page(done))
    return 0 if all(o.ok for o in done) else 1


if __name__ == "__main__":
    sys.exit(main())
