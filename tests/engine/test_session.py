"""Sessions: providers asked for by name, forms, threads."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from backlight.engine.runtime import onnxruntime
from backlight.engine.runtime.session import (
    Session,
    asked,
    default_lowering,
    provider_names,
    threads_of_lane,
)
from backlight.errors import UsageError

from .. import models


@pytest.mark.parametrize(
    ("providers", "says"),
    [
        ([], "no provider given; accepted: auto, cpu.*openvino"),
        ("openvino,", "expected NAME"),
        ("openvino,bf16", "'bf16'; expected NAME.*SETTING=VALUE"),
        ("openvino,precision=f64", "precision 'f64'; accepted: f32, bf16, f16"),
        ("openvino,threads=2", "no setting 'threads'; accepted: precision, cache"),
        ("openvino,precision=f32,precision=f32", "each setting once"),
        (["openvino", "cpu"], "'openvino' and 'cpu' are of two runtimes"),
        (["cuda", "openvino:GPU"], "'cuda' and 'openvino:GPU' are of two runtimes"),
        (["openvino", "openvino:GPU"], "runs a model on one"),
        ("cpu:1", "'cpu' takes no device"),
        ("cpu,spin=no", "spin 'no'; accepted: on, off"),
        ("cuda,spin=off", "no setting 'spin'; accepted: none"),
    ],
)
def test_what_no_runtime_takes(providers, says):
    with pytest.raises(UsageError, match=says):
        asked(providers)


def test_names_and_forms():
    assert provider_names(["openvino:gpu"]) == (["openvino:gpu"], False)
    assert provider_names("OpenVINOExecutionProvider") == (["OpenVINOExecutionProvider"], False)
    # Another wheel's provider, but the same plugin under it: the same form is right.
    assert default_lowering("OpenVINOExecutionProvider") == "openvino"


def test_spinning_off_is_a_setting():
    pytest.importorskip("onnxruntime")
    held = Session(models.tiny(), "cpu,spin=off", 1)
    assert held.provider == "cpu" and held.providers == ["CPUExecutionProvider"]
    key = "session.intra_op.allow_spinning"
    assert held.inner.get_session_options().get_session_config_entry(key) == "0"


def test_lanes_share_the_threads():
    assert threads_of_lane("cpu", 4, 2) == 3  # one pool, and the callers' own threads
    assert threads_of_lane("openvino", 4, 2) == 2  # of each stream
    assert threads_of_lane("openvino", 2, 4) == 1


CPU, CUDA, TENSORRT = (f"{n}ExecutionProvider" for n in ("CPU", "CUDA", "Tensorrt"))


@pytest.mark.parametrize(
    ("providers", "there", "want"),
    [
        (None, [CPU], "cpu"),
        ("auto", [CUDA, CPU], "cuda"),
        (["auto"], [CUDA, CPU], "cuda"),
        ("cpu", [CUDA, CPU], "cpu"),
        ("cuda", [CUDA, CPU], "cuda"),
        (["cpu", "cuda"], [CUDA, CPU], "cuda"),
        ("tensorrt", [TENSORRT, CUDA, CPU], "tensorrt"),
        (["cuda", "tensorrt"], [TENSORRT, CUDA, CPU], "cuda"),
        (["DmlExecutionProvider", "cpu"], [CPU], "cpu"),
        (["OpenVINOExecutionProvider", "cpu"], [CPU], "openvino"),
    ],
)
def test_the_form_of_a_graph_follows_from_where_it_will_run(monkeypatch, providers, there, want):
    monkeypatch.setattr(
        onnxruntime, "runtime", lambda: SimpleNamespace(get_available_providers=lambda: there)
    )
    assert default_lowering(providers) == want
