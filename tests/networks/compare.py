"""A network's saliency from Backlight's graph against PyTorch's, as norm-relative errors."""

from __future__ import annotations

import copy
import tempfile
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from backlight.export.saliency import explain_graph

from . import nets, reference

RULES = ("vanilla", "deconv", "guided")
LIMIT = 1e-3  # float32: a few rectifiers near zero flip between two orders of summation


@dataclass(frozen=True)
class Outcome:
    net: str
    exporter: str
    lowering: str
    nodes: int
    added: int
    growth: float  # size of the exported file / size of the model's, minus 1
    scores: float  # largest difference to the model's own outputs, relative to their largest
    rows: float  # a row of the batch against the same row alone
    vanilla: float
    deconv: float
    guided: float
    pytorch: float  # PyTorch in float32 against itself in float64, the worst of the rules

    @property
    def ok(self) -> bool:
        errors = (self.vanilla, self.deconv, self.guided)
        return max(errors) <= LIMIT and self.scores <= 1e-5 and self.growth <= 0.1

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def relative(got: np.ndarray, want: np.ndarray) -> float:
    """Norm of the difference over the norm of what is wanted, in float64."""
    want = want.astype(np.float64)
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


def session(data: bytes | str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


class _Margins(TorchDispatchMode):
    """Notes, per image, what rounding may do: rectifiers near their kink and max pools near a
    tie, each by its share in the squared norm of a map, 1 / the number of units in its layer."""

    NEAR = 5e-7  # standard deviations of the layer: what float32 comes to after many layers

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.harm = torch.zeros(rows)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__.rstrip("_")
        if name in ("relu", "hardtanh"):
            kinks = (0.0,) if name == "relu" else (args[1], args[2])
            for kink in kinks:
                self._note(args[0], (args[0] - kink).abs())
        elif name == "max_pool2d_with_indices":
            x, kernel, stride = args[0], args[1], args[2] or args[1]
            windows = x.unfold(2, kernel[0], stride[0]).unfold(3, kernel[-1], stride[-1])
            best = windows.flatten(4).topk(2).values
            gap = best[..., 0] - best[..., 1]
            # Equal zeros are equal in any order of summation.
            self._note(x, torch.where(gap == 0, torch.inf, gap))
        return func(*args, **(kwargs or {}))

    def _note(self, layer: torch.Tensor, margin: torch.Tensor) -> None:
        near = torch.exp(-margin.flatten(1) / (self.NEAR * layer.std()))
        self.harm += near.mean(1)


@lru_cache(maxsize=1)
def sharp_images(net: nets.Net, tries: int = 40) -> tuple[torch.nn.Module, torch.Tensor]:
    """The network, and two images on which few rectifiers and max pools sit near a decision.

    Of millions of gates a few land so near zero that the order of summation decides them, and one
    gate changes a whole map by 1e-3 or more. That says nothing of a rule, and it is PyTorch's
    own forward pass alone that chooses: of `tries` images, the two that rounding can harm least.
    """
    model = nets.build(net)
    found = []
    for seed in range(0, tries, 4):
        x = nets.images(net, rows=4, seed=seed)
        with torch.no_grad(), _Margins(4) as margins:
            model(x)
        found += list(zip(margins.harm.tolist(), x, strict=True))
    found.sort(key=lambda pair: pair[0])
    return model, torch.stack([x for _, x in found[:2]])


@lru_cache(maxsize=1)
def wanted(net: nets.Net, target: tuple[int, int]) -> tuple[dict[str, np.ndarray], float]:
    """PyTorch's maps in float64, and how far its own float32 is from them at worst."""
    model, x = sharp_images(net)
    exact = copy.deepcopy(model).double()
    maps, itself = {}, 0.0
    for rule in RULES:
        maps[rule] = reference.saliency(exact, x.double(), list(target), rule)[1].numpy()
        single = reference.saliency(model, x, list(target), rule)[1].numpy()
        itself = max(itself, relative(single, maps[rule]))
    return maps, itself


def compare(net: nets.Net, exporter: str, lowering: str = "portable") -> Outcome:
    """Export with PyTorch, explain with Backlight, compare on two rows of different classes."""
    model, x = sharp_images(net)
    target = (3, 700)
    want, itself = wanted(net, target)
    with tempfile.TemporaryDirectory() as folder:
        path, made = Path(folder) / "model.onnx", Path(folder) / "explained.onnx"
        nets.export(model, net, exporter, path)
        graph = explain_graph(path, RULES, lowering=lowering)
        before = len(list(explain_graph(path, ("vanilla",), lowering=lowering).model.graph))
        graph.save(made)
        own = session(str(path)).run(None, {graph.input: x.numpy()})[0]
        explained = session(str(made))
        feeds = {graph.input: x.numpy(), "target": np.array(target, np.int64)}
        scores, *maps = explained.run(None, feeds)
        alone = explained.run(None, {k: v[:1] for k, v in feeds.items()})
        growth = made.stat().st_size / path.stat().st_size - 1
        nodes = len(list(graph.model.graph))
    found = dict(zip(RULES, maps, strict=True))
    errors = {rule: relative(found[rule], want[rule]) for rule in RULES}
    return Outcome(
        net=net.name,
        exporter=exporter,
        lowering=lowering,
        nodes=nodes,
        added=before,
        growth=growth,
        scores=float(np.abs(scores - own).max() / np.abs(own).max()),
        rows=max(relative(alone[1 + i][0], found[r][0]) for i, r in enumerate(RULES)),
        pytorch=itself,
        **errors,
    )
