"""Embedding against the bare forward pass, and neighbours against faiss's flat index.

    python -m benchmarks.embed [--pictures 256] [--batch 16] [--runs 5] [--json FILE]

The pictures are JPEG files of 500 x 375, cut from the bundled photos. The forward pass is one
session with a thread per core, on batches that lie decoded in memory; embedding reads the files,
decodes, resizes, runs and writes the store. The model is PyTorch's ResNet-18 with random weights
(or --model FILE). Runs alternate. Bounds: 95 % of the forward pass; 1.2 x faiss.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from backlight.engine.photos import images
from backlight.engine.runtime.session import Session
from backlight.engine.similar.embed import Embedder, embed
from backlight.engine.similar.neighbors import Index
from backlight.export.preprocess import PRESETS
from backlight.lanes import cores

from .pictures import alternate, made_pictures, options, reporting


def throughput(folder: Path, model: Path, count: int, batch: int, runs: int) -> dict[str, Any]:
    """Images per second, decoding included, against the forward pass on the same batches."""
    (folder / "pictures").mkdir()
    pictures = made_pictures(folder / "pictures", count)
    embedder = Embedder(model, providers="cpu")
    bare = Session(model, "cpu", cores())
    (source,) = bare.inputs
    record = images.fitted(embedder.preprocess or PRESETS["imagenet-torch"], embedder.input)
    first = sorted(pictures.iterdir())[:batch]
    x = np.stack([images.prepare(images.decode(f), record, embedder.input).tensor for f in first])

    def forward() -> None:
        for _ in range(count // batch):
            bare.run({source.name: x})

    def decode() -> None:
        for file in first:
            images.read(file, record, embedder.input)

    def whole() -> None:
        embed(embedder, pictures, folder / "store", preprocess=record, batch=batch, force=True)

    seen = alternate({"forward": forward, "embed": whole, "decode": decode}, runs)
    ratios = [f / e for f, e in zip(seen["forward"], seen["embed"], strict=True)]
    return {
        "model": model.stem,
        "pictures": count,
        "batch": batch,
        "forward images/s": count / statistics.median(seen["forward"]),
        "embed images/s": count / statistics.median(seen["embed"]),
        "decode ms, one thread": 1000 * statistics.median(seen["decode"]) / batch,
        "embed / forward": statistics.median(ratios),
        "spread": [min(ratios), max(ratios)],
        "seconds": seen,
    }


def searching(count: int, width: int, runs: int) -> list[dict[str, Any]]:
    """Searches of a set of vectors as features are, non-negative, against faiss's flat index."""
    import faiss

    rng = np.random.default_rng(0)
    rows = np.maximum(rng.standard_normal((count, width), dtype=np.float32), 0)
    found = []
    for metric in ("l2", "cosine"):
        flat = faiss.IndexFlatL2(width) if metric == "l2" else faiss.IndexFlatIP(width)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        flat.add(rows if metric == "l2" else rows / lengths)
        indexes = {m: Index(rows, metric, m) for m in ("auto", "numpy")}
        for asked in (1, 64):
            queries = np.maximum(rng.standard_normal((asked, width), dtype=np.float32), 0)
            scaled = queries
            if metric == "cosine":
                scaled = queries / np.linalg.norm(queries, axis=1, keepdims=True)
            if not np.array_equal(*(i.search(queries, 8).indices for i in indexes.values())):
                raise SystemExit("NumPy and faiss differ")
            tasks: dict[str, Callable[[], object]] = {
                "faiss": lambda q=scaled, f=flat: f.search(q, 8),  # type: ignore[misc]
                **{
                    name: lambda q=queries, i=index: i.search(q, 8)  # type: ignore[misc]
                    for name, index in indexes.items()
                },
            }
            seen = alternate(tasks, runs)
            middle = {name: statistics.median(times) for name, times in seen.items()}
            found.append(
                {"metric": metric, "queries": asked, "seconds": seen}
                | {f"{name} ms": 1000 * took for name, took in middle.items()}
                | {f"{n} / faiss": middle[n] / middle["faiss"] for n in indexes}
            )
    return found


def say_throughput(row: dict[str, Any]) -> None:
    low, high = row["spread"]
    print(
        f"\n{row['model']}, batch {row['batch']}: forward {row['forward images/s']:.1f} images/s, "
        f"embed {row['embed images/s']:.1f} images/s, ratio {row['embed / forward']:.3f} "
        f"({low:.3f} to {high:.3f}; bound 0.95); decoding one picture takes "
        f"{row['decode ms, one thread']:.2f} ms of one thread"
    )


def say_neighbors(rows: list[dict[str, Any]], vectors: int, width: int) -> None:
    print(f"\n8 of {vectors} x {width}; ms; bound 1.2")
    print(f"{'metric':8}{'queries':>8}{'faiss':>9}{'auto':>9}{'ratio':>7}{'numpy':>9}{'ratio':>7}")
    for row in rows:
        print(
            f"{row['metric']:8}{row['queries']:8}{row['faiss ms']:9.1f}{row['auto ms']:9.1f}"
            f"{row['auto / faiss']:7.2f}{row['numpy ms']:9.1f}{row['numpy / faiss']:7.2f}"
        )


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--vectors", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=512)
    given = parser.parse_args()
    with reporting(given) as (folder, model, report):
        row = throughput(folder, model, given.pictures, given.batch, given.runs)
        report["embed"] = row
        say_throughput(row)
        report["neighbors"] = searching(given.vectors, given.width, given.runs)
        say_neighbors(report["neighbors"], given.vectors, given.width)


if __name__ == "__main__":
    main()
