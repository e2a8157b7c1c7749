"""What a run asks of every shard."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from .maps import FORMS, SIDE

__all__ = ["BATCH", "TOP", "Asked"]

TOP = 5
BATCH = 8


@dataclass(frozen=True)
class Asked:
    """What is asked of every shard, JSON through and through: it goes to other processes.

    model: the explaining file, with its name for people and the sha256 of the model that it was
    made of. made: the options that it was made with, where they aren't the usual ones. target:
    "top1", a class's number or name. contrast: "second" or the like, the class that it is told
    from; None: what the file has. preprocess: a record as JSON; None: the
    model's own. labels: class names; None: the model's own. maps, grid: see `maps`. top: classes
    of `top_classes`. inputs: what the model takes besides the image, .npy files or numbers.
    batch, threads, providers: of the runs; they are no part of what is asked.
    """

    model: str
    name: str
    sha256: str
    methods: tuple[str, ...] | None = None
    made: dict[str, Any] = field(default_factory=dict)
    contrast: str | None = None
    target: str = "top1"
    preprocess: str | None = None
    labels: tuple[str, ...] | None = None
    maps: str = FORMS[0]
    grid: int = SIDE
    top: int = TOP
    inputs: dict[str, str] | None = None
    image_column: str | None = None
    key_column: str | None = None
    batch: int = BATCH
    threads: int | None = None
    providers: tuple[str, ...] | None = None
    decoders: int = 1

    def as_dict(self) -> dict[str, Any]:
        """For JSON; `Asked.of` reads it back."""
        return asdict(self)

    @classmethod
    def of(cls, said: dict[str, Any]) -> Asked:
        """Of `as_dict`."""
        several = ("methods", "labels", "providers")
        given: Any = {k: tuple(v) if k in several and v else v for k, v in said.items()}
        return cls(**given)
