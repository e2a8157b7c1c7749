"""Changed models as what a campaign is of."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from .campaign import Request, Worker
from .drive import Outcome
from .minimise import smaller
from .worker import drawn


@dataclass(frozen=True)
class Models:
    """Small models, changed. only: one kind of change."""

    only: str | None = None
    module = "tests.fuzz.worker"
    noun = "models"

    def request(self, seed: int) -> Request:
        return {"seed": seed, "only": self.only}

    def settled(
        self, worker: Worker, request: Request, outcome: Outcome
    ) -> tuple[Request, Outcome]:
        return request, outcome  # told apart by their place in the code

    def keep(self, worker: Worker, request: Request, outcome: Outcome, folder: Path) -> Path:
        kind, data, files, use = drawn(request)
        path = folder / f"seed-{request['seed']}.onnx"
        path.write_bytes(data)
        for aside, content in files.items():
            (folder / aside).write_bytes(content)
        record = {**request, "kind": kind, "use": use.to_dict(), "aside": list(files)}
        path.with_suffix(".json").write_text(json.dumps(record, indent=1))
        return path

    def keep_smaller(self, worker: Worker, least: Request, outcome: Outcome, kept: Path) -> None:
        _, data, files, use = drawn(least)
        small = kept.with_name("smaller.onnx")
        asked = {"file": str(small), "use": use.to_dict(), "aside": list(files)}

        def still(candidate: bytes) -> bool:
            small.write_bytes(candidate)
            return worker.ask(asked).signature == outcome.signature

        small.write_bytes(smaller(data, still))
        small.with_suffix(".json").write_text(kept.with_suffix(".json").read_text())
