"""Strangers' models, read in a process of their own: what a server does with what it is sent.

    made = isolated("stranger.onnx", "export", into=folder, rules=["vanilla"])
    made["path"]                      # the explaining model, whole, in the folder

Reading is where a model does harm: parsing, checking, upgrading, folding, inferring shapes,
building the backward pass, and what ONNX Runtime does as it loads. All of that is done there, under
limits; this process gets a finished file that ONNX Runtime has loaded once, and JSON. Nothing is
unpickled.
Running the file is left to the caller: `backlight COMMAND --isolate` isolates that as well.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import onnx

from ...arguments import refused
from ...errors import BacklightError, InputError, ModelError, RunError, UsageError
from ...export.store import synced, temporary_folder
from .budget import shown
from .confined import Job, Limits, confined

__all__ = ["CALLS", "error_of", "explaining_file", "isolated", "tell", "told_apart"]

Told = dict[str, Any]


def isolated(
    model: str | os.PathLike[str] | bytes | onnx.ModelProto,
    call: str,
    *,
    limits: Limits | None = None,
    into: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Told:
    """What `call` makes of a model, JSON; made in a process with limits.

    call: "export" (options: of `explain_graph`, and `external`, `probe`): writes into the folder
    `into` and tells path, of, wrt, input, rules, saliency, score_output, classes, notes; with
    probe=False ONNX Runtime doesn't load it there. "explaining" (the same options): the same, but
    of a model that is exported already a copy; tells name and sha256 of the model too. "check"
    (options: of `check`): its report.
    "load": reads the model and tells its opset and nodes.

    Raises what the call raises by itself, and ModelError, one line, where it crashes, where it
    takes more than its limits, and where it fails inside.
    """
    if call not in CALLS:
        raise UsageError.unknown("call", call, CALLS)
    if (call in _WRITE) != (into is not None):
        raise UsageError("a folder, into, goes with the calls that write: export, explaining")
    if limits is None:
        limits = Limits()
    elif not isinstance(limits, Limits):
        raise refused("limits", limits, "a Limits")
    with temporary_folder(Path(into or tempfile.gettempdir())) as folder:
        source, given = "the model's bytes", None
        if isinstance(model, (str, os.PathLike)):
            source = os.fspath(model)
        else:
            given = str(folder / "given")
            data = model if isinstance(model, bytes) else _message(model).SerializeToString()
            Path(given).write_bytes(data)
        about = {"model": source, "bytes": given, "folder": str(folder), "options": options}
        told = told_apart(__name__, [call], limits, about)
        if call in _WRITE:
            assert into is not None
            told["path"] = str(_handed_over(folder, Path(into), source))
        return told


def _message(model: Any) -> Any:
    from ...export.graph import read_message

    return read_message(model).proto


def told_apart(module: str, arguments: Sequence[str], limits: Limits, about: Told) -> Told:
    """What a module of this package tells by `tell`, in a process with limits. about: for it; the
    "model" in it is the name in errors. Raises what it raises there, and ModelError, one line,
    where it crashes, takes more than its limits or fails inside."""
    ended, source = confined(module, arguments, limits, about), about["model"]
    said = ended.result if isinstance(ended.result, dict) else {}
    if "error" in said:
        raise error_of(said)
    if said.get("memory"):
        raise ModelError(f"{source}: more than {shown(limits.bytes)} of memory to read it")
    if ended.code != 0 or not isinstance(said.get("told"), dict):
        raise ModelError(f"{source}: {ended.why or 'the process that read it failed'}")
    return dict(said["told"])


def _handed_over(folder: Path, into: Path, source: str) -> Path:
    """Move what was written there to its place: regular files of the two names, nothing else."""
    made = folder / "explaining.onnx"
    for file in (folder / "explaining.onnx.data", made):
        if file.is_symlink() or (file.exists() and not file.is_file()):
            raise ModelError(f"{source}: the process that read it left no file")
        if file.exists():
            synced(file)
            os.replace(file, into / file.name)
    if not (into / made.name).is_file():
        raise ModelError(f"{source}: the process that read it left no file")
    return into / made.name


_ERRORS: dict[str, type[BacklightError]] = {
    kind.__name__: kind
    for kind in (
        *BacklightError.__subclasses__(),
        *InputError.__subclasses__(),
        *ModelError.__subclasses__(),
    )
} | {"RunError": RunError}


def error_of(said: Told) -> BacklightError:
    """The error that a process tells of: {"error": its class, "message": its line}."""
    return _ERRORS.get(str(said["error"]), ModelError)(str(said.get("message", "")))


def _export(model: str | bytes, folder: Path, options: Told) -> Told:
    from ...export.methods import chosen
    from ...export.preprocess import from_json
    from ...export.saliency import explain_graph
    from ...export.sampling import sampled

    external, probe = bool(options.pop("external", False)), bool(options.pop("probe", True))
    sampling = sampled(chosen(options.get("methods")), **options.pop("sampling", {}))
    said = options.pop("preprocess", None)
    record = None if said is None else from_json(said, "preprocess")
    graph = explain_graph(model, sampling=sampling, preprocess=record, **options)
    if options.get("of"):
        _shown(graph)
    file = folder / "explaining.onnx"
    graph.save(file, external=external)
    if probe:
        from .session import Session

        Session(file, "cpu")
    return {
        "of": graph.of,
        "wrt": graph.wrt,
        "input": graph.input,
        "methods": list(graph.methods),
        "saliency": dict(graph.saliency),
        "score_output": graph.score_output,
        "classes": graph.classes,
        "notes": list(graph.notes),
    }


def _shown(graph: Any) -> None:
    """Have a tensor that was named, and that no output holds, be one: its channels are read in
    place of scores."""
    import onnx_ir as ir

    if graph.score_output is None:
        graph.model.graph.outputs.append(
            ir.convenience.create_value_mapping(graph.model.graph)[graph.of]
        )
        graph.model.metadata_props["backlight.score_output"] = graph.of
        graph.model.metadata_props["backlight.channels"] = "true"


def explaining_file(
    model: str | os.PathLike[str] | bytes | onnx.ModelProto,
    into: str | os.PathLike[str],
    *,
    isolate: bool = True,
    limits: Limits | None = None,
    **options: Any,
) -> Told:
    """The call "explaining" of `isolated`, or with isolate=False the same in this process."""
    if isolate:
        return isolated(model, "explaining", limits=limits, into=into, **options)
    given: Any = model if isinstance(model, (bytes, onnx.ModelProto)) else os.fspath(model)
    told = _explaining(given, Path(into), options | {"probe": False})
    return told | {"path": str(Path(into) / "explaining.onnx")}


# What says nothing, of options that are in a file which is exported already.
_UNSAID: tuple[Any, ...] = (None, False, {}, [])


def _explaining(model: str | bytes, folder: Path, options: Told) -> Told:
    from ...export import choose
    from ...export.drawing import USUAL
    from ...export.graph import read
    from ...export.store import save_model
    from .digest import model_hash

    held, name = read(model)
    told = {"sha256": model_hash(model, held), "name": name}
    if choose.exported(dict(held.metadata_props)) is None:
        return told | _export(model, folder, options)
    ours = ("methods", "lowering", "probe", "external", "contrast", "preprocess")
    refused = next(iter(options.pop("sampling", {})), None) or next(
        (k for k, v in options.items() if k not in ours and v != USUAL.get(k) and v not in _UNSAID),
        None,
    )
    if refused is not None:
        raise UsageError(f"{name} is exported already; {refused} is in the file")
    save_model(held, folder / "explaining.onnx")
    return told


def _check(model: str | bytes, _: Path, options: Told) -> Told:
    from ...export.check import check

    return dict(check(model, **options).to_dict())


def _load(model: str | bytes, _: Path, options: Told) -> Told:
    from ...export.graph import load, opset_of

    loaded = load(model, **options)
    return {"opset": opset_of(loaded), "nodes": len(loaded.graph)}


# Those that write a model into a folder.
_WRITE = ("export", "explaining")
CALLS: dict[str, Callable[[str | bytes, Path, Told], Told]] = {
    "export": _export,
    "check": _check,
    "load": _load,
    "explaining": _explaining,
}


def tell(work: Callable[[Job], Told]) -> NoReturn:
    """The other side of `told_apart`: do the work and leave what it gives, or why it gives none;
    exits."""
    job = Job.begun()
    try:
        job.done({"told": work(job)})
    except MemoryError:
        job.done({"memory": True})
    except BacklightError as err:
        job.done({"error": type(err).__name__, "message": str(err)})
    except Exception as err:
        told = f"{job.about['model']}: failed inside: {type(err).__name__}: {err}"
        job.done({"error": "ModelError", "message": told[:1000]})
    sys.stdout.flush()
    os._exit(0)  # what a library does as it goes is of no interest


def _called(job: Job) -> Told:
    call, about = CALLS[job.arguments[0]], job.about
    # Bytes stay bytes: they have no folder, and so nothing beside them that could be read.
    model = about["model"] if about["bytes"] is None else Path(about["bytes"]).read_bytes()
    return call(model, Path(about["folder"]), dict(about["options"]))


def child() -> None:
    """One call, in the process of its own; exits."""
    tell(_called)


if __name__ == "__main__":
    child()
