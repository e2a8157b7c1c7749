"""The same mathematics in other operators, per target: rules that replace the portable ones."""

from __future__ import annotations

from ...errors import UsageError
from ..rules import Rule, RuleMap
from ..variants import variant
from . import cpu, pool

# Per target, whatever the variant; then what differs between the variants.
LOWERINGS: dict[str, dict[str, Rule]] = {
    "portable": {},
    "cpu": cpu.RULES,
    "cuda": {},
    "tensorrt": pool.RULES,
}
BY_VARIANT: dict[str, dict[str, dict[str, Rule]]] = {"cpu": cpu.BY_VARIANT}


def lowered(name: str, target: str) -> RuleMap:
    """The rules of a variant for a target; UsageError if either is unknown."""
    if target not in LOWERINGS:
        raise UsageError(f"unknown target '{target}' (--for); one of: {', '.join(LOWERINGS)}")
    return {**variant(name), **LOWERINGS[target], **BY_VARIANT.get(target, {}).get(name, {})}
