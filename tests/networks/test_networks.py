"""Whole networks against PyTorch: the small ones here, all of them with `pytest -m slow`."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

pytest.importorskip("torch")
# Not importorskip: torchvision's wheel needs builders.torchvision_models to be imported at all.
if find_spec("torchvision") is None:
    pytest.skip("the networks are torchvision's", allow_module_level=True)

from .compare import LIMIT, compare
from .nets import EXPORTERS, NETS, Net

CASES = [
    pytest.param(net, exporter, id=f"{net.name}-{exporter}", marks=[] if net.small else [slow])
    for slow in [pytest.mark.slow]
    for net in NETS
    for exporter in EXPORTERS
]


@pytest.mark.parametrize(("net", "exporter"), CASES)
def test_equals_pytorch(net: Net, exporter: str) -> None:
    outcome = compare(net, exporter)
    assert outcome.error <= LIMIT
    assert outcome.scores <= 1e-5
    assert outcome.rows <= 1e-5
    assert outcome.growth <= 0.1
