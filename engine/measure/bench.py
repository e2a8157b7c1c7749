"""Latency, throughput, memory and load time of a model and of its explaining graph.

Latencies are taken in one process, in turns (`runs.py`); memory and load time in processes of their
own (`processes.py`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ...errors import ModelError, UsageError
from ...export import choose
from ...export.emit import all_dims, dim_of
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
from ..runtime.session import Session, default_lowering, wrong_form
from . import processes
from .contention import busy
from .held import activations
from .recommend import recommended
from .report import Report, Row, row_of
from .runs import Key, alternated, drifted, noise_for
from .subjects import Engine, Subject

__all__ = ["bench"]

# Of an image, what `--preprocess` takes at most too.
MOST_RUNS, MOST_BATCH, MOST_SIZE = 1_000_000, 4096, 16384


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
    if size is not None:
        _refuse_size(size, loaded)
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
        feeds = noise_for(sessions[first], batch, asked.size, asked.lone, asked.extras)
        with busy() if asked.contended else nullcontext():
            times = alternated(sessions, feeds, asked.runs)
        fed = asked.folder / "feeds.npz"
        np.savez(fed, **dict(feeds))  # type: ignore[arg-type]  # a mapping of names to arrays
        fastest = min([float(np.median(times[provider, "score"])) for provider in subjects])
        for provider, files in subjects.items():
            peaks = {s: processes.peak(f, provider, threads, fed) for s, f in files.items()}
            own = {subject: times[provider, subject] for subject in files}
            for subject, held in files.items():
                needs = 0.0 if subject == "score" else activations(held, feeds)
                row = row_of(subject, provider, threads, batch, own, loads[provider], peaks, needs)
                drift = None
                if provider != first[0]:
                    drift = drifted(sessions[provider, subject], sessions[first[0], subject], feeds)
                ratio = round(float(np.median(own[subject])) / fastest, 3)
                rows.append(replace(row, fastest_ratio=ratio, drift=drift))
    return rows


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


def _refuse_size(size: int, model: Loaded) -> None:
    """Raise UsageError for a size that no input leaves open and none has."""
    fed = [v for v in model.graph.inputs if v.name not in model.graph.initializers]
    dims = [d for v in fed for d in all_dims(v.shape)[not is_lone(v) :]]
    if size not in dims and all(isinstance(d, int) for d in dims):
        shown = ", ".join(f"'{v.name}' {[*map(str, all_dims(v.shape))]}" for v in fed)
        raise UsageError(f"size {size}: the model leaves no size open: {shown}".replace("'", ""))


def _batch_of(model: Loaded) -> tuple[str | None, int | None]:
    """The image input's name where it has no batch, and the batch that the model fixes."""
    try:
        image = choose.image_input(model.graph).input
    except ModelError:  # what has no image is refused where it is explained
        return None, None
    own = None if image.shape is None else dim_of(image.shape, 0)
    return image.name if is_lone(image) else None, own if isinstance(own, int) else None
