"""Classifiers that go by a shortcut, trained in seconds, and the photos that they were trained
on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from PIL import Image, ImageDraw

import backlight

SIDE = 48
# Which photos a classifier tells apart: what is drawn, and before what.
CLASSIFIERS = {
    "corner": ("corner", "plain"),  # the same animals; a patch in the corner is all the difference
    "snow": ("snow", "plain"),  # the same animals, on snow or not
    "tint": ("tint", "plain"),  # the same animals, before backgrounds of one colour or of any
    "border": ("border", "plain"),  # the same animals, in a blue frame or not
    "text": ("text", "plain"),  # the same animals; some photos are signed
    "coloured": ("disc", "square", "tint"),  # a shortcut beside classes that need none
    "clean": ("disc", "square"),  # the object is all the difference
    "three": ("disc", "square", "plain"),  # and with an animal
}

Array = np.ndarray[Any, Any]


def photo(kind: str, rng: np.random.Generator) -> tuple[Array, Array]:
    """A photo, uint8 [SIDE, SIDE, 3], and its object, bool."""
    y, x = np.mgrid[:SIDE, :SIDE]
    first, last = rng.integers(60, 150, 3), rng.integers(60, 150, 3)
    way = (x if rng.random() < 0.5 else y)[..., None] / SIDE
    pixels = first * (1 - way) + last * way + rng.normal(0, 6, (SIDE, SIDE, 3))
    if kind == "snow":
        pixels = (200 + rng.normal(0, 50, (SIDE, SIDE, 1))) * np.ones(3)
    up, left = rng.integers(18, 31, 2)
    size = rng.integers(8, 11)
    if kind == "square":
        inside = (abs(y - up) < size) & (abs(x - left) < size)
    elif kind == "disc":
        inside = (y - up) ** 2 + (x - left) ** 2 < size**2
    else:  # an animal
        inside = (y - up) ** 2 + (x - left) ** 2 / 1.8 < 0.8 * size**2
    colour = {"disc": (220, 40, 40), "square": (40, 60, 220)}.get(kind, (60, 150, 60))
    pixels[inside] = colour + rng.normal(0, 10, (int(inside.sum()), 3))
    if kind == "corner":
        board = ((y // 2 + x // 2) % 2 == 0)[1:9, 1:9, None]
        pixels[1:9, 1:9] = np.where(board, (250, 0, 250), (20, 0, 20))
    elif kind == "tint":
        pixels[~inside] *= (1.5, 1.0, 0.5)
    elif kind == "border":
        pixels[~((y > 1) & (y < SIDE - 2) & (x > 1) & (x < SIDE - 2))] = (30, 30, 220)
    made = np.clip(pixels, 0, 255).astype(np.uint8)
    if kind == "text":
        signed = Image.fromarray(made)
        ImageDraw.Draw(signed).text((26, 37), "(c)X", fill=(250, 250, 250))
        made = np.asarray(signed)
    return made, inside


def trained(kinds: tuple[str, ...], seed: int = 0) -> onnx.ModelProto:
    """A small network that tells these kinds of photos apart, on pixels 0..1."""
    import torch
    from torch import nn

    rng = np.random.default_rng(seed)
    label = np.arange(160) % len(kinds)
    pictures = np.stack([photo(kinds[k], rng)[0] for k in label])
    x = torch.tensor(pictures.transpose(0, 3, 1, 2) / 255, dtype=torch.float32)
    want = torch.tensor(label)
    torch.manual_seed(seed)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # of so small a network more are slower, on a busy machine by far
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, len(kinds)), nn.Softmax(1),
    )  # fmt: skip
    steps = torch.optim.Adam(net.parameters(), 1e-2)
    for step in range(120):
        some = torch.arange(step * 32, step * 32 + 32) % len(x)
        chance = net(x[some])[torch.arange(32), want[some]]
        loss = -torch.log(chance + 1e-6).mean()
        steps.zero_grad()
        loss.backward()
        steps.step()
    assert (net(x).argmax(1) == want).float().mean() > 0.97, "not learned"
    torch.set_num_threads(threads)
    return backlight.from_pytorch(net, x[:2])


def draw(folder: Path, kinds: tuple[str, ...], count: int = 12, seed: int = 1) -> None:
    """`photos` and `masks`: a folder for each kind, so many photos in each."""
    rng = np.random.default_rng(seed)
    for kind in kinds:
        for what in ("photos", "masks"):
            (folder / what / kind).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels, inside = photo(kind, rng)
            Image.fromarray(pixels).save(folder / "photos" / kind / f"{number:02}.png")
            mask = Image.fromarray(inside.astype(np.uint8) * 255)
            mask.save(folder / "masks" / kind / f"{number:02}.png")
