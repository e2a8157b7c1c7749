"""What an explanatory graph is: patterns, where they are in the photos, and their parents."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...errors import ImageError, UsageError
from ...export.preprocess import Preprocess
from ...export.receptive import ReceptiveField
from ..photos import images
from ..photos.outputs import finite
from ..photos.stream import Skipped
from .parts import Fitted, Settings

__all__ = ["PartGraph", "PartLayer", "networkx"]

# Strong enough in a photo to be counted as there.
PRESENT = 0.3
FEW = 10


def networkx() -> Any:
    """The module networkx. Raises UsageError, saying how to install it."""
    try:
        return importlib.import_module("networkx")
    except ImportError as err:
        raise UsageError("networkx is not installed; pip install 'backlight[graph]'") from err


@dataclass(frozen=True)
class PartLayer:
    """One layer's patterns. filters: the numbers of those that were looked at. sides: of its maps.
    fitted: see `Fitted`; its places are in the map, `places` gives pixels."""

    name: str
    field: ReceptiveField
    filters: NDArray[np.int64]
    sides: tuple[int, int]
    fitted: Fitted

    def __len__(self) -> int:
        return len(self.fitted)

    @property
    def order(self) -> NDArray[np.int64]:
        """The patterns, those that are strongest over the photos first."""
        strength = self.fitted.score.mean(axis=0)
        return np.argsort(-strength, kind="stable").astype(np.int64)

    def places(self, where: NDArray[np.float64]) -> NDArray[np.float64]:
        """Places in the map [..., 2] as pixels (y, x) of the image as the model sees it."""
        found = np.empty_like(where)
        jump = self.field.jump
        longest = max(self.sides)
        for axis in (0, 1):
            at = where[..., axis] * longest - 0.5  # in units
            if jump is not None and jump[axis] > 0 and not self.field.is_whole:
                middle = self.field.offset[axis] + (self.field.size[axis] - 1) / 2
                found[..., axis] = middle + at * jump[axis]
            else:
                found[..., axis] = (at + 0.5) * self.field.image[axis] / self.sides[axis] - 0.5
        return found

    @property
    def pixels(self) -> float:
        """Pixels to a unit of the map's longer side."""
        across = self.places(np.array([[0.0, 0.0], [0.0, 1.0]]))
        return float(across[1, 1] - across[0, 1])

    def present(self, at: int) -> float:
        """In what share of the photos a pattern is there."""
        return float((self.fitted.score[:, at] >= PRESENT).mean())

    def number(self, at: int) -> int:
        """The place of a pattern among its filter's."""
        return int((self.fitted.filter[:at] == self.fitted.filter[at]).sum())


@dataclass(frozen=True)
class PartGraph:
    """Patterns of filters over layers, the topmost layer first.

    files: the photos, N of them, in the order of `layers[i].fitted.position`. skipped: those that
    couldn't be read. resumed: how many an earlier, stopped pass had done.
    """

    model: str
    layers: tuple[PartLayer, ...]
    files: tuple[Path, ...]
    skipped: tuple[Skipped, ...]
    preprocess: Preprocess
    spec: images.InputSpec = field(repr=False)
    settings: Settings
    notes: tuple[str, ...] = ()
    resumed: int = 0

    def __len__(self) -> int:
        return sum(map(len, self.layers))

    @property
    def few(self) -> str:
        """What is to be said of a set in which anything moves together; else nothing."""
        if len(self.files) >= FEW:
            return ""
        count = "1 photo tells" if len(self.files) == 1 else f"{len(self.files)} photos tell"
        return f"{count} little of what belongs together; take 20 or more"

    def layer(self, name: str) -> PartLayer:
        """A layer by name. Raises UsageError for one that isn't in the graph."""
        found = next((one for one in self.layers if one.name == name), None)
        if found is None:
            there = ", ".join(one.name for one in self.layers)
            raise UsageError(f"layer '{name}' isn't in the graph; there is {there}")
        return found

    def key(self, layer: int, at: int) -> str:
        """What a pattern is called in the graph's files: layer/filter/number."""
        held = self.layers[layer]
        return f"{held.name}/{int(held.fitted.filter[at])}/{held.number(at)}"

    def nodes(self) -> Iterator[dict[str, Any]]:
        """Every pattern: id, where it is on average in pixels (y, x), how far from where its
        parents expect it (`deviation`) and over all photos (`spread`), how strong it is on
        average, and in what share of the photos it is there."""
        for depth, layer in enumerate(self.layers):
            fitted, scale = layer.fitted, layer.pixels
            middle = layer.places(fitted.average)
            for at in range(len(layer)):
                weight = fitted.score[:, at] / max(fitted.score[:, at].sum(), 1e-12)
                away = fitted.position[:, at] - fitted.average[at]
                spread = float(np.sqrt((weight[:, None] * away**2).sum() / 2)) * scale
                yield {
                    "id": self.key(depth, at),
                    "layer": layer.name,
                    "filter": int(fitted.filter[at]),
                    "number": layer.number(at),
                    "depth": depth,
                    "y": finite(float(middle[at, 0]), 2),
                    "x": finite(float(middle[at, 1]), 2),
                    "deviation": finite(float(fitted.deviation[at]) * scale, 2),
                    "spread": finite(spread, 2),
                    "share": finite(float(fitted.share[at]), 4),
                    "score": finite(float(fitted.score[:, at].mean()), 4),
                    "present": finite(layer.present(at), 4),
                }

    def edges(self) -> Iterator[dict[str, Any]]:
        """Every link, from the parent (`source`) to the part: where the part is seen from the
        parent, and the deviation of that, in pixels."""
        for depth, layer in enumerate(self.layers[1:], 1):
            scale = layer.pixels
            fitted = layer.fitted
            for at in range(len(layer)):
                for rank, parent in enumerate(fitted.parents[at].tolist()):
                    if parent < 0:
                        continue
                    dy, dx = (fitted.offset[at, rank] * scale).tolist()
                    yield {
                        "source": self.key(depth - 1, parent),
                        "target": self.key(depth, at),
                        "rank": rank,
                        "dy": finite(dy, 2),
                        "dx": finite(dx, 2),
                        "deviation": finite(float(fitted.residual[at, rank]) * scale, 2),
                    }

    def as_dict(self) -> dict[str, Any]:
        """The graph for JSON, as networkx reads it: `node_link_graph(d, edges="edges")`."""
        nodes = list(self.nodes())
        rows: list[dict[str, Any]] = []
        at = 0
        for layer in self.layers:
            for place in range(len(layer)):
                rows.append(nodes[at] | {"top": self._top(layer, place)})
                at += 1
        return {
            "directed": True,
            "multigraph": False,
            "graph": self.about(),
            "nodes": rows,
            "edges": list(self.edges()),
        }

    def _top(self, layer: PartLayer, at: int, most: int = 9) -> list[dict[str, Any]]:
        best = np.argsort(-layer.fitted.score[:, at], kind="stable")[:most]
        where = layer.places(layer.fitted.position[best, at])
        return [
            {
                "file": str(self.files[int(i)]),
                "score": finite(float(layer.fitted.score[i, at]), 4),
                "y": finite(float(y), 1),
                "x": finite(float(x), 1),
            }
            for i, (y, x) in zip(best, where, strict=True)
            if layer.fitted.score[i, at] > 0
        ]

    def about(self) -> dict[str, Any]:
        """What the graph was made of, and how."""
        return {
            "model": self.model,
            "photos": len(self.files),
            "preprocess": json.loads(self.preprocess.to_json()),
            "settings": asdict(self.settings),
            "unit": "pixels of the image as the model sees it",
            "layers": [
                {
                    "name": layer.name,
                    "filters": layer.filters.tolist(),
                    "map": list(layer.sides),
                    "patterns": len(layer),
                }
                for layer in self.layers
            ],
        }

    def networkx(self) -> Any:
        """A networkx.DiGraph, an edge from a parent to its part. Raises UsageError without
        networkx."""
        graph = networkx().DiGraph(model=_xml(self.model), photos=len(self.files))
        for node in self.nodes():
            graph.add_node(_xml(node["id"]), **{k: _plain(v) for k, v in node.items() if k != "id"})
        for edge in self.edges():
            told = {k: _plain(v) for k, v in edge.items() if k not in ("source", "target")}
            graph.add_edge(_xml(edge["source"]), _xml(edge["target"]), **told)
        return graph

    def graphml(self) -> bytes:
        """The graph as GraphML, which Gephi, yEd and networkx read. Raises UsageError without
        networkx."""
        lines = networkx().generate_graphml(self.networkx(), named_key_ids=True)
        head = '<?xml version="1.0" encoding="utf-8"?>\n'
        return (head + "\n".join(lines) + "\n").encode("utf-8", "backslashreplace")

    def photo(self, at: int) -> images.Pixels | None:
        """A photo as the model sees it, by its place in `files`; None where it has become
        unreadable since."""
        try:
            return images.read(self.files[at], self.preprocess, self.spec).pixels
        except ImageError:
            return None

    def picture(self, layer: str, at: int, *, k: int = 9) -> Image.Image:
        """A pattern's picture: its top patches, its spread, its parents. at: its place in the
        layer. Raises UsageError."""
        from .partpictures import Gallery

        names = [one.name for one in self.layers]
        held = self.layer(layer)
        if not 0 <= at < len(held):
            raise UsageError(f"pattern {at} is out of range; '{layer}' has 0 to {len(held) - 1}")
        return Gallery(self, k).picture(names.index(layer), at)


def _plain(value: Any) -> Any:
    """What GraphML has a type for."""
    if value is None:
        return float("nan")
    return _xml(value) if isinstance(value, str) else value


# XML has no control characters, and no half of a pair.
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def _xml(text: str) -> str:
    return _NOT_XML.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
