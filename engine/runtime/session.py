"""ONNX Runtime sessions: providers by name, and what was asked for but not got, said aloud."""

from __future__ import annotations

import importlib
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from ...errors import ModelError, RunError, UsageError, nearest
from ...export.graph import read_message
from ...export.saliency import PROTO_LIMIT, weight_bytes
from ...export.store import save_model

__all__ = ["PROVIDERS", "Session", "runtime"]

# Short names on the left are what people write; anything else is taken as the runtime's own name.
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "directml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
}
_CPU = "CPUExecutionProvider"
_TELEMETRY = "ORT_DISABLE_TELEMETRY"
# What "auto" tries, in this order. TensorRT only by name: it builds an engine for minutes.
_AUTO = ("CUDAExecutionProvider", _CPU)

Providers = str | Sequence[str] | None


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


def provider_names(providers: Providers) -> tuple[list[str], bool]:
    """The runtime's names for what was asked, and whether it was left to us ("auto", None)."""
    if providers is None or providers == "auto" or list(providers) == ["auto"]:
        return list(_AUTO), True
    asked = [providers] if isinstance(providers, str) else list(providers)
    names = []
    for name in asked:
        full = PROVIDERS.get(name.lower(), name)
        if full not in names:
            names.append(full)
    if not names:
        raise UsageError(f"no provider given; accepted: auto, {', '.join(PROVIDERS)}")
    return names, False


def default_lowering(providers: Providers) -> str:
    """The form of a graph (`--for`) that suits where it will run: what `for_=None` means,
    everywhere. providers: as in Session. Raises UsageError without a runtime."""
    names, _ = provider_names(providers)
    if names[0] == "TensorrtExecutionProvider":
        return "tensorrt"
    there = runtime().get_available_providers()
    return (
        "cuda" if "CUDAExecutionProvider" in names and "CUDAExecutionProvider" in there else "cpu"
    )


class Session:
    """A compiled model.

    model: a path, bytes, a ModelProto or an onnx-ir model. providers: None or "auto" (CUDA where
    it works, else the CPU), or names: "cpu", "cuda", "tensorrt", …, the runtime's own too, in
    order of preference; nodes that none of them takes run on the CPU.
    threads: of one operator; None leaves it to the runtime. options: the session's configuration
    entries. provider_options: by the runtime's name of a provider.

    Raises UsageError when a provider that was asked for is not there or can't start; ModelError
    for a model that the runtime refuses.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | bytes | onnx.ModelProto | ir.Model,
        providers: Providers = None,
        threads: int | None = None,
        options: Mapping[str, str] | None = None,
        provider_options: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        ort = runtime()
        names, auto = provider_names(providers)
        available = ort.get_available_providers()
        if auto:
            names = [n for n in names if n in available]
        missing = [n for n in names if n not in available]
        if missing:
            short = [next((k for k, v in PROVIDERS.items() if v == n), n) for n in available]
            near = nearest(missing[0], [*short, *PROVIDERS])
            raise UsageError(
                f"provider '{_short(missing[0])}' is not in this onnxruntime; "
                f"it has: {', '.join(short)}" + (f"; nearest: {', '.join(near)}" if near else "")
            )
        if "CUDAExecutionProvider" in names and hasattr(ort, "preload_dlls"):
            ort.preload_dlls(directory="")  # cuDNN and cuBLAS from the packages beside it
        settings = ort.SessionOptions()
        settings.log_severity_level = 4  # its errors come as exceptions, and are said once
        if threads is not None:
            if threads < 1:
                raise UsageError(f"threads {threads}; expected 1 or more")
            settings.intra_op_num_threads = threads
        if names == [_CPU]:
            # A pattern is one block for all tensors of a run, beside what the first run took
            # piece by piece: twice the peak memory, for a few percent of the time.
            settings.enable_mem_pattern = False
        for key, value in (options or {}).items():
            settings.add_session_config_entry(key, value)
        own = provider_options or {}
        asked: list[Any] = [
            (n, dict(own[n])) if n in own else n
            for n in (names if _CPU in names else [*names, _CPU])
        ]
        with ExitStack() as stack:
            source = _source(model, stack)
            try:
                self.inner = ort.InferenceSession(source, settings, providers=asked)
            except Exception as err:  # the runtime's own exceptions share no documented base
                raise ModelError(
                    f"onnxruntime refuses the model: {one_line(err)}{remedy(model, err)}"
                ) from err
        self.providers: list[str] = list(self.inner.get_providers())
        lacking = [n for n in names if n not in self.providers]
        self.notes: list[str] = []
        if lacking and not auto:
            raise UsageError(
                f"provider '{_short(lacking[0])}' can't start on this machine; "
                f"got {', '.join(_short(p) for p in self.providers)}"
            )
        if lacking:
            self.notes.append(
                f"{_short(lacking[0])} is installed but can't start here; "
                f"running on {_short(self.providers[0])}"
            )

    @property
    def provider(self) -> str:
        """The provider that goes first, by its short name."""
        return _short(self.providers[0])

    @property
    def inputs(self) -> list[Any]:
        """The inputs that must be fed."""
        return list(self.inner.get_inputs())

    @property
    def outputs(self) -> list[str]:
        """The names of the outputs."""
        return [o.name for o in self.inner.get_outputs()]

    def run(
        self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Run on host arrays. Raises RunError."""
        names = list(outputs) if outputs is not None else self.outputs
        try:
            results = self.inner.run(names, dict(feeds))
        except Exception as err:
            raise RunError(f"onnxruntime failed: {one_line(err)}") from err
        return dict(zip(names, results, strict=True))


def remedy(model: Any, err: Exception) -> str:
    """What to do about a type that a provider has no kernels for."""
    if "NOT_IMPLEMENTED" not in str(err):
        return ""
    from ...export.graph import read

    metadata = read(model)[0].metadata_props
    if metadata.get("backlight.dtype") != "bfloat16":
        return ""
    return "; it lacks bfloat16 kernels: run the file on TensorRT, or export --dtype float16"


def _short(name: str) -> str:
    return next((k for k, v in PROVIDERS.items() if v == name), name)


def _source(
    model: str | os.PathLike[str] | bytes | onnx.ModelProto | ir.Model, stack: ExitStack
) -> str | bytes:
    """What InferenceSession takes; models above protobuf's limit go through a temporary file."""
    if not isinstance(model, ir.Model):
        read_message(model)  # the runtime would read whatever file a tensor names
    if isinstance(model, bytes):
        return model
    if isinstance(model, onnx.ModelProto):
        return bytes(model.SerializeToString())
    if isinstance(model, ir.Model):
        if weight_bytes(model) <= PROTO_LIMIT:
            ir.external_data.load_to_model(model)
            return bytes(ir.to_proto(model).SerializeToString())
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="backlight-"))
        file = Path(folder) / "model.onnx"
        save_model(model, file, external=True)
        return str(file)
    return os.fspath(model)


# "/onnxruntime_src/…/model.cc:256 onnxruntime::Model::Model(…) ", where the runtime was built.
_BUILT_AT = re.compile(r"/\S+\.(?:cc|h):\d+ .*?\) (?=[A-Z\[])")


def one_line(err: BaseException) -> str:
    """An error's text on one line, without places in the runtime's source, cut at 300
    characters."""
    text = _BUILT_AT.sub("", " ".join(str(err).split()))
    return text[:300] or type(err).__name__


_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(uint16)": np.uint16,
    "tensor(bool)": np.bool_,
}


def numpy_dtype(declared: str) -> np.dtype[Any]:
    """The NumPy dtype of a runtime's type string. Raises ModelError for one NumPy lacks."""
    if declared not in _DTYPES:
        raise ModelError(f"an input of type {declared}; accepted: {', '.join(_DTYPES)}")
    return np.dtype(_DTYPES[declared])


def dtype_of(value: ir.Value) -> np.dtype[Any]:
    """The NumPy dtype of a graph's input. Raises ModelError as `numpy_dtype` does."""
    kind = "unknown" if value.dtype is None else value.dtype.name.lower()
    return numpy_dtype(f"tensor({kind})")


def dims_of(shape: Sequence[Any]) -> tuple[int | None, ...]:
    """A runtime's shape with None for the dynamic dimensions."""
    return tuple(d if isinstance(d, int) and d > 0 else None for d in shape)
