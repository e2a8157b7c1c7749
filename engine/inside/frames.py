"""What a layer's patterns are, and in which frame a filter's maps agree best over the photos: that
of a pattern above it which they move with, or the image's own."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["Fitted", "Floats", "frames_of", "peaks"]

Floats = NDArray[np.float64]

# Photos that frames are compared on, how many of them, and how near a second one must come to the
# best.
_COMPARED, _FRAMES, _SECOND = 200, 600, 0.5


@dataclass
class Fitted:
    """The patterns of one layer, P of them, over N photos. Places are in units of the map's longer
    side, from its upper left corner.

    filter: int64 [P], the place in the maps given. mean [P, 2]: (y, x). deviation [P]. share [P]:
    of what its filter's patterns explain. position [N, P, 2]: where each is in each photo; score
    [N, P]: 0 to 1, how strong it is there; unit int64 [N, P]: that place in the map, row-major.
    parents int64 [P, M]: patterns of the layer above, -1 where there are fewer. offset [P, M, 2]:
    from the parent to the part. residual [P, M]: the deviation of that.
    """

    filter: NDArray[np.int64]
    mean: Floats
    deviation: Floats
    share: Floats
    position: Floats
    score: Floats
    unit: NDArray[np.int64]
    parents: NDArray[np.int64]
    offset: Floats
    residual: Floats
    average: Floats = field(default_factory=lambda: np.zeros((0, 2)))

    def __len__(self) -> int:
        return len(self.filter)


def peaks(values: list[Floats], sides: tuple[int, ...]) -> Fitted:
    """What stands above the topmost layer: for each filter the place where it is strongest."""
    side, width = max(sides), sides[1]
    flat = np.stack([v.reshape(len(v), -1) for v in values], axis=1) if values else None
    if flat is None:
        flat = np.zeros((1, 0, sides[0] * width))
    unit = flat.argmax(axis=2)
    score = flat.max(axis=2)
    position = (np.stack([unit // width, unit % width], axis=-1) + 0.5) / side
    average = (score[..., None] * position).sum(axis=0)
    average /= np.maximum(score.sum(axis=0), 1e-12)[:, None]
    count = score.shape[1]
    none = np.zeros(count)
    return Fitted(
        np.arange(count), average, none, none, position, score, unit,
        np.zeros((count, 0), np.int64), np.zeros((count, 0, 2)), np.zeros((count, 0)), average,
    )  # fmt: skip


def frames_of(values: list[Floats], above: Fitted) -> list[list[int]]:
    """For each filter the patterns above in whose frame its maps agree best, one or two; -1: the
    image's own frame. Photos are moved so that the pattern is where it is on average, and their
    maps multiplied with each other."""
    count, height, width = values[0].shape
    side = max(height, width)
    some = np.linspace(0, count - 1, min(count, _COMPARED)).round().astype(int)
    maps = np.stack([v[some] for v in values], axis=1)  # [n, C, h, w]
    norms = np.sqrt((maps**2).sum(axis=(2, 3)))  # [n, C]
    pool = np.argsort(-above.score.mean(axis=0), kind="stable")[:_FRAMES]
    agree = []
    for which in (-1, *pool.tolist()):
        weight = np.ones(len(some)) if which < 0 else above.score[some, which]
        moved = np.zeros((len(some), 2))
        if which >= 0:
            moved = above.position[some, which] - above.average[which]
        steps = np.rint(moved * side).astype(int)
        total = np.zeros((len(values), 3 * height, 3 * width))
        for one, (dy, dx) in enumerate(steps.tolist()):
            if weight[one] > 0:
                y, x = height - dy, width - dx
                total[:, y : y + height, x : x + width] += weight[one] * maps[one]
        own = (weight[:, None] ** 2 * norms**2).sum(axis=0)
        pairs = (weight[:, None] * norms).sum(axis=0)
        alike = ((total**2).sum(axis=(1, 2)) - own) / np.maximum(pairs**2 - own, 1e-12)
        agree.append(alike * pairs / np.maximum(norms.sum(axis=0), 1e-12))
    table = np.array(agree)  # [1 + Q, C]
    found = []
    for channel in range(len(values)):
        order = np.argsort(-table[:, channel], kind="stable")
        best = int(order[0])
        chosen = [best]
        for other in order[1:].tolist():
            if table[other, channel] < _SECOND * table[best, channel]:
                break
            if 0 in (best, other) or _apart(above, int(pool[best - 1]), int(pool[other - 1])):
                chosen.append(other)
                break
        found.append([-1 if c == 0 else int(pool[c - 1]) for c in chosen])
    return found


def _apart(above: Fitted, one: int, other: int) -> bool:
    """Whether two patterns move on their own."""
    both = (above.score[:, one] * above.score[:, other])[:, None]
    gap = above.position[:, one] - above.position[:, other]
    mean = (both * gap).sum(axis=0) / max(both.sum(), 1e-12)
    moves = (both * (gap - mean) ** 2).sum(axis=0) / max(both.sum(), 1e-12)
    return bool(both.sum() < 1e-9 or moves.sum() > 0.05**2)
