"""Every network on OpenVINO, in the portable and the openvino form: `pytest -m slow`."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

pytest.importorskip("torch")
pytest.importorskip("openvino")
# Not importorskip: torchvision's wheel needs builders.torchvision_models to be imported at all.
if find_spec("torchvision") is None:
    pytest.skip("the networks are torchvision's", allow_module_level=True)

from .nets import NETS, Net
from .on_openvino import FORMS, measured


@pytest.mark.slow
@pytest.mark.parametrize("net", NETS, ids=lambda net: net.name)
def test_it_gives_what_onnx_runtime_gives(net: Net) -> None:
    rows = measured(net, "dynamo")
    assert {form for row in rows for form in row.form.split(", ")} == set(FORMS)
    assert all(row.ok for row in rows), rows
