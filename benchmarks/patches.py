"""Top patches against the bare forward pass, and what keeping the strongest costs.

    python -m benchmarks.patches [--pictures 256] [--batch 16] [--runs 5] [--json FILE]

As `benchmarks.embed`: the same pictures, the same network with random weights, the forward pass on
batches that lie decoded in memory, runs in turn. Each pass reads the files, decodes, resizes, runs
up to the layer and keeps the nine strongest activations of all its channels; the forward pass goes
on to the class scores. What a pass takes over a single picture (reading and compiling the model,
receptive fields) is its set-up: it is taken off, as the forward pass has it behind it too. The
merge's share is its time within the pass, in the pass's own thread.
Bounds: 95 % of the forward pass; 2 % for the merge.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backlight.engine.inside.patches import patches
from backlight.engine.inside.taps import Taps, layers
from backlight.engine.photos import images
from backlight.engine.runtime.session import Session
from backlight.export.preprocess import PRESETS
from backlight.kernels.streams.topk import TopK
from backlight.lanes import cores

from .pictures import alternate, made_pictures, options, reporting

BOUND, MERGE = 0.95, 0.02


def chosen_layers(model: Path) -> dict[str, list[str]]:
    """The last map of the network, one from its middle, and both with another in one pass."""
    maps = [x.name for x in layers(model) if x.op == "Relu" and x.field.is_spatial]
    middle, last = maps[len(maps) // 2], maps[-1]
    return {"last": [last], "middle": [middle], "three layers": [maps[2], middle, last]}


class Merging:
    """TopK.merge with a clock around it."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._merge = TopK.merge

    def __enter__(self) -> Merging:
        def timed(top: TopK, maps: NDArray[Any], index: NDArray[np.int64]) -> None:
            start = time.perf_counter()
            self._merge(top, maps, index)
            self.seconds += time.perf_counter() - start

        TopK.merge = timed  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        TopK.merge = self._merge  # type: ignore[method-assign]


def measured(folder: Path, model: Path, count: int, batch: int, runs: int) -> dict[str, Any]:
    """Images per second of each pass against the forward pass, and the merge's share."""
    (folder / "pictures").mkdir()
    pictures = made_pictures(folder / "pictures", count)
    bare = Session(model, "cpu", cores())
    (source,) = bare.inputs
    asked = chosen_layers(model)
    taps = Taps(model, asked["last"], providers="cpu")
    record = images.fitted(taps.preprocess or PRESETS["imagenet-torch"], taps.input)
    first = sorted(pictures.iterdir())[:batch]
    x = np.stack([images.prepare(images.decode(f), record, taps.input).tensor for f in first])

    def forward() -> None:
        for _ in range(count // batch):
            bare.run({source.name: x})

    merging = {name: [0.0] for name in asked}

    def looking(name: str, given: Path, seen: list[float]) -> Callable[[], object]:
        def run() -> None:
            with Merging() as clock:
                patches(model, given, asked[name], preprocess=record, batch=batch,
                        providers="cpu")  # fmt: skip
            seen.append(clock.seconds)

        return run

    tasks: dict[str, Callable[[], object]] = {"forward": forward}
    for name in asked:
        tasks[name] = looking(name, pictures, merging[name])
        tasks[f"{name}, set-up"] = looking(name, first[0], [])
    seen = alternate(tasks, runs)
    rows = []
    for name, names in asked.items():
        setup = statistics.median(seen[f"{name}, set-up"])
        passes = [took - setup for took in seen[name]]
        ratios = [f / p for f, p in zip(seen["forward"], passes, strict=True)]
        shares = [m / p for m, p in zip(merging[name][-runs:], passes, strict=True)]
        rows.append(
            {
                "layers": names,
                "images/s": count / statistics.median(passes),
                "set-up s": setup,
                "patches / forward": statistics.median(ratios),
                "spread": [min(ratios), max(ratios)],
                "merge share": statistics.median(shares),
            }
        )
    return {
        "model": model.stem,
        "pictures": count,
        "batch": batch,
        "forward images/s": count / statistics.median(seen["forward"]),
        "rows": rows,
        "seconds": seen,
    }


def main() -> None:
    given = options(__doc__).parse_args()
    with reporting(given) as (folder, model, report):
        found = measured(folder, model, given.pictures, given.batch, given.runs)
        report["patches"] = found
    print(f"\n{found['model']}, batch {found['batch']}: forward {found['forward images/s']:.1f} "
          f"images/s; bounds: ratio {BOUND}, merge {100 * MERGE:.0f} %")  # fmt: skip
    for row in found["rows"]:
        low, high = row["spread"]
        print(
            f"{row['images/s']:7.1f} images/s, ratio {row['patches / forward']:.3f} "
            f"({low:.3f} to {high:.3f}), merge {100 * row['merge share']:.1f} %, "
            f"set-up {row['set-up s']:.2f} s: "
            f"{', '.join(row['layers'])}"
        )


if __name__ == "__main__":
    main()
