"""The maps that a network should get, by PyTorch's autograd and the papers' formulas.

Always in batches of two and more: PyTorch's own gradient is off behind some BatchNorms in a batch
of one (docs/how-it-works.md).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tests.export.cam_formulas import by_formula

from .kit import Tensor
from .network import Net, Spec, rivals_of, targets_of

F = torch.nn.functional
Array = NDArray[Any]
STEPS, SAMPLES, NOISE = 6, 4, 0.15


def size_of(spec: Spec) -> str:
    """Of class activation maps: "layer", or "input" where one among them knows no other."""
    return "layer" if spec.layer is not None and "guided_gradcam" not in spec.extra else "input"


class Oracle:
    """In one floating-point type. dither: see Net."""

    def __init__(self, spec: Spec, dtype: torch.dtype = torch.float64, dither: float = 0.0) -> None:
        self.spec, self.dtype, self.dither = spec, dtype, dither
        self._nets: dict[str, Net] = {}

    def _net(self, rule: str) -> Net:
        if rule not in self._nets:
            net = Net(self.spec, rule, self.dither).eval()
            if self.spec.dtype == "float16":  # the file's own weights
                net = net.half()
            self._nets[rule] = net.to(self.dtype)
        return self._nets[rule]

    def scores(self, x: Tensor) -> tuple[Array, Array]:
        """What the network gives out, and the scores to explain, [N, K] each."""
        with torch.no_grad():
            z = self._scores("vanilla", x.to(self.dtype))
            y = self._net("vanilla")(x.to(self.dtype))[0]
        return y.numpy(), z.numpy()

    def _scores(self, rule: str, x: Tensor) -> Tensor:
        z = self._net(rule).scores(x)[0]
        one = z.shape[1] == 1 and self.spec.closing == "sigmoid"
        return torch.cat([-z, z], 1) if one else z

    def chosen(self, z: Tensor) -> tuple[list[int], list[int]]:
        """Of each row the class, and the one that it is told from."""
        given, rivals = targets_of(self.spec), rivals_of(self.spec)
        own, other = [], []
        for row, t, q in zip(z.detach().numpy(), given, rivals, strict=True):
            own.append(int(row.argmax()) if t == -1 else t)
            rest = row.copy()
            rest[own[-1]] = -np.inf
            other.append(int(rest.argmax()) if q == -1 else q)
        return own, other

    def _value(self, z: Tensor, own: list[int], other: list[int]) -> Tensor:
        """What the gradient is of, row by row: [N]."""
        p, q = (z.gather(1, torch.tensor(c)[:, None])[:, 0] for c in (own, other))
        if not self.spec.contrast:
            return p
        if self.spec.contrast == "logit" or self.spec.closing == "sigmoid":
            return p - q
        return -F.log_softmax(z, 1).gather(1, torch.tensor(other)[:, None])[:, 0]

    def gradient(self, rule: str, x: Tensor, own: list[int], other: list[int]) -> Tensor:
        """By the image, [N, 3, H, W]."""
        x = x.detach().to(self.dtype).requires_grad_(True)
        value = self._value(self._scores(rule, x), own, other).sum()
        if not value.requires_grad:
            return torch.zeros_like(x)
        found = torch.autograd.grad(value, x, allow_unused=True)[0]
        return torch.zeros_like(x) if found is None else found

    def maps(self, x: Tensor, noise: Tensor) -> dict[str, Array]:
        """Of every method that the description asks for. noise: [SAMPLES, 3, H, W]."""
        spec, x = self.spec, x.to(self.dtype)
        noise = noise.to(self.dtype)
        with torch.no_grad():
            own, other = self.chosen(self._scores("vanilla", x))
        made: dict[str, Tensor] = {spec.rule: self.gradient(spec.rule, x, own, other)}
        for name in spec.extra:
            if name == "input_x_gradient":
                made[name] = x * self.gradient("vanilla", x, own, other)
            elif name == "integrated_gradients":
                at, weights = np.polynomial.legendre.leggauss(STEPS)
                steps = zip((at + 1) / 2, weights / 2, strict=True)
                made[name] = x * sum(
                    w * self.gradient("vanilla", x * float(a), own, other) for a, w in steps
                )
            elif name in ("smoothgrad", "squaregrad", "vargrad"):
                span = x.amax((1, 2, 3), keepdim=True) - x.amin((1, 2, 3), keepdim=True)
                each = torch.stack(
                    [self.gradient("vanilla", x + NOISE * span * n, own, other) for n in noise]
                )
                mean = each.mean(0)
                made[name] = {
                    "smoothgrad": mean,
                    "squaregrad": (each**2).mean(0),
                    "vargrad": ((each - mean) ** 2).mean(0),
                }[name]
        found = {name: value.detach().numpy() for name, value in made.items()}
        if spec.reduce == "maxabs":
            found = {name: np.abs(value).max(1) for name, value in found.items()}
        cams = [n for n in spec.extra if n not in found]
        if cams:
            found |= self._cams(cams, x, own, other)
        return found

    def _cams(
        self, names: list[str], x: Tensor, own: list[int], other: list[int]
    ) -> dict[str, Array]:
        """Signed, at the layer's size: [N, h, w]. guided_gradcam: as the image."""
        rows: dict[str, list[Array]] = {n: [] for n in names}
        net = self._net("vanilla")
        for b in range(len(x)):
            z, layer = net.scores(torch.roll(x, -b, 0))
            if z.shape[1] == 1 and self.spec.closing == "sigmoid":
                z = torch.cat([-z, z], 1)
            form = "logit" if self.spec.closing == "sigmoid" else "loss"
            for name in names:
                if name == "guided_gradcam":
                    cam = F.relu(torch.tensor(by_formula("gradcam", layer, z[:1], own[b], form)))
                    rows[name].append(cam.numpy())
                elif name == "gradcampp":
                    rows[name].append(self._plus_plus(layer, z[:1], own[b]))
                elif name == "contrastcam":
                    rows[name].append(self._contrast(layer, z[:1], own[b], other[b], form))
                else:
                    rows[name].append(by_formula(name, layer, z[:1], own[b], form))
        found = {n: np.stack(r) for n, r in rows.items()}
        if size_of(self.spec) == "input":
            for n, maps in found.items():
                wide = torch.tensor(maps)[:, None]
                found[n] = F.interpolate(wide, self.spec.size, mode="bilinear")[:, 0].numpy()
        if "guided_gradcam" in found:
            guided = self.gradient("guided", x, own, other).detach().numpy()
            found["guided_gradcam"] = guided * found["guided_gradcam"][:, None]
        return found

    def _plus_plus(self, layer: Any, z: Tensor, own: int) -> Array:
        """Where a layer's negative values make the denominator one, a place doesn't count."""
        a = layer.detach()[0]
        g = torch.autograd.grad(z[0, own], layer, retain_graph=True)[0][0]
        below = 2 + g * a.sum((1, 2), keepdim=True)
        alpha = torch.where((g > 0) & (below > 0), g / below, torch.zeros_like(g))
        made: Array = (alpha.sum((1, 2))[:, None, None] * a).sum(0).numpy()
        return made

    def _contrast(self, layer: Any, z: Tensor, own: int, other: int, form: str) -> Array:
        count = z.shape[1]
        hot, away = (F.one_hot(torch.tensor(c), count).to(z.dtype) for c in (own, other))
        start = hot - away if form == "logit" else torch.softmax(z.detach()[0], 0) - away
        g = torch.autograd.grad(z, layer, start[None], retain_graph=True)[0][0]
        made: Array = (g.mean((1, 2))[:, None, None] * layer.detach()[0]).sum(0).numpy()
        return made
