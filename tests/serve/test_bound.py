"""A worker's GPU path, where there is no GPU: NumPy stands in for CuPy, and a session of the CPU
for CUDA's behind the real binding. What can't be seen so: CUDA's memory, its streams, its speed."""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from backlight.engine.direct import explainer
from backlight.engine.runtime import arrays, onnxruntime
from backlight.engine.runtime.session import Session
from backlight.engine.serve import loaded, prepare
from backlight.engine.serve.loaded import Loaded, Pass

from .. import models

X = models.images(3, 3, 8, 8)


class DeviceArray(np.ndarray[Any, Any]):
    """What is asked of a CuPy array."""

    __module__ = "cupy"

    @property
    def data(self) -> Any:
        return SimpleNamespace(ptr=self.ctypes.data)

    @property
    def device(self) -> Any:
        return SimpleNamespace(id=0)


class Library:
    """As much of CuPy. placed: what went to the device."""

    placed: ClassVar[list[Any]] = []
    cuda = SimpleNamespace(
        get_current_stream=lambda: SimpleNamespace(synchronize=lambda: None),
        runtime=SimpleNamespace(getDevice=lambda: 0),
    )

    def asarray(self, x: Any) -> Any:
        Library.placed += [] if arrays.is_cuda(x) else [x]
        return np.ascontiguousarray(x).view(DeviceArray)

    @staticmethod
    def asnumpy(x: Any) -> Any:
        return np.array(x, copy=True, subok=False)

    def __getattr__(self, name: str) -> Any:
        made = getattr(np, name)
        return lambda *args, **how: np.asarray(made(*args, **how)).view(DeviceArray)


class Binding:
    """An IOBinding over a session of the CPU: addresses in."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.feeds, self.host, self.outputs = inner, {}, [], []  # type: ignore[var-annotated]
        self.found: list[Any] = []

    def bind_input(
        self, name: str, device: str, index: int, dtype: Any, shape: Any, pointer: int
    ) -> None:
        assert (device, index) == ("cuda", 0)
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        raw = (ctypes.c_char * size).from_address(pointer)
        self.feeds[name] = np.frombuffer(raw, dtype).reshape(shape)

    def bind_cpu_input(self, name: str, value: Any) -> None:
        self.host.append(name)
        self.feeds[name] = value

    def bind_output(self, name: str, device: str, index: int) -> None:
        assert (device, index) == ("cuda", 0)
        self.outputs.append(name)

    def run(self) -> None:
        self.found = self.inner.run(self.outputs, self.feeds)

    def synchronize_outputs(self) -> None:
        pass

    def get_outputs(self) -> list[Any]:
        return [
            SimpleNamespace(device_name=lambda: "cpu", numpy=lambda value=value: value)
            for value in self.found
        ]


class OnDevice(Session):
    """What says that it runs there."""

    provider = "cuda"

    def __init__(self, *given: Any, **how: Any) -> None:
        super().__init__(*given, **how)
        self.providers = ["CUDAExecutionProvider"]


@pytest.fixture
def bindings(monkeypatch: pytest.MonkeyPatch) -> list[Binding]:
    """Every run that is bound."""
    made: list[Binding] = []

    def run_on_cuda(session: Any, feeds: Any, outputs: list[str]) -> Any:
        def io_binding() -> Binding:
            made.append(Binding(session.inner))
            return made[-1]

        inner = SimpleNamespace(io_binding=io_binding, run_with_iobinding=lambda b: b.run())
        return onnxruntime.bound(inner, feeds, outputs)

    monkeypatch.setattr(arrays, "cupy", Library)
    monkeypatch.setattr(onnxruntime, "cupy", Library)
    monkeypatch.setattr(arrays, "run_on_cuda", run_on_cuda)
    monkeypatch.setattr(loaded, "_has_cupy", lambda: True)
    return made


ASKED = {
    "scores alone": (Pass(("prob",), (), ()), 1),
    "scores and class": (Pass(("prob",), (), (), True), 1),
    "scores and maps": (Pass(("prob",), ("guided",), ()), 1),
    "a heat map": (Pass((), (), ("guided",)), 1),
}


@pytest.mark.parametrize("case", ASKED)
def test_rows_go_to_the_device_once_and_what_comes_back_is_the_same(
    case: str, tmp_path: Path, bindings: list[Binding], monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx

    wanted, runs = ASKED[case]
    file = tmp_path / "tiny.onnx"
    onnx.save(models.tiny(), file)
    (tmp_path / "made").mkdir()
    asked = prepare.Asked(("guided",), "unit", providers=("cpu",))
    described = prepare._made(file, tmp_path / "made", asked)
    none = np.full(3, -1, np.int64)
    host = Loaded(described, ("cpu",), 1)
    want = host.run(wanted, {"x": X}, none, none, [None] * 3)
    assert not bindings
    for module in (loaded, explainer):
        monkeypatch.setattr(module, "Session", OnDevice)
    Library.placed.clear()
    device = Loaded(described, ("cpu",), 1)
    got = device.run(wanted, {"x": X}, none, none, [None] * 3)
    assert len(bindings) == runs and "x" not in bindings[0].host
    assert sum(np.array_equal(x, X) for x in Library.placed) == 1
    assert got.keys() == want.keys()
    for name, value in want.items():
        if isinstance(value, list):
            assert got[name] == value
        else:
            assert type(got[name]) is np.ndarray
            np.testing.assert_allclose(got[name], value, rtol=1e-6, atol=1e-7)
