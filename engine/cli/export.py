"""`backlight export`: a model in, a model with saliency out."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated

import typer

from ... import written
from ...errors import UsageError
from .asking import (
    SAMPLED,
    Baseline,
    ContrastForm,
    Fuse,
    Layer,
    Noise,
    Samples,
    Signed,
    Size,
    Steps,
    asking,
    contrast_class,
)
from .console import show, show_json
from .layers import ModelArgument
from .options import (
    Extra,
    Force,
    Json,
    Labels,
    Methods,
    PreprocessOption,
    Rules,
    Shape,
    inputs_of,
    model_path,
    path_given,
    photo_paths,
    say,
    shapes_of,
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("export")(export)


def export(
    model: ModelArgument,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="OUT", help="The file to write.", parser=path_given),
    ],
    rule: Rules = None,
    method: Methods = None,
    layer: Layer = None,
    fuse: Fuse = False,
    size: Size = "input",
    signed: Signed = False,
    contrast: Annotated[
        str | None,
        typer.Option(
            "--contrast",
            "--versus",
            metavar="C",
            help="Why this class rather than C: input (at run time), second, a class number, or a "
            "name from the labels.",
        ),
    ] = None,
    contrast_form: ContrastForm = "loss",
    samples: Samples = None,
    noise: Noise = None,
    steps: Steps = None,
    baseline: Baseline = None,
    target_class: Annotated[
        str,
        typer.Option(
            metavar="C", help="input (at run time), top1, a number, a name, or all (of cam)."
        ),
    ] = "input",
    of: Annotated[
        list[str] | None,
        typer.Option(
            metavar="T", help="Tensor to explain; T:as-is: not before its Softmax. [class scores]"
        ),
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
    shape: Shape = None,
    preprocess: PreprocessOption = None,
    labels: Labels = None,
    external: Annotated[
        bool, typer.Option("--external", help="Keep the weights in OUT.data (always above 2 GB).")
    ] = False,
    compare: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="IMAGE",
            help="Report the maps' drift on it; repeatable, folders too.",
            parser=path_given,
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="What to compare with. [default: MODEL as it is]"),
    ] = None,
    input_: Extra = None,
    json: Json = False,
    optimized: Annotated[
        bool,
        typer.Option("--optimized", help="As this machine's onnxruntime runs it: loads sooner."),
    ] = False,
    force: Force = False,
) -> None:
    """Write MODEL with a saliency output per method: one file, standard operators."""
    from ...export.combinations import told_from_itself
    from ...export.methods import asked, chosen
    from ...export.preprocess import attach, parse
    from ...export.saliency import explain_graph
    from ...export.sampling import sampled
    from ..classifier import labels as names_of_classes
    from ..classifier.ready import Ready
    from ..photos.outputs import refuse_existing
    from . import drift

    model = model_path(model)
    if output.exists() and Path(model).exists() and output.samefile(model):
        raise UsageError(f"{output}: the model itself; take another name for the output")
    refuse_existing(output, force)
    if external:
        refuse_existing(output.with_name(f"{output.name}.data"), force)
    if optimized and external:
        raise UsageError("--optimized and --external exclude each other: an optimised file is one")
    if not compare and (json or reference or input_):
        raise UsageError("--json, --reference and --input go with --compare IMAGE")
    record = None if preprocess is None else parse(preprocess)
    names = None if labels is None else names_of_classes.load_labels(labels)
    names_asked = asked(rule, method)
    told = asking(
        layer=layer, fuse=fuse, size=size, signed=signed, contrast_form=contrast_form,
        samples=samples, noise=noise, steps=steps, baseline=baseline,
        methods=names_asked, contrast=contrast,
    )  # fmt: skip
    varied = dict(told)
    rival = _rival(contrast, model, names)
    target_class = _class_asked(target_class, model, names)
    if isinstance(rival, int) and str(rival) == target_class:
        raise told_from_itself(contrast, contrast_form == "logit")
    graph = explain_graph(
        model,
        names_asked,
        of=of or None,
        wrt=wrt or None,
        target_class=target_class,
        cotangent=cotangent,
        reduce=reduce,
        lowering=target,
        dtype=dtype,
        shapes=shapes_of(shape),
        contrast=rival,
        preprocess=record,
        sampling=sampled(chosen(names_asked), **{key: told.pop(key) for key in SAMPLED}),
        **told,
    )
    given = inputs_of(input_)
    if graph.input in given:
        raise UsageError(
            f"--input {graph.input}: the maps are of this one; --wrt names another image"
        )
    # A tensor that --of names may have channels instead of classes.
    if labels is not None and not of:
        found_names = names_of_classes.load_labels(labels, graph.classes)
        names = names_of_classes.fitting(found_names, graph.classes, f"--labels {labels}")
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
        against = model if reference is None else model_path(reference)
        ready = Ready(against, shapes_of(shape), given)
        photos = [Path(p) for p in photo_paths([str(p) for p in compare])]
        settings = (target_class, cotangent, reduce, of or [], wrt or [])
        found = drift.measured(
            graph, ready, photos, preprocess, settings, varied | {"contrast": rival}
        )
    if optimized:
        from ..direct.optimized import save_optimized

        save_optimized(graph, output)
    else:
        graph.save(output, external=external)
    for note in graph.notes:
        say(note)
    written = output.stat().st_size
    more = ""
    before = Path(model).stat().st_size
    if not external and before:
        more = f", {100 * (written / before - 1):+.1f}% to the model's"
    what = f"{graph.of} by {graph.wrt}"
    for kept in graph.layers:
        say(f"class activation maps are of '{kept.name}': {kept.reason}")
    line = f"{output}: {', '.join(graph.methods)} of {what} ({written / 1e6:.1f} MB{more})"
    if found is not None and json:
        show_json({"output": str(output), **found.to_dict()})
        return
    show(line)
    if found is not None:
        drift.show(found)


def _rival(given: str | None, model: str, labels: list[str] | None) -> str | int | None:
    """--contrast as explain_graph takes it: a name becomes the class's number."""
    if given is None or given in ("input", "second"):
        return given
    found = contrast_class(given, _named(given, model, labels))
    return "second" if found == -1 else found


def _class_asked(given: str, model: str, labels: list[str] | None) -> str:
    """--target-class with a name as its number."""
    from ..classifier.labels import class_number

    if given in ("input", "top1", "all") or written.whole(given) is not None:
        return given
    return str(class_number(given, _named(given, model, labels), ("input", "top1")))


def _named(given: str, model: str, labels: list[str] | None) -> list[str] | None:
    """The names that a class may be given by: of --labels, else the model's own."""
    from ...export.graph import read
    from ..classifier.labels import of_model

    if labels is not None or written.whole(given) is not None:
        return labels
    return of_model(dict(read(model)[0].metadata_props), model, None)
