"""A map as one HTML page that pans, zooms and shows the picture under the pointer."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Sequence
from pathlib import Path
from string import Template

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...errors import cleaned
from ..photos.images import Pixels
from ..photos.plain import escaped
from .atlas import Colors

__all__ = ["map_page"]

_TEMPLATE = Path(__file__).parent.parent / "assets" / "map.html"
# Thumbnails to a side of a sheet: browsers take pictures of 4096 pixels everywhere.
_SHEET = 4096


def map_page(
    title: str,
    lead: str,
    points: NDArray[np.float64],
    cells: NDArray[np.int64],
    grid: tuple[int, int],
    paths: Sequence[str],
    labels: Sequence[str | None],
    thumbs: Sequence[Pixels],
    new: NDArray[np.bool_],
    colors: Colors | None = None,
) -> bytes:
    """The page, with everything inside; it asks the network for nothing.

    points [N, 2], y upwards. cells [N, 2]: (row, column) of the grid of size (rows, columns).
    thumbs: N squares of the same side. colors: of a larger map that this is a part of; None:
    the labels' own.
    """
    colors = Colors(labels) if colors is None else colors
    legend = [str(name) for name in colors]
    rest = "other labels" if colors.rest else "no label" if legend else ""
    number = {name: index for index, name in enumerate(colors)}
    index = [number.get(label or "", len(legend)) for label in labels]
    counts = [index.count(i) for i in range(len(legend) + 1)]
    shown = [*legend, rest] if counts[-1] else legend
    low, high = points.min(axis=0), points.max(axis=0)
    span = float((high - low).max()) or 1.0
    unit = (points - (low + high) / 2) / span * np.array([1, -1]) + 0.5
    side = thumbs[0].shape[0]
    columns = min(_SHEET // side, int(np.ceil(np.sqrt(len(thumbs)))))
    data = {
        "title": title,
        "lead": lead,
        "points": [round(float(v), 5) for v in unit.reshape(-1)],
        "cells": cells[:, ::-1].reshape(-1).tolist(),
        "grid": list(grid),
        "names": _short(paths),
        "labels": index,
        # What the grey ones are called: the legend has them together.
        "rest": {i: str(labels[i]) for i, at in enumerate(index)
                 if at == len(legend) and labels[i] is not None},
        "legend": shown,
        "counts": counts,
        "colors": ["#{:02x}{:02x}{:02x}".format(*colors.of(n)) for n in [*colors, None]],
        "fresh": new.astype(int).tolist(),
        "side": side,
        "columns": columns,
        "sheets": [_sheet(thumbs[at : at + columns**2], columns)
                   for at in range(0, len(thumbs), columns**2)],
    }  # fmt: skip
    # In a script element only "<" could end it.
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    text = escaped(text).replace("<", "\\u003c")
    page = Template(_TEMPLATE.read_text(encoding="utf-8"))
    # safe_substitute leaves the script's own ${…} alone.
    return page.safe_substitute(title=html.escape(cleaned(title)), data=text).encode(
        "utf-8", "backslashreplace"
    )


def _short(paths: Sequence[str]) -> list[str]:
    """Paths from the folder that they share."""
    folders = [Path(p).parent.parts for p in paths]
    shared = 0
    for parts in zip(*folders, strict=False):
        if len(set(parts)) > 1:
            break
        shared += 1
    return [Path(*Path(p).parts[shared:]).as_posix() for p in paths]


def _sheet(thumbs: Sequence[Pixels], columns: int) -> str:
    """Thumbnails as one JPEG, as a data URI."""
    side = thumbs[0].shape[0]
    rows = -(-len(thumbs) // columns)
    sheet = Image.new("RGB", (columns * side, rows * side), (255, 255, 255))
    for number, thumb in enumerate(thumbs):
        row, column = divmod(number, columns)
        sheet.paste(Image.fromarray(thumb), (column * side, row * side))
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
