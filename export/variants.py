"""The three rules for rectifiers, as maps from operator to rule.

At h > 0 strictly, for the cotangent g (Simonyan et al. 2014; Zeiler and Fergus 2014;
Springenberg et al. 2015):

    vanilla  [h > 0] g
    deconv   [g > 0] g
    guided   [h > 0] [g > 0] g

Smooth activations keep their own derivative under every rule.
"""

from __future__ import annotations

from ..errors import UsageError
from .rules import RuleMap, registry
from .rules import quantize as q
from .rules import rectifier as r

VANILLA: RuleMap = registry()
DECONV: RuleMap = {**VANILLA, **r.DECONV, **q.DECONV}
GUIDED: RuleMap = {**VANILLA, **r.GUIDED, **q.GUIDED}

VARIANTS: dict[str, RuleMap] = {"vanilla": VANILLA, "deconv": DECONV, "guided": GUIDED}


def variant(name: str) -> RuleMap:
    """The rules of a variant by its name; raises UsageError for an unknown one."""
    if name not in VARIANTS:
        raise UsageError.unknown("rule", name, VARIANTS)
    return VARIANTS[name]
