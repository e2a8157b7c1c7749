"""The photo job under every command over images: files found and named, batches read ahead,
progress, what can't be used skipped, and one summary at the end."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from ...errors import BacklightError, ImageError, RunError
from . import started
from .console import show, show_json
from .kept import Kept
from .layers import results_in
from .options import counted, photo_paths, say
from .progress import Step, track

if TYPE_CHECKING:
    from ...export.preprocess import Preprocess
    from ..photos.images import InputSpec, Prepared
    from ..photos.outputs import OutputFolder
    from ..photos.rows import RowStore
    from ..photos.stream import Group, Skipped

__all__ = [
    "SUMMARY",
    "Old",
    "PhotoJob",
    "found_photos",
    "preprocess_told",
    "report_skipped",
    "results_of",
    "seen_as",
    "some_files",
    "summarised",
    "summary_of",
]

SUMMARY = "summary.json"
# Seconds between two looks at how far a run is.
EVERY = 5.0
Old = tuple[str, dict[str, Any]]
Made = TypeVar("Made")


@dataclass
class PhotoJob:
    """The photos of a command, and what came of them. names: of each file's results; quiet: --json
    is to stand alone on stdout. Filled on the way: entries, for the summary; skipped; notes."""

    command: str
    files: list[Path]
    names: list[str]
    skipped: list[Skipped]
    quiet: bool
    entries: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _step: Step = field(default_factory=Step)
    _each: int = 1
    _kept: Kept | None = None
    _start: int = 0  # of the files, where a stopped run got to
    _said: tuple[int, int] = (0, 0)  # of entries and notes
    _held: int = 0  # entries of the stopped run

    def note(self, *notes: str | None) -> None:
        """Say what there is to say once, and keep it for the summary."""
        for note in notes:
            if note is not None and note not in self.notes:
                self.notes.append(note)
                say(note)

    def timed(self, seconds: float, digits: int, provider: str, folder: OutputFolder) -> str:
        """The last line, where something came out: how long all took, by photo."""
        if not self.entries:
            return ""
        here = len(self.entries) - self._held
        took = f", {seconds / here:.{digits}f} s each on {provider}" if here else ""
        return f"{counted(len(self.entries))}{took} -> {folder.path}/"

    @contextmanager
    def results(
        self, output: Path, expected: Sequence[str], force: bool, model: str,
        numbers: Sequence[str] = (),
    ) -> Iterator[OutputFolder]:  # fmt: skip
        """The folder for the results, which `finish` completes; expected: see `results_of`. A run
        that is stopped goes on from there when it is started again with the same arguments. model:
        its file. numbers: of the entries, what the command reckons with."""
        from ..photos.passes import listing_of
        from ..photos.rows import RowStore

        state = _state(output, self.command)
        stopped = state.exists() and not force
        with results_in(output, results_of(self, expected), force or stopped) as folder:
            asked = {
                "model": listing_of([Path(model)]), "files": listing_of(self.files),
                "arguments": [a for a in started.arguments if a not in ("--json", "--force")],
            }  # fmt: skip
            store = RowStore(state, asked, {}, EVERY)
            if force:
                store.remove()
            self._go_on(store, numbers)
            self._kept = Kept(folder, store)
            with self._kept.ending(self.skipped):
                yield folder

    def _go_on(self, store: RowStore, numbers: Sequence[str]) -> None:
        """Take up what a stopped run has done."""
        self._start = store.restore(self.skipped, len(self.files))
        for said in store.said:
            if not _is_said(said, numbers):
                raise store.damaged()
            self.entries += said["images"]
            self.note(*said["notes"])
        self._held, self._said = len(self.entries), (len(self.entries), len(self.notes))
        if self._start:
            say(f"went on from photo {self._start}, where a run was stopped")

    def _keep(self, done: int) -> None:
        """What came of the files up to `done` is written: a run that is stopped has it."""
        from ..photos.plain import as_json

        if self._kept is None:
            return
        entries, notes = self._said
        said = {"images": self.entries[entries:], "notes": self.notes[notes:]}
        self._kept.keep(done, self.skipped, json.loads(as_json(said)))
        self._said = len(self.entries), len(self.notes)

    @contextmanager
    def progress(self, title: str, each: int = 1) -> Iterator[Step]:
        """A bar over the photos. each: pieces of work per photo."""
        with track(each * len(self.files), title) as step:
            self._step, self._each = step, each
            yield step

    def groups(self, preprocess: Preprocess, spec: InputSpec, batch: int) -> Iterator[Group]:
        """The photos in batches, the next ones read while one runs; those that can't be read are
        skipped, and done."""
        from ..photos.stream import groups

        self._step.advance(self._each * self._start)
        for group in groups(self.files, preprocess, spec, batch, start=self._start):
            # One bad photo doesn't stop the others.
            self.skipped += group.skipped
            self._step.advance(self._each * len(group.skipped))
            yield group
            self._keep(group.stop)

    def at_once(
        self, group: Group, call: Callable[[Any], Made]
    ) -> Iterator[tuple[list[int], Made]]:
        """What `call` makes of a group's images, with their rows: of all at once; where that fails,
        of one after another. An image that it fails for is skipped, and done. Raises RunError where
        a run fails with one image too."""
        every = list(range(len(group.index)))
        waiting = [every] if every else []
        while waiting:
            rows = waiting.pop(0)
            try:
                made = call(group.tensor[rows])
            except (ImageError, RunError) as err:
                if len(rows) > 1:
                    waiting = [[row] for row in rows]
                    continue
                if isinstance(err, RunError):
                    raise
                why = str(err).replace("image 0", "it")  # alone in its batch
                self.refuse(self.files[int(group.index[rows[0]])], why)
                self._step.advance(self._each)
                continue
            yield rows, made

    def each(
        self, preprocess: Preprocess, spec: InputSpec, batch: int, call: Callable[[Any], Made]
    ) -> Iterator[tuple[int, Prepared, Made, int]]:
        """Of every photo: its number, what the model sees of it, what `call` makes of the batch
        that it is in, and its row there. See `groups` and `at_once`."""
        for group in self.groups(preprocess, spec, batch):
            for rows, made in self.at_once(group, call):
                for at, row in enumerate(rows):
                    yield int(group.index[row]), group.prepared(row), made, at

    def refuse(self, file: Path, why: object) -> None:
        """Skip a photo that could be read, and say why."""
        from ..photos.stream import Skipped

        self.skipped.append(Skipped(str(file), ImageError(f"{file}: {why}")))

    def add(self, entry: dict[str, Any], *lines: str) -> None:
        """What came of a photo: for the summary, and for the terminal."""
        self.entries.append(entry)
        for line in () if self.quiet else lines:
            self._step.print(line)

    @property
    def read(self) -> int:
        """How many photos something came of."""
        return len({entry["file"] for entry in self.entries})

    @property
    def errors(self) -> list[BacklightError]:
        """Why photos were skipped."""
        return [bad.error for bad in self.skipped]

    def finish(
        self, folder: OutputFolder, about: dict[str, Any], line: str = "", *,
        count: bool = True, old: Old | None = None, note: str | None = None,
    ) -> None:  # fmt: skip
        """The end of the command: summary.json, which --json prints in place of `line`; what was
        skipped is named, and with `count` counted: exit code 2 then. old: see `summarised`. note:
        on what came out, where something did."""
        if self.entries:
            self.note(note)
        summary = summarised(
            self.command, folder, about, notes=self.notes, read=self.read,
            images=self.entries, skipped=self.skipped, whole=bool(self.entries), old=old,
        )  # fmt: skip
        if self._kept is not None:
            self._kept.over()
        if self.quiet:
            show_json(summary)
        elif self.entries and line:
            show(line)
        report_skipped(self.errors, self.read if count else None)


def found_photos(
    command: str, given: Sequence[str] | None, output: Path, expected: Sequence[str],
    force: bool, quiet: bool,
) -> PhotoJob:  # fmt: skip
    """Look for the photos, and for results that are there already, before a model is loaded.
    expected: what is written beside summary.json; `{}` in it: once for each photo, with its name.
    Raises ImageError where there is no photo, OutputError."""
    from ..photos.outputs import names_of, refuse_results

    files, skipped = some_files(given)
    job = PhotoJob(command, files, names_of(files), skipped, quiet)
    stopped = _state(output, command).exists()
    refuse_results(output, results_of(job, expected), force or stopped)
    return job


def _state(output: Path, command: str) -> Path:
    """Where a run keeps how far it is."""
    return output / f".{command}-state"


def _is_said(said: Any, numbers: Sequence[str]) -> bool:
    """Whether a state holds entries and notes: somebody else may have written it."""
    return (
        isinstance(said, dict)
        and isinstance(said.get("images"), list)
        and isinstance(said.get("notes"), list)
        and all(isinstance(e, dict) and isinstance(e.get("file"), str) for e in said["images"])
        and all(type(e.get(n)) in (int, float) for e in said["images"] for n in numbers)
        and all(isinstance(n, str) for n in said["notes"])
    )


def some_files(given: Sequence[str] | None) -> tuple[list[Path], list[Skipped]]:
    """The photos at paths and in folders, and the paths that give none. Raises ImageError where
    there is no photo at all."""
    from ..photos.stream import found_files

    files, skipped = found_files(photo_paths(given))
    if not files:
        raise skipped[0].error
    return files, skipped


def seen_as(shape: Sequence[int], record: Preprocess, spec: InputSpec) -> str:
    """What is said under a photo. shape: of its pixels."""
    from ..photos.bands import default_bands

    said = f"as the model sees it, {shape[1]} x {shape[0]}"
    depth = spec.channels or 3
    if depth in (1, 3) and record.bands is None:
        return said
    shown = record.bands or default_bands(depth)
    named = f"bands {', '.join(map(str, shown))}" if len(shown) > 1 else f"band {shown[0]}"
    return f"{said}: {named} of {depth}"


def results_of(job: PhotoJob, expected: Sequence[str]) -> list[str]:
    """The files that a job writes; `{}` in one stands for each photo's name."""
    each = [e.replace("{}", name) for name in job.names for e in expected if "{}" in e]
    return [SUMMARY, *(e for e in expected if "{}" not in e), *each]


def summarised(
    command: str, folder: OutputFolder, about: dict[str, Any], *,
    notes: Sequence[str] = (), read: int = 0, images: Sequence[dict[str, Any]] = (),
    skipped: Sequence[Skipped] = (), whole: bool = True, old: Old | None = None,
) -> dict[str, Any]:  # fmt: skip
    """summary.json (docs/summary.md), which is written and returned. about: the model or store,
    and the command's own. whole: False where nothing came out, and nothing is written. old: the
    name that the summary had before, and what stood in it otherwise: written too, for one
    version."""
    summary = summary_of(command, about, notes, read, images, [bad.as_dict() for bad in skipped])
    if whole:
        folder.json(SUMMARY, summary)
        if old is not None:
            name, otherwise = old
            folder.json(name, summary | otherwise)
    return summary


def summary_of(
    command: str, about: dict[str, Any], notes: Sequence[str], read: int = 0,
    images: Sequence[dict[str, Any]] = (), skipped: Sequence[dict[str, str]] = (),
) -> dict[str, Any]:  # fmt: skip
    """What `summarised` writes, for commands whose folder holds no summary."""
    from ... import __version__

    return {
        "backlight": __version__,
        "command": command,
        **about,
        "notes": list(notes),
        "read": read,
        "images": list(images),
        "skipped": list(skipped),
    }


def preprocess_told(record: Preprocess) -> Any:
    """How photos became inputs, for the summary."""
    return json.loads(record.to_json())


def report_skipped(errors: Sequence[Exception], read: int | None = None) -> None:
    """Name what couldn't be used, and with `read` count it; exit code 2 then."""
    for error in errors:
        say(f"skipped: {error}")
    if errors:
        if read is not None:
            say(f"{len(errors)} skipped, {read} read")
        sys.stdout.flush()
        raise typer.Exit(2)
