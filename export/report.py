"""What a check finds, as data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..errors import one_line
from .lowering.support import Refusal

__all__ = ["Finding", "OperatorCount", "Report"]


@dataclass(frozen=True)
class Finding:
    """A node that stands in the way (`obstacle`), or a judgement call (`note`)."""

    kind: str
    node: str
    operator: str
    reason: str
    accepted: str = ""

    def line(self) -> str:
        """As one line."""
        where = f"{self.operator} '{self.node}': " if self.operator else ""
        accepted = f"; supported: {self.accepted}" if self.accepted else ""
        return one_line(where + self.reason + accepted)


@dataclass(frozen=True)
class OperatorCount:
    """How often an operator lies on the way, and whether all of these have a gradient."""

    operator: str
    version: int
    count: int
    differentiable: bool


@dataclass(frozen=True)
class Report:
    """What `check` finds: what would be explained (`of`), by what (`wrt`), and what prevents it."""

    model: str
    opset: int
    nodes: int
    of: str
    wrt: str
    input: str
    classes: int | None
    operators: tuple[OperatorCount, ...]
    findings: tuple[Finding, ...]
    target: str = "portable"
    refused: tuple[Refusal, ...] = ()
    layers: tuple[tuple[str, str], ...] = ()

    @property
    def obstacles(self) -> tuple[Finding, ...]:
        """The nodes in the way."""
        return tuple(f for f in self.findings if f.kind == "obstacle")

    @property
    def notes(self) -> tuple[Finding, ...]:
        """The judgement calls."""
        return tuple(f for f in self.findings if f.kind == "note")

    @property
    def ok(self) -> bool:
        """Whether nothing stands in the way, of the gradient or of TensorRT's parser. What CUDA
        hands back to the CPU runs all the same."""
        return not self.obstacles and not (self.target in ("tensorrt", "openvino") and self.refused)

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return {"ok": self.ok, **asdict(self)}
