"""A model repository for Triton: the explaining graph, the plain model, an ensemble of its scores.

    repository/NAME/          config.pbtxt, labels.txt, 1/model.onnx: scores and maps
    repository/NAME_plain/    the model as it was: asking the explaining graph for its scores alone
                              runs all of it
    repository/NAME_scores/   an ensemble that shows of NAME_plain the class scores alone

config.pbtxt is protobuf's text format, written by hand: no client library is needed. Sources:
Triton's model_config.proto, and its documents on dynamic batching, reshape, warm-up and queues.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx_ir as ir

from ...errors import OutputError, UsageError, cleaned
from ...export.explained import ExplainGraph
from ...export.preprocess import Preprocess, of_metadata
from ...export.saliency import explain_graph
from ...export.store import save_model, temporary_folder
from ..classifier.labels import fitting, of_model
from ..classifier.ready import Ready
from ..photos import images
from ..photos.outputs import refuse_special
from .held import held_graph
from .pbtxt import Tensor, text

__all__ = ["BACKENDS", "DEVICES", "Serving", "repository"]

BACKENDS = ("onnxruntime", "tensorrt")
DEVICES = ("gpu", "cpu")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True)
class Serving:
    """How Triton runs it. backend: "onnxruntime", or "tensorrt", for a plan that is built where it
    runs. device: "gpu" or "cpu"; instances: on each. most: images of a batch; delay: microseconds
    that a request waits for others; queue: requests that wait at most, the next are refused;
    timeout: microseconds that one waits at most. Raises UsageError."""

    backend: str = BACKENDS[0]
    device: str = DEVICES[0]
    instances: int = 1
    most: int = 8
    delay: int = 2000
    queue: int = 64
    timeout: int = 2_000_000

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise UsageError.unknown("backend", self.backend, BACKENDS)
        if self.device not in DEVICES:
            raise UsageError.unknown("device", self.device, DEVICES)
        if self.backend == "tensorrt" and self.device == "cpu":
            raise UsageError("device 'cpu' with backend 'tensorrt'; accepted: gpu")
        for name in ("instances", "most", "queue", "timeout"):
            if getattr(self, name) < 1:
                shown = {"most": "max-batch"}.get(name, name)
                raise UsageError(f"{shown} {getattr(self, name)}; expected 1 or more")
        if self.delay < 0:
            raise UsageError(f"delay {self.delay}; expected 0 or more")

    @property
    def form(self) -> str:
        """`--for`: the operators of the graph."""
        if self.backend == "tensorrt":
            return "tensorrt"
        return "cuda" if self.device == "gpu" else "cpu"


@dataclass
class Written:
    """What is in a repository now. models: their names; notes: for people."""

    folder: Path
    models: list[str]
    methods: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)


def repository(
    model: str | os.PathLike[str],
    folder: Path,
    methods: Sequence[str] | None = None,
    *,
    name: str | None = None,
    serving: Serving | None = None,
    layer: Sequence[str] | None = None,
    preprocess: Preprocess | None = None,
    labels: Sequence[str] | None = None,
    shapes: Any = None,
    force: bool = False,
) -> Written:
    """Write a model repository, or three models into one that is there: each whole, or not at all.

    model: a classifier's file, or one that `backlight export` wrote, which stays as it is. name: of
    the model in Triton; default: the file's. preprocess, labels (class names): default: the model's
    own.
    Raises ModelError, UnsupportedNode, UsageError, OutputError.
    """
    serving = serving or Serving()
    name = name or re.sub(r"[^A-Za-z0-9_.-]", "_", Path(model).stem).lstrip("_.-") or "model"
    if not _NAME.fullmatch(name):
        raise UsageError(f"name '{name}'; expected letters, digits, dots, dashes, underscores")
    parts = (name, f"{name}_plain", f"{name}_scores")
    _refuse(folder, parts, force)  # before the model is loaded
    ready = Ready.of(model, shapes)
    graph = _graph(ready, methods, serving, layer, preprocess)
    made = _Repository(ready, graph, name, serving, preprocess, labels)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with temporary_folder(folder) as own:
            made.write(own / "new")
            for part in reversed(parts):  # the ensemble last: what it is made of is there then
                if (folder / part).exists():
                    (own / "old").mkdir(exist_ok=True)
                    (folder / part).rename(own / "old" / part)
            for part in (parts[1], parts[0], parts[2]):
                (own / "new" / part).rename(folder / part)
    except OSError as err:
        raise OutputError(f"{folder}: can't be written: {err.strerror or err}") from err
    return Written(folder, list(parts), graph.methods, [*graph.notes, *made.notes])


def _graph(
    ready: Ready, methods: Sequence[str] | None, serving: Serving, layer: Sequence[str] | None,
    preprocess: Preprocess | None,
) -> ExplainGraph:  # fmt: skip
    """The explaining graph: the file's own, where it is exported already."""
    if ready.exported is not None:
        if layer:
            raise UsageError(f"{ready.source} is exported already; layer is in the file")
        return held_graph(ready, methods, serving.form)
    # A layer that is asked for by name is in the model as it was read.
    return explain_graph(
        ready.read.clone() if layer else ready.loaded, list(methods) if methods else None,
        layer=layer or None, lowering=serving.form, preprocess=preprocess,
    )  # fmt: skip


def _refuse(folder: Path, parts: Sequence[str], force: bool) -> None:
    refuse_special(folder)
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder}: a file; expected a folder to write to")
    for part in parts:
        if (folder / part).is_symlink() or ((folder / part).exists() and not force):
            raise OutputError(
                f"{folder / part}: exists already; --force overwrites, or take another --name"
            )


class _Repository:
    def __init__(
        self, ready: Ready, graph: ExplainGraph, name: str, serving: Serving,
        preprocess: Preprocess | None, labels: Sequence[str] | None,
    ) -> None:  # fmt: skip
        self.ready, self.graph, self.name, self.serving = ready, graph, name, serving
        self.notes: list[str] = []
        given = list(labels) if labels is not None else None
        names = given or of_model(ready.metadata, ready.name, graph.classes)
        self.labels = None if names is None else fitting(names, graph.classes, "--labels")
        record = preprocess or of_metadata(ready.metadata, ready.name)
        self.preprocess = None
        size = None
        if record is not None:
            fitted = images.fitted(record, ready.image.spec)
            self.preprocess, size = fitted.to_json(), fitted.size
        self.inputs = [self._input(v, size) for v in graph.model.graph.inputs]
        plain = {v.name for v in ready.loaded.graph.inputs}
        self.own = [t for t in self.inputs if t.name in plain]
        self.outputs = [Tensor.of(v) for v in graph.model.graph.outputs]
        kept = {v.name for v in ready.loaded.graph.outputs}
        self.plain = [t for t in self.outputs if t.name in kept]
        batched = all(t.dims and t.dims[0] == -1 for t in [*self.inputs, *self.outputs])
        self.most = serving.most if batched else 0
        if not batched:
            self.notes.append(
                "the batch is fixed, or an input has no row per image: Triton gets no batcher"
            )

    def _input(self, value: ir.Value, size: tuple[int, int] | None) -> Tensor:
        if value.name != self.graph.input:
            return Tensor.of(value)
        spec = self.ready.image.spec
        known = None if size is None else spec.shape(size)
        found = Tensor.of(value, known)
        if -1 in found.dims[1:]:
            self.notes.append(
                f"input '{value.name}' has open sizes: a request of a huge one can take the "
                "server's memory; --shape or --preprocess fixes them"
            )
        return found

    def write(self, folder: Path) -> None:
        """All models, into a new folder."""
        explaining = self._folder(folder, self.name)
        self.graph.save(explaining / "1" / "model.onnx")
        self._config(explaining, self._model(self.name, self.inputs, self.outputs))
        plain = self._folder(folder, f"{self.name}_plain")
        save_model(self.ready.plain().read, plain / "1" / "model.onnx")
        self._config(plain, self._model(plain.name, self.own, self.plain))
        scores = self._folder(folder, f"{self.name}_scores")
        # A version without a file is no folder in git, nor in an object store.
        (scores / "1" / ".keep").touch()
        self._config(scores, self._ensemble(scores.name, plain.name))
        if self.serving.backend == "tensorrt":
            for part in (explaining, plain):
                inputs = self.inputs if part == explaining else self.own
                (part / "build.sh").write_text(self._build(inputs), encoding="utf-8")

    def _folder(self, folder: Path, name: str) -> Path:
        (folder / name / "1").mkdir(parents=True)
        if self.labels is not None:
            lines = (cleaned(" ".join(label.split())) for label in self.labels)
            whole = "".join(f"{line}\n" for line in lines)
            (folder / name / "labels.txt").write_text(whole, encoding="utf-8")
        return folder / name

    def _config(self, folder: Path, lines: list[str]) -> None:
        whole = "\n".join(lines) + "\n"
        (folder / "config.pbtxt").write_text(whole, encoding="utf-8", newline="\n")

    def _model(self, name: str, inputs: list[Tensor], outputs: list[Tensor]) -> list[str]:
        serving = self.serving
        runs = ['backend: "onnxruntime"', 'default_model_filename: "model.onnx"']
        if serving.backend == "tensorrt":
            runs = ['backend: "tensorrt"', 'default_model_filename: "model.plan"']
        lines = [f"name: {text(name)}", *runs, f"max_batch_size: {self.most}"]
        lines += self._tensors(inputs, outputs)
        kind = "KIND_GPU" if serving.device == "gpu" else "KIND_CPU"
        lines += [f"instance_group [ {{ count: {serving.instances} kind: {kind} }} ]"]
        if self.most:
            lines += [
                "dynamic_batching {",
                f"  preferred_batch_size: [ {self.most} ]",
                f"  max_queue_delay_microseconds: {serving.delay}",
                "  default_queue_policy {",
                "    timeout_action: REJECT",
                f"    default_timeout_microseconds: {serving.timeout}",
                f"    max_queue_size: {serving.queue}",
                "  }",
                "}",
            ]
        lines += self._warmups(inputs)
        own = {"backlight.methods": ",".join(self.graph.methods), "backlight.of": self.graph.of}
        return lines + self._parameters(own if name == self.name else {})

    def _tensors(self, inputs: list[Tensor], outputs: list[Tensor]) -> list[str]:
        lines = []
        for kind, tensors in (("input", inputs), ("output", outputs)):
            for tensor in tensors:
                dims, more = self._dims(tensor), ""
                if self.most and not dims:
                    # A number per image: [batch] for the model, which Triton has as [batch, 1].
                    dims, more = (1,), " reshape { shape: [ ] }"
                if kind == "output" and tensor.name == self.graph.score_output and self.labels:
                    more += ' label_filename: "labels.txt"'
                shown = ", ".join(map(str, dims))
                lines += [
                    f"{kind} [ {{ name: {text(tensor.name)} data_type: {tensor.type} "
                    f"dims: [ {shown} ]{more} }} ]"
                ]
        return lines

    def _dims(self, tensor: Tensor) -> tuple[int, ...]:
        return tensor.dims[1:] if self.most else tensor.dims

    def _warmups(self, inputs: list[Tensor]) -> list[str]:
        """Runs before the model counts as ready: kernels are chosen and memory is taken in them."""
        lines = []
        for batch in sorted({1, self.most}) if self.most else [0]:
            lines += ["model_warmup [ {", f'  name: "{batch} of zeros"']
            lines += [f"  batch_size: {batch}"]
            for tensor in inputs:
                dims = [d if d > 0 else 224 for d in self._dims(tensor)] or [1]
                shown = ", ".join(map(str, dims))
                lines += [
                    f"  inputs {{ key: {text(tensor.name)} value {{ data_type: {tensor.type} "
                    f"dims: [ {shown} ] zero_data: true }} }}"
                ]
            lines += ["} ]"]
        return lines

    def _parameters(self, own: dict[str, str]) -> list[str]:
        """What a client has to know: how pictures become the input, and what the maps are of."""
        said = own | {"backlight.model_sha256": self.ready.hash}
        if self.preprocess is not None:
            said["backlight.preprocess"] = self.preprocess
        return [
            f"parameters [ {{ key: {text(key)} value {{ string_value: {text(value)} }} }} ]"
            for key, value in said.items()
        ]

    def _ensemble(self, name: str, plain: str) -> list[str]:
        scores = [t for t in self.plain if t.name == self.graph.score_output] or self.plain
        lines = [f"name: {text(name)}", 'platform: "ensemble"', f"max_batch_size: {self.most}"]
        lines += self._tensors(self.own, scores)
        lines += ["ensemble_scheduling {", "  step [ {"]
        lines += [f"    model_name: {text(plain)}", "    model_version: -1"]
        for kind, tensors in (("input_map", self.own), ("output_map", scores)):
            for tensor in tensors:
                lines += [f"    {kind} {{ key: {text(tensor.name)} value: {text(tensor.name)} }}"]
        return [*lines, "  } ]", "}", *self._parameters({})]

    def _build(self, inputs: list[Tensor]) -> str:
        """How the plan is made: on the machine that runs it, by the TensorRT that runs it."""
        words = ["trtexec", "--onnx=1/model.onnx", "--saveEngine=1/model.plan"]
        if self.most:
            for option, batch in (("min", 1), ("opt", self.most), ("max", self.most)):
                shapes = ",".join(
                    f"{t.name}:{'x'.join(map(str, (batch, *t.dims[1:])))}" for t in inputs
                )
                words.append(f"--{option}Shapes={shapes}")
        return f'#!/bin/sh\nset -e\ncd "$(dirname "$0")"\n{shlex.join(words)}\n'
