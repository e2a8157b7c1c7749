"""`backlight export --compare`: how far the exported graph's maps are from the model's own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ... import written
from ...errors import UsageError
from ...export.explained import ExplainGraph
from ..classifier.labels import counted
from ..measure.compare import Drift, explained
from ..photos import images
from ..photos.plain import without_nan
from .console import console as clean_console
from .options import chosen_preprocess, say

if TYPE_CHECKING:
    from ..classifier.ready import Ready
    from ..direct.explainer import Explainer

__all__ = ["Compared", "measured", "show"]

METRICS = ("cosine", "ssim", "top")


@dataclass(frozen=True)
class Compared:
    """The drift of each image under each rule, and how far the scores moved at most."""

    reference: str
    rows: tuple[Drift, ...]
    scores: float

    def means(self) -> dict[str, dict[str, float]]:
        """Per rule, over the images."""
        rules = dict.fromkeys(r.rule for r in self.rows)
        return {
            rule: {
                m: float(np.mean([getattr(r, m) for r in self.rows if r.rule == rule]))
                for m in METRICS
            }
            for rule in rules
        }

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for JSON: what is no number is null."""
        plain: dict[str, Any] = without_nan(
            {
                "reference": self.reference,
                "largest_score_difference": self.scores,
                "means": self.means(),
                "images": [asdict(r) for r in self.rows],
            }
        )
        return plain


def measured(
    graph: ExplainGraph,
    ready: Ready,
    paths: Sequence[Path],
    preprocess: str | None,
    asked: tuple[str, str, str, list[str], list[str]],
    drawn: Mapping[str, Any],
) -> Compared:
    """Explain the images with the graph and with another model in its own types, on the CPU.

    asked: target class, cotangent, reduction, of and wrt of the export. drawn: its layers, contrast
    and variants, as an Explainer takes them.
    Raises UsageError where the two can't be compared, ImageError, ModelError.
    """
    from ..direct.explainer import Explainer

    reference = str(ready.given)
    target_class, cotangent, reduce, of, wrt = asked
    if cotangent != "class" or reduce != "none" or len(of) > 1 or len(wrt) > 1:
        raise UsageError(
            "--compare takes maps of classes: --cotangent class, --reduce none, one --of and one "
            "--wrt at most"
        )
    files = images.image_files(paths)
    one_of, one_wrt = (names[0] if names else None for names in (of, wrt))
    exported = ready.exported is not None
    form = None if exported else "portable"  # what is exported has its operators already
    told = {} if exported else dict(drawn)
    plain = Explainer(
        ready, methods=graph.methods, of=one_of, wrt=one_wrt, providers="cpu", for_=form, **told
    )
    candidate = Explainer(
        graph.to_proto(), methods=graph.methods, providers="cpu", inputs=ready.inputs
    )
    plain.fed.needs()
    _check_alike(plain, candidate, reference)
    spec = plain.input
    chosen, note = chosen_preprocess(
        preprocess, plain.preprocess, reference, spec.dtype, spec.channels
    )
    if note is not None:
        say(note)
    settled = images.fitted(chosen, spec)
    batch = np.stack([images.read(f, settled, spec).tensor for f in files])
    baked = target_class != "input"
    number = written.whole(target_class)
    rows = explained(candidate, plain, batch, [f.name for f in files], target=number, baked=baked)
    if not all(math.isfinite(getattr(r, m)) for r in rows for m in METRICS):
        say("some maps are not finite")
    mine = np.asarray(candidate(batch.astype(candidate.input.dtype)).scores, np.float64)
    return Compared(
        reference, tuple(rows), float(np.abs(mine - np.asarray(plain(batch).scores)).max())
    )


def _check_alike(plain: Explainer, candidate: Explainer, reference: str) -> None:
    """Raise UsageError unless both take the same pictures and score the same classes."""
    mine, theirs = candidate.input, plain.input
    sizes = zip(mine.size, theirs.size, strict=True)
    kinds = [(s.layout, s.channels, s.dtype.kind) for s in (mine, theirs)]
    if kinds[0] != kinds[1] or any(None not in pair and pair[0] != pair[1] for pair in sizes):
        raise UsageError(
            f"{reference} takes {_shown(theirs)}, the model {_shown(mine)}; "
            "--compare feeds the same pictures to both"
        )
    if None not in (candidate.classes, plain.classes) and candidate.classes != plain.classes:
        raise UsageError(
            f"{reference} has {counted(plain.classes or 0)}, the model {candidate.classes}; "
            "--compare explains the same class in both"
        )


def _shown(spec: images.InputSpec) -> str:
    """An input for people: uint8 [N,3,224,?]."""
    height, width = ("?" if side is None else side for side in spec.size)
    channels = "?" if spec.channels is None else spec.channels
    of = {"nchw": (channels, height, width), "nhwc": (height, width, channels)}
    inner = of.get(spec.layout, (height, width))
    return f"{spec.dtype} [N,{','.join(map(str, inner))}]"


def show(found: Compared) -> None:
    """A table for people."""
    from rich.table import Table

    console = clean_console(width=120)
    table = Table(box=None, pad_edge=False)
    table.add_column("drift of")
    table.add_column("rule")
    for heading in ("cosine", "SSIM", "top 1%"):
        table.add_column(heading, justify="right")
    for row in found.rows:
        table.add_row(row.image, row.rule, *(f"{getattr(row, m):.4f}" for m in METRICS))
    for rule, means in found.means().items():
        table.add_row("mean", rule, *(f"{means[m]:.4f}" for m in METRICS))
    console.print(table)
    console.print(f"largest difference of a score: {found.scores:.2g}")
