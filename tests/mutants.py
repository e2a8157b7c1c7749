"""Bytes that are no longer what they were."""

from __future__ import annotations

import random


def flipped(data: bytes, rng: random.Random) -> bytes:
    """A few bits changed."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def spliced(data: bytes, rng: random.Random, other: bytes) -> bytes:
    """A piece cut out, and another put there."""
    a, b = sorted(rng.randrange(len(data)) for _ in range(2))
    c, d = sorted(rng.randrange(len(other)) for _ in range(2))
    return data[:a] + other[c : min(d, c + 200)] + data[rng.choice((a, b)) :]
