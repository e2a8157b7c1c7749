"""What `invert` and `maximize` share: images made in steps from random starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ...export.preprocess import Preprocess

SIDE = 227
PIXELS = "Pixels as the model's preprocessing says: 0 is black, 255 is white, nothing is stretched."

Steps = Annotated[
    int | None, typer.Option("--steps", metavar="N", help="Steps of the search. [200]")
]
Starts = Annotated[int, typer.Option("--starts", metavar="N", help="Random starts of each image.")]
Seed = Annotated[int, typer.Option("--seed", metavar="N", help="Of the random starts.")]


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
