"""`backlight bench`: what an explanation costs beside the score."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .console import console as clean_console
from .console import show_json
from .layers import ModelArgument
from .options import (
    Extra,
    Json,
    Methods,
    Shape,
    Wrt,
    inputs_of,
    model_path,
    say,
    shapes_of,
)

if TYPE_CHECKING:
    from ..measure.report import Row


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("bench")(bench)


def bench(
    model: ModelArgument = "bundled",
    rule: Annotated[
        list[str] | None,
        typer.Option(metavar="RULE", help="As export's. [vanilla alone, then all three]"),
    ] = None,
    method: Methods = None,
    batch: Annotated[
        list[int] | None, typer.Option(metavar="N", help="Batch size; repeatable. [1, 4]")
    ] = None,
    provider: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Provider; repeatable. [cpu]")
    ] = None,
    threads: Annotated[
        list[int] | None,
        typer.Option(metavar="N", help="Threads that compute, in all; repeatable. [one per core]"),
    ] = None,
    runs: Annotated[int, typer.Option(metavar="N", help="Measured runs of each.")] = 30,
    size: Annotated[
        int | None, typer.Option(metavar="N", help="Height and width where the model has none.")
    ] = None,
    target: Annotated[
        str | None, typer.Option("--for", metavar="RUNTIME", help="Lowering. [the provider's]")
    ] = None,
    contended: Annotated[
        bool, typer.Option("--contended", help="While another process keeps all cores busy.")
    ] = False,
    keep: Annotated[
        bool,
        typer.Option("--store", help="Keep the faster provider beside MODEL: auto takes it."),
    ] = False,
    wrt: Wrt = None,
    shape: Shape = None,
    input_: Extra = None,
    json: Json = False,
) -> None:
    """Measure MODEL and its explaining graphs side by side: latency, throughput, memory, load.

    With several providers also which of them explains it fastest.
    """
    from ...export.methods import asked
    from ..measure.bench import bench as run_bench
    from ..measure.recommend import check_storable, store
    from ..measure.report import Report

    names = asked(rule, method)
    providers = list(dict.fromkeys(provider or ["cpu"]))
    if keep:
        check_storable(providers)
    report: Report = run_bench(
        model_path(model),
        **({} if names is None else {"methods": [names]}),
        providers=providers,
        threads=list(threads or []) or [None],
        batches=batch or None,
        runs=runs,
        size=size,
        target=target,
        shapes=shapes_of(shape),
        contended=contended,
        inputs=inputs_of(input_),
        wrt=wrt,
    )
    kept = store(report, providers) if keep else None
    if json:
        show_json({**report.to_dict(), **({} if kept is None else {"stored": str(kept)})})
        return
    _show(report)
    if kept is not None:
        say(f"stored in {kept}: --provider auto takes it on this machine")


def _drift(value: float | None) -> str:
    return "" if value is None else f"{value:.1g}"


def _passes(row: Row) -> str:
    return "" if row.passes_ratio is None else f"{row.passes_ratio:.2f}"


_PASSES = ("x passes",)
_FURTHER = ("x fastest", "drift")


def _show(report: object) -> None:
    from rich.table import Table

    from ..measure.report import Report

    assert isinstance(report, Report)
    # Wide enough for the table wherever the output goes.
    several = report.recommended is not None
    console = clean_console(width=180 if several else 150)
    busy = ", all cores busy with other work" if report.contended else ""
    console.print(f"{report.model} on {report.device}{busy}")
    console.print(", ".join(f"{k} {v}" for k, v in report.versions.items()))
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    by_passes = any(row.passes for row in report.rows)
    for heading in (
        "provider", "threads", "batch", "p50 ms", "p90 ms", "p99 ms", "images/s", "x score",
        "load ms", "x score", "peak MiB", "bound MiB", *_PASSES * by_passes, *_FURTHER * several,
    ):  # fmt: skip
        table.add_column(heading, justify="right", no_wrap=True)
    for row in report.rows:
        table.add_row(
            row.subject, row.provider, str(row.threads or "auto"), str(row.batch),
            f"{row.p50:.1f}", f"{row.p90:.1f}", f"{row.p99:.1f}", f"{row.images_per_s:.1f}",
            f"{row.ratio:.2f}", f"{row.load_ms:.0f}", f"{row.load_ratio:.2f}",
            f"{row.peak_mib:.0f}", "?" if row.bound_mib is None else f"{row.bound_mib:.0f}",
            *(_passes(row),) * by_passes,
            *(f"{row.fastest_ratio:.2f}", _drift(row.drift)) * several,
        )  # fmt: skip
    console.print(table)
    if by_passes:
        counts = sorted({row.passes for row in report.rows if row.passes})
        console.print(
            f"x passes: over {' or '.join(map(str, counts))} passes of vanilla, one per variant of "
            "the image; an Explainer runs a few at a time"
        )
    console.print("bound: 1.6 x the plain model's peak, and the activations that the rules read")
    if report.recommended is not None:
        first, found = report.rows[0].provider, report.recommended
        console.print(
            f"x fastest: over the fastest plain model of all providers; drift: of the maps, or the "
            f"scores, from {first}'s"
        )
        console.print(f"recommended: --provider {found.provider} ({found.why})")
