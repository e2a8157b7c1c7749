"""`backlight batch` against the bare explaining pass, and 100 million pictures on paper.

    python -m benchmarks.batch [--pictures 256] [--batch 8] [--runs 3] [--json FILE] [--write]

The pictures are JPEG files of 500 x 375, cut from the bundled photos, in tar shards. The bare pass
runs on batches that lie decoded in memory, one session a core with a thread each, or one session on
all cores: the faster counts. What the batch needs to start is taken out by the difference of a run
on all shards and a run on half of them; the same by the processor's seconds, which neighbours
change less. The model is PyTorch's ResNet-18 with random weights (or --model FILE), the method
guided. Runs alternate. Bound: 95 % of the bare pass.

On paper: what one machine does here, times the pictures; prices are list prices of 2025, to be
replaced by your own (--core-hour, --get, --put, --gigabyte-month). --write puts the table into
docs/scale.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

import backlight
from backlight.engine.photos import images
from backlight.engine.scale.maps import FORMS
from backlight.engine.scale.parts import MANIFEST, record_of
from backlight.export.preprocess import PRESETS
from backlight.lanes import cores

from .pictures import alternate, made_pictures, options, reporting

DOCS = Path(__file__).parent.parent / "docs" / "scale.md"
BEGIN, END = "<!-- on paper: begin -->", "<!-- on paper: end -->"
MANY = 100_000_000
EACH = 1000  # pictures of a shard, on paper


def sharded(pictures: Path, folder: Path, each: int) -> Path:
    """The pictures in tar files of so many."""
    folder.mkdir()
    files = sorted(pictures.iterdir())
    for at in range(0, len(files), each):
        with tarfile.open(folder / f"{at // each:04d}.tar", "w") as archive:
            for file in files[at : at + each]:
                archive.add(file, file.name)
    return folder


def bare(model: Path, method: str, batch: int, count: int, x: Any) -> dict[str, Callable[[], None]]:
    """The explaining pass alone, on decoded batches: on every core a session, and on all one."""
    alone = [
        backlight.Explainer(model, methods=[method], providers="cpu", threads=1)
        for _ in range(cores())
    ]
    together = backlight.Explainer(model, methods=[method], providers="cpu", threads=cores())
    runs = max(count // batch, 1)

    def lanes() -> None:
        def lane(at: int) -> None:
            for _ in range(at, runs, len(alone)):
                alone[at](x)

        threads = [threading.Thread(target=lane, args=(at,)) for at in range(len(alone))]
        for one in threads:
            one.start()
        for one in threads:
            one.join()

    def one_session() -> None:
        for _ in range(runs):
            together(x)

    return {"a session per core": lanes, "one session": one_session}


def counted(task: Callable[[], object], into: list[float]) -> Callable[[], None]:
    """A task that notes the processor's seconds of each call, its processes' among them."""

    def run() -> None:
        before = sum(os.times()[:4])
        task()
        into.append(sum(os.times()[:4]) - before)

    return run


def throughput(folder: Path, model: Path, given: Any) -> tuple[dict[str, Any], Path]:
    """Pictures a second, decoding and writing included, against the bare pass."""
    (folder / "pictures").mkdir()
    pictures = made_pictures(folder / "pictures", given.pictures)
    shards = sharded(pictures, folder / "shards", max(given.pictures // (4 * cores()), 1))
    half = sorted(shards.iterdir())[::2]
    files = sorted(pictures.iterdir())
    explainer = backlight.Explainer(model, methods=["guided"], providers="cpu")
    record = images.fitted(explainer.preprocess or PRESETS["imagenet-torch"], explainer.input)
    x = np.stack([images.read(f, record, explainer.input).tensor for f in files[: given.batch]])
    how: dict[str, Any] = {"methods": ["guided"], "preprocess": record, "providers": "cpu",
                           "batch": given.batch, "force": True}  # fmt: skip
    tasks = bare(model, "guided", given.batch, given.pictures, x)
    tasks |= {
        "batch": lambda: backlight.batch(model, shards, folder / "parts", **how),
        "batch of half": lambda: backlight.batch(model, half, folder / "half", **how),
        "decoding, one thread": lambda: [
            images.read(f, record, explainer.input) for f in files[: given.batch]
        ],
    }
    spent: dict[str, list[float]] = {name: [] for name in tasks}
    seen = alternate({n: counted(t, spent[n]) for n, t in tasks.items()}, given.runs)
    middle = {name: statistics.median(times) for name, times in seen.items()}
    cpu = {name: statistics.median(times[1:]) for name, times in spent.items()}
    few = sum(record_of(p)["rows"] for p in (folder / "half").glob("*.parquet"))  # type: ignore[index]
    each_cpu = (cpu["batch"] - cpu["batch of half"]) / (given.pictures - few)
    steady = (given.pictures - few) / max(middle["batch"] - middle["batch of half"], 1e-9)
    best = min(("a session per core", "one session"), key=lambda n: middle[n])
    runs = max(given.pictures // given.batch, 1) * given.batch
    return {
        "model": model.stem,
        "pictures": given.pictures,
        "batch": given.batch,
        "bare": best,
        "bare images/s": runs / middle[best],
        "batch images/s": steady,
        "batch images/s, start included": given.pictures / middle["batch"],
        "batch / bare": steady * middle[best] / runs,
        "bare, CPU ms an image": 1000 * cpu[best] / runs,
        "batch, CPU ms an image": 1000 * each_cpu,
        "batch / bare, by CPU": cpu[best] / runs / max(each_cpu, 1e-9),
        "decoding ms": 1000 * middle["decoding, one thread"] / len(x),
        "seconds": seen,
    }, shards


def pieces(folder: Path, model: Path, shards: Path, given: Any) -> dict[str, Any]:
    """What else a large run pays: bytes of a row, listing, hashing, the look at what is there."""
    found: dict[str, Any] = {}
    few = sorted(shards.iterdir())[:1]
    for form in FORMS:
        made = backlight.batch(
            model, few, folder / form, methods=["guided"], preprocess="imagenet-torch", maps=form,
            providers="cpu", batch=given.batch,
        )  # fmt: skip
        found[f"{form}, bytes a row"] = made.parts[0].stat().st_size / made.rows
    (part,) = (folder / "grid").glob("*.parquet")
    found["footer ms"] = 1000 * _took(lambda: pq.read_metadata(part), 100)
    found["manifest bytes a shard"] = len(
        json.dumps(json.loads((folder / "grid" / MANIFEST).read_bytes())["shards"], indent=2)
    )
    data = few[0].read_bytes()
    found["hashing MB/s"] = len(data) / 1e6 / _took(lambda: hashlib.sha256(data).digest(), 5)
    loose = folder / "loose"
    loose.mkdir()
    for number in range(2000):
        (loose / f"{number}.jpg").touch()
    found["listing files/s"] = 2000 / _took(
        lambda: [e.stat() for e in os.scandir(loose)] and images.image_files([loose]), 5
    )
    found["bytes a picture"] = len(data) / _members(few[0])
    return found


def _members(shard: Path) -> int:
    with tarfile.open(shard) as archive:
        return len(archive.getnames())


def _took(task: Callable[[], object], runs: int) -> float:
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        task()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def on_paper(report: dict[str, Any], given: Any) -> list[str]:
    """100 million pictures by what was measured, as lines of a table."""
    seen, piece, machine = report["throughput"], report["pieces"], report["machine"]
    each_core = seen["batch images/s"] / machine["cores"]
    hours = MANY / each_core / 3600
    shards = MANY / EACH
    inside, grid = piece["bytes a picture"] * MANY, piece["grid, bytes a row"] * MANY
    ranged = inside / (8 << 20)  # tar files read in pieces of 8 MiB
    rows = [
        ("computing", f"{each_core:.1f} images/s a core", f"{hours:,.0f} core hours",
         f"{hours * given.core_hour:,.0f} USD; {hours / 1000:,.1f} h on 1000 cores"),
        ("pictures to read", f"{piece['bytes a picture'] / 1000:.0f} KB each",
         f"{inside / 1e12:.1f} TB",
         f"as tar: {ranged / 1e6:.1f} million GETs of 8 MiB, {ranged * given.get:,.1f} USD; "
         f"loose: {MANY / 1e6:.0f} million, {MANY * given.get:,.0f} USD"),
        ("listing loose pictures", f"{piece['listing files/s']:,.0f} files/s, a local disk",
         f"{MANY / piece['listing files/s'] / 3600:.1f} h",
         f"an object store lists 1000 a request: {MANY / 1000 / 1e3:.0f} thousand requests"),
        ("parts, grids", f"{piece['grid, bytes a row']:,.0f} bytes a row", f"{grid / 1e9:,.0f} GB",
         f"{shards:,.0f} parts of {piece['grid, bytes a row'] * EACH / 1e6:.1f} MB, "
         f"{shards * given.put:,.1f} USD to write, "
         f"{grid / 1e9 * given.gigabyte_month:,.0f} USD a month"),
    ]  # fmt: skip
    for form in ("png", "float16"):
        size = piece[f"{form}, bytes a row"]
        rows.append(
            (f"parts, {form}", f"{size / 1000:,.0f} KB a row", f"{size * MANY / 1e12:.1f} TB",
             f"{size * MANY / 1e9 * given.gigabyte_month:,.0f} USD a month")
        )  # fmt: skip
    footers = shards * piece["footer ms"] / 1000
    manifest = shards * piece["manifest bytes a shard"] / 1e6
    rows += [
        ("run again: the look at all parts", f"{piece['footer ms']:.2f} ms a part",
         f"{footers / 60:.1f} min", "one process, a local disk"),
        ("run again with --verify", f"{piece['hashing MB/s']:,.0f} MB/s a core",
         f"{inside / 1e6 / piece['hashing MB/s'] / 3600:,.1f} h", "one process"),
        ("the manifest", f"{piece['manifest bytes a shard']} bytes a shard", f"{manifest:.0f} MB",
         "written anew every minute"),
    ]  # fmt: skip
    lines = ["| | measured | 100 million pictures | which is |", "|---|---|---|---|"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows)]


def write(lines: list[str], report: dict[str, Any]) -> None:
    """Put the table into docs/scale.md."""
    text = DOCS.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    seen, machine = report["throughput"], report["machine"]
    about = (
        f"{seen['model']}, guided, on {machine['cpu']}, {machine['cores']} cores, onnxruntime "
        f"{machine['onnxruntime']}: {seen['batch images/s']:.1f} images/s, "
        f"{100 * seen['batch / bare']:.0f} % of the bare pass ({seen['bare']}, "
        f"{seen['bare images/s']:.1f} images/s)."
    )
    made = "\n".join([BEGIN, "", about, "", *lines, "", END])
    DOCS.write_text(f"{head}{made}{tail}", encoding="utf-8")


def main() -> None:
    parser = options(__doc__)
    parser.set_defaults(batch=8, runs=3)
    parser.add_argument("--write", action="store_true")
    for name, price in (("core-hour", 0.04), ("get", 4e-7), ("put", 5e-6),
                        ("gigabyte-month", 0.023)):  # fmt: skip
        parser.add_argument(f"--{name}", type=float, default=price, metavar="USD")
    given = parser.parse_args()
    with reporting(given) as (folder, model, report):
        report["throughput"], shards = throughput(folder, model, given)
        report["pieces"] = pieces(folder, model, shards, given)
        seen = report["throughput"]
        print(
            f"bare: {seen['bare images/s']:.1f} images/s ({seen['bare']}); batch: "
            f"{seen['batch images/s']:.1f}, {100 * seen['batch / bare']:.0f} % of it "
            f"({seen['batch images/s, start included']:.1f} with its start); by CPU time "
            f"{seen['bare, CPU ms an image']:.1f} and {seen['batch, CPU ms an image']:.1f} ms an "
            f"image, {100 * seen['batch / bare, by CPU']:.0f} %"
        )
        lines = on_paper(report, given)
        print("\n".join(lines))
        if given.write:
            write(lines, report)


if __name__ == "__main__":
    main()
