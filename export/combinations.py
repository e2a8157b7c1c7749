"""What methods can be asked for together with: contrasts, variants of the image, all classes."""

from __future__ import annotations

from collections.abc import Sequence

from .. import arguments as take
from .. import written
from ..errors import UsageError, hint
from . import seed
from .methods import METHODS, Method
from .sampling import Sampling

__all__ = [
    "CONTRASTED", "against_itself", "checked_contrast", "checked_every", "checked_sampling",
    "told_from_itself",
]  # fmt: skip

# What a seed becomes where the export is told to contrast.
CONTRASTED = {seed.ONE_HOT: seed.CONTRAST, seed.CONTRAST: seed.CONTRAST}


def checked_every(
    rows: Sequence[Method], target_class: str | int, cotangent: str, contrast: str | int | None
) -> bool:
    """Whether all classes are explained at once. Raises UsageError where that can't be."""
    if target_class != "all":
        if cotangent == "input" and target_class != "input":
            raise UsageError(
                f"target class '{target_class}' with --cotangent input: the cotangent that is fed "
                "says what is explained; accepted: one of the two"
            )
        return False
    for row in rows:
        if row.every is None:
            able = ", ".join(m.name for m in METHODS.values() if m.every is not None)
            raise UsageError(
                f"target class 'all': {row.name} walks back from one class at a time; {able} gives "
                "the maps of every class at once"
            )
    if cotangent == "input":
        raise UsageError("target class 'all' takes no cotangent; accepted: --cotangent class")
    if contrast is not None:
        raise UsageError("target class 'all' takes no contrast: every class has a map of its own")
    return True


def checked_sampling(rows: Sequence[Method], sampling: Sampling | None, cotangent: str) -> Sampling:
    """The sampling, or its defaults. Raises UsageError where no method varies the image."""
    varying = [row.name for row in rows if row.varies]
    if sampling is not None and not varying:
        raise UsageError(
            "samples, noise, steps and baseline are of methods that vary the image (smoothgrad, "
            f"integrated_gradients …); {', '.join(row.name for row in rows)} doesn't"
        )
    if varying and cotangent == "input":
        raise UsageError(f"{varying[0]} explains a class; accepted: --cotangent class")
    return sampling or Sampling()


def checked_contrast(
    rows: Sequence[Method], contrast: str | int | None, form: str, target_class: str | int
) -> str | int | None:
    """The contrast as "input", "second", a number or None. Raises UsageError."""
    if form not in ("loss", "logit"):
        raise UsageError.unknown("contrast form", form, ("loss", "logit"))
    if contrast is None:
        return None
    if isinstance(contrast, str):
        number = written.whole(contrast)
        contrast = contrast if number is None else number
    if not isinstance(contrast, str):
        contrast = take.whole("contrast", contrast)
    elif contrast not in ("input", "second"):
        raise UsageError(
            f"contrast '{contrast}'; accepted: input, second or a class number"
            + hint(contrast, ("input", "second"))
        )
    for row in rows:
        if not row.contrasts or row.seed not in CONTRASTED:
            raise UsageError(f"method '{row.name}' takes no contrast; leave --contrast out")
    against_itself(contrast, target_class, form == "logit")
    return contrast


def against_itself(
    contrast: str | int | None, target_class: str | int, by_logit: bool
) -> tuple[str, ...]:
    """What the maps of a class against itself say, as a note; none of any other contrast. Raises
    UsageError where the contrast is a difference of logits: the maps would be 0."""
    if not isinstance(contrast, int) or contrast != target_class:
        return ()
    if by_logit:
        raise UsageError(
            f"contrast {contrast} is the target itself: their difference is 0 everywhere; take "
            "another class, or of a head with a softmax --contrast-form loss, which then says what "
            "keeps it from certainty"
        )
    return (f"contrast {contrast} is the target itself: the maps say what keeps it from certainty",)


def told_from_itself(given: object, by_logit: bool) -> UsageError:
    """What a command says of a class and the same class as its contrast. given: the latter."""
    if by_logit:
        return UsageError(
            f"--contrast {given}: the target itself; their difference is 0 everywhere; accepted: "
            "another class, or second"
        )
    return UsageError(
        f"--contrast {given}: the target itself; its maps would say what keeps it from certainty; "
        "accepted: another class, or second (a photo's own top class may be told from itself: "
        "leave out --target-class)"
    )
