"""Shards over a cluster: Ray Data schedules them, its actors explain them.

A row of the data set is a shard, never a picture: the driver holds as many rows as there are shards
to do. An actor that dies costs the shard it was at another try; a part that is there already is
passed over, on whatever machine it was made.
"""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ...errors import BacklightError, UsageError
from .asked import Asked
from .core import Explaining
from .local import TRIES, Outcome
from .parts import kept
from .shards import Shard

__all__ = ["Explainers", "over_ray", "ray_data"]

# A block is a task, and costs the scheduler some memory.
_BLOCKS = 4096


def ray_data() -> Any:
    """The modules ray and ray.data. Raises UsageError, saying how to install them."""
    try:
        return importlib.import_module("ray"), importlib.import_module("ray.data")
    except ImportError as err:
        raise UsageError(
            "--ray needs Ray Data, which is not installed; pip install 'backlight[ray]'"
        ) from err


class Explainers:
    """An actor: a model readied once for the shards that come to it.

    asked: `Asked`, as JSON; its model lies where all machines see it, and beside it this counts how
    often a shard was begun: Ray would give one that kills its actors to new ones for good.
    """

    def __init__(self, asked: dict[str, Any], folder: str) -> None:
        self._folder = Path(folder)
        self._explaining = Explaining(Asked.of(asked))
        self._tries = Path(asked["model"]).parent / "tries"

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """A shard's place in the list, and what came of it, as JSON."""
        shard = Shard.of(json.loads(row["shard"]))
        return {"at": row["at"], "said": json.dumps(self._said(row["at"], shard))}

    def _said(self, at: int, shard: Shard) -> dict[str, Any]:
        try:
            deaths = self._begun(at)
            if deaths >= TRIES:
                return {"failed": f"{shard.path}: {TRIES} workers died of it", "deaths": deaths}
            return {**self.explained(shard), "deaths": deaths}
        except BacklightError as err:
            return {"failed": str(err), "deaths": 0}
        except MemoryError:
            return {"failed": f"{shard.path}: out of memory", "deaths": 0}
        except Exception as err:  # one shard's, whatever it is: the others go on
            why = f"{shard.path}: failed inside: {type(err).__name__}: {err}"
            return {"failed": why[:1000], "deaths": 0}

    def explained(self, shard: Shard) -> dict[str, Any]:
        """Have a shard's part written, or keep the one that is there."""
        own = self._explaining
        # Its task may have ended with the part written and the answer lost.
        record, _ = kept(shard, self._folder, own.asked.sha256, own.sha256, False)
        if record is not None:
            return {"done": record, "reasons": []}
        done = own.explain(shard, self._folder)
        return {"done": done.record, "reasons": done.reasons}

    def _begun(self, at: int) -> int:
        """How often a shard was begun before this time."""
        self._tries.mkdir(exist_ok=True)
        before = len(list(self._tries.glob(f"{at}.*")))
        (self._tries / f"{at}.{before}").touch()
        return before


def over_ray(
    todo: Sequence[Shard], asked: Asked, folder: Path, count: int, cpus: float, gpus: float
) -> Iterator[Outcome]:
    """What comes of each shard, as it comes. count: of actors; cpus, gpus: of each, fractions too.
    Ray is started here where it is not running; a cluster is the one that RAY_ADDRESS names."""
    ray, data = ray_data()
    own = not ray.is_initialized()
    for name in ("ray", "ray.data"):  # what it says of its plans is nothing to a user of ours
        logging.getLogger(name).setLevel(logging.ERROR)
    if own:
        ray.init(logging_level=logging.ERROR, log_to_driver=False, include_dashboard=False)
    try:
        yield from _scheduled(data, todo, asked, folder, count, cpus, gpus)
    finally:
        if own:
            ray.shutdown()


def _scheduled(
    data: Any, todo: Sequence[Shard], asked: Asked, folder: Path, count: int, cpus: float,
    gpus: float,
) -> Iterator[Outcome]:  # fmt: skip
    context = data.DataContext.get_current()
    context.enable_progress_bars = False
    # A shard that every actor dies of is that shard's failure.
    context.max_errored_blocks = -1
    rows = [{"at": at, "shard": json.dumps(shard.as_dict())} for at, shard in enumerate(todo)]
    waiting = dict(enumerate(todo))
    shards = data.from_items(rows, override_num_blocks=min(len(rows), _BLOCKS))
    explained = shards.map(
        Explainers,
        fn_constructor_args=(asked.as_dict(), str(folder)),
        compute=data.ActorPoolStrategy(size=max(1, min(count, len(rows)))),
        num_cpus=cpus,
        num_gpus=gpus or None,
    )
    for row in explained.iter_rows():
        said = json.loads(row["said"])
        shard = waiting.pop(row["at"])
        if "done" in said:
            yield Outcome(shard, said["done"], said["reasons"], deaths=said["deaths"])
        else:
            yield Outcome(shard, None, why=said["failed"], deaths=said["deaths"])
    for shard in waiting.values():
        yield Outcome(shard, None, why=f"{shard.path}: the actors that had it died")
