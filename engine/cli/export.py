"""`backlight export`: a model in, a model with saliency out."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated

import typer

from ...errors import UsageError
from ..outputs import refuse_existing
from . import drift
from .options import Force, Json, Labels, PreprocessOption, Rules, say

RULES = ("vanilla", "deconv", "guided")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("export")(export)


def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="An ONNX classifier.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="OUT", help="The file to write.")
    ],
    rule: Rules = None,
    target_class: Annotated[
        str,
        typer.Option(metavar="C", help="input (chosen at run time), top1, or a class number."),
    ] = "input",
    of: Annotated[
        list[str] | None,
        typer.Option(metavar="T", help="Tensor to explain. [default: the class scores]"),
    ] = None,
    wrt: Annotated[
        list[str] | None,
        typer.Option(metavar="T", help="Tensor to take the gradient by. [default: the image]"),
    ] = None,
    cotangent: Annotated[
        str, typer.Option(metavar="HOW", help="class, or input: an input named 'cotangent'.")
    ] = "class",
    reduce: Annotated[
        str, typer.Option(metavar="HOW", help="none, or maxabs: the largest over channels.")
    ] = "none",
    target: Annotated[
        str,
        typer.Option("--for", metavar="RUNTIME", help="portable, cpu, cuda, tensorrt, openvino."),
    ] = "portable",
    dtype: Annotated[
        str,
        typer.Option(metavar="TYPE", help="float32, float16 or bfloat16: weights, activations."),
    ] = "float32",
    preprocess: PreprocessOption = None,
    labels: Labels = None,
    external: Annotated[
        bool, typer.Option("--external", help="Keep the weights in OUT.data (always above 2 GB).")
    ] = False,
    compare: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="IMAGE", help="Report the maps' drift on it; repeatable, folders too."
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="What to compare with. [default: MODEL as it is]"),
    ] = None,
    json: Json = False,
    optimized: Annotated[
        bool,
        typer.Option("--optimized", help="As this machine's onnxruntime runs it: loads sooner."),
    ] = False,
    force: Force = False,
) -> None:
    """Write MODEL with a saliency output per rule: one file, standard operators."""
    from ...export.preprocess import attach, parse
    from ...export.saliency import explain_graph
    from .. import labels as names_of_classes

    if output.exists() and Path(model).exists() and output.samefile(model):
        raise UsageError(f"{output}: the model itself; take another name for the output")
    refuse_existing(output, force)
    if optimized and external:
        raise UsageError("--optimized and --external exclude each other: an optimised file is one")
    if not compare and (json or reference):
        raise UsageError("--json and --reference go with --compare IMAGE")
    record = None if preprocess is None else parse(preprocess)
    names = None if labels is None else names_of_classes.load_labels(labels)
    graph = explain_graph(
        model,
        tuple(rule or RULES),
        of=of or None,
        wrt=wrt or None,
        target_class=target_class,
        cotangent=cotangent,
        reduce=reduce,
        lowering=target,
        dtype=dtype,
    )
    # A tensor that --of names may have channels instead of classes.
    if names is not None and not of and graph.classes not in (None, len(names)):
        raise UsageError(
            f"--labels {labels} names {len(names)} classes; the model has {graph.classes}"
        )
    if record is not None:
        attach(graph.model, record)
    if names is not None and labels is not None:
        text = labels if labels == "imagenet" else jsonlib.dumps(names, ensure_ascii=False)
        graph.model.metadata_props[names_of_classes.KEY] = text
    if not optimized and graph.keeps_data_aside(external):
        refuse_existing(output.with_name(f"{output.name}.data"), force)
    found = None
    if compare:
        # First: where it can't be compared, nothing is written.
        asked = (target_class, cotangent, reduce, of or [], wrt or [])
        found = drift.measured(graph, reference or model, compare, preprocess, asked)
    if optimized:
        from ..optimized import save_optimized

        save_optimized(graph, output)
    else:
        graph.save(output, external=external)
    for note in graph.notes:
        say(note)
    size = output.stat().st_size
    more = ""
    before = Path(model).stat().st_size
    if not external and before:
        more = f", {100 * (size / before - 1):+.1f}% to the model's"
    chosen = f"{graph.of} by {graph.wrt}"
    line = f"{output}: {', '.join(graph.rules)} of {chosen} ({size / 1e6:.1f} MB{more})"
    if found is not None and json:
        print(jsonlib.dumps({"output": str(output), **found.to_dict()}, indent=2))
        return
    print(line)
    if found is not None:
        drift.show(found)
