"""What `invert` and `maximize` share: images made in steps from random starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import chosen_preprocess
from .patches import channels_of

if TYPE_CHECKING:
    from ...export.preprocess import Preprocess
    from ..classifier.ready import Ready

SIDE = 227
PIXELS = "Pixels as the model's preprocessing says: 0 is black, 255 is white, nothing is stretched."

Steps = Annotated[
    int | None, typer.Option("--steps", metavar="N", help="Steps of the search. [200]")
]
Starts = Annotated[int, typer.Option("--starts", metavar="N", help="Random starts of each image.")]
Seed = Annotated[int, typer.Option("--seed", metavar="N", help="Of the random starts.")]


def record_of(
    ready: Ready, preprocess: str | None, bands: str | None = None
) -> tuple[Preprocess, str | None]:
    """How images become inputs: --preprocess, the model's own, or an assumption, and a note."""
    import numpy as np

    from ...export.preprocess import of_metadata

    own = of_metadata(ready.metadata, ready.name)
    return chosen_preprocess(
        preprocess, own, str(ready.given), np.dtype(np.float32), channels_of(ready), bands
    )


def settings(
    record: Preprocess,
    steps: int,
    starts: int,
    seed: int,
    provider: list[str] | None,
    threads: int | None,
) -> dict[str, Any]:
    """What both engines are told."""
    return {
        "steps": steps,
        "starts": starts,
        "seed": seed,
        "preprocess": record,
        "providers": provider or None,
        "threads": threads,
    }
