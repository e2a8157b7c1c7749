"""`backlight graph`: which parts a network has learned, and how they hang together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...errors import UsageError
from .console import show, show_json
from .layers import (
    Layers,
    List,
    ModelArgument,
    drop_older,
    file_name,
    listed,
    numbers,
    print_layers,
    results_in,
    write_page,
)
from .options import (
    Batch,
    Extra,
    Force,
    Json,
    OutputDir,
    PreprocessOption,
    Provider,
    Shape,
    Threads,
    at_least,
    inputs_of,
    model_path,
    photo_paths,
    preprocess_of,
    say,
    shapes_of,
)
from .photos import SUMMARY, report_skipped, some_files, summarised

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from PIL import Image

    from ..inside.explanatory import ExplanatoryGraph
    from ..inside.partgraph import PartGraph
    from ..photos.outputs import OutputFolder

STATE = ".graph-state"
PATTERNS = "patterns"
FILES = ("graph.graphml", "graph.json", "graph.png")
K = 9


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("graph")(graph)


def graph(
    model: ModelArgument,
    folder: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FOLDER…", help="Photos, best of one class. [default: bundled photos]"
        ),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option("--layers", metavar="A,B,C", help="Tensors or nodes by name, in any order."),
    ] = None,
    layer: Layers = None,
    output: OutputDir = Path("graph"),
    filters: Annotated[
        str | None,
        typer.Option("--filters", metavar="LIST", help="Such as 0-15,40. [the strongest]"),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", metavar="N", help="So many of the strongest, a layer. [20]"),
    ] = None,
    density: Annotated[
        float | None,
        typer.Option(metavar="D", help="Patterns to start with, per position. [0.05 or 0.1]"),
    ] = None,
    parents: Annotated[int, typer.Option(metavar="M", help="Of a pattern, at most.")] = 15,
    candidates: Annotated[int, typer.Option(metavar="N", help="To choose them from.")] = 600,
    iterations: Annotated[int, typer.Option(metavar="N", help="Of EM, a layer.")] = 20,
    tau: Annotated[
        float, typer.Option(metavar="T", help="The density of what no pattern explains.")
    ] = 0.1,
    k: Annotated[
        int | None, typer.Option("-k", metavar="K", help="Patches of a pattern. [9, or all photos]")
    ] = None,
    preprocess: PreprocessOption = None,
    provider: Provider = None,
    threads: Threads = None,
    batch: Batch = 8,
    shape: Shape = None,
    input_: Extra = None,
    list_: List = False,
    html: Annotated[
        bool, typer.Option("--html/--no-html", help="One page to walk the graph.")
    ] = True,
    force: Force = False,
    json: Json = False,
) -> None:
    """Find the parts that filters have learned, and link them over layers (Zhang et al. 2018).

    Every filter's maps over the photos become part patterns, each linked to those of the layer
    above that it moves with. In DIR: graph.graphml, graph.json, graph.png, a picture per pattern
    in patterns/, and graph.html, which links them. Killed, it goes on when started again with the
    same arguments.
    """
    from ..classifier.ready import Ready
    from ..inside.explanatory import FILTERS, ExplanatoryGraph
    from ..inside.partgraph import networkx

    path = model_path(model)
    if list_:
        print_layers(listed(path, preprocess, shape), json)
        return
    wanted = _wanted(layers, layer)
    chosen = numbers(filters, "--filters")
    if chosen is not None and limit is not None:
        raise UsageError("--limit and --filters exclude each other: --filters names them all")
    if limit is not None:
        at_least("--limit", limit)
    networkx()
    photos = photo_paths(folder)
    files = some_files(folder)[0]
    if k is not None and not 1 <= k <= len(files):
        raise UsageError(f"-k {k}: the set has {len(files)} photos; expected 1 to {len(files)}")
    names = [SUMMARY, *FILES, *(["graph.html"] if html else [])]
    killed = (output / STATE).exists() and not force
    with results_in(output, [*names, PATTERNS], force or killed) as results:
        state = results.path / STATE
        if force:
            _forgotten(state)
        ready = Ready(path, shapes_of(shape), inputs_of(input_))
        record, assumed = preprocess_of(ready, preprocess)
        if assumed is not None:
            say(assumed)
        made = ExplanatoryGraph(
            ready, wanted, filters=chosen if chosen is not None else limit or FILTERS,
            density=density, parents=parents, candidates=candidates, iterations=iterations,
            tau=tau, preprocess=record, providers=provider or None, threads=threads, batch=batch,
        )  # fmt: skip
        found = _found(made, photos, state)
        notes = [*([] if assumed is None else [assumed]), *made.notes, *found.notes]
        for note in notes[assumed is not None :]:
            say(note)
        about = _written(found, results, k or K, html, json)
        summary = summarised(
            "graph", results,
            {"model": path, **about, "preprocess": found.about()["preprocess"],
             "providers": made.providers},
            notes=notes, read=len(found.files), skipped=found.skipped,
        )  # fmt: skip
        _forgotten(state)
    if json:
        show_json(summary)
    report_skipped([bad.error for bad in found.skipped], len(found.files))


def _wanted(layers: str | None, layer: Sequence[str] | None) -> list[str]:
    """--layers A,B,C, and --layer for names with a comma in them. Raises UsageError."""
    named = [] if layers is None else [name.strip() for name in layers.split(",")]
    if not all(named):
        raise UsageError(f"--layers '{layers}': an empty name in it; expected A,B,C")
    named += layer or []
    if not named:
        raise UsageError("no layer given; --layers A,B,C, and --list shows the names")
    return list(dict.fromkeys(named))


def _found(made: ExplanatoryGraph, photos: Sequence[str], state: Path) -> PartGraph:
    from .progress import track

    with track(1 << 30, "looking") as step:
        found = made(photos, state=state, progress=step.reach)
    if found.resumed:
        say(f"went on from photo {found.resumed}, where a pass was stopped")
    return found


def _written(
    found: PartGraph, results: OutputFolder, k: int, html: bool, quiet: bool
) -> dict[str, Any]:
    """All files but the summary; what it says of them."""
    from ..inside.partpictures import Gallery, page_of
    from .progress import track

    pictures = _names(found)
    (results.path / PATTERNS).mkdir(exist_ok=True)
    drop_older(results, "graph.json", list(pictures.values()))
    gallery = Gallery(found, k)
    told = found.as_dict()
    for node in told["nodes"]:
        node["picture"] = pictures[node["id"]]
    results.json("graph.json", told)
    results.data("graph.graphml", found.graphml())
    results.picture("graph.png", gallery.overview())
    with track(len(found), "drawing") as step:

        def drawn() -> Iterator[tuple[int, int, Image.Image]]:
            for depth, at in _walk(found):
                sheet = gallery.picture(depth, at)
                results.picture(pictures[found.key(depth, at)], sheet)
                step.advance()
                yield depth, at, sheet

        if html:
            write_page(results, "graph.html", page_of(found, gallery, drawn()))
        else:
            for _ in drawn():
                pass
    about = found.about()
    for layer in () if quiet else about["layers"]:
        show(f"{layer['name']}: {layer['patterns']} patterns of {len(layer['filters'])} filters")
    if not quiet:
        few = f" ({found.few})" if found.few else ""
        show(f"{len(found)} patterns{few} -> {results.path}/")
    return {
        "settings": about["settings"],
        "layers": about["layers"],
        "patterns": len(found),
        "edges": len(told["edges"]),
        "pictures": pictures,
    }


def _walk(found: PartGraph) -> Iterator[tuple[int, int]]:
    for depth, layer in enumerate(found.layers):
        for at in layer.order.tolist():
            yield depth, at


def _names(found: PartGraph) -> dict[str, str]:
    """A file for each pattern, by its key."""
    from ..photos.outputs import numbered

    keys, names = [], []
    for depth, at in _walk(found):
        layer = found.layers[depth]
        keys.append(found.key(depth, at))
        names.append(f"{file_name(layer.name)}-{int(layer.fitted.filter[at])}-{layer.number(at)}")
    return {k: f"{PATTERNS}/{n}.png" for k, n in zip(keys, numbered(names), strict=True)}


def _forgotten(state: Path) -> None:
    """Remove what a pass keeps while it runs."""
    from ..photos.rows import RowStore

    RowStore(state, {}, {}).remove()
