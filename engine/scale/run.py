"""`backlight.batch`: shards of pictures to Parquet parts, each written whole or not at all.

Run again, a batch does what is missing: a part says which shard, model and options it is of, and is
kept where they are what they were. Strangers' models are read, checked and exported in a process of
its own (`isolated`), and run in others (`local`): this one never opens them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ... import arguments as take
from ...errors import OutputError, UsageError
from ...export.drawing import USUAL
from ...export.graph import ModelLike
from ...export.methods import asked as asked_methods
from ...export.methods import chosen
from ...export.preprocess import Preprocess, looked_up
from ...export.preprocess import given as given_preprocess
from ...export.sampling import sampled
from ...export.sizes import Shapes
from ...export.store import temporary_folder
from ...lanes import cores
from ..photos.outputs import OutputFolder, alone
from ..runtime.confined import Limits
from ..runtime.isolated import explaining_file
from ..runtime.session import Providers, default_lowering, on_cpu
from .asked import BATCH, TOP, Asked
from .local import Worker
from .maps import FORMS, SIDE, MapColumns
from .members import parquet
from .running import Batched, Cluster, Run
from .shards import SIZE, found_shards

__all__ = ["Batched", "Cluster", "batch"]

# Processes on a device: while one decodes and writes, the other computes.
_ON_DEVICE = 2


def _class(name: str, value: Any) -> str:
    """A class's number or name, or top1, as text."""
    return take.text(name, value) if isinstance(value, str) else str(take.whole(name, value))


def _drawn(
    names: tuple[str, ...] | None, of: str | None, wrt: str | None,
    layer: Sequence[str] | None, fuse: bool, size: str, signed: bool, contrast: object,
    contrast_form: str, **sampling: Any,
) -> dict[str, Any]:  # fmt: skip
    """What the model is exported with, as JSON."""
    asked = {k: v for k, v in sampling.items() if v is not None}
    sampled(chosen(names), **asked)  # its checks, before all work
    return {
        "of": of, "wrt": wrt, "layer": _list(layer), "fuse": fuse, "size": size, "signed": signed,
        "contrast": None if contrast is None else "input", "contrast_form": contrast_form,
        "sampling": asked,
    }  # fmt: skip


def _made_with(drawn: Mapping[str, Any]) -> dict[str, Any]:
    """Of that, what isn't as usual: parts are known by it. The layer is the model's own matter."""
    flat = {**drawn, **drawn["sampling"], "sampling": None, "contrast": None}
    return {k: v for k, v in flat.items() if v != USUAL.get(k)}


@take.accepts(
    shards=take.paths, output=take.path, rules=take.names, methods=take.names, target=_class,
    of=take.text, wrt=take.text, layer=take.names, fuse=take.flag, size=take.text,
    signed=take.flag, contrast=_class, contrast_form=take.text,
    preprocess=given_preprocess, labels=take.names, maps=take.text,
    grid=take.whole, top=take.whole, shard_size=take.whole, column=take.text, key=take.text,
    providers=take.names, workers=take.whole, threads=take.whole, batch=take.whole,
    force=take.flag, verify=take.flag, isolate=take.flag,
)  # fmt: skip
def batch(
    model: ModelLike,
    shards: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    rules: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    target: str | int = "top1",
    of: str | None = None,
    wrt: str | None = None,
    layer: str | Sequence[str] | None = None,
    fuse: bool = False,
    size: str = "input",
    signed: bool = False,
    contrast: str | int | None = None,
    contrast_form: str = "loss",
    samples: int | None = None,
    noise: float | None = None,
    steps: int | None = None,
    baseline: str | float | None = None,
    preprocess: Preprocess | str | None = None,
    labels: Sequence[str] | None = None,
    maps: str = FORMS[0],
    grid: int | None = None,
    top: int = TOP,
    shard_size: int = SIZE,
    column: str | None = None,
    key: str | None = None,
    providers: Providers = None,
    workers: int | None = None,
    threads: int | None = None,
    batch: int = BATCH,
    shapes: Shapes | None = None,
    inputs: Mapping[str, str | float | os.PathLike[str]] | None = None,
    force: bool = False,
    verify: bool = False,
    isolate: bool = True,
    limits: Limits | None = None,
    cluster: Cluster | None = None,
    on_progress: Callable[[int, int, int], None] | None = None,
) -> Batched:
    """Explain shards of pictures: of each a Parquet part in the folder `output`, and a manifest.

    model: a path, bytes or an onnx.ModelProto: a classifier, or a file that `backlight export`
        wrote. rules, methods, of, wrt, layer, fuse, size, signed, contrast_form, samples, noise,
        steps, baseline, shapes, providers: as in `backlight.Explainer`.
    shards: folders, tar files, Parquet files with pictures' bytes, lists of files, pictures.
    target: "top1", or the class to explain everywhere, by number or name. contrast: why this class
        rather than that one: "second", or a class by number or name.
    preprocess: a preset's name or a record; default: the model's own. labels: class names;
        default: the model's own. inputs: what the model takes besides the image, by name: an .npy
        file, or a number, the same for every picture.
    maps: "grid" (of `grid` x `grid` numbers, 16), "float16" or "png": see docs/scale.md. top: how
        many classes to keep with their scores.
    shard_size: pictures of a shard that is cut from a folder or from a long list. column, key: of
        Parquet shards, the columns with the pictures and their names; default: by their names.
    workers: processes; default: one per core, and two on a device. threads: that compute, of all
        of them together; default: one per core. batch: pictures per run.
    force: start anew. verify: read shards and parts that are there already again, where their sizes
        and times would do. isolate: read the model in a process of its own, within `limits`.
    cluster: schedule shards with Ray Data; `output` lies where all of its machines see it.
    on_progress: called with the numbers of pictures and shards done, and of shards to do.

    Raises ImageError where there are no shards, OutputError for a folder with parts of another
    model or of other options, ModelError, UnsupportedNode, UsageError, and RunError where workers
    can't start. A picture that can't be read is a row with an `error`; a shard that can't be read
    to its end is in `failed`, and the others are there.
    """
    parquet()
    if cluster is not None:
        from .rayed import ray_data

        ray_data()
    if isinstance(labels, str):
        raise take.refused("labels", labels, "the classes' names, a list of strings")
    _refuse_numbers(workers=workers, threads=threads, shard_size=shard_size, batch=batch, top=top)
    if grid is not None and maps in FORMS[1:]:
        raise UsageError(f"grid {grid} goes with maps 'grid'; '{maps}' has no cells")
    cells = SIDE if grid is None else grid
    MapColumns("", maps, cells, None)  # type: ignore[arg-type]  # its checks, before all work
    given = [shards] if isinstance(shards, (str, os.PathLike)) else list(shards)
    sizes, beside = take.shapes("shapes", shapes), _inputs(inputs)
    folder = Path(output)
    if not given:
        raise UsageError("no shards given; expected files or folders")
    found, skipped = found_shards(given, shard_size, folder)
    if not found:
        raise skipped[0].error
    for option, value in (("column", column), ("key", key)):
        if value is not None and not any(shard.kind == "parquet" for shard in found):
            raise UsageError(f"{option} {value} is of Parquet shards; there are none among these")
    counts = _counts(providers, workers, threads)
    named = asked_methods(rules, methods)
    drawn = _drawn(named, of, wrt, _list(layer), fuse, size, signed, contrast, contrast_form,
                   samples=samples, noise=noise, steps=steps, baseline=baseline)  # fmt: skip
    record = looked_up(preprocess)
    result = Batched(folder, failed={bad.file: str(bad.error) for bad in skipped})
    with _made(folder), alone(folder), _temporary(folder) as own:
        held: Any = model
        told = explaining_file(
            held, own, isolate=isolate, limits=limits,
            methods=_list(named), **drawn,
            preprocess=None if record is None else record.to_json(),  # of a baseline's colour
            lowering=default_lowering(providers),
            shapes={k: list(v) for k, v in sizes.items()},
        )  # fmt: skip
        asked = Asked(
            str(Path(told["path"]).absolute()), told["name"], told["sha256"],
            named, _made_with(drawn),
            None if contrast is None else str(contrast), str(target),
            None if record is None else record.to_json(),
            None if labels is None else tuple(labels), maps, cells, top,
            beside, column, key, batch, counts.threads, _names(providers), counts.decoders,
        )  # fmt: skip
        first = Worker(asked)
        try:
            result.notes += [*told.get("notes", ()), *first.ready["notes"]]
            result.settled, result.sha256 = first.ready["settled"], asked.sha256
            result.providers = first.ready["providers"]
            run = Run(result, found, asked, first.ready, on_progress)
            if force:
                run.start_anew()
            run.look(verify)
            run.all(first, counts.workers, cluster)
        finally:
            first.end()
    return result


@dataclass(frozen=True)
class _Counts:
    """workers; the threads of each, None: the runtime's own; and those that decode pictures."""

    workers: int
    threads: int | None
    decoders: int


def _counts(providers: Providers, workers: int | None, threads: int | None) -> _Counts:
    own = cores()
    if on_cpu(providers):
        # A run and a thread on each core: on the CPU faster than one run on several.
        many = workers or threads or own
        return _Counts(many, max(1, (threads or own) // many), 1)
    many = workers or _ON_DEVICE
    return _Counts(many, None if threads is None else max(1, threads // many), max(1, own // many))


def _refuse_numbers(**given: int | None) -> None:
    for name, number in given.items():
        if number is not None and number < 1:
            raise UsageError(f"{name.replace('_', '-')} {number}; expected 1 or more")


def _names(providers: Providers) -> tuple[str, ...] | None:
    if providers is None or isinstance(providers, str):
        return None if providers is None else (providers,)
    return tuple(providers)


def _inputs(given: Mapping[str, Any] | None) -> dict[str, str] | None:
    """Inputs for workers elsewhere: files by their whole paths. Raises UsageError for arrays."""
    held = take.beside("inputs", given)
    for name, v in held.items():
        if not isinstance(v, (str, os.PathLike, int, float)):
            raise take.refused(
                f"inputs' '{name}'", v, "an .npy file or a number, for workers to read"
            )
    found = {n: os.fspath(v) if hasattr(v, "__fspath__") else str(v) for n, v in held.items()}
    return {n: os.path.abspath(v) if os.path.exists(v) else v for n, v in found.items()} or None


def _list(given: str | Sequence[str] | None) -> list[str] | None:
    if given is None or isinstance(given, str):
        return None if given is None else [given]
    return list(given) or None


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """A folder to write to; where nothing comes of it, none is left. Raises OutputError."""
    new = [p for p in (folder, *folder.absolute().parents) if not p.exists()]
    OutputFolder(folder, (), False)
    try:
        yield
    except BaseException:
        with suppress(OSError):  # something is in it
            for path in new:
                path.rmdir()
        raise


@contextmanager
def _temporary(folder: Path) -> Iterator[Path]:
    try:
        with temporary_folder(folder) as own:
            yield own
    except FileNotFoundError:
        if folder.exists():
            raise
        raise OutputError(f"{folder}: was removed meanwhile") from None
