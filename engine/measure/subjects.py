"""What `bench` measures: a file as its runtime runs it, or an Explainer on a model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from numpy.typing import NDArray

from ..direct.explainer import Explainer
from ..runtime.session import Session

__all__ = ["Engine", "Subject"]


@dataclass(frozen=True)
class Subject:
    """path: of a file, run as it is; or, with methods, of a model that an Explainer explains.
    form: the operators chosen for a runtime; wrt: as in `backlight.export`."""

    path: str
    methods: tuple[str, ...] = ()
    form: str | None = None
    wrt: str | None = None

    def opened(self, provider: str, threads: int | None) -> Session | Engine:
        """Ready to run."""
        if not self.methods:
            return Session(self.path, [provider], threads)
        return Engine(self, provider, threads)

    def dumped(self) -> str:
        """As text, for another process."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str) -> Subject:
        """What `dumped` wrote."""
        held = json.loads(text)
        return cls(**{**held, "methods": tuple(held["methods"])})


class Engine:
    """An Explainer, run as a session is: its inputs are the model's own."""

    def __init__(self, subject: Subject, provider: str, threads: int | None) -> None:
        self._explain = Explainer(
            subject.path, methods=subject.methods, providers=[provider], threads=threads,
            for_=subject.form, wrt=subject.wrt,
        )  # fmt: skip
        ours = ("target", "contrast")
        self.inputs = [i for i in self._explain.session.inputs if i.name not in ours]

    def run(
        self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """The maps, by the names that they have in a file."""
        found = self._explain(dict(feeds))
        return {f"saliency_{name}": values for name, values in found.saliency.items()}
