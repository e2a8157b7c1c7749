"""The same mathematics in other operators, per target: rules that replace the portable ones."""

from __future__ import annotations

from ...errors import UsageError
from ..rules import Rule, RuleMap

LOWERINGS: dict[str, dict[str, Rule]] = {"portable": {}, "cpu": {}, "cuda": {}, "tensorrt": {}}


def lowered(rules: RuleMap, target: str) -> RuleMap:
    """A variant's rules with those of a target in their place; UsageError if it is unknown."""
    if target not in LOWERINGS:
        raise UsageError(f"unknown target '{target}' (--for); one of: {', '.join(LOWERINGS)}")
    return {**rules, **LOWERINGS[target]}
