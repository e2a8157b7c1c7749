"""`backlight check`: what stands in the way of a gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ...errors import UnsupportedNode
from .asking import Layer
from .console import console as clean_console
from .console import show_json
from .layers import ModelArgument
from .options import (
    Extra,
    Json,
    Methods,
    Rules,
    Shape,
    inputs_of,
    model_path,
    shapes_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from ...export.check import Finding, Report
    from ...export.lowering.support import Refusal

_SHOWN = 20  # of a kind, on the console: a file of 10,000 obstacles is a file, not a screen


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("check")(check)


def check(
    model: ModelArgument,
    of: Annotated[
        str | None,
        typer.Option(
            metavar="T", help="Tensor to explain; T:as-is: itself. [default: the class scores]"
        ),
    ] = None,
    wrt: Annotated[
        str | None,
        typer.Option(metavar="T", help="Tensor to take the gradient by. [default: the image]"),
    ] = None,
    rule: Rules = None,
    method: Methods = None,
    layer: Layer = None,
    target: Annotated[
        str,
        typer.Option("--for", metavar="RUNTIME", help="portable, cpu, cuda, tensorrt, openvino."),
    ] = "portable",
    dtype: Annotated[
        str, typer.Option(metavar="TYPE", help="As export's: with --for cuda or tensorrt.")
    ] = "float32",
    shape: Shape = None,
    input_: Extra = None,
    json: Json = False,
) -> None:
    """Say what can be differentiated; exit code 2 when something stands in the way.

    With --for cuda, tensorrt or openvino also which nodes of the exported graph that runtime
    would hand back to the CPU, or reject: by tables, with no GPU and no runtime.
    """
    from ...export.check import check as run_check
    from ...export.methods import asked

    path = model_path(model)
    given, shapes = inputs_of(input_), shapes_of(shape)

    def report_by(wrt: str | None) -> Report:
        return run_check(
            path, of=of, wrt=wrt, methods=asked(rule, method), layer=layer or None,
            lowering=target, dtype=dtype, shapes=shapes,
        )  # fmt: skip

    report = report_by(wrt)
    if given:
        from ..classifier.ready import Ready

        image = Ready(path, shapes, given).image.name  # held against the model
        if wrt is None and report.input in given:
            report = report_by(image)
    if json:
        show_json(report.to_dict())
    else:
        _show(report)
    if not report.ok:
        lines = [f.line() for f in report.obstacles] + [r.line() for r in report.refused]
        first, count = lines[0], len(lines)
        more = f" (and {count - 1} more)" if count > 1 else ""
        raise UnsupportedNode(f"{path}: {first}{more}")


def _show(report: Report) -> None:
    from rich.table import Table

    from ...export.lowering.support import TARGETS
    from ..classifier.labels import counted

    console = clean_console(soft_wrap=True)
    classes = "? classes" if report.classes is None else counted(report.classes)
    console.print(
        f"{report.model}: opset {report.opset}, {report.nodes} nodes; "
        f"explains '{report.of}' ({classes}) by '{report.wrt}'"
    )
    table = Table(box=None, pad_edge=False)
    for heading in ("operator", "version", "nodes", "gradient"):
        table.add_column(heading, justify="right" if heading in ("version", "nodes") else "left")
    for row in report.operators:
        verdict = "yes" if row.differentiable else "NO"
        table.add_row(row.operator, str(row.version), str(row.count), verdict)
    console.print(table)
    for title, findings in (("In the way", report.obstacles), ("Notes", report.notes)):
        if findings:
            console.print(f"\n{title}:")
            _list(console, findings)
    if report.target in TARGETS:
        _show_refused(console, report)
    if report.ok:
        console.print("\nNothing stands in the way.")


def _show_refused(console: Console, report: Report) -> None:
    from ...export.lowering.operators import RELEASES

    who = RELEASES[report.target]
    if not report.refused:
        whole = "the whole graph" if not report.obstacles else "the model's own nodes"
        console.print(f"\n{who} takes {whole}.")
    for title, ours in (("the model's own", False), ("in the backward pass", True)):
        refused = [r for r in report.refused if r.ours is ours]
        if refused:
            console.print(f"\nNot for {who}, {title}:")
            _list(console, refused)


def _list(console: Console, found: Sequence[Finding | Refusal]) -> None:
    for one in found[:_SHOWN]:
        console.print(f"  {one.line()}")
    if len(found) > _SHOWN:
        console.print(f"  and {len(found) - _SHOWN} more; --json has all")
