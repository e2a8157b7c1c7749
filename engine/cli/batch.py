"""`backlight batch`: shards of pictures to Parquet parts."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from .asking import (
    Baseline,
    Contrast,
    ContrastForm,
    Fuse,
    Layer,
    Noise,
    Samples,
    Signed,
    Size,
    Steps,
    asking,
)
from .console import show, show_json
from .isolated import limits_of, refuse_limits
from .masked import Of
from .options import (
    Batch,
    Extra,
    Force,
    Json,
    Labels,
    Methods,
    Model,
    PreprocessOption,
    Provider,
    Rules,
    Shape,
    TargetClass,
    Threads,
    Wrt,
    counted,
    inputs_of,
    model_path,
    path_given,
    photo_paths,
    say,
    shapes_of,
)
from .photos import summary_of
from .progress import Step, track
from .scored import refuse_words


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("batch")(batch)


def batch(
    shards: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SHARDS…",
            help="Folders, .tar, .parquet, lists of files (.txt), pictures. [bundled photos]",
        ),
    ] = None,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="DIR", help="For the parts.", parser=path_given),
    ] = Path("parts"),
    model: Model = None,
    rule: Rules = None,
    method: Methods = None,
    target_class: TargetClass = "top1",
    layer: Layer = None,
    fuse: Fuse = False,
    size: Size = "input",
    signed: Signed = False,
    contrast: Contrast = None,
    contrast_form: ContrastForm = "loss",
    samples: Samples = None,
    noise: Noise = None,
    steps: Steps = None,
    baseline: Baseline = None,
    of: Of = None,
    wrt: Wrt = None,
    maps: Annotated[
        str, typer.Option(metavar="FORM", help="grid (of numbers), float16 or png.")
    ] = "grid",
    grid: Annotated[
        int | None, typer.Option(metavar="N", help="Cells on a side of a grid. [16]")
    ] = None,
    top: Annotated[int, typer.Option(metavar="K", help="Classes to keep with their scores.")] = 5,
    shard_size: Annotated[
        int, typer.Option(metavar="N", help="Pictures of a shard cut from a folder or a long list.")
    ] = 1000,
    column: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of Parquet shards: with the pictures.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of Parquet shards: with their names.")
    ] = None,
    shape: Shape = None,
    input_: Extra = None,
    preprocess: PreprocessOption = None,
    labels: Labels = None,
    provider: Provider = None,
    workers: Annotated[
        int | None,
        typer.Option(metavar="N", help="Processes. [one per core; two on a device]"),
    ] = None,
    threads: Threads = None,
    batch: Batch = 8,
    ray: Annotated[
        bool, typer.Option("--ray", help="Schedule shards over a cluster, by Ray Data.")
    ] = False,
    gpus: Annotated[
        float, typer.Option(metavar="F", help="With --ray: GPUs of each worker, such as 0.5.")
    ] = 0.0,
    cpus: Annotated[
        float, typer.Option(metavar="F", help="With --ray: CPUs of each worker.")
    ] = 1.0,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read shards and parts that are there again.")
    ] = False,
    isolate: Annotated[
        bool, typer.Option(help="Read MODEL in a process of its own: it may crash or hang.")
    ] = True,
    isolate_seconds: Annotated[
        float | None, typer.Option(metavar="S", help="For reading MODEL, at most. [60]")
    ] = None,
    isolate_memory: Annotated[
        str | None, typer.Option(metavar="M", help="For reading MODEL. [half of the free]")
    ] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Explain millions of pictures: of each shard a Parquet part in DIR, and a manifest.

    A part has a row per picture: key, class, top classes with their scores, a map per method, or
    the error that it gave. Parts are written whole or not at all: run again, a batch does what is
    missing, and what has changed. Exit code 2 when pictures or shards could not be read.
    """
    from ...errors import UsageError
    from ...export.methods import asked
    from ...export.preprocess import parse
    from ..classifier.labels import load_labels
    from ..scale import run as engine

    if not ray and (gpus or cpus != 1.0):
        raise UsageError("--gpus and --cpus go with --ray")
    if ray and not (0 <= gpus < 1e3 and 0 < cpus < 1e3):
        raise UsageError(f"--gpus {gpus:g} --cpus {cpus:g}; expected 0 or more, and more than 0")
    path = model_path(model)
    refuse_words(preprocess, labels)
    limits = limits_of(isolate_seconds, isolate_memory)
    if not isolate:
        refuse_limits(isolate_seconds, isolate_memory)
    drawn = asking(
        layer=layer, fuse=fuse, size=size, signed=signed, contrast_form=contrast_form,
        samples=samples, noise=noise, steps=steps, baseline=baseline,
        methods=asked(rule, method), contrast=contrast,
    )  # fmt: skip
    with track(2, "reading the model") as step:
        result = engine.batch(
            path, photo_paths(shards), output, rules=rule or None, methods=method or None,
            target=target_class, of=of, wrt=wrt, contrast=contrast, **drawn,
            preprocess=None if preprocess is None else parse(preprocess),
            labels=None if labels is None else load_labels(labels), maps=maps, grid=grid, top=top,
            shard_size=shard_size, column=column, key=key, providers=provider or None,
            workers=workers, threads=threads, batch=batch, shapes=shapes_of(shape),
            inputs=inputs_of(input_), force=force,
            verify=verify, isolate=isolate, limits=limits,
            cluster=engine.Cluster(gpus, cpus) if ray else None,
            on_progress=_reporter(step),
        )  # fmt: skip
    for note in result.notes:
        say(note)
    if json:
        show_json(_summary(path, result))
    elif result.parts:
        before = f", {counted(result.kept, 'part')} kept" if result.kept else ""
        rate = f", {result.rate:.1f} images/s" if result.computed else ""
        show(
            f"{counted(result.rows, 'picture')} in {counted(len(result.parts), 'part')}{before}"
            f"{rate} on {result.providers[0].removesuffix('ExecutionProvider').lower()} "
            f"-> {result.folder}/"
        )
    _report(result)


def _report(result: Any) -> None:
    """What could not be read; exit code 2 then."""
    for reason in result.reasons:
        say(f"a row says: {reason}")
    if result.errors > len(result.reasons):
        say(f"{counted(result.errors, 'picture')} could not be explained: the rows' errors say why")
    for why in result.failed.values():
        say(f"skipped: {why}")
    if result.failed or result.errors:
        sys.stdout.flush()
        raise typer.Exit(2)


def _summary(model: str, result: Any) -> dict[str, Any]:
    """As a summary.json has it; the folder holds parts and their manifest."""
    about = {
        "model": model,
        "output": str(result.folder),
        **result.settled,
        "model_sha256": result.sha256,
        "providers": result.providers,
        "parts": len(result.parts),
        "written": result.written,
        "kept": result.kept,
        "rows": result.rows,
        "errors": result.errors,
        "retried": result.retried,
        "seconds": round(result.seconds, 3),
        "images_per_second": round(result.rate, 2),
    }
    skipped = [{"file": f, "error": e} for f, e in result.failed.items()]
    return summary_of("batch", about, result.notes, result.rows - result.errors, skipped=skipped)


def _reporter(step: Step) -> Callable[[int, int, int], None]:
    """What moves the bar to the shards that are done, with the rate beside it: called with each
    batch and each shard."""
    import time

    start: float | None = None  # the model is read first

    def report(rows: int, done: int, total: int) -> None:
        nonlocal start
        start = start or time.perf_counter()
        rate = rows / max(time.perf_counter() - start, 1e-9)
        step.reach(f"{rows} pictures, {rate:.1f} images/s; shards", done, total)

    return report
