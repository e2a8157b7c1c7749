"""Class activation maps of whole networks: the small ones here, all with `pytest -m slow`."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

pytest.importorskip("torch")
if find_spec("torchvision") is None:
    pytest.skip("the networks are torchvision's", allow_module_level=True)

from .cams import compare
from .nets import EXPORTERS, NETS, Net

CASES = [
    pytest.param(
        net, exporter, id=f"{net.name}-{exporter}", marks=[] if net.small else [pytest.mark.slow]
    )
    for net in NETS
    for exporter in EXPORTERS
]


@pytest.mark.parametrize(("net", "exporter"), CASES)
def test_equals_autograd(net: Net, exporter: str) -> None:
    outcome = compare(net, exporter)
    assert outcome.ok, outcome
