"""How well neighbours stay neighbours."""

from __future__ import annotations

import numpy as np


def purity(points: np.ndarray, group: np.ndarray, to: np.ndarray, of: np.ndarray) -> float:
    """How many of each point's five nearest among `to` are of its group."""
    far = np.linalg.norm(points[:, None] - to[None], axis=2)
    near = np.argsort(far, axis=1)[:, :5]
    return float((of[near] == group[:, None]).mean())
