"""ONNX Runtime: its execution providers by short names, and what was asked for but not got."""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ...errors import ModelError, RunError, UsageError, hint
from .arrays import cupy, is_cuda
from .interface import Compiled, Provider, Runtime, Source, Use, numpy_dtype, one_line

__all__ = ["AUTO", "PROVIDERS", "OnnxRuntime", "runtime"]

# Short names on the left are what people write; anything else is taken as the runtime's own name.
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "directml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
}
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
# In every wheel of it, and no device: a way to ask a service of that name.
_AZURE = "AzureExecutionProvider"
# Providers that take another form than this runtime's own; that of OpenVINO is another wheel's.
_FORMS = {"TensorrtExecutionProvider": "tensorrt", "OpenVINOExecutionProvider": "openvino"}
_TELEMETRY = "ORT_DISABLE_TELEMETRY"
# What "auto" tries, in this order. TensorRT only by name: it builds an engine for minutes.
AUTO = ("cuda", "cpu")
# Threads without work spin, and take the cores from others that have some; off, they sleep.
_SPIN = "session.intra_op.allow_spinning"


def runtime() -> Any:
    """The module onnxruntime. Raises UsageError, saying how to install it.

    Its telemetry is off, in this process and in those it starts, unless the variable
    ORT_DISABLE_TELEMETRY is set already or onnxruntime was imported before.
    """
    # Its Linux wheels of late, when imported, keep a device id under ~/.cache/Microsoft, warn
    # on stderr where that can't be written, and upload events. It reads this then, and only then.
    os.environ.setdefault(_TELEMETRY, "1")
    try:
        ort = importlib.import_module("onnxruntime")
    except ImportError as err:
        raise UsageError(
            "onnxruntime is not installed; pip install 'backlight[cpu]' or 'backlight[gpu]', "
            "one of the two"
        ) from err
    if not hasattr(ort, "InferenceSession"):  # a namespace left by removing one wheel of two
        raise UsageError(
            "onnxruntime is broken (were both wheels installed?); uninstall onnxruntime and "
            "onnxruntime-gpu, then pip install 'backlight[cpu]' or 'backlight[gpu]'"
        )
    return ort


class OnnxRuntime(Runtime):
    """Takes every provider that no other runtime does: its own names go beside the short ones."""

    name = "onnxruntime"
    wheels = ("onnxruntime", "onnxruntime-gpu")

    def takes(self, provider: Provider) -> bool:
        """Every one: ask the others first."""
        return True

    def check(self, providers: Sequence[Provider]) -> None:
        """Settings: `cpu,spin=off`. UsageError."""
        for provider in providers:
            cpu = full(provider) == _CPU
            provider.known({"spin": ("on", "off")} if cpu else {})

    def form(self, providers: Sequence[Provider]) -> str:
        """By the first provider; CUDA's where that is among them and in this wheel."""
        names = _names(providers)
        if names[0] in _FORMS:
            return _FORMS[names[0]]
        there = runtime().get_available_providers()
        return "cuda" if _CUDA in names and _CUDA in there else "cpu"

    def on_cpu(self, providers: Sequence[Provider]) -> bool:
        """Of those that this wheel has."""
        available = runtime().get_available_providers()
        return all(n == _CPU for n in _names(providers) if n in available)

    def threads_of_lane(self, count: int, lanes: int) -> int:
        """All runs share the session's pool: with its threads, they are as many as the cores."""
        return max(count - lanes + 1, 1)

    def compile(
        self, source: Source, providers: Sequence[Provider], use: Use, *, auto: bool
    ) -> OnnxCompiled:
        """Nodes that none of the providers takes run on the CPU."""
        ort = runtime()
        names = _names(providers)
        available = ort.get_available_providers()
        if auto:
            names = [n for n in names if n in available]
        missing = [n for n in names if n not in available]
        if missing:
            own = [short(n) for n in available if n != _AZURE]
            near = hint(missing[0], [*own, *PROVIDERS, "openvino"])
            raise UsageError(
                f"provider '{short(missing[0])}' is not in this onnxruntime; "
                f"it has: {', '.join(own)}, and 'openvino' is a runtime beside it{near}"
            )
        if _CUDA in names and hasattr(ort, "preload_dlls"):
            ort.preload_dlls(directory="")  # cuDNN and cuBLAS from the packages beside it
        asked: list[Any] = [
            (n, dict(use.options[n])) if n in use.options else n
            for n in (names if _CPU in names else [*names, _CPU])
        ]
        settings = _settings(ort, names, use)
        if use.patient or any(p.settings.get("spin") == "off" for p in providers):
            settings.add_session_config_entry(_SPIN, "0")
        try:
            inner = ort.InferenceSession(source.data, settings, providers=asked)
        except Exception as err:  # the runtime's own exceptions share no documented base
            raise _refused(source.given, err) from err
        got = list(inner.get_providers())
        lacking = [n for n in names if n not in got]
        if lacking and not auto:
            raise UsageError(
                f"provider '{short(lacking[0])}' can't start on this machine; "
                f"got {', '.join(map(short, got))}"
            )
        notes = [
            f"{short(n)} is installed but can't start here; running on {short(got[0])}"
            for n in lacking[:1]
        ]
        return OnnxCompiled(inner, got, notes)

    def optimized(self, message: bytes) -> tuple[onnx.ModelProto, str]:
        """A graph as the CPU provider runs it, and which version that is. ModelError, OSError."""
        ort = runtime()
        settings = ort.SessionOptions()
        settings.log_severity_level = 4
        with tempfile.TemporaryDirectory(prefix="backlight-") as folder:
            made = Path(folder) / "optimized.onnx"
            settings.optimized_model_filepath = str(made)
            try:
                ort.InferenceSession(message, settings, providers=[_CPU])
                optimized = onnx.load(made)
            except OSError:
                raise
            except Exception as err:
                raise _refused(message, err) from err
        return optimized, f"{self.name} {ort.__version__}, {_CPU}"


class OnnxCompiled(Compiled):
    """An InferenceSession; safe to call from several threads, and what it returns is its own."""

    # ONNX Runtime 1.32 on the CPU, batches of 8 to 128: ResNet 1.2 to 1.8 times, SqueezeNet 1.8,
    # MobileNetV2 1.8, DenseNet-121 2.4 to 3.0: the arena grows in steps, and changes of layout
    # copy a tensor.
    slack = 3.0

    def __init__(self, inner: Any, providers: list[str], notes: list[str]) -> None:
        self.inner, self.providers, self.notes = inner, providers, notes
        self.host = providers[0] == _CPU

    @property
    def provider(self) -> str:
        """The provider that goes first, by its short name."""
        return short(self.providers[0])

    @property
    def inputs(self) -> list[Any]:
        """As the runtime declares them."""
        return list(self.inner.get_inputs())

    @property
    def outputs(self) -> list[str]:
        """The names of the outputs."""
        return [o.name for o in self.inner.get_outputs()]

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> list[NDArray[Any]]:
        """Raises RunError."""
        try:
            return list(self.inner.run(list(outputs), dict(feeds)))
        except Exception as err:
            raise RunError(f"onnxruntime failed: {one_line(err)}") from err

    def bind(self, feeds: Mapping[str, Any], outputs: Sequence[str]) -> dict[str, Any]:
        """CuPy (or NumPy) arrays in, CuPy out: the runtime allocates the outputs, and the arrays
        are views that keep them alive."""
        return bound(self.inner, feeds, outputs)


def bound(inner: Any, feeds: Mapping[str, Any], outputs: Sequence[str]) -> dict[str, Any]:
    """One run of an InferenceSession with inputs and outputs in CUDA's memory. Raises RunError."""
    cp = cupy()
    binding = inner.io_binding()
    device = next((x.device.id for x in feeds.values() if is_cuda(x)), 0)
    kept = []
    for name, value in feeds.items():
        if is_cuda(value):
            value = cp.ascontiguousarray(value)
            kept.append(value)
            binding.bind_input(name, "cuda", device, value.dtype, value.shape, value.data.ptr)
        else:
            binding.bind_cpu_input(name, np.ascontiguousarray(value))
    for name in outputs:
        binding.bind_output(name, "cuda", device)
    cp.cuda.get_current_stream().synchronize()  # the runtime has a stream of its own
    try:
        inner.run_with_iobinding(binding)
        binding.synchronize_outputs()
    except Exception as err:
        raise RunError(f"onnxruntime failed: {one_line(err)}") from err
    return {
        name: _view(cp, value) for name, value in zip(outputs, binding.get_outputs(), strict=True)
    }


def _view(cp: Any, value: Any) -> Any:
    """A CuPy array over an OrtValue in device memory."""
    if value.device_name() == "cpu":
        return cp.asarray(value.numpy())
    shape = tuple(value.shape())
    dtype = numpy_dtype(value.data_type())
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    memory = cp.cuda.UnownedMemory(value.data_ptr(), size, value)
    return cp.ndarray(shape, dtype, cp.cuda.MemoryPointer(memory, 0))


def full(provider: Provider) -> str:
    """The runtime's own name."""
    return PROVIDERS.get(provider.name.lower(), provider.name)


def short(name: str) -> str:
    """What people write for one of its names."""
    return next((k for k, v in PROVIDERS.items() if v == name), name)


def _names(providers: Sequence[Provider]) -> list[str]:
    return list(dict.fromkeys(map(full, providers)))


def _settings(ort: Any, names: list[str], use: Use) -> Any:
    """A session's settings."""
    settings = ort.SessionOptions()
    settings.log_severity_level = 4  # its errors come as exceptions, and are said once
    if use.threads is not None:
        settings.intra_op_num_threads = use.threads
    if names == [_CPU]:
        # A pattern is one block for all tensors of a run, beside what the first run took
        # piece by piece: twice the peak memory, for a few percent of the time.
        settings.enable_mem_pattern = False
    return settings


def _refused(model: Any, err: Exception) -> ModelError:
    """With what to do about a type that a provider has no kernels for."""
    remedy = ""
    if "NOT_IMPLEMENTED" in str(err):
        from ...export.graph import read

        if read(model)[0].metadata_props.get("backlight.dtype") == "bfloat16":
            remedy = (
                "; it lacks bfloat16 kernels: run the file on TensorRT, or export --dtype float16"
            )
    return ModelError(f"onnxruntime refuses the model: {one_line(err)}{remedy}")
