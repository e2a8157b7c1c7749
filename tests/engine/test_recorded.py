"""`Explainer(cuda_graph=True)`: buffers bound once, filled and copied, with NumPy for CuPy.

What is left to a device is the recording itself: `python -m benchmarks.gpu` replays one.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import backlight
from backlight.engine.direct import explainer
from backlight.engine.runtime import arrays
from backlight.engine.runtime.session import Session
from backlight.errors import ModelError, UsageError

from .. import models

X = models.images(5, 3, 8, 8)


class DeviceArray(np.ndarray):
    """What is asked of a CuPy array."""

    __module__ = "cupy"

    @property
    def data(self):
        return SimpleNamespace(ptr=self.ctypes.data)

    def set(self, values):
        self[...] = values


def on_device(x):
    return np.ascontiguousarray(x).view(DeviceArray)


class FakeCuPy:
    cuda = SimpleNamespace(
        runtime=SimpleNamespace(getDevice=lambda: 0),
        get_current_stream=lambda: SimpleNamespace(synchronize=lambda: None),
    )

    @staticmethod
    def asnumpy(x):
        return np.array(x, copy=True, subok=False)

    def __getattr__(self, name):
        function = getattr(np, name)
        return lambda *args, **kwargs: on_device(function(*args, **kwargs))


class Binding:
    """An IOBinding that holds addresses, as the runtime's does."""

    def __init__(self):
        self.inputs, self.outputs = {}, {}

    def bind_input(self, name, device, index, dtype, shape, pointer):
        assert (device, index) == ("cuda", 0) and name not in self.inputs
        self.inputs[name] = (np.dtype(dtype), tuple(shape), pointer)

    def bind_output(self, name, device, index, dtype, shape, pointer):
        assert (device, index) == ("cuda", 0) and name not in self.outputs
        self.outputs[name] = (np.dtype(dtype), tuple(shape), pointer)

    def synchronize_outputs(self):
        pass


def at(dtype, shape, pointer):
    """The array that lies there."""
    import ctypes

    size = int(np.prod(shape)) * dtype.itemsize
    raw = (ctypes.c_char * size).from_address(pointer)
    return np.frombuffer(raw, dtype).reshape(shape)


class Inner:
    """A CPU session that reads and writes the bound addresses."""

    def __init__(self, inner):
        self._inner, self.bindings, self.runs = inner, [], 0

    def io_binding(self):
        self.bindings.append(Binding())
        return self.bindings[-1]

    def run_with_iobinding(self, binding):
        self.runs += 1
        feeds = {name: at(*where) for name, where in binding.inputs.items()}
        found = self._inner.run(list(binding.outputs), feeds)
        for value, where in zip(found, binding.outputs.values(), strict=True):
            at(*where)[...] = value

    def __getattr__(self, name):
        return getattr(self._inner, name)


@pytest.fixture
def device(monkeypatch):
    """Sessions on a device that is none; the options they were opened with."""
    opened = []

    class OnDevice(Session):
        provider = "cuda"

        def __init__(self, model, providers, threads, *, provider_options=None):
            opened.append(provider_options)
            super().__init__(model, "cpu", threads)
            self.inner = Inner(self.inner)

    monkeypatch.setattr(explainer, "Session", OnDevice)
    monkeypatch.setattr(arrays, "cupy", FakeCuPy)
    return opened


@pytest.mark.parametrize("exported", [False, True])
def test_the_maps_are_those_of_a_plain_run(device, exported, monkeypatch):
    model = backlight.export(models.tiny()) if exported else models.tiny()
    explain = backlight.Explainer(model, batch=2, cuda_graph=True)
    assert device == [{"CUDAExecutionProvider": {"enable_cuda_graph": "1"}}]
    inner = explain.session.inner
    first = explain(X, [0, -1, 2, 3, 1])  # two of two, and one that is filled up
    assert inner.runs == 3 and len(inner.bindings) == 1
    kept = {rule: value.copy() for rule, value in first.saliency.items()}
    again = explain(X[::-1].copy(), [1, 3, 2, -1, 0])
    assert inner.runs == 6 and len(inner.bindings) == 1
    monkeypatch.undo()
    want = backlight.Explainer(model, providers="cpu")(X, [0, -1, 2, 3, 1])
    np.testing.assert_allclose(first.scores, want.scores, rtol=1e-6)
    np.testing.assert_array_equal(first.target, want.target)
    for rule, value in want.saliency.items():
        assert type(first.saliency[rule]) is np.ndarray
        # float32, in other batches and, from the model, other operators
        np.testing.assert_allclose(first.saliency[rule], value, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(again.saliency[rule][::-1], value, rtol=1e-5, atol=1e-7)
        # A later run leaves what an earlier one gave as it was.
        np.testing.assert_array_equal(first.saliency[rule], kept[rule])


def test_arrays_on_the_device_give_maps_on_the_device(device):
    explain = backlight.Explainer(models.tiny(), ("guided",), batch=5, cuda_graph=True)
    found = explain(on_device(X), 1)
    assert isinstance(found.saliency["guided"], DeviceArray)
    np.testing.assert_array_equal(found.saliency["guided"], explain(X, 1).saliency["guided"])


def test_a_model_that_fixes_its_batch_needs_none(device):
    model = models.tiny(shape="4,3,8,8", output="float[4,5] prob")
    assert backlight.Explainer(model, cuda_graph=True)(X).scores.shape == (5, 5)
    with pytest.raises(UsageError, match="batch of 4, not 2; accepted: 4"):
        backlight.Explainer(model, batch=2, cuda_graph=True)


def test_what_cannot_be_recorded(device):
    with pytest.raises(UsageError, match=r"'x' is \[N,3,8,8\]: give batch"):
        backlight.Explainer(models.tiny(), cuda_graph=True)
    with pytest.raises(UsageError, match=r"'x' is \[2,3,H,8\]"):
        backlight.Explainer(models.tiny(shape="N,3,H,8"), batch=2, cuda_graph=True)
    model = models.tiny(
        tail="prob = Softmax(scores) z = NonZero(x)", output="float[N,5] prob, int64[4,M] z"
    )
    with pytest.raises(ModelError, match="the size of 'z' depends on the run"):
        backlight.Explainer(model, batch=2, cuda_graph=True)


def test_without_cuda_it_says_so():
    with pytest.raises(UsageError, match="cuda_graph needs the CUDA provider"):
        backlight.Explainer(models.tiny(), batch=1, cuda_graph=True, providers="cpu")
    from backlight.engine.runtime.session import runtime

    if "CUDAExecutionProvider" not in runtime().get_available_providers():
        with pytest.raises(UsageError, match="cuda_graph needs CUDA; this machine runs on cpu"):
            backlight.Explainer(models.tiny(), batch=1, cuda_graph=True)


@pytest.mark.gpu
def test_on_a_real_gpu():
    cupy = pytest.importorskip("cupy")
    if not cupy.is_available():
        pytest.skip("CuPy finds no CUDA device")
    explain = backlight.Explainer(models.tiny(), batch=5, cuda_graph=True, providers="cuda")
    want = backlight.Explainer(models.tiny(), providers="cpu")(X)
    for _ in range(3):  # as it is, recorded, replayed
        found = explain(cupy.asarray(X))
        for rule, value in want.saliency.items():
            # TF32 convolutions
            np.testing.assert_allclose(found.saliency[rule].get(), value, rtol=0, atol=1e-2)
