"""Class activation maps by the papers' own formulas, on PyTorch's autograd."""

from __future__ import annotations

import numpy as np
import torch

F = torch.nn.functional

METHODS = (
    "gradcam", "gradcampp", "hirescam", "layercam", "xgradcam", "contrastcam", "counterfactualcam",
    "causalcam",
)  # fmt: skip


def by_formula(name: str, a, z, target: int, form: str) -> np.ndarray:
    """A map [h, w] of one image, signed, from the papers' own formulas. a: [1, K, h, w] with a
    gradient; z: [1, K] from it."""

    def gradient(cotangent):
        return torch.autograd.grad(z, a, cotangent[None], retain_graph=True)[0][0]

    hot = F.one_hot(torch.tensor(target), z.shape[1]).double()
    values = a.detach()[0]

    def contrast(q: int):
        other = F.one_hot(torch.tensor(q), z.shape[1]).double()
        cotangent = hot - other if form == "logit" else torch.softmax(z.detach()[0], 0) - other
        g = gradient(cotangent)
        return (g.mean((1, 2))[:, None, None] * values).sum(0)

    g = gradient(hot)
    cam = (g.mean((1, 2))[:, None, None] * values).sum(0)
    if name == "gradcam":
        made = cam
    elif name == "counterfactualcam":
        made = -cam
    elif name == "hirescam":
        made = (g * values).sum(0)
    elif name == "layercam":
        made = (torch.relu(g) * values).sum(0)
    elif name == "xgradcam":
        total = values.sum((1, 2))
        weights = (g * values).sum((1, 2)) / torch.where(total == 0, 1.0, total)
        made = (weights[:, None, None] * values).sum(0)
    elif name == "gradcampp":
        # The paper's alpha: g^2 / (2 g^2 + g^3 sum A), where g is not 0.
        below = 2 * g**2 + g**3 * values.sum((1, 2))[:, None, None]
        alpha = torch.where(g != 0, g**2 / torch.where(below == 0, 1.0, below), 0.0)
        weights = (alpha * torch.relu(g)).sum((1, 2))
        made = (weights[:, None, None] * values).sum(0)
    else:
        order = [int(c) for c in z.detach()[0].argsort(descending=True) if int(c) != target]
        if name == "contrastcam":
            made = contrast(order[0])
        else:
            between = lambda m: (m - m.min()) / ((m.max() - m.min()) or 1.0)  # noqa: E731
            context = torch.stack([between(torch.relu(contrast(q))) for q in order[:5]]).amax(0)
            made = between(torch.relu(cam)) - context
    return made.numpy()
