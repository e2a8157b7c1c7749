"""Latency, throughput, memory and load time of a model and of its explaining graph.

Latencies are taken in one process, in alternating blocks: what else the machine does hits both
alike. Blocks, and a pause between them, because a runtime's threads go on spinning for a while and
would slow the other session's first runs. Memory and load time are taken in processes of their own.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...errors import ModelError, UsageError
from ...export import choose, traits
from ...export.emit import dim_of
from ...export.graph import Loaded
from ...export.lone import is_lone
from ...export.methods import METHODS, RULES, chosen
from ...export.saliency import explain_graph
from ...export.sampling import Sampling
from ...export.sizes import Shapes
from ...export.store import save_model
from ..classifier.extras import NO_EXTRAS, Extras, InputsLike
from ..classifier.ready import Ready
from ..runtime.machine import device, versions
from ..runtime.session import Session, default_lowering, dims_of, numpy_dtype, wrong_form
from . import processes
from .contention import busy
from .recommend import Recommended, recommended
from .subjects import Engine, Subject

__all__ = ["Report", "Row", "bench"]

PAUSE = 0.05  # seconds; a runtime's threads spin for less than that
BLOCK = 5  # runs in a row of one session, at most: a third of all, so that blocks alternate
# Of an image, what `--preprocess` takes at most too.
MOST_RUNS, MOST_BATCH, MOST_SIZE = 1_000_000, 4096, 16384


@dataclass(frozen=True)
class Row:
    """One subject at one setting. Latencies in ms per run, memory in MiB, load in ms.

    activations_mib: what the backward pass reads of the forward pass: 0 for the plain model, None
    where shapes don't tell. bound_mib: 1.6 times the plain model's peak, and those activations.
    fastest_ratio: of the median to that of the plain model on the provider that scores fastest.
    drift: the largest norm-relative difference of the maps (or the scores) to the first
    provider's, on this noise; None for the first. Float32 in another order is 1e-6, or 1e-3 where
    a gate near zero fell otherwise.
    passes: of methods that average over variants of the image, how many variants; passes_ratio: of
    the median to that of as many passes of `vanilla` at the same batch.
    """

    subject: str
    provider: str
    threads: int | None
    batch: int
    runs: int
    p50: float
    p90: float
    p99: float
    images_per_s: float
    ratio: float  # of the median to the plain model's
    load_ms: float
    load_ratio: float  # to the plain model's
    peak_mib: float
    activations_mib: float | None
    bound_mib: float | None
    fastest_ratio: float = 1.0
    drift: float | None = None
    passes: int | None = None
    passes_ratio: float | None = None


@dataclass(frozen=True)
class Report:
    """All rows, with the machine and the versions. contended: whether other work kept the cores
    busy. recommended: what the providers come to; None of a single one."""

    model: str
    rows: tuple[Row, ...]
    device: str
    versions: Mapping[str, str]
    contended: bool = False
    recommended: Recommended | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Asked:
    """What is measured at every setting."""

    batches: Sequence[int]
    runs: int
    size: int | None
    lone: str | None
    folder: Path
    contended: bool
    extras: Extras


def bench(
    model: str,
    *,
    methods: Sequence[Sequence[str]] = (("vanilla",), RULES),
    providers: Sequence[str] = ("cpu",),
    threads: Sequence[int | None] = (None,),
    batches: Sequence[int] | None = None,
    runs: int = 30,
    size: int | None = None,
    target: str | None = None,
    shapes: Shapes | None = None,
    contended: bool = False,
    inputs: InputsLike | None = None,
    wrt: str | None = None,
) -> Report:
    """Measure a model against its explaining graphs, one per group of methods, on each provider.

    runs: measured runs of each subject; a fifth of it warms up. size: height and width where the
    model leaves them open (default 224). batches: None: 1 and 4, or the one that the model fixes.
    shapes: of inputs, as in `backlight.export`; inputs: what is fed beside the images, by name, as
    `backlight.Explainer` takes it; what isn't given is noise. wrt: as in `backlight.export`.
    target: the lowering; default: the provider's.
    contended: latencies while another process keeps all cores busy.
    Raises UsageError for a batch that the model doesn't take, ModelError as `explain_graph` does.
    """
    # Asked for twice, measured once.
    groups = list(dict.fromkeys(tuple(row.name for row in chosen(group)) for group in methods))
    providers, threads = list(dict.fromkeys(providers)), list(dict.fromkeys(threads))
    for provider in providers:
        wrong_form([provider], target)
    ready = Ready(model, shapes, inputs)
    loaded = ready.loaded
    extras = ready.image.extras if inputs else NO_EXTRAS
    lone, own = _batch_of(loaded)
    batches = list(dict.fromkeys(batches or ([own] if own is not None else [1, 4])))
    if runs < 1 or min(batches) < 1:
        raise UsageError(f"runs {runs}, batches {list(batches)}; expected 1 or more")
    if runs > MOST_RUNS or max(batches) > MOST_BATCH:
        raise UsageError(
            f"runs {runs}, batches {list(batches)}; expected at most {MOST_RUNS} runs, of batches "
            f"of at most {MOST_BATCH}"
        )
    if size is not None and size > MOST_SIZE:
        raise UsageError(f"size {size}; expected at most {MOST_SIZE}")
    if size is not None and size < 1:
        raise UsageError(f"size {size}; expected 1 or more")
    with tempfile.TemporaryDirectory(prefix="backlight-") as name:
        folder = Path(name)
        asked = Asked(batches, runs, size, lone, folder, contended, extras)
        forms = {provider: target or default_lowering([provider]) for provider in providers}
        plain = _plain(ready, folder)
        passes = _passes(groups)
        if passes and ("vanilla",) not in groups:
            groups = [("vanilla",), *groups]  # what as many passes cost
        files = {
            form: {
                "score": Subject(plain),
                **_explaining(loaded, groups, form, folder, wrt),
                **({} if inputs else _engines(plain, passes, form, wrt)),
            }
            for form in dict.fromkeys(forms.values())
        }
        subjects = {provider: files[form] for provider, form in forms.items()}
        rows = [row for count in threads for row in _measured(subjects, count, asked)]
        rows = [_by_passes(row, rows, passes) for row in rows]
    at = {provider: number for number, provider in enumerate(providers)}
    rows.sort(key=lambda row: at[row.provider])  # stable: threads and batches as they came
    return Report(
        str(model), tuple(rows), device(), versions(), contended, recommended(rows, providers)
    )


# A subject on a provider.
Key = tuple[str, str]


def _measured(
    subjects: Mapping[str, Mapping[str, Subject]], threads: int | None, asked: Asked
) -> list[Row]:
    """All providers' rows at one number of threads, measured in turn."""
    sessions: dict[Key, Session | Engine] = {
        (provider, name): subject.opened(provider, threads)
        for provider, files in subjects.items()
        for name, subject in files.items()
    }
    first = next(iter(sessions))
    loads = {p: processes.loads(files, p, threads) for p, files in subjects.items()}
    rows = []
    for batch in asked.batches:
        feeds = _feeds(sessions[first], batch, asked.size, asked.lone, asked.extras)
        with busy() if asked.contended else nullcontext():
            times = _alternate(sessions, feeds, asked.runs)
        fed = asked.folder / "feeds.npz"
        np.savez(fed, **dict(feeds))  # type: ignore[arg-type]  # a mapping of names to arrays
        fastest = min([float(np.median(times[provider, "score"])) for provider in subjects])
        for provider, files in subjects.items():
            peaks = {s: processes.peak(f, provider, threads, fed) for s, f in files.items()}
            own = {subject: times[provider, subject] for subject in files}
            for subject, held in files.items():
                needs = 0.0 if subject == "score" else _activations(held, feeds)
                row = _row(subject, provider, threads, batch, own, loads[provider], peaks, needs)
                drift = None
                if provider != first[0]:
                    drift = _drift(sessions[provider, subject], sessions[first[0], subject], feeds)
                ratio = round(float(np.median(own[subject])) / fastest, 3)
                rows.append(replace(row, fastest_ratio=ratio, drift=drift))
    return rows


def _drift(
    one: Session | Engine, reference: Session | Engine, feeds: Mapping[str, NDArray[Any]]
) -> float:
    """The largest norm-relative difference of two sessions' outputs: of the maps, where there are
    any."""
    found, want = (s.run(_taken(s, feeds)) for s in (one, reference))
    maps = [name for name in want if name.startswith("saliency_")]
    worst = 0.0
    for name in maps or want:
        a, b = found[name].astype(np.float64), want[name].astype(np.float64)
        worst = max(worst, float(np.linalg.norm(a - b)) / max(float(np.linalg.norm(b)), 1e-30))
    return float(f"{worst:.2g}")


def _plain(ready: Ready, folder: Path) -> str:
    """The file of the model, with the shapes that were given."""
    if not ready.shapes:
        return str(ready.given)
    file = folder / "plain.onnx"
    save_model(ready.read, file)
    return str(file)


def _explaining(
    loaded: Loaded, groups: Sequence[Sequence[str]], lowering: str, folder: Path, wrt: str | None
) -> dict[str, Subject]:
    """Files: a graph per group of methods."""
    files = {}
    for group in groups:
        path = folder / f"{lowering}-{'-'.join(group)}.onnx"
        explain_graph(loaded, group, target_class="top1", lowering=lowering, wrt=wrt).save(path)
        files[named(group)] = Subject(str(path))
    return files


def named(group: Sequence[str]) -> str:
    """A group of methods beside the score, in people's words."""
    return "score + " + ", ".join(group)


BY_ENGINE = ", by Explainer"


def _passes(groups: Sequence[Sequence[str]]) -> dict[tuple[str, ...], int]:
    """Of the groups that average over variants of the image, over how many."""
    usual = {"noise": Sampling().samples, "path": Sampling().steps}
    found = {}
    for group in groups:
        kinds = {METHODS[name].varies for name in group} - {""}
        if kinds:
            found[tuple(group)] = sum(usual[kind] for kind in kinds)
    return found


def _engines(
    plain: str, passes: Mapping[tuple[str, ...], int], lowering: str, wrt: str | None
) -> dict[str, Subject]:
    """Explainers: they run variants a few at a time, which a file can't."""
    return {named(g) + BY_ENGINE: Subject(plain, g, lowering, wrt) for g in passes}


def _by_passes(row: Row, rows: Sequence[Row], passes: Mapping[tuple[str, ...], int]) -> Row:
    """With what it costs by as many passes, where it has variants."""
    counts = {named(group): count for group, count in passes.items()}
    count = counts.get(row.subject.removesuffix(BY_ENGINE))
    if count is None:
        return row
    at = (row.provider, row.threads, row.batch, named(("vanilla",)))
    (one,) = (r.p50 for r in rows if (r.provider, r.threads, r.batch, r.subject) == at)
    return replace(row, passes=count, passes_ratio=round(row.p50 / (count * one), 3))


def _batch_of(model: Loaded) -> tuple[str | None, int | None]:
    """The image input's name where it has no batch, and the batch that the model fixes."""
    try:
        image = choose.image_input(model.graph).input
    except ModelError:  # what has no image is refused where it is explained
        return None, None
    own = None if image.shape is None else dim_of(image.shape, 0)
    return image.name if is_lone(image) else None, own if isinstance(own, int) else None


def _feeds(
    session: Session | Engine, batch: int, size: int | None, lone: str | None, extras: Extras
) -> dict[str, NDArray[Any]]:
    """Noise in the shape of each input that isn't given. lone: the one without a batch."""
    rng = np.random.default_rng(0)
    feeds: dict[str, NDArray[Any]] = {}
    for given in session.inputs:
        if given.name in extras.arrays:
            feeds |= extras.rows(batch, [given.name])
            continue
        dims = list(dims_of(given.shape))
        if given.name == lone:
            dims.insert(0, 1)
        if dims and dims[0] not in (None, batch):
            raise UsageError(f"the model takes batches of {dims[0]} only; --batch {dims[0]}")
        shape = [batch, *((size or 224) if d is None else d for d in dims[1:])]
        values = rng.standard_normal(shape[given.name == lone :])
        feeds[given.name] = np.asarray(values, numpy_dtype(given.type))
    # What only some of the explaining graphs take: the best class but the target.
    feeds.setdefault("contrast", np.full(batch, -1, np.int64))
    return feeds


def _taken(session: Session | Engine, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Of the feeds, what a session takes."""
    return {given.name: feeds[given.name] for given in session.inputs}


def _alternate(
    sessions: Mapping[Key, Session | Engine], feeds: Mapping[str, NDArray[Any]], runs: int
) -> dict[Key, NDArray[np.float64]]:
    """Seconds of each run, subjects taking turns in blocks; the first run of a block is free."""
    taken: dict[Key, list[float]] = {name: [] for name in sessions}
    fed = {name: _taken(session, feeds) for name, session in sessions.items()}
    for name, session in sessions.items():
        for _ in range(max(2, runs // 5)):
            session.run(fed[name])
    block = max(1, min(BLOCK, runs // 3))
    while min(map(len, taken.values())) < runs:
        for name, session in sessions.items():
            time.sleep(PAUSE)
            session.run(fed[name])
            for _ in range(min(block, runs - len(taken[name]))):
                start = time.perf_counter()
                session.run(fed[name])
                taken[name].append(time.perf_counter() - start)
    return {name: np.array(values) for name, values in taken.items()}


def _activations(subject: Subject, feeds: Mapping[str, NDArray[Any]]) -> float | None:
    """MiB of the model's own tensors that nodes of the backward pass read; None of an Explainer,
    whose graphs are its own."""
    if subject.methods:
        return None
    graph = ir.load(subject.path).graph
    sizes: dict[str, int] = {}
    for value in graph.inputs:
        fed = feeds.get(value.name or "")
        for at, dim in enumerate(value.shape or () if fed is not None else ()):
            if fed is not None and not isinstance(dim, int) and dim.value is not None:
                sizes[str(dim.value)] = fed.shape[at]
    total = 0.0
    for node in graph:
        for value in () if _ours(node) else node.outputs:
            if not any(_ours(u.node) and u.node.op_type not in _SHAPES for u in value.uses()):
                continue
            if value.shape is None or value.dtype is None:
                return None
            dims = [d if isinstance(d, int) else sizes.get(str(d.value)) for d in value.shape]
            if None in dims:
                return None
            total += value.dtype.itemsize * math.prod(d for d in dims if d is not None)
    return total / 2**20


_SHAPES = traits.ASKS_SIZE


def _ours(node: ir.Node) -> bool:
    return (node.name or "").startswith("backlight/")


def _row(
    subject: str, provider: str, threads: int | None, batch: int,
    times: Mapping[str, NDArray[np.float64]], loads: Mapping[str, float],
    peaks: Mapping[str, float], needs: float | None,
) -> Row:  # fmt: skip
    p50, p90, p99 = (float(v) for v in np.percentile(times[subject], (50, 90, 99)))
    bound = None if needs is None else round(1.6 * peaks["score"] + needs, 1)
    return Row(
        subject=subject,
        provider=provider,
        threads=threads,
        batch=batch,
        runs=len(times[subject]),
        p50=round(1000 * p50, 3),
        p90=round(1000 * p90, 3),
        p99=round(1000 * p99, 3),
        images_per_s=round(batch / p50, 2),
        ratio=round(p50 / float(np.median(times["score"])), 3),
        load_ms=round(loads[subject], 1),
        load_ratio=round(loads[subject] / loads["score"], 3),
        peak_mib=round(peaks[subject], 1),
        activations_mib=None if needs is None else round(needs, 1),
        bound_mib=bound,
    )
