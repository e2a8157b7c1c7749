"""OpenVINO: `openvino`, on the CPU, or `openvino:GPU`, `openvino:NPU`, `openvino:AUTO`.

Settings, behind commas: precision=f32 (the default), bf16 or f16, and cache=FOLDER for compiled
models, which then load sooner. OpenVINO's own default precision is what the processor is fastest
in: maps are a third off in bfloat16, so that it is taken only where it is asked for.
"""

from __future__ import annotations

import importlib
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...errors import ModelError, RunError, UsageError
from ...export.emit import all_dims
from .interface import Compiled, Declared, Provider, Runtime, Source, Use, dims_of

__all__ = ["OpenVino"]

_PRECISIONS = ("f32", "bf16", "f16")
# Devices that stand for others, which may be listed behind them.
_VIRTUAL = ("AUTO", "MULTI", "HETERO", "BATCH")
_QUANTISED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
# Channels from which the CPU plugin packs a weight for blocks of them.
_PACKED = 16


def runtime() -> Any:
    """The module openvino. Raises UsageError, saying how to install it."""
    try:
        return importlib.import_module("openvino")
    except ImportError as err:
        raise UsageError("openvino is not installed; pip install 'backlight[openvino]'") from err


@cache
def core() -> Any:
    """One for the process: it loads a device's plugin once. UsageError."""
    return runtime().Core()


class OpenVino(Runtime):
    """Runs whole models on one device, or on one of several (AUTO)."""

    name = "openvino"
    wheels = ("openvino",)
    # Both take MaxPool's Indices and share weights between the passes: docs/runtimes.md.
    wrong_forms = frozenset({"cpu", "cuda"})

    def takes(self, provider: Provider) -> bool:
        """`openvino` alone; OpenVINOExecutionProvider is another runtime's."""
        return provider.name.lower() == self.name

    def check(self, providers: Sequence[Provider]) -> None:
        """UsageError for more than one, and for settings that there aren't."""
        if len(providers) > 1:
            raise UsageError(
                f"providers '{providers[0]}' and '{providers[1]}': openvino runs a model on one; "
                "openvino:AUTO:GPU,CPU names several devices"
            )
        providers[0].known({"precision": _PRECISIONS, "cache": ()}, device=True)

    def form(self, providers: Sequence[Provider]) -> str:
        """Its own, on any device."""
        runtime()
        return "openvino"

    def on_cpu(self, providers: Sequence[Provider]) -> bool:
        """By the device's name."""
        return _device(providers[0]) == "CPU"

    def compile(
        self, source: Source, providers: Sequence[Provider], use: Use, *, auto: bool
    ) -> Compiled:
        """See `Runtime.compile`. Raises ModelError also for a file whose maps would be wrong."""
        provider = providers[0]
        ov, device = runtime(), _device(provider)
        if device != "CPU":
            _there(device, provider)
        shared = next(_shared_weights(source.graph), None)
        if shared is not None and device not in ("GPU", "NPU"):
            raise ModelError(
                f"openvino packs weight '{shared[0]}' once for Conv '{shared[1]}' and for "
                f"ConvTranspose '{shared[2]}', and gives silently wrong values; expected a file "
                "that this version of backlight exported --for openvino, or --provider cpu"
            )
        precision = provider.settings.get("precision", "f32")
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision}
        if "cache" in provider.settings:
            settings["CACHE_DIR"] = str(Path(provider.settings["cache"]).expanduser())
        if any(node.op_type in _QUANTISED for node in source.graph):
            settings |= _no_integers(device, provider)
        if device == "CPU":
            settings["NUM_STREAMS"] = use.lanes
            if use.threads is not None:
                settings["INFERENCE_NUM_THREADS"] = use.threads * use.lanes
        try:
            # A file's weights are mapped, not read: a temporary one's, too, while it is there.
            model = (
                core().read_model(source.data, b"")
                if isinstance(source.data, bytes)
                else core().read_model(source.data)
            )
            inner = core().compile_model(model, device, settings)
        except Exception as err:  # RuntimeError and others, without a base of their own
            if "Couldn't create directory" in str(err) or "cache" in str(err).lower():
                raise UsageError(f"provider '{provider}': {first_line(err)}") from err
            raise ModelError(
                f"openvino refuses the model: {first_line(err)}{_open_sizes(source)}"
            ) from err
        _precision_got(inner, precision, provider)
        made = OpenVinoCompiled(ov, inner, source, _written(provider, device), device == "CPU")
        if use.threads is not None and not made.host:
            made.notes.append(f"{provider} takes no threads: the device has its own")
        return made


class OpenVinoCompiled(Compiled):
    """A compiled model and its infer requests, one for each thread that runs at a time: a request
    is not safe to share, and its outputs are written over by its next run."""

    # 2026.4, batches of 8 and 32: SqueezeNet 1.5 times, ResNet-18 1.9, MobileNetV2 1.5,
    # DenseNet-121 4.7: it copies what it concatenates.
    slack = 5.0

    def __init__(self, ov: Any, inner: Any, source: Source, written: str, host: bool) -> None:
        self.inner, self._tensor, self.host = inner, ov.Tensor, host
        self.providers, self.notes = [written], []
        # Inputs that no node reads aren't in the compiled model, and callers feed them.
        self._declared = source.inputs
        self._outputs = [v.name or "" for v in source.graph.outputs]
        self._open_sizes = _open_sizes(source)
        # The file's order, as an output may have other names too once equal nodes are one.
        self._at = {name: inner.outputs[at] for at, name in enumerate(self._outputs)}
        # What a node that does nothing makes of an input is another name of the input's.
        names = {v.name for v in self._declared}
        self._ports = {n: port for port in inner.inputs for n in port.get_names() if n in names}
        self._idle: deque[Any] = deque()

    @property
    def provider(self) -> str:
        """`openvino`, whatever the device: `providers` tells it."""
        return OpenVino.name

    @property
    def inputs(self) -> list[Declared]:
        """As the file declares them."""
        return list(self._declared)

    @property
    def outputs(self) -> list[str]:
        """The names of the outputs."""
        return list(self._outputs)

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> list[NDArray[Any]]:
        """Inputs are read where they lie; outputs are copied. Raises RunError."""
        self._fed(feeds)
        try:
            request = self._idle.pop()
        except IndexError:
            request = self.inner.create_infer_request()
        try:
            # Named, so that they outlive the run: the request reads their memory, which it wants
            # to be writeable, though it writes nothing there.
            held = {n: np.require(feeds[n], requirements=("C", "W")) for n in self._ports}
            for name, value in held.items():
                request.set_tensor(self._ports[name], self._tensor(value, shared_memory=True))
            request.infer()
            return [np.array(request.get_tensor(self._at[name]).data) for name in outputs]
        except Exception as err:
            raise RunError(f"openvino failed: {first_line(err)}{self._open_sizes}") from err
        finally:
            self._idle.append(request)

    def _fed(self, feeds: Mapping[str, Any]) -> None:
        """Raises RunError for an input that isn't there or isn't given: the request would run on
        what it was fed before."""
        names = {i.name for i in self._declared}
        if set(feeds) != names:
            need, have = (", ".join(sorted(some)) for some in (names, feeds))
            raise RunError(f"openvino failed: the model takes inputs {need}; got {have}")


def _device(provider: Provider) -> str:
    """As OpenVINO writes it; CPU where none is named, for AUTO would take what is fastest, in
    precisions of its own."""
    return provider.device.upper() or "CPU"


def _written(provider: Provider, device: str) -> str:
    """A provider, as short as it can be asked for."""
    return str(Provider(OpenVino.name, "" if device == "CPU" else device, provider.settings))


def _there(device: str, provider: Provider) -> None:
    """Raises UsageError for a device that this machine or this wheel hasn't."""
    first, _, behind = device.partition(":")
    asked = [d.partition("(")[0] for d in behind.split(",")] if behind else []
    asked += [] if first in _VIRTUAL else [first]
    there = core().available_devices
    for name in asked:
        known = [d for d in there if d == name or d.partition(".")[0] == name]
        if not known:
            raise UsageError(
                f"provider '{provider}': openvino has no device '{name}' here; "
                f"it has: {', '.join(there)}, and AUTO"
            )


def _no_integers(device: str, provider: Provider) -> dict[str, str]:
    """What keeps the CPU plugin from its integer kernels for a quantised model: with them the
    scores of SqueezeNet were 55 to 77% off, silently; without, they are the file's own. Raises
    ModelError for other devices, of whose kernels that isn't known."""
    if device != "CPU":
        raise ModelError(
            f"provider '{provider}': quantised models run on openvino's CPU alone, whose integer "
            "kernels can be switched off (their scores were wrong); accepted: openvino, cpu"
        )
    return {"LP_TRANSFORMS_MODE": "NO"}


def _precision_got(inner: Any, wanted: str, provider: Provider) -> None:
    """Raises UsageError where the device took another precision than the one asked for: a CPU
    without float16 takes bfloat16 for it, or float32."""
    names = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
    try:
        got = inner.get_property("INFERENCE_PRECISION_HINT")
    except Exception:  # AUTO and HETERO have no such property: their devices do
        return
    text = getattr(got, "to_string", lambda: str(got))()
    got = names.get(text, text)
    if got != wanted:
        raise UsageError(
            f"provider '{provider}': this device has no {wanted}, and takes {got} for it; "
            f"accepted: precision={got}"
        )


# "Exception from src/…/core.cpp:105:", "Check '…' failed at src/….cpp:38:", and what it says
# whatever is wrong.
_NOISE = re.compile(
    r"Exception from \S+:\d+:|Check '.*?' failed at \S+:\d+:|FrontEnd API failed with \w+:"
    r"|Model wasn't fully converted\.(?: Failed operations detailed log:)?"
    r"|To facilitate the conversion.*|Summary: -- Conversion is failed for: .*|Summary: |^-- |-- "
)


def first_line(err: BaseException) -> str:
    """What an error of OpenVINO's says, on one line, cut at 300 characters: most of its text is
    where in its source it arose."""
    text = " ".join(str(err).split())
    for line in (_NOISE.sub("", text), text):
        if line := " ".join(line.split()):
            return line[:300]
    return type(err).__name__


def _open_sizes(source: Source) -> str:
    """What to do where sizes are open; nothing where they aren't."""
    for given in source.inputs:
        dims = dims_of(given.shape)
        if None in dims[1:] or not dims:
            shown = ",".join("?" if d is None else str(d) for d in dims) or "?"
            return f"; '{given.name}' is [{shown}]: --shape {given.name}=1,3,224,224 fixes a size"
    return ""


def _shared_weights(graph: ir.Graph) -> Iterator[tuple[str, str, str]]:
    """Weights, by name, that a Conv and a ConvTranspose read which the CPU plugin takes for one:
    as many channels in as out, and at least a block of them."""
    for name, weight in graph.initializers.items():
        dims = [] if weight.shape is None else all_dims(weight.shape)
        if len(dims) < 3 or dims[0] != dims[1] or not isinstance(dims[0], int):
            continue
        if dims[0] < _PACKED:
            continue
        readers: dict[str, str] = {}
        for use in weight.uses():
            if use.idx == 1 and use.node.op_type in ("Conv", "ConvTranspose"):
                readers.setdefault(
                    use.node.op_type, use.node.name or use.node.outputs[0].name or ""
                )
        if len(readers) == 2:
            yield name, readers["Conv"], readers["ConvTranspose"]
