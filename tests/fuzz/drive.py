"""What is done with a model, and what came of it. Runs in the worker."""

from __future__ import annotations

import random
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import backlight
from backlight.errors import BacklightError, RunError
from backlight.export import incremental
from backlight.export.check import check
from backlight.export.receptive import receptive_fields

LONGEST = 1000  # characters of a message
# guarded: a refusal that only the last guard saw to; its cause may want mending. Of networks (see
# networks/judge.py): skip, kink, wrong.
OUTCOMES = (
    "ok", "skip", "kink", "refusal", "guarded", "wrong", "traceback", "flood", "memory", "hang",
    "crash",
)  # fmt: skip
FAILURES = OUTCOMES[5:]
WINDOWS = np.array([[0, 3, 0, 3, 0, 3], [0, 3, 2, 6, 1, 5], [0, 1, 4, 8, 4, 8]], np.int32)


@dataclass(frozen=True)
class Use:
    """How a model is exported, and what else is tried with it."""

    rules: tuple[str, ...] = ("vanilla", "guided")
    lowering: str = "portable"
    reduce: str = "none"
    dtype: str = "float32"
    target_class: str = "input"
    of: str | None = None
    wrt: str | None = None
    steps: tuple[str, ...] = ("export", "check", "incremental", "receptive")

    @classmethod
    def drawn(cls, seed: int, of: str | None, wrt: str | None) -> Use:
        """Of a number: the export, and one thing beside it."""
        rng = random.Random(f"use {seed}")
        rules = rng.choice((("vanilla",), ("guided",), ("deconv", "guided")))
        lowering = rng.choice(("portable", "cpu", "tensorrt", "cuda"))
        dtypes = ("float32",) if lowering == "cpu" else ("float32", "float32", "float16")
        reduce = rng.choice(("none", "none", "maxabs"))
        return cls(
            rules,
            lowering,
            reduce,
            rng.choice((*dtypes, *(("bfloat16",) if lowering == "cuda" else ()))),
            rng.choice(("input", "top1", "1")),
            of,
            wrt,
            ("export", rng.choice(("check", "check", "incremental", "receptive"))),
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of_dict(cls, given: dict[str, Any]) -> Use:
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})


@dataclass(frozen=True)
class Outcome:
    """What came of a model: the worst of its steps. place: where in the code, for failures."""

    kind: str
    step: str = ""
    message: str = ""
    place: str = ""
    trace: str = ""

    @property
    def failed(self) -> bool:
        return self.kind in FAILURES

    @property
    def signature(self) -> str:
        """Equal for failures that are one mistake, as far as can be told."""
        return f"{self.kind} {self.place or self.message[:60]}"


def used(data: bytes, files: dict[str, bytes], use: Use) -> Outcome:
    """Try the steps one after the other."""
    found = Outcome("ok")
    with tempfile.TemporaryDirectory() as folder:
        model: bytes | Path = data
        if files:
            model = Path(folder) / "model.onnx"
            model.write_bytes(data)
            for name, content in files.items():
                (Path(folder) / name).write_bytes(content)
        for step in use.steps:
            outcome = _tried(step, partial(STEPS[step], model, use))
            if OUTCOMES.index(outcome.kind) > OUTCOMES.index(found.kind):
                found = outcome
    return found


def _tried(step: str, act: Callable[[], object]) -> Outcome:
    try:
        act()
    except Exception as err:
        return _judged(step, err)
    return Outcome("ok", step)


def _judged(step: str, err: BaseException) -> Outcome:
    text = str(err)
    causes: list[BaseException] = [err]
    while (before := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(before)
    trace = "".join(traceback.format_exception(err))[-6000:]
    place = _place(causes[-1])
    said = f"{type(err).__name__}: {text}"[:500]
    if any(isinstance(e, MemoryError) or "bad_alloc" in str(e) for e in causes):
        return Outcome("memory", step, said, place, trace)
    if not isinstance(err, BacklightError) or isinstance(err, RunError):
        return Outcome("traceback", step, said, f"{type(err).__name__} {place}", trace)
    if not text or "\n" in text or len(text) > LONGEST:
        return Outcome("flood", step, f"{len(text)} characters: {said}", _place(err), trace)
    if not isinstance(causes[-1], BacklightError) and "contradict each other" in text:
        return Outcome("guarded", step, text, f"{type(causes[-1]).__name__} {place}", trace)
    return Outcome("refusal", step, text)


def _place(err: BaseException) -> str:
    """The innermost line of the package that an exception came through."""
    frames = traceback.extract_tb(err.__traceback__)
    ours = [f for f in frames if "/export/" in f.filename or "/backlight/" in f.filename]
    if not ours:
        return type(err).__name__
    last = ours[-1]
    return f"{Path(last.filename).parent.name}/{Path(last.filename).name}:{last.name}:{last.lineno}"


def _export(model: bytes | Path, use: Use) -> None:
    target = use.target_class
    made = backlight.export(
        model, use.rules, of=use.of, wrt=use.wrt, target_class=target,
        cotangent="class" if use.of is None else "input", reduce=use.reduce,
        for_=use.lowering, dtype=use.dtype,
    )  # fmt: skip
    made.SerializeToString()


def _check(model: bytes | Path, use: Use) -> None:
    report = check(
        model, of=use.of, wrt=use.wrt, rules=use.rules, lowering=use.lowering, dtype=use.dtype
    )
    for finding in report.findings:
        line = finding.line()
        if "\n" in line or len(line) > LONGEST:
            raise AssertionError(f"a finding of {len(line)} characters: {line[:200]}")
    report.to_dict()


def _incremental(model: bytes | Path, use: Use) -> None:
    of: Sequence[str] | None = None if use.of is None else [use.of]
    for shape in ((3, 8, 8), (3, 35, 35)):
        try:
            found = incremental.outline(model, WINDOWS, shape, of=of)
        except BacklightError as err:
            if "the image [" in str(err):
                continue
            raise
        found.build()
        return


def _receptive(model: bytes | Path, use: Use) -> None:
    for found in receptive_fields(model, size=(16, 16)).values():
        str(found)


STEPS: dict[str, Callable[[bytes | Path, Use], None]] = {
    "export": _export, "check": _check, "incremental": _incremental, "receptive": _receptive,
}  # fmt: skip
