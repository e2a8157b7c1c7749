"""The patterns of one filter, by EM: a Gaussian each around where the patterns above expect it, and
a constant density for what none explains. See `parts` for the source, and what differs from it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .frames import Fitted, Floats

__all__ = ["FilterMaps", "Settings"]

# What an EM step holds at once, in floats.
_AT_ONCE = 1 << 24
# Patterns are one where they are nearer to each other than a deviation, or than this part of the
# largest one (which is what each pattern's share of the map measures).
_APART = 0.5
# Of what a filter's patterns explain, a pattern that explains less than this is dropped.
_LEAST = 0.03
# What distance counts beside deviation, between parents.
_NEARER = 0.05
# Of a filter's strong activation, what a pattern has to reach on average.
_WEAK = 0.05
# Iterations between two choices of parents.
_CHOICE = 5


@dataclass(frozen=True)
class Settings:
    """The authors' settings (their code, VGG16), of every layer.

    density: patterns per position of a filter's map; None: 0.1, and 0.05 of maps with more than 400
    positions, 40 at most. parents: of a pattern, out of so many candidates. tau: the density of
    what no pattern explains. deviation: the patterns' first one, and search: how far a pattern is
    looked for around the place where it is expected, both as shares of the map's longer side.
    """

    density: float | None = None
    parents: int = 15
    candidates: int = 600
    iterations: int = 20
    tau: float = 0.1
    deviation: float = 0.15
    search: float = 0.3

    def patterns(self, height: int, width: int) -> int:
        """How many a filter's map starts with."""
        positions = height * width
        density = self.density or (0.1 if positions <= 400 else 0.05)
        return max(min(round(density * positions), positions, 40), 1)


@dataclass
class _Links:
    """Which patterns above a filter's patterns go by: parents int64 [P, M], offset [P, M, 2],
    residual and weight [P, M]."""

    parents: NDArray[np.int64]
    offset: Floats
    residual: Floats

    def shift(self, above: Fitted) -> Floats:
        """By how much the parents move each pattern in each photo, [N, P, 2]."""
        moved = above.position - above.average  # [N, Q, 2]
        count, patterns = len(moved), len(self.parents)
        total, weight = np.zeros((count, patterns, 2)), np.full((count, patterns), 1e-6)
        for k in range(self.parents.shape[1]):
            at = np.maximum(self.parents[:, k], 0)
            # Squared: what doesn't move with the part errs the same way each time, and there may
            # be many of that.
            sure = 1 / (self.residual[:, k] ** 2 + 1e-4) ** 2
            sure = np.where(self.parents[:, k] >= 0, sure, 0.0)
            part = above.score[:, at] * sure
            total += part[..., None] * moved[:, at]
            weight += part
        moves: Floats = total / weight[..., None]
        return moves


class FilterMaps:
    """One filter's map over the photos, [N, h, w], and its patterns."""

    def __init__(
        self, values: Floats, settings: Settings, above: Fitted, frames: list[int]
    ) -> None:
        self.values, self.settings = values, settings
        self.above = above if len(above) else None
        count, height, width = values.shape
        side = max(height, width)
        self.side = side
        self.ys, self.xs = (np.arange(height) + 0.5) / side, (np.arange(width) + 0.5) / side
        wanted = settings.patterns(height, width)
        # On a grid of about as many places as there are to be patterns, the aspect kept.
        rows = max(round((wanted * height / width) ** 0.5), 1)
        columns = max(round(wanted / rows), 1)
        y = (np.arange(rows) + 0.5) / rows * height / side
        x = (np.arange(columns) + 0.5) / columns * width / side
        self.mean = np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1).reshape(-1, 2)
        self.most = 1 / max(wanted, 1) ** 0.5
        self.sigma = np.full(len(self.mean), min(settings.deviation, self.most))
        self.shift: Floats | None = None  # [N, P, 2]; None: nothing moves
        if frames not in ([], [-1]):
            still = np.zeros((count, 2))
            each = [still if f < 0 else above.position[:, f] - above.average[f] for f in frames]
            self.shift = np.repeat(np.stack(each, axis=1), len(self.mean), axis=1)
            self.mean = np.tile(self.mean, (len(frames), 1))
            self.sigma = np.tile(self.sigma, len(frames))
        self.links: _Links | None = None
        self.chunk = max(_AT_ONCE // (len(self.mean) * side + height * width), 1)

    def nothing(self) -> Fitted:
        """No pattern at all."""
        self.mean, self.sigma = self.mean[:0], self.sigma[:0]
        return self._result(np.zeros((len(self.values), 0)))

    def fitted(self) -> Fitted:
        """Run EM, with a new choice of parents now and then, and look where the patterns are."""
        rounds = max(self.settings.iterations, 1)
        mass = np.zeros((len(self.values), len(self.mean)))
        for step in range(rounds):
            mass, place = self._step()
            if self.above is not None and step % _CHOICE == _CHOICE - 1 and step + 1 < rounds:
                self._choose(mass, place)
            if step == rounds // 2 or step + 1 == rounds:
                mass, place = self._thinned(mass, place)
                if self.above is not None:
                    self._choose(mass, place)
        mass, place = self._step(update=False)
        return self._result(mass)

    def _shift_of(self, rows: slice) -> Floats:
        count = len(self.values[rows])
        if self.shift is None:
            return np.zeros((count, len(self.mean), 2))
        return self.shift[rows]

    def _gaussians(self, rows: slice) -> tuple[Floats, Floats, Floats]:
        """Along rows [n, P, h] and columns [n, P, w], whose product is the density; and the
        shifts."""
        shift = self._shift_of(rows)
        centre = self.mean + shift
        twice = 2 * self.sigma[:, None] ** 2
        gy = np.exp(-((self.ys - centre[..., 0, None]) ** 2) / twice)
        gx = np.exp(-((self.xs - centre[..., 1, None]) ** 2) / twice) / (np.pi * twice)
        return gy, gx, shift

    def _step(self, update: bool = True) -> tuple[Floats, Floats]:
        """One iteration: what each pattern explains in each photo [N, P], and the middle of that
        [N, P, 2]; means and deviations after it."""
        count, patterns = len(self.values), len(self.mean)
        mass, place = np.zeros((count, patterns)), np.zeros((count, patterns, 2))
        first, second = np.zeros((patterns, 2)), np.zeros((patterns, 2))
        for at in range(0, count, self.chunk):
            rows = slice(at, at + self.chunk)
            gy, gx, shift = self._gaussians(rows)
            total = np.matmul(gy.transpose(0, 2, 1), gx)
            weighed = self.values[rows] / (total + self.settings.tau)
            along_y = gy * np.matmul(gx, weighed.transpose(0, 2, 1))  # [n, P, h]
            along_x = gx * np.matmul(gy, weighed)  # [n, P, w]
            here = along_y.sum(axis=2)
            mass[rows] = here
            for axis, (part, ticks) in enumerate(((along_y, self.ys), (along_x, self.xs))):
                sum1, sum2 = part @ ticks, part @ ticks**2
                moved = shift[..., axis]
                place[rows, :, axis] = sum1 / np.maximum(here, 1e-12)
                first[:, axis] += (sum1 - moved * here).sum(axis=0)
                second[:, axis] += (sum2 - 2 * moved * sum1 + moved**2 * here).sum(axis=0)
        if update:
            whole = mass.sum(axis=0)
            known = whole > 1e-9
            mean = first[known] / whole[known, None]
            spread = second[known] / whole[known, None] - mean**2
            self.mean[known] = mean
            sigma = np.sqrt(np.maximum(spread.mean(axis=1), 0))
            self.sigma[known] = np.clip(sigma, self.most / 10, self.most)
        return mass, place

    def _thinned(self, mass: Floats, place: Floats) -> tuple[Floats, Floats]:
        """Patterns that stand on the same place are one, and those that explain next to nothing are
        none."""
        whole = mass.sum(axis=0)
        groups: dict[int, float] = {}  # what each that is kept explains, with those like it
        for one in np.argsort(-whole, kind="stable").tolist():
            like = next((k for k in groups if self._near(one, k)), None)
            group = one if like is None else like
            groups[group] = groups.get(group, 0.0) + float(whole[one])
        least = _LEAST * whole.sum()
        kept = [k for k, part in groups.items() if part >= least] or list(groups)[:1]
        order = np.array(kept)
        self.mean, self.sigma = self.mean[order], self.sigma[order]
        self.shift = None if self.shift is None else self.shift[:, order]
        return mass[:, order], place[:, order]

    def _near(self, one: int, other: int) -> bool:
        """Whether two patterns stand on the same place."""
        gap = float(np.hypot(*(self.mean[one] - self.mean[other])))
        return gap <= float(max(self.sigma[one], self.sigma[other], _APART * self.most))

    def _choose(self, mass: Floats, place: Floats) -> None:
        """For each pattern the patterns above whose distance to it varies least."""
        assert self.above is not None
        above = self.above
        strong = np.argsort(-above.score.mean(axis=0), kind="stable")
        pool = np.sort(strong[: self.settings.candidates])
        score, q = above.score[:, pool], above.position[:, pool]
        both = mass.T @ score  # [P, Q]
        sure = np.maximum(both, 1e-12)
        spread, offset = np.zeros(both.shape), np.zeros((*both.shape, 2))
        for axis in (0, 1):
            p, r = place[..., axis], q[..., axis]
            mean = ((mass * p).T @ score - mass.T @ (score * r)) / sure
            squares = (mass * p**2).T @ score + mass.T @ (score * r**2)
            squares = (squares - 2 * (mass * p).T @ (score * r)) / sure
            offset[..., axis] = mean
            spread += np.maximum(squares - mean**2, 0) / 2
        # Where the parent is absent it tells nothing: as good as the widest pattern there is.
        seen = both / np.maximum(mass.sum(axis=0), 1e-12)[:, None]
        cost = np.sqrt(spread * seen + self.most**2 * np.maximum(1 - seen, 0))
        wanted = min(self.settings.parents, len(pool))
        # Of those that tell as much, the nearer ones.
        away = np.hypot(offset[..., 0], offset[..., 1])
        best = np.argsort(cost + _NEARER * away, axis=1, kind="stable")[:, :wanted]
        at = np.arange(len(best))[:, None]
        self.links = _Links(pool[best], offset[at, best], cost[at, best])
        old = self.shift
        self.shift = self.links.shift(above)
        # Means are of what is left when the parents' shift is taken off.
        now = (mass[..., None] * self.shift).sum(axis=0)
        before = 0 if old is None else (mass[..., None] * old).sum(axis=0)
        self.mean = self.mean - (now - before) / np.maximum(mass.sum(axis=0), 1e-12)[:, None]

    def _result(self, mass: Floats) -> Fitted:
        count, patterns = mass.shape
        unit = np.zeros((count, patterns), np.int64)
        score = np.zeros((count, patterns))
        width = len(self.xs)
        for at in range(0, count, self.chunk):
            rows = slice(at, at + self.chunk)
            gy, gx, shift = self._gaussians(rows)
            gx = gx * (2 * np.pi * self.sigma[:, None] ** 2)
            centre = self.mean + shift
            far_y = abs(self.ys - centre[..., 0, None]) > self.settings.search
            far_x = abs(self.xs - centre[..., 1, None]) > self.settings.search
            gy, gx = np.where(far_y, 0, gy), np.where(far_x, 0, gx)
            for one in range(patterns):
                fits = self.values[rows] * gy[:, one, :, None] * gx[:, one, None, :]
                flat = fits.reshape(len(fits), -1)
                best = flat.argmax(axis=1)
                score[rows, one] = flat[np.arange(len(flat)), best]
                # Nothing there: where it is expected.
                nearest = np.stack(
                    [
                        abs(ticks[None] - centre[:, one, axis, None]).argmin(axis=1)
                        for axis, ticks in enumerate((self.ys, self.xs))
                    ]
                )
                expected = nearest[0] * width + nearest[1]
                unit[rows, one] = np.where(score[rows, one] > 0, best, expected)
        position = np.stack([self.ys[unit // width], self.xs[unit % width]], axis=-1)
        own = _own(position, score, max(_APART * self.most, 1.5 / self.side))
        unit, score, position = unit[:, own], score[:, own], position[:, own]
        mass, patterns = mass[:, own], len(own)
        self.mean, self.sigma = self.mean[own], self.sigma[own]
        whole = np.maximum(score.sum(axis=0), 1e-12)[:, None]
        average = (score[..., None] * position).sum(axis=0) / whole
        average = np.where(score.sum(axis=0)[:, None] > 0, average, self.mean)
        total = mass.sum() or 1.0
        links = self.links
        if links is None or self.above is None:
            wide = 0 if self.above is None else min(self.settings.parents, len(self.above))
            links = _Links(
                np.full((patterns, wide), -1), np.zeros((patterns, wide, 2)),
                np.zeros((patterns, wide)),
            )  # fmt: skip
        else:
            links = _Links(links.parents[own], links.offset[own], links.residual[own])
        return Fitted(
            np.zeros(patterns, np.int64), self.mean, self.sigma, mass.sum(axis=0) / total,
            position, score, unit, links.parents, links.offset, links.residual, average,
        )  # fmt: skip


def _own(position: Floats, score: Floats, near: float) -> NDArray[np.int64]:
    """The patterns that have a part to themselves: not those that another, stronger one finds in
    the same place, nor those that are hardly ever there. position [N, P, 2], score [N, P]."""
    strength = score.mean(axis=0)
    order = np.argsort(-strength, kind="stable")
    kept: list[int] = []
    for one in order.tolist():
        if kept and strength[one] < _WEAK:
            break
        weight = score[:, one]
        same = (weight[np.hypot(*(position[:, one] - position[:, k]).T) < near].sum() for k in kept)
        if not any(s > weight.sum() / 2 for s in same):
            kept.append(one)
    return np.sort(np.array(kept, np.int64))
