"""From directional derivatives to an answer: TCAV scores, tests, and where there are too few images
for one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .cavs import Cav, Rows, fitted
from .significance import welch

__all__ = ["ConceptScore", "Vectors", "random_sets", "scored", "vectors"]

# Below these, a test says little, and no star is drawn: images of a concept and of the class, and
# random sets. (Small sets make poor vectors, and so more spread: that is in the test.)
FEWEST, FEWEST_OF_CLASS, FEWEST_SETS = 8, 5, 5
# A vector that tells fewer of the images held back is none of its concept; guessing tells half.
TELLS = 0.6
LEVEL = 0.05
# Pairs of random sets, at most.
MOST_PAIRS = 200
# The images of a random set that is split off a folder, where there are enough for it.
IN_SET = 3


@dataclass(frozen=True)
class ConceptScore:
    """What one concept is to one class at one layer.

    score: the share of the class's images whose score rises along the concept, 0..1, the mean of
    `scores`: of the concept against each random set. deviation: their standard deviation.
    parts: the same of disjoint parts of the concept's images, each against a random set of its own.
    random: of random sets against each other. magnitude: the mean directional derivative.
    accuracy: on images held back, the mean of `accuracies`; None where none could be.
    p: two-sided t-test of `scores` against `random` (Welch); p_parts: of `parts`; None where there
    is nothing to test. p_bonferroni: the larger of the two, times the number of tests.
    significant: whether that is below 0.05, with images enough, and a vector that tells its
    concept; note: why not.
    """

    concept: str
    layer: str
    images: int
    score: float
    deviation: float
    scores: NDArray[np.float64]
    parts: NDArray[np.float64]
    random: NDArray[np.float64]
    magnitude: float
    accuracy: float | None
    accuracies: tuple[float, ...]
    p: float | None
    p_parts: float | None
    p_bonferroni: float | None
    significant: bool
    note: str | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        told = {k: v for k, v in vars(self).items() if not isinstance(v, np.ndarray)}
        more = {k: v.tolist() for k, v in vars(self).items() if isinstance(v, np.ndarray)}
        return {**told, **more, "accuracies": list(self.accuracies)}


@dataclass(frozen=True)
class Vectors:
    """The vectors of a layer. random: of pairs of random sets; whole, parts: of each concept, see
    `ConceptScore`."""

    random: tuple[Cav, ...]
    whole: Mapping[str, tuple[Cav, ...]]
    parts: Mapping[str, tuple[Cav, ...]]

    @property
    def stacked(self) -> NDArray[np.float32]:
        """All of them, [T, D]."""
        return np.stack([cav.normal for cav in self._all()])

    def share_out(self, values: NDArray[Any]) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """What belongs to each, of a table [..., T]: of random, whole, parts."""
        at = len(self.random)
        shared: list[dict[str, Any]] = []
        for group in (self.whole, self.parts):
            held: dict[str, Any] = {}
            for name, cavs in group.items():
                held[name] = values[..., at : at + len(cavs)]
                at += len(cavs)
            shared.append(held)
        return values[..., : len(self.random)], shared[0], shared[1]

    def _all(self) -> list[Cav]:
        groups = (*self.whole.values(), *self.parts.values())
        return [*self.random, *(cav for cavs in groups for cav in cavs)]


def random_sets(
    sizes: Sequence[int], runs: int, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """The rows of each random set. sizes: of the folders, one after the other: each is a set; one
    folder alone is split into `runs` disjoint sets of three rows or more, into fewer where it has
    not as many."""
    if len(sizes) > 1:
        ends = np.cumsum(sizes)
        return [np.arange(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    count = sizes[0]
    parts = min(runs, max(count // IN_SET, 2 if count >= 4 else 1))
    return [np.asarray(part, np.int64) for part in np.array_split(rng.permutation(count), parts)]


def vectors(
    concepts: Mapping[str, Rows], others: Rows, sets: Sequence[NDArray[np.int64]], kind: str,
    rng: np.random.Generator,
) -> Vectors:  # fmt: skip
    """All vectors of a layer. concepts: their rows [n, D]; others: the random sets' [m, D]."""
    pairs = [(i, j) for i in range(len(sets)) for j in range(i + 1, len(sets))]
    if len(pairs) > MOST_PAIRS:
        pairs = [pairs[k] for k in np.sort(rng.permutation(len(pairs))[:MOST_PAIRS])]
    random = tuple(fitted(kind, others[sets[i]], others[sets[j]], rng) for i, j in pairs)
    whole, parts = {}, {}
    for name, rows in concepts.items():
        whole[name] = tuple(fitted(kind, rows, others[s], rng) for s in sets)
        # Vectors of one concept share its images, and so lean the same way whatever it is: parts
        # that share none say how much of it is the concept's.
        pieces = np.array_split(rng.permutation(len(rows)), min(len(sets), len(rows)))
        parts[name] = tuple(
            fitted(kind, rows[piece], others[s], rng)
            for piece, s in zip(pieces, sets[: len(pieces)], strict=True)
        )
    return Vectors(random, whole, parts)


def scored(
    layer: str, found: Vectors, derivatives: NDArray[np.float32], counts: Mapping[str, int],
    sets: Sequence[NDArray[np.int64]], tests: int,
) -> list[ConceptScore]:  # fmt: skip
    """The answer for each concept. derivatives: [N, T] of the class's images. counts: the images of
    each concept. tests: how many are made in all, for Bonferroni."""
    random, whole, parts = found.share_out((derivatives > 0).mean(axis=0, dtype=np.float64))
    _, strength, _ = found.share_out(derivatives.mean(axis=0, dtype=np.float64))
    flat = not derivatives.any()
    made = []
    for name, scores in whole.items():
        accuracies = tuple(c.accuracy for c in found.whole[name] if c.accuracy is not None)
        accuracy = float(np.mean(accuracies)) if accuracies else None
        p, p_parts = welch(scores, random), welch(parts[name], random)
        worst = None if p is None or p_parts is None else min(max(p, p_parts) * tests, 1.0)
        note = _few(counts[name], len(derivatives), sets)
        if note is None and flat:
            note = "no gradient: the class's score does not depend on this layer"
        if note is None and accuracy is not None and accuracy < TELLS:
            note = "no concept here: its vector hardly tells its images from random ones"
        if note is None and (worst is None or worst >= LEVEL):
            note = "no more than random sets do"
        made.append(
            ConceptScore(
                name, layer, counts[name], float(scores.mean()),
                float(scores.std(ddof=1)) if len(scores) > 1 else 0.0,
                scores, parts[name], random, float(strength[name].mean()),
                accuracy, accuracies, p, p_parts, worst, note is None, note,
            )
        )  # fmt: skip
    return made


def _few(images: int, of_class: int, sets: Sequence[NDArray[np.int64]]) -> str | None:
    """Why there are too few images for a star, or None."""
    lacks = [
        f"{have} {what} ({least} needed)"
        for have, least, what in (
            (images, FEWEST, "of the concept"),
            (of_class, FEWEST_OF_CLASS, "of the class"),
            (len(sets), FEWEST_SETS, "random sets"),
        )
        if have < least
    ]
    return f"too few images: {', '.join(lacks)}" if lacks else None
