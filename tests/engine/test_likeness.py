"""How alike two maps are: metrics against themselves written out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from backlight.engine.pictures import likeness


def noise(seed: int, shape: tuple[int, ...] = (17, 14)) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def test_cosine():
    a = noise(1, (3, 4, 4))
    assert likeness.cosine(a, 5 * a) == pytest.approx(1)
    assert likeness.cosine(a, -a) == pytest.approx(-1)
    assert likeness.cosine(np.array([1.0, 0]), np.array([1.0, 1])) == pytest.approx(math.sqrt(0.5))
    zero = np.zeros_like(a)
    assert likeness.cosine(zero, zero) == 1 and likeness.cosine(zero, a) == 0


def ssim_in_loops(a: np.ndarray, b: np.ndarray) -> float:
    """Equation 13 of Wang et al. 2004 for every whole window, one by one."""
    span = b.max() - b.min()
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    at = np.arange(11) - 5
    line = np.exp(-(at**2) / (2 * 1.5**2))
    w = np.outer(line, line) / np.outer(line, line).sum()
    found = []
    for i in range(a.shape[0] - 10):
        for j in range(a.shape[1] - 10):
            x, y = a[i : i + 11, j : j + 11], b[i : i + 11, j : j + 11]
            mx, my = (w * x).sum(), (w * y).sum()
            vx, vy = (w * (x - mx) ** 2).sum(), (w * (y - my) ** 2).sum()
            both = (w * (x - mx) * (y - my)).sum()
            upper = (2 * mx * my + c1) * (2 * both + c2)
            found.append(upper / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    return float(np.mean(found))


def test_ssim():
    a, b = noise(1), noise(1) + 0.5 * noise(2)
    assert likeness.ssim(a, a) == pytest.approx(1)
    assert 0.1 < likeness.ssim(b, a) < 0.98
    assert likeness.ssim(b, a) == pytest.approx(ssim_in_loops(b, a), rel=1e-9)
    # Maps below the window's size still have one window.
    assert likeness.ssim(a[:4, :5], a[:4, :5]) == pytest.approx(1)
    flat = np.zeros((12, 12))
    assert likeness.ssim(flat, flat) == 1 and likeness.ssim(noise(1, (12, 12)), flat) == 0


def test_top_overlap():
    a = np.arange(400.0).reshape(20, 20)
    b = a.copy()
    assert likeness.top_overlap(a, b) == 1
    b.flat[399] = -1  # one of the top four is gone
    assert likeness.top_overlap(b, a) == 0.75
    assert likeness.top_overlap(-a, a) == 0
    assert likeness.top_overlap(np.zeros((3, 3)), np.zeros((3, 3))) == 1
