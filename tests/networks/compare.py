"""A network's saliency from Backlight's graph against PyTorch's, as norm-relative errors."""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from torch.fx.experimental.optimization import fuse
from torch.utils._python_dispatch import TorchDispatchMode

from backlight.export.saliency import explain_graph

from . import nets, reference
from .backward import relative

RULES = ("vanilla", "deconv", "guided")
LIMIT = 1e-3  # float32
# Where PyTorch's own float32 is further from its float64, a gate or pool is within rounding of
# another decision, and float64 doesn't tell a wrong rule from rounding: PyTorch's float32 does.
SHARP = LIMIT / 10
# Another order of summation, another set of vector instructions: so much more than was measured.
SAFETY = 2
# Images looked at, the ones of networks that CI tests fewer: it has no time for more.
TRIES, TRIES_IN_CI = 100, 60
TARGETS = (3, 700)  # the class of each row


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
    nearest: float  # against the nearest of PyTorch's float32 forms, the worst rule and row
    pytorch: float  # PyTorch in float32, the worst of its forms, against itself in float64

    @property
    def ok(self) -> bool:
        near = self.scores <= 1e-5 and self.rows <= 1e-5
        return self.error <= LIMIT and near and self.growth <= 0.1

    @property
    def error(self) -> float:
        """Of the worst rule, against float64, where that can tell; else against float32."""
        # NumPy's: of NaN and a number Python's takes either.
        double = float(np.max([self.vanilla, self.deconv, self.guided]))
        return double if self.pytorch <= SHARP else float(np.min([double, self.nearest]))

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def session(data: bytes | str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


# Where the derivative jumps, by operator; clamps have their bounds.
_KINKS = {"relu": (0.0,), "hardswish": (-3.0, 3.0), "hardsigmoid": (-3.0, 3.0)}


class _Decisions(TorchDispatchMode):
    """Shows `visit(layer, margin)` each layer in which rounding may decide: rectifiers near a
    kink and max pools near a tie. `margin`: by how much, per unit, [N, units]."""

    def __init__(self, visit: Callable[[torch.Tensor, torch.Tensor], None]) -> None:
        super().__init__()
        self.visit = visit

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__.rstrip("_")
        kinks = (args[1], args[2]) if name == "hardtanh" else _KINKS.get(name, ())
        if kinks:
            away = torch.stack([(args[0] - kink).abs() for kink in kinks])
            self.visit(args[0], away.amin(0).flatten(1))
        elif name == "max_pool2d_with_indices":
            x, kernel, stride = args[0], args[1], args[2] or args[1]
            windows = x.unfold(2, kernel[0], stride[0]).unfold(3, kernel[-1], stride[-1])
            best = windows.flatten(4).topk(2).values
            gap = (best[..., 0] - best[..., 1]).flatten(1)
            # Zeros behind a rectifier are equal in any order of summation; what else is, is not.
            self.visit(x, torch.where(best[..., 0].flatten(1) == 0, torch.inf, gap))
        return func(*args, **(kwargs or {}))


def folded(model: torch.nn.Module) -> torch.nn.Module:
    """The network with BatchNorm folded into the convolutions before it, as PyTorch's exporters
    and ONNX Runtime fold it: the same function, rounded otherwise."""
    return fuse(copy.deepcopy(model))


def _rounding(model: torch.nn.Module, x: torch.Tensor) -> list[float]:
    """What float32 costs here, on this machine: per layer that decides, the standard deviation
    of its float32 input from its float64 one, the network folded or not, whichever is more."""
    exact: list[torch.Tensor] = []
    costs: list[list[float]] = []

    def measure(layer: torch.Tensor, _: torch.Tensor) -> None:
        at = len(costs[-1])
        costs[-1].append(float((layer - exact[at]).square().mean().sqrt()))

    with torch.no_grad():
        with _Decisions(lambda layer, _: exact.append(layer.clone())):
            copy.deepcopy(model).double()(x.double())
        for form in (model, folded(model)):
            costs.append([])
            with _Decisions(measure):
                form(x)
    return [max(pair) for pair in zip(*costs, strict=True)]


def _harm(model: torch.nn.Module, x: torch.Tensor, rounding: list[float]) -> list[float]:
    """Per image, what rounding SAFETY times that large may do to a map's squared norm: flips by
    their likelihood and their share, 1 / the number of units in the layer."""
    harm = torch.zeros(len(x))
    costs = iter(rounding)

    def note(_: torch.Tensor, margin: torch.Tensor) -> None:
        away = margin / (SAFETY * max(next(costs), 1e-30))
        harm.add_(torch.exp(-away.square() / 2).mean(1))

    with torch.no_grad(), _Decisions(note):
        model(x)
    return harm.tolist()


class Peer:
    """PyTorch's own maps of a network: in float64, and in float32 in every form that PyTorch has,
    BatchNorm folded or not, summed in oneDNN's order or in PyTorch's own."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.exact = copy.deepcopy(model).double()
        self.forms = (model, folded(model))

    def double(self, x: torch.Tensor, target: list[int], rule: str) -> np.ndarray:
        """[N, C, H, W], float64."""
        found: np.ndarray = reference.saliency(self.exact, x.double(), target, rule)[1].numpy()
        return found

    def singles(self, x: torch.Tensor, target: list[int], rule: str) -> Iterator[np.ndarray]:
        """Each form's, [N, C, H, W], float32, one after the other."""
        for model in self.forms:
            for onednn in (True, False):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of TF32 on GPUs, by the flags themselves
                    with torch.backends.mkldnn.flags(enabled=onednn):
                        maps = reference.saliency(model, x, target, rule)[1].numpy()
                yield maps

    def steady(self, x: torch.Tensor) -> bool:
        """Whether every form's map of one image, [C, H, W], is what it is in float64."""
        for rule in RULES:
            case = x[None], [TARGETS[0]], rule
            want = self.double(*case)
            if any(relative(single, want) > SHARP for single in self.singles(*case)):
                return False
        return True


@lru_cache(maxsize=1)
def sharp_images(net: nets.Net) -> tuple[torch.nn.Module, torch.Tensor]:
    """The network, and two images on which no rectifier or max pool sits near a decision.

    Of millions of gates a few may land so near zero that the order of summation decides them, and
    one gate changes a whole map by 1e-3 or more. That says nothing of a rule. PyTorch alone
    chooses: the first two images that rounding won't harm by more than SHARP; where TRIES hold no
    such two, those that it can harm least, first those that it harms in none of PyTorch's forms.
    """
    model = nets.build(net)
    rounding = _rounding(model, nets.images(net))
    found: list[tuple[float, torch.Tensor]] = []
    for seed in range(0, TRIES_IN_CI if net.small else TRIES, 4):
        x = nets.images(net, rows=4, seed=seed)
        found += zip(_harm(model, x, rounding), x, strict=True)
        found = sorted(found, key=lambda pair: pair[0])[:12]
        if found[1][0] < SHARP**2:
            return model, torch.stack([x for _, x in found[:2]])
    peer = Peer(model)
    steady: list[torch.Tensor] = []
    for _, x in found:
        if len(steady) < 2 and peer.steady(x):
            steady.append(x)
    return model, torch.stack((steady + [x for _, x in found])[:2])


@lru_cache(maxsize=1)
def wanted(
    net: nets.Net, target: tuple[int, int]
) -> dict[str, tuple[np.ndarray, list[np.ndarray]]]:
    """By rule, PyTorch's maps in float64 and in each of its float32 forms."""
    model, x = sharp_images(net)
    peer, case = Peer(model), (x, list(target))
    return {rule: (peer.double(*case, rule), list(peer.singles(*case, rule))) for rule in RULES}


def nearest(got: np.ndarray, forms: list[np.ndarray]) -> float:
    """Each row against the form that decided as it did; the worst row."""
    return max(min(relative(row, form[at]) for form in forms) for at, row in enumerate(got))


def compare(net: nets.Net, exporter: str, lowering: str = "portable") -> Outcome:
    """Export with PyTorch, explain with Backlight, compare on two rows of different classes."""
    model, x = sharp_images(net)
    target = TARGETS
    want = wanted(net, target)
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
    errors = {rule: relative(found[rule], want[rule][0]) for rule in RULES}
    return Outcome(
        net=net.name,
        exporter=exporter,
        lowering=lowering,
        nodes=nodes,
        added=before,
        growth=growth,
        scores=float(np.abs(scores - own).max() / np.abs(own).max()),
        rows=max(relative(alone[1 + i][0], found[r][0]) for i, r in enumerate(RULES)),
        nearest=max(nearest(found[rule], want[rule][1]) for rule in RULES),
        pytorch=max(relative(form, double) for double, forms in want.values() for form in forms),
        **errors,
    )
