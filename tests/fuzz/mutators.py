"""Changes to a model, each a kind that `--only` names."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from ..mutants import flipped, spliced
from .content import attributes, constants, dtypes, shapes, sizes
from .sources import Source, drawn
from .structure import external, functions, metadata, naming, operators, subgraphs, wires


def fields(source: Source, rng: random.Random) -> None:
    """Any of the changes to the message, two to four of them."""
    for _ in range(rng.randint(2, 4)):
        rng.choice(STRUCTURAL)(source, rng)


STRUCTURAL: list[Callable[[Source, random.Random], None]] = [
    attributes, attributes, shapes, sizes, constants, constants, dtypes, wires, operators,
    subgraphs, functions, naming, metadata, external,
]  # fmt: skip


def truncated(data: bytes, rng: random.Random) -> bytes:
    """The end missing."""
    return data[: rng.randrange(len(data))]


BYTES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "bits": flipped,
    "splice": lambda data, rng: spliced(data, rng, drawn(rng).model.SerializeToString()),
    "truncate": truncated,
}  # fmt: skip
KINDS: dict[str, Any] = {
    "none": lambda source, rng: None,
    **{f.__name__: f for f in (*STRUCTURAL, fields)},
    **BYTES,
}


def mutant(seed: int, only: str | None = None) -> tuple[str, bytes, Source]:
    """The model of a number: the kind of change, its bytes, and what to explain of it."""
    rng = random.Random(f"{seed} {only or ''}")
    kind = only or rng.choice(list(KINDS))
    source = drawn(rng)
    if kind in BYTES:
        return kind, BYTES[kind](source.model.SerializeToString(), rng), source
    for _ in range(1 if kind in ("none", "fields") else rng.randint(1, 2)):
        try:
            KINDS[kind](source, rng)
        except (ValueError, TypeError, UnicodeError, IndexError):
            continue  # a change that the message itself refuses
    return kind, source.model.SerializeToString(), source
