"""What callers hand in, checked: image batches and the classes to explain."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...errors import ImageError, UsageError
from ..classifier.scores import has_none, is_distribution, shares
from ..photos.images import InputSpec
from ..runtime import arrays

__all__ = [
    "SCORES",
    "Inputs",
    "Score",
    "as_score",
    "check_images",
    "check_rows",
    "class_targets",
    "finite",
    "out_of_range",
    "shares_batch",
    "sound_rows",
]

Score = Literal["probability", "logit", "logprob"]
# Stands for a probability of 0 in a logarithm: the least that float32 holds.
LEAST = 1e-38
SCORES = ("probability", "logit", "logprob")


@dataclass(frozen=True)
class Inputs:
    """A call's inputs where the model runs: NumPy, or CuPy on CUDA.

    images: [N, ...]. others: further inputs, a row per image, but for those in `whole`, which
    every run takes as they are. home: puts a result where the caller's images live.
    """

    images: Any
    others: Mapping[str, Any]
    home: arrays.Back
    whole: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self.images)

    def row(self, index: int) -> dict[str, Any]:
        """The further inputs of one image, [1, ...] each of those with a row per image."""
        return {
            name: value if name in self.whole else value[index : index + 1]
            for name, value in self.others.items()
        }


def shares_batch(image: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether a further input has a row per image, by its shape as the runtime declares it: their
    first dimensions have the same name, or are the same number, or say nothing both.

    Not so for the M texts that N images are held against: [texts, 77] beside [images, 3, H, W].
    """
    if not image or not other:
        return False
    first, second = (
        d if isinstance(d, str) or (d or 0) > 0 else None for d in (image[0], other[0])
    )
    return first == second


def check_images(x: Any, spec: InputSpec) -> None:
    """Raise ImageError unless x [N, ...] has the input's shape and dtype and finite values."""
    h, w = spec.size
    inner: tuple[int | None, ...] = {
        "nhw": (h, w),
        "nchw": (spec.channels, h, w),
        "nhwc": (h, w, spec.channels),
    }[spec.layout]
    shown = "[" + ",".join(["N", *("?" if d is None else str(d) for d in inner)]) + "]"
    expected = f"expected {spec.dtype.name} {shown}"
    check_rows(x, spec.dtype, inner, expected)


def check_rows(x: Any, dtype: np.dtype[Any], inner: Sequence[int | None], expected: str) -> None:
    """Raise ImageError unless x has the type, the dimensions behind the batch and finite values.
    expected: what a message says of the first two."""
    if x.dtype != dtype:
        raise ImageError(f"the input is {x.dtype}; {expected}")
    fits = x.ndim == len(inner) + 1 and all(
        d is None or d == have for d, have in zip(inner, x.shape[1:], strict=True)
    )
    if not fits or 0 in x.shape:
        raise ImageError(f"the input is shaped [{','.join(map(str, x.shape))}]; {expected}")
    if dtype.kind == "f" and not math.isfinite(float(x.sum(dtype=np.float64))):
        xp: Any = arrays.cupy() if arrays.is_cuda(x) else np
        finite = xp.isfinite(x).reshape(len(x), -1).all(axis=1)
        if not finite.all():
            raise ImageError(f"image {int(xp.argmin(finite))} has NaN or infinite values")


def class_targets(
    target: Any, classes: Any, top: NDArray[np.int64], known: int
) -> NDArray[np.int64]:
    """The classes to explain, int64 [N, T], of N images whose top classes are `top`.

    target: None, a class or one per image; -1 is the top class. classes: None, several classes,
    or "all". known: classes that the scores have. Raises UsageError.
    """
    count = len(top)
    if classes is not None and target is not None:
        raise UsageError("give target (one class per image) or classes (several), not both")
    if isinstance(classes, str):
        if classes != "all":
            raise UsageError(f"classes '{classes}'; accepted: class numbers, or 'all'")
        return np.broadcast_to(np.arange(known, dtype=np.int64), (count, known))
    name, given = ("target", target) if classes is None else ("classes", classes)
    values = np.asarray(-1 if given is None else arrays.to_host(arrays.taken(given)[0]))
    allowed = ((), (count,)) if classes is None else ((values.size,),)
    if values.dtype.kind not in "iu" or values.shape not in allowed or values.size == 0:
        form = f"a class number or {count} of them" if classes is None else "a list of numbers"
        raise UsageError(f"{name} is {values.dtype} {list(values.shape)}; expected {form}")
    bad = values[(values < -1) | (values >= known)]
    if bad.size:
        raise out_of_range(int(bad[0]), known)
    rows = values.reshape(-1, 1) if classes is None else values.reshape(1, -1)
    wanted = np.broadcast_to(rows, (count, rows.shape[1])).astype(np.int64)
    return np.where(wanted < 0, top[:, None], wanted)


def out_of_range(
    target: int, classes: int | None, what: str = "class", otherwise: str = "the top class"
) -> UsageError:
    """The error for a class that is none of them. classes: None where nobody knows. otherwise: what
    -1 stands for."""
    last = "" if classes is None else f" to {classes - 1}"
    return UsageError(f"{what} {target} is out of range; expected 0{last}, or -1 for {otherwise}")


def sound_rows(scores: Any, xp: Any = np) -> Any:
    """Which rows of class scores [n, K] are numbers: Bool [n]. A class may be at -inf, as one is
    that was masked out for good, but not the top one."""
    known = (xp.isfinite(scores) | xp.isneginf(scores)).all(axis=1)
    return known & xp.isfinite(scores.max(axis=1))


def finite(scores: Any, xp: Any = np, hidden: str = "") -> Any:
    """Class scores [n, K] as they came. hidden: what is hidden in all of them, for the message.

    Raises ImageError for NaN or infinity.
    """
    sound = sound_rows(scores, xp)
    if not sound.all():
        which = f"with {hidden} " if hidden else f"of image {int(xp.argmin(sound))} "
        raise ImageError(f"the model's scores {which}are NaN or infinite: nothing to compare")
    return scores


def as_score(logits: Any, kind: Score, closing: str | None, xp: Any = np) -> Any:
    """Scores before the closing operator, [n, K] -> what is asked for, float64 [n, K].

    closing: Softmax, LogSoftmax, Sigmoid, or None: row by row, what is a distribution already
    counts as it is, other rows as before a Softmax. Probability: what comes is probabilities, and
    their logarithm stands for logits; Share: so are their parts (see `shares`). Raises UsageError
    for a probability of what has none (see `has_none`).
    """
    values = logits.astype(np.float64)
    if closing == "Share":
        values = shares(values, xp)
    if closing in ("Probability", "Share"):
        return values if kind == "probability" else xp.log(xp.maximum(values, LEAST))
    if kind == "logit":
        return values
    if closing == "Sigmoid":
        # log(sigmoid(z)) = -log(1 + exp(-z)), without overflow.
        log = -xp.logaddexp(0, -values)
    elif has_none(values.shape[1], closing):
        what = "with a single score" if closing is None else "whose scores are no probabilities"
        raise UsageError(f"score '{kind}' of a model {what}; accepted: 'logit'")
    else:
        with np.errstate(invalid="ignore"):  # rows of infinite scores become NaN: told from that
            shifted = values - values.max(axis=1, keepdims=True)
        log = shifted - xp.log(xp.exp(shifted).sum(axis=1, keepdims=True))
        if closing is None:
            known = is_distribution(values, xp)[:, None]
            log = xp.where(known, xp.log(xp.maximum(values, LEAST)), log)
            if kind == "probability":
                return xp.where(known, values, xp.exp(log))
    return log if kind == "logprob" else xp.exp(log)
