"""What any runtime answers to."""

from __future__ import annotations

import pytest

from backlight.engine.runtime.interface import Provider


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("cpu", Provider("cpu")),
        ("openvino:GPU", Provider("openvino", "GPU")),
        ("openvino:AUTO:GPU,CPU", Provider("openvino", "AUTO:GPU,CPU")),
        ("openvino:GPU.1,precision=f16", Provider("openvino", "GPU.1", {"precision": "f16"})),
        ("openvino,cache=/a=b", Provider("openvino", "", {"cache": "/a=b"})),
    ],
)
def test_a_provider_as_people_write_it(text, want):
    assert Provider.parse(text) == want
    assert str(want) == text
