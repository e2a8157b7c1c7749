"""Compiled models, whatever runs them: the runtime follows from the provider that is asked for."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from ...errors import UsageError
from ...export.graph import read_message
from ...export.message import message
from ...export.store import fits_message, save_model
from .interface import (
    ModelSource,
    Provider,
    Runtime,
    Source,
    Use,
    dims_of,
    dtype_of,
    kind_of,
    numpy_dtype,
    one_line,
)
from .onnxruntime import AUTO, PROVIDERS, OnnxRuntime, full, runtime
from .openvino import OpenVino

__all__ = [
    "PROVIDERS",
    "RUNTIMES",
    "Providers",
    "Session",
    "as_it_runs",
    "asked",
    "default_lowering",
    "dims_of",
    "dtype_of",
    "kind_of",
    "numpy_dtype",
    "on_cpu",
    "one_line",
    "provider_names",
    "refuse_count",
    "runtime",
    "runtimes",
    "threads_of_lane",
    "wrong_form",
]

# More than any machine has cores; a runtime starts as many as it is told.
MOST_THREADS = 4096

# The first that takes a provider has it; the last takes all.
RUNTIMES: list[Runtime] = [OpenVino(), OnnxRuntime()]

Providers = str | Sequence[str] | None


def asked(providers: Providers) -> tuple[Runtime, tuple[Provider, ...], bool]:
    """The runtime and its providers for what was asked, and whether it was left to us ("auto",
    None). Raises UsageError for none, for providers of two runtimes, and for settings that there
    aren't."""
    if providers is None or providers == "auto" or list(providers) == ["auto"]:
        return RUNTIMES[-1], tuple(map(Provider.parse, AUTO)), True
    texts = [providers] if isinstance(providers, str) else list(providers)
    named = [Provider.parse(text) for text in texts]
    named = [p for at, p in enumerate(named) if p not in named[:at]]
    if not named:
        raise UsageError(
            f"no provider given; accepted: auto, {', '.join([*PROVIDERS, 'openvino'])}"
        )
    chosen = [next(r for r in RUNTIMES if r.takes(p)) for p in named]
    if other := next((p for p, r in zip(named, chosen, strict=True) if r is not chosen[0]), None):
        raise UsageError(
            f"providers '{named[0]}' and '{other}' are of two runtimes, and a model runs on one; "
            "accepted: those of one of them"
        )
    chosen[0].check(named)
    return chosen[0], tuple(named), False


def provider_names(providers: Providers) -> tuple[list[str], bool]:
    """The runtime's names for what was asked, and whether it was left to us ("auto", None)."""
    on, named, auto = asked(providers)
    names = [full(p) if isinstance(on, OnnxRuntime) else str(p) for p in named]
    return list(dict.fromkeys(names)), auto


def default_lowering(providers: Providers) -> str:
    """The form of a graph (`--for`) that suits where it will run: what `for_=None` means,
    everywhere. providers: as in Session. Raises UsageError without a runtime."""
    on, named, _ = asked(providers)
    return on.form(named)


def wrong_form(providers: Providers, form: str | None) -> None:
    """Raises UsageError where the runtime would give silently wrong maps of a graph in this form
    (`--for`; None: unknown, or the default)."""
    on, named, _ = asked(providers)
    if form in on.wrong_forms:
        raise UsageError(
            f"a graph for {form} gives wrong maps on {named[0].name}; expected one exported "
            f"--for portable or {on.form(named)}"
        )


def on_cpu(providers: Providers) -> bool:
    """Whether these run on the CPU alone, where runs side by side pay. UsageError."""
    on, named, _ = asked(providers)
    return on.on_cpu(named)


def threads_of_lane(providers: Providers, count: int, lanes: int) -> int:
    """What a session's `threads` are where `lanes` runs share `count` of them. UsageError."""
    return asked(providers)[0].threads_of_lane(count, lanes)


def runtimes() -> dict[str, str]:
    """The versions of all that are installed, and what they run on."""
    return {k: v for each in reversed(RUNTIMES) for k, v in each.describe().items()}


def as_it_runs(message: bytes) -> tuple[onnx.ModelProto, str]:
    """A graph as ONNX Runtime's CPU provider runs it, and which version that is. Raises
    UsageError without it, ModelError where it refuses the graph, OSError."""
    return OnnxRuntime().optimized(message)


def refuse_count(name: str, number: int | None) -> None:
    """Raise UsageError for so many threads, or lanes of them."""
    if number is not None and not 1 <= number <= MOST_THREADS:
        expected = "1 or more" if number < 1 else f"at most {MOST_THREADS}"
        raise UsageError(f"{name} {number}; expected {expected}")


class Session:
    """A compiled model.

    model: a path, bytes, a ModelProto or an onnx-ir model. providers: None or "auto" (CUDA where
    it works, else the CPU), or names in order of preference: "cpu", "cuda", "tensorrt", …, ONNX
    Runtime's own too (nodes that none of them takes run on the CPU), or "openvino",
    "openvino:GPU": see `interface.Provider`.
    threads: of one operator; None leaves it to the runtime. provider_options: by the runtime's
    name of a provider. lanes: runs that go on side by side. patient: threads that wait for work
    leave the cores to others.

    Raises UsageError when a provider that was asked for is not there or can't start; ModelError
    for a model that the runtime refuses.
    """

    def __init__(
        self,
        model: ModelSource,
        providers: Providers = None,
        threads: int | None = None,
        *,
        provider_options: Mapping[str, Mapping[str, str]] | None = None,
        lanes: int = 1,
        patient: bool = False,
    ) -> None:
        on, named, auto = asked(providers)
        refuse_count("threads", threads)
        use = Use(threads, lanes, patient, provider_options or {})
        with ExitStack() as stack:
            self.compiled = on.compile(_source(model, stack), named, use, auto=auto)
        self.inner: Any = self.compiled.inner
        self.providers: list[str] = list(self.compiled.providers)
        self.notes: list[str] = list(self.compiled.notes)

    @property
    def provider(self) -> str:
        """The provider that goes first, by its short name."""
        return self.compiled.provider

    @property
    def on_cpu(self) -> bool:
        """Whether all of it runs on the CPU."""
        return self.compiled.host

    @property
    def inputs(self) -> list[Any]:
        """The inputs that must be fed."""
        return self.compiled.inputs

    @property
    def outputs(self) -> list[str]:
        """The names of the outputs."""
        return self.compiled.outputs

    def run(
        self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Run on host arrays; from several threads, too. The results are the caller's own. Raises
        RunError."""
        names = list(outputs) if outputs is not None else self.outputs
        return dict(zip(names, self.compiled.run(feeds, names), strict=True))

    def bind(self, feeds: Mapping[str, Any], outputs: Sequence[str]) -> dict[str, Any]:
        """Run with inputs and outputs in a device's memory. Raises RunError."""
        return self.compiled.bind(feeds, outputs)


def _source(model: ModelSource, stack: ExitStack) -> Source:
    """What a runtime takes; models above protobuf's limit go through a temporary file."""
    if isinstance(model, ir.Model):
        if fits_message(model):
            ir.external_data.load_to_model(model)
            return Source(bytes(message(model).SerializeToString()), model)
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="backlight-"))
        file = Path(folder) / "model.onnx"
        save_model(model, file, external=True)
        return Source(str(file), model)
    read_message(model)  # the runtime would read whatever file a tensor names
    if isinstance(model, onnx.ModelProto):
        return Source(bytes(model.SerializeToString()), model)
    return Source(model if isinstance(model, bytes) else os.fspath(model), model)
