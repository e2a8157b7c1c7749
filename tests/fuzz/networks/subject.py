"""Networks as what a campaign is of. Without torch: the worker has it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..campaign import Request, Worker
from ..drive import Outcome

TRIES = 80


@dataclass(frozen=True)
class Networks:
    """Networks of their numbers."""

    module = "tests.fuzz.networks.worker"
    noun = "networks"

    def request(self, seed: int) -> Request:
        return {"seed": seed}

    def settled(
        self, worker: Worker, request: Request, outcome: Outcome
    ) -> tuple[Request, Outcome]:
        """Failures are told apart by the least network that fails alike."""
        from .network import Spec, drawn, smaller

        spec = Spec.of_dict(request["spec"]) if "spec" in request else drawn(request["seed"])
        left, found = TRIES, outcome
        progress = outcome.kind in ("wrong", "traceback")
        while progress and left > 0:
            progress = False
            for candidate in smaller(spec):
                left -= 1
                now = worker.ask({"spec": candidate.to_dict()})
                if _alike(now, outcome):
                    spec, found, progress = candidate, now, True
                    break
                if left <= 0:
                    break
        place = spec.described() if outcome.kind == "wrong" else outcome.place
        # Weights and the number aside, or no two would be one.
        told = " ".join(w for w in place.split() if not w.startswith("#"))
        return {"spec": spec.to_dict()}, replace(found, place=f"{found.step}: {told}")

    def keep(self, worker: Worker, request: Request, outcome: Outcome, folder: Path) -> Path:
        from .network import drawn

        spec = drawn(request["seed"])
        return _written(folder / f"seed-{spec.seed}.json", spec)

    def keep_smaller(self, worker: Worker, least: Request, outcome: Outcome, kept: Path) -> None:
        from .network import Spec

        _written(kept.with_name("smaller.json"), Spec.of_dict(least["spec"]))


def _alike(one: Outcome, other: Outcome) -> bool:
    """Whether both are the same method's mistake, or the same exception."""
    if one.kind != other.kind:
        return False
    return one.step == other.step and (
        one.kind == "wrong" or one.message.partition(":")[0] == other.message.partition(":")[0]
    )


def _written(path: Path, spec: Any) -> Path:
    """The description, and beside it the file, its explaining form, and the images (.npz)."""
    import warnings

    import numpy as np

    from . import judge, network

    warnings.simplefilter("ignore")  # of the exporter's
    path.write_text(json.dumps({"spec": spec.to_dict(), "described": spec.described()}, indent=1))
    try:  # what failed may be this
        data = network.exported(spec)
        path.with_suffix(".onnx").write_bytes(data)
        np.savez(
            path.with_suffix(".npz"),
            x=network.image_of(spec).numpy(),
            target=np.array(network.targets_of(spec)),
            contrast=np.array(network.rivals_of(spec)),
        )
        explained = judge.made_of(spec, data).SerializeToString()
        path.with_name(f"{path.stem}-explained.onnx").write_bytes(explained)
    except Exception as err:
        path.with_suffix(".error").write_text(f"{type(err).__name__}: {err}")
    return path
