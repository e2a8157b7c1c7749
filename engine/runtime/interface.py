"""What a runtime is to the engine: it compiles, runs, binds and describes. A file each.

    class Mine(Runtime):            # engine/runtime/mine.py, and a row of session.RUNTIMES
        def compile(self, source, providers, use): return MyCompiled(...)

Nothing outside this room knows which there are.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from ...errors import ModelError, RunError, UsageError
from ...export.emit import all_dims
from .machine import installed

__all__ = [
    "Compiled",
    "Declared",
    "Provider",
    "Runtime",
    "Source",
    "Use",
    "dims_of",
    "dtype_of",
    "numpy_dtype",
    "one_line",
]

ModelSource = str | os.PathLike[str] | bytes | onnx.ModelProto | ir.Model


@dataclass(frozen=True)
class Provider:
    """Where a model runs, as people write it: NAME[:DEVICE][,SETTING=VALUE…], such as `cuda`,
    `openvino:GPU` or `openvino,precision=bf16`."""

    name: str
    device: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Provider:
        """Raises UsageError for a setting without a value, or one given twice."""
        first, *rest = str(text).split(",")
        name, _, device = first.partition(":")
        settings: dict[str, str] = {}
        for part in rest:
            key, equals, value = part.partition("=")
            if not equals and device and not settings:
                device += f",{part}"  # a device list, as in openvino:AUTO:GPU,CPU
            elif not (equals and key.strip() and value.strip()) or key.strip() in settings:
                raise UsageError(
                    f"provider '{text}': '{part}'; expected NAME, NAME:DEVICE or "
                    "NAME,SETTING=VALUE, each setting once"
                )
            else:
                settings[key.strip()] = value.strip()
        return cls(name.strip(), device.strip(), settings)

    def known(self, accepted: Mapping[str, Sequence[str]], device: bool = False) -> None:
        """Raises UsageError for a setting, a value or a device that the runtime doesn't take.
        accepted: values by setting; none: any value."""
        if self.device and not device:
            raise UsageError(f"provider '{self}': '{self.name}' takes no device")
        for key, value in self.settings.items():
            if key not in accepted:
                takes = ", ".join(accepted) or "none"
                raise UsageError(f"provider '{self}': no setting '{key}'; accepted: {takes}")
            if accepted[key] and value not in accepted[key]:
                takes = ", ".join(accepted[key])
                raise UsageError(f"provider '{self}': {key} '{value}'; accepted: {takes}")

    def __str__(self) -> str:
        device = f":{self.device}" if self.device else ""
        return self.name + device + "".join(f",{k}={v}" for k, v in self.settings.items())


@dataclass(frozen=True)
class Use:
    """How a compiled model will be run. threads: of one run; None leaves them to the runtime.
    lanes: runs side by side. patient: threads without work sleep, and leave the cores to other
    sessions. options: a runtime's own, by its name of a provider."""

    threads: int | None = None
    lanes: int = 1
    patient: bool = False
    options: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Declared:
    """An input or output as the file has it. shape: numbers, names, or None where it is open;
    type: as in "tensor(float)"."""

    name: str
    shape: list[Any]
    type: str

    @classmethod
    def of(cls, value: ir.Value) -> Declared:
        """As a graph declares it."""
        kind = "unknown" if value.dtype is None else value.dtype.name.lower()
        shape = [] if value.shape is None else all_dims(value.shape)
        return cls(value.name or "", list(shape), f"tensor({kind})")


class Source:
    """A model as a runtime reads it: data, a path or a message. given: what it was made of."""

    def __init__(self, data: str | bytes, given: ModelSource) -> None:
        self.data, self.given = data, given

    @cached_property
    def graph(self) -> ir.Graph:
        """Its graph, for reading only."""
        if isinstance(self.given, ir.Model):
            return self.given.graph
        if isinstance(self.given, onnx.ModelProto):
            return ir.from_proto(self.given).graph
        if isinstance(self.data, bytes):
            return ir.from_proto(onnx.load_model_from_string(self.data)).graph
        return ir.load(self.data).graph

    @cached_property
    def inputs(self) -> list[Declared]:
        """The inputs that must be fed."""
        held = self.graph.initializers
        return [Declared.of(v) for v in self.graph.inputs if v.name not in held]


class Compiled(ABC):
    """A compiled model. Calls from several threads are as good as one after the other, and what a
    run gave no later run writes over.

    inner: the runtime's own object. providers: what it runs on, the first first, as `Session`
    takes them. notes: what was asked for and not got, for people. host: whether all of it runs on
    the CPU. slack: of the activations that are alive at once, what a run really takes.
    """

    inner: Any
    providers: list[str]
    notes: list[str]
    host: bool = False
    slack: float = 3.0

    @property
    @abstractmethod
    def provider(self) -> str:
        """The provider that goes first, by its short name."""

    @property
    @abstractmethod
    def inputs(self) -> list[Any]:
        """The inputs that must be fed, each with name, shape and type: see `Declared`."""

    @property
    @abstractmethod
    def outputs(self) -> list[str]:
        """The names of the outputs."""

    @abstractmethod
    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> list[NDArray[Any]]:
        """One run on host arrays: the outputs asked for, in that order. Raises RunError."""

    def bind(self, feeds: Mapping[str, Any], outputs: Sequence[str]) -> dict[str, Any]:
        """One run with inputs and outputs in a device's memory. Raises RunError where the runtime
        takes host arrays alone."""
        raise RunError(f"{self.provider} takes arrays in host memory only")


class Runtime(ABC):
    """A runtime. name: for people; wheels: of which one is installed, or none."""

    name: ClassVar[str]
    wheels: ClassVar[tuple[str, ...]]
    # What it computes wrongly, of `--for`; silently, so that it is never run.
    wrong_forms: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def takes(self, provider: Provider) -> bool:
        """Whether a provider is this runtime's."""

    @abstractmethod
    def check(self, providers: Sequence[Provider]) -> None:
        """Raises UsageError for what it could never take, installed or not."""

    @abstractmethod
    def form(self, providers: Sequence[Provider]) -> str:
        """The form of a graph (`--for`) that suits these providers. Raises UsageError without the
        runtime."""

    @abstractmethod
    def on_cpu(self, providers: Sequence[Provider]) -> bool:
        """Whether these run on the CPU alone, where runs side by side pay."""

    def threads_of_lane(self, count: int, lanes: int) -> int:
        """Of `count` threads in all, what `Use.threads` is for `lanes` runs side by side."""
        return max(count // lanes, 1)

    @abstractmethod
    def compile(
        self, source: Source, providers: Sequence[Provider], use: Use, *, auto: bool
    ) -> Compiled:
        """auto: providers were left to us, so that one that can't start is a note. Raises
        UsageError for a provider that isn't there, ModelError for a model that is refused."""

    def describe(self) -> dict[str, str]:
        """The version of each of its wheels that is there; empty where it isn't installed."""
        return installed(self.wheels)


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
    return numpy_dtype(Declared.of(value).type)


def kind_of(value: ir.Value) -> str:
    """The type of a graph's input, as the runtime writes it."""
    return Declared.of(value).type


def dims_of(shape: Sequence[Any]) -> tuple[int | None, ...]:
    """A runtime's shape with None for the dynamic dimensions."""
    return tuple(d if isinstance(d, int) and d > 0 else None for d in shape)
