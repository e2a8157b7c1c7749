"""`backlight map`: a store's pictures laid out in the plane by what the model sees in them."""

from __future__ import annotations

import json as jsonlib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...errors import UsageError
from .console import show, show_json
from .layers import Html, Pictures, opened_store, results_in
from .options import Force, Json, OutputDir, at_least, path_given, renamed, say, say_renamed
from .photos import SUMMARY, summarised

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..photos.images import Pixels
    from ..similar.maps import Map
    from ..similar.store import Embeddings


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("map")(map_)


def map_(
    store: Annotated[
        Path,
        typer.Argument(metavar="STORE", help="What 'backlight embed' wrote.", parser=path_given),
    ],
    output: OutputDir = Path("map"),
    layout: Annotated[
        str | None, typer.Option(metavar="HOW", help="tsne, umap or pca. [tsne]")
    ] = None,
    method: Annotated[str | None, typer.Option("--method", hidden=True)] = None,
    perplexity: Annotated[
        float | None,
        typer.Option(metavar="P", help="Of t-SNE. [default: 30, or what few pictures allow]"),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="The same seed, the same map. [default: 0]")
    ] = None,
    components: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Principal components kept before t-SNE or UMAP. [default: 50]"
        ),
    ] = None,
    onto: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="A map that is there: STORE's new pictures join it.",
            parser=path_given,
        ),
    ] = None,
    pictures: Pictures = None,
    limit: Annotated[
        int, typer.Option(metavar="N", help="Pictures on the picture map and the page, at most.")
    ] = 2000,
    threads: Annotated[
        int,
        typer.Option(
            metavar="N", help="Threads that compute, in all; above 1, a seed fixes no map."
        ),
    ] = 1,
    html: Html = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Write a scatter with labels, a map of pictures on a grid, and the points.

    In DIR: scatter.png, pictures.png, map.json (each picture's place), map.npz (what --onto reads).
    --html adds map.html: pan, zoom, and the picture under the pointer.
    """
    from ..similar import maps

    for option, number in (("--limit", limit), ("--threads", threads)):
        at_least(option, number)
    how = renamed("--layout", layout, "--method", method, maps.METHODS)
    laying = (("--perplexity", perplexity), ("--seed", seed), ("--components", components))
    for option, value in laying:
        if value is None:
            continue
        if onto is not None:
            raise UsageError(f"{option} with --onto: a map that is there stays as it was laid out")
        if how == "pca" or (how == "umap" and option == "--perplexity"):
            raise UsageError(f"{option} {value:g} with --layout {how}, which has none")
    held = opened_store(store, pictures)
    names = [SUMMARY, "scatter.png", "pictures.png", "map.json", "map.npz"]
    # Before the work, and with it what would be overwritten.
    with results_in(output, [*names, *(["map.html"] if html else [])], force) as folder:
        if onto is not None:
            made = _joined(held, onto, how)
        else:
            laid = maps.project(
                held.vectors, how, perplexity=perplexity, seed=seed or 0,
                components=50 if components is None else components, threads=threads,
            )  # fmt: skip
            made = _Made(laid, held.paths, held.labels, [False] * len(held))
        _write(folder, made, held, limit, html)
        new = sum(made.new)
        about = {
            "store": str(store),
            "output": str(output),
            "pictures": len(made.paths),
            "new": new,
            "layout": asdict(made.map.layout),
            "places": "map.json",
        }
        laid_out = asdict(made.map.layout)
        summary = summarised("map", folder, laid_out | about, read=len(made.paths))
    if json:
        show_json(summary)
    else:
        joined = f", {new} of them new" if onto is not None else ""
        show(f"{len(made.paths)} pictures{joined}: {made.map.layout} -> {output}/")
    say_renamed("--layout", "--method", method)


class _Made:
    """A map with its pictures."""

    def __init__(
        self, laid: Map, paths: list[str], labels: list[str | None], new: list[bool]
    ) -> None:
        self.map, self.paths, self.labels, self.new = laid, paths, labels, new


def _joined(held: Embeddings, onto: Path, method: str) -> _Made:
    """The map in a folder, with the store's pictures that it lacks."""
    import numpy as np

    from ..similar import maps

    there = maps.Map.load(onto / "map.npz")
    if method not in ("tsne", there.layout.method):
        raise UsageError(f"--layout {method} --onto {onto}: that map is of {there.layout.method}")
    try:
        file = onto / "map.json"
        if not file.is_file():
            raise ValueError("no file")
        said = jsonlib.loads(file.read_text(encoding="utf-8"))
        source = dict(said["source"])
        paths = [p["file"] for p in said["pictures"]]
        labels = [p["label"] for p in said["pictures"]]
        if not all(isinstance(p, str) for p in paths) or not all(
            isinstance(label, (str, type(None))) for label in labels
        ):
            raise ValueError("files and labels that are no text")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as err:
        raise UsageError(f"{onto}/map.json: not what 'backlight map' wrote: {err}") from err
    for what in ("hash", "tensor", "preprocess"):
        if source.get(what) != getattr(held.source, what):
            raise UsageError(
                f"{onto}: a map of vectors with another {what} than those of {held.path}"
            )
    if len(paths) != len(there.points):
        raise UsageError(f"{onto}: map.json and map.npz are not of the same map")
    known = set(paths)
    rows = np.array([i for i, p in enumerate(held.paths) if p not in known], np.int64)
    joined = there.joined(held.vectors[rows])
    if not len(rows):
        say(f"{onto} has all pictures of {held.path}: nothing joins it")
    return _Made(
        joined,
        paths + [held.paths[i] for i in rows],
        labels + [held.labels[i] for i in rows],
        [False] * len(paths) + [True] * len(rows),
    )


def _write(folder: Any, made: _Made, held: Embeddings, limit: int, html: bool) -> None:
    import numpy as np

    from ..similar import atlas, mappage
    from ..similar.snap import snap

    points, new = made.map.points, np.array(made.new)
    source = held.source
    model = Path(source.model).stem or "the model"
    pooling = f" ({source.pooling})" if source.pooling else ""
    heading = f"{len(points)} pictures by '{source.tensor}' of {model}"
    detail = f"'{source.tensor}'{pooling}: {made.map.layout}"
    scatter = atlas.scatter(points, made.labels, heading, detail, new, made.paths)
    folder.picture("scatter.png", scatter)
    kept = _kept(len(points), new, limit)
    cells, grid = snap(points[kept], 1.4)
    side = 48 if len(kept) <= 3000 else 32
    larger = max(side, 128 if len(kept) <= 1000 else 64) if html else side
    thumbs = _thumbs(made, held, kept, larger)
    some = f" {len(kept)} of them, chosen at random." if len(kept) < len(points) else ""
    placed = f"{detail}; each picture in a cell of a grid near its place.{some}"
    folder.picture(
        "pictures.png",
        atlas.picture_map([atlas.shrunk(t, side) for t in thumbs], cells, grid, heading, placed),
    )
    if html:
        page = mappage.map_page(
            heading, f"{detail}.{some}", points[kept], cells, grid,
            [made.paths[i] for i in kept], [made.labels[i] for i in kept], thumbs, new[kept],
            atlas.Colors(made.labels),  # as in the scatter
        )  # fmt: skip
        folder.data("map.html", page)
    cell_of = dict(zip(kept.tolist(), cells.tolist(), strict=True))
    folder.data("map.npz", made.map.to_bytes())
    folder.json(
        "map.json",
        {
            "layout": asdict(made.map.layout),
            "source": asdict(source),
            "grid": list(grid),
            "pictures": [
                {
                    "file": path,
                    "label": label,
                    "x": round(float(points[i, 0]), 5),
                    "y": round(float(points[i, 1]), 5),
                    "cell": cell_of.get(i),
                    "new": made.new[i],
                }
                for i, (path, label) in enumerate(zip(made.paths, made.labels, strict=True))
            ],
        },
    )


def _kept(count: int, new: NDArray[np.bool_], limit: int) -> NDArray[np.int64]:
    """Which pictures are shown: all, or as many as the limit, the new ones first."""
    import numpy as np

    order = np.random.default_rng(0).permutation(count)
    order = order[np.argsort(~new[order], kind="stable")]
    return np.sort(order[:limit])


def _thumbs(made: _Made, held: Embeddings, kept: NDArray[np.int64], side: int) -> list[Pixels]:
    from ..similar import atlas
    from .progress import track

    rows = {path: row for row, path in enumerate(held.paths)}
    paths = [made.paths[i] for i in kept]

    def stored(index: int) -> Pixels | None:
        row = rows.get(paths[index])
        return None if row is None else held.pixels[row]

    with track(len(paths), "reading pictures") as step:
        return atlas.thumbnails([held.picture(p) for p in paths], side, stored, step.advance)
