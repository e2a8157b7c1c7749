"""Arguments of other types than a function takes: one line that says what it takes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import backlight
from backlight import arguments
from backlight.errors import UsageError
from backlight.export.check import check

from . import models

TINY = models.tiny().SerializeToString()
NAN = float("nan")


def refused(call: Callable[[], object], *words: str) -> str:
    with pytest.raises(UsageError) as caught:
        call()
    said = str(caught.value)
    assert "\n" not in said and len(said) < 300
    for word in words:
        assert word in said
    return said


EXPORT: list[tuple[str, Any]] = [
    ("rules", 3), ("rules", ["vanilla", 3]), ("rules", []), ("rules", ""), ("rules", b"vanilla"),
    ("of", 5), ("of", [None]), ("of", ""), ("wrt", 1.5), ("wrt", {}.keys),
    ("target_class", 1.5), ("target_class", True), ("target_class", NAN),
    ("target_class", np.float32(2)), ("target_class", [1]), ("target_class", None),
    ("target_class", np.bool_(True)), ("target_class", "1.5"), ("target_class", 7),
    ("target_class", -1), ("target_class", 2**70), ("target_class", b"1"),
    ("cotangent", 3), ("reduce", None), ("reduce", ["none"]), ("for_", 5), ("for_", ["cpu"]),
    ("dtype", np.float16), ("dtype", None), ("dtype", ["float16"]),
    ("of", np.array(1.0)), ("rules", np.array("vanilla")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), EXPORT)
def test_export(name: str, value: Any) -> None:
    refused(lambda: backlight.export(TINY, **{name: value}))


def test_what_is_accepted_is_said() -> None:
    said = refused(lambda: backlight.export(TINY, target_class=1.5))  # type: ignore[arg-type]
    assert said == 'target_class is 1.5 (float); expected "input", "top1" or the number of a class'
    refused(lambda: backlight.export(TINY, rules=3), "rules", "3 (int)")  # type: ignore[arg-type]
    refused(lambda: backlight.export(TINY, for_=5), "for_", "a string")  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [1, np.int64(1), np.uint8(1), "1"])
def test_a_class_may_be_numpys(number: Any) -> None:
    made = backlight.export(TINY, "vanilla", target_class=number)
    props = {p.key: p.value for p in made.metadata_props}
    assert props["backlight.target_class"] == "1"
    assert [i.name for i in made.graph.input] == ["x"]


@pytest.mark.parametrize("name", ["of", "wrt", "rules", "lowering", "dtype"])
def test_check(name: str) -> None:
    refused(lambda: check(TINY, **{name: 5}), name.replace("lowering", "for_"))


def test_check_takes_one_rule_as_text() -> None:
    assert check(TINY, rules="guided").ok


WRONG: dict[str, list[Any]] = {
    "rules": [3, [3]], "of": [5], "wrt": [5], "threads": ["3", 1.5, True], "batch": ["3", 1.5, NAN],
    "for_": [5], "cuda_graph": ["yes", 1], "providers": [3, [3]], "preprocess": [3, ["unit"]],
    "window": ["16", 1.5, [16, "8"], None], "stride": [NAN, {}], "overlap": [3], "score": [3],
    "edges": [None], "space": [3], "method": [3], "share": ["0.5", NAN, True],
    "masks": ["10", 1.5], "cells": ["7"], "probability": ["0.5", NAN], "seed": [1.5, "1"],
    "tolerance": ["x"], "layer": [5], "force": [1], "steps": ["3"], "starts": [1.5], "jitter": [""],
    "fidelity": ["1", NAN], "drive": [None], "zoom": ["0"], "unit": [3], "start": [3],
    "k": ["3", 1.5], "metric": [2], "channels": ["1", 1.5, [1.5], [True]], "layers": [3, [3]],
    "one_per_image": [1], "state": [3, ""], "fresh": ["no"], "every": ["1", NAN], "workers": [1.5],
    "kinds": [3, [3]], "on": [3], "most": ["1", NAN], "c": ["1", NAN], "kappa": ["0"],
    "beta": [True], "rate": ["1"], "rounds": [1.5], "patience": ["9"],
    "way": [3], "foreground": ["0.9", NAN], "background": [True], "iterations": [1.5],
    "folder": [3, "", [3]], "store": [3, ""], "path": [3, None, ""],
}  # fmt: skip


def _callers(folder: Path) -> dict[str, tuple[Callable[..., Any], list[str]]]:
    made = functools.partial
    common = ["of", "preprocess", "providers", "threads", "batch", "score", "space"]
    run = ["providers", "threads"]
    inverting = ["steps", "starts", "seed", "preprocess", *run]
    return {
        "Explainer": (
            made(backlight.Explainer, TINY),
            ["rules", "of", "wrt", "batch", "for_", "cuda_graph", *run],
        ),
        "Occlusion": (
            made(backlight.Occlusion, TINY),
            ["window", "stride", "overlap", "edges", "method", "share", *common],
        ),
        "Rise": (
            made(backlight.Rise, TINY),
            ["masks", "cells", "probability", "seed", "tolerance", *common],
        ),
        "Cem": (
            made(backlight.Cem, TINY, preprocess="unit"),
            ["kinds", "on", "space", "most", "c", "kappa", "beta", "rate", "rounds", "steps",
             "patience", "preprocess", "of", *run],
        ),
        "Segment": (
            made(backlight.Segment, TINY),
            ["method", "way", "foreground", "background", "iterations", "seed", "preprocess", "of",
             *run],
        ),
        "Segments": (made(backlight.Segments, TINY), common),
        "Embedder": (made(backlight.Embedder, TINY), ["layer", *run]),
        "Embeddings": (backlight.Embeddings, ["path"]),
        "embed": (
            made(backlight.embed, TINY, folder=folder, store=folder / "store"),
            ["folder", "store", "layer", "preprocess", "batch", "force", *run],
        ),
        "activations": (
            made(backlight.activations, TINY, np.zeros((8, 8, 3), np.uint8), layer="r"),
            ["layer", "preprocess", *run],
        ),
        "filters": (made(backlight.filters, TINY), ["layer", "preprocess"]),
        "invert": (
            made(backlight.invert, TINY, np.zeros((1, 3, 8, 8), np.float32), layer="r"),
            ["layer", "fidelity", "jitter", *inverting],
        ),
        "maximize": (
            made(backlight.maximize, TINY, channels=0),
            ["channels", "layer", "unit", "start", "drive", "zoom", *inverting],
        ),
        "neighbors": (
            made(backlight.neighbors, np.zeros((3, 2)), np.zeros((1, 2))),
            ["k", "metric", "method"],
        ),
        "patches": (
            made(backlight.patches, TINY, folder=folder, layers="r"),
            ["folder", "layers", "channels", "k", "one_per_image", "preprocess", "batch", "state",
             "fresh", "every", "workers", *run],
        ),
    }  # fmt: skip


CALLERS = [(name, a) for name, (_, taken) in _callers(Path()).items() for a in taken]


@pytest.mark.parametrize(("name", "argument"), CALLERS)
def test_public_functions(tmp_path: Path, name: str, argument: str) -> None:
    pytest.importorskip("onnxruntime")
    call, _ = _callers(tmp_path)[name]
    for value in WRONG[argument]:
        refused(lambda value=value: call(**{argument: value}), argument)  # type: ignore[misc]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("given", [[["a"]], [[None]], [[1], [1, 2]], [[1j]], 3, "x", None])
def test_vectors_that_are_none(given: Any) -> None:
    refused(lambda: backlight.neighbors(given, np.zeros((1, 1)), 1), "vectors")
    refused(lambda: backlight.neighbors(np.zeros((1, 1)), given, 1), "queries")


def test_numpys_numbers_are_numbers() -> None:
    pytest.importorskip("onnxruntime")
    windows = backlight.Occlusion(TINY, window=np.int64(4), stride=np.array([2, 2]))
    assert (windows.window, windows.stride) == (4, (2, 2))
    assert backlight.Explainer(TINY, batch=np.int32(2), threads=np.int64(1)).classes == 5


def test_a_check_sees_the_arguments_that_were_given() -> None:
    @arguments.accepts(a=arguments.whole, b=arguments.text)
    def called(a: int, *, b: str | None = None) -> tuple[int, str | None]:
        return a, b

    assert called(np.int16(3)) == (3, None)  # type: ignore[arg-type]
    assert called(a=3, b="x") == (3, "x")
    refused(lambda: called(1.0), "a is 1.0 (float)")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        called()  # type: ignore[call-arg]
