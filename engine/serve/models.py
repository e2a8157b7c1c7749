"""The models that are served, by name and version, and the folders they are reloaded from.

A folder is looked at again and again. What is new or has changed there is made ready beside what is
served, loaded by every worker, and takes its place at once; requests that are under way finish with
the version that they began with. Whether a model has changed is told by its hash: a file that was
only touched stays what it is. What can't be made ready is logged, and what was there stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import BacklightError, UsageError, nearest
from .described import Described
from .logs import Log
from .pool import Pool
from .prepare import Asked, prepared
from .refused import Refused, unknown

__all__ = ["Models", "Served", "Source", "sources"]

# Seconds between looks at a folder.
LOOK = 1.0
_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}")

Signature = tuple[Any, ...]


@dataclass(frozen=True)
class Source:
    """Where a model comes from. aliases: other names that it answers to."""

    name: str
    path: Path
    aliases: tuple[str, ...] = ()


@dataclass(eq=False)
class Served:
    """A model's version. key: its name among the workers. running: requests that it has."""

    name: str
    version: int
    described: Described
    key: str
    folder: Path
    aliases: tuple[str, ...] = ()
    running: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    @contextmanager
    def used(self) -> Iterator[None]:
        """While a request is under way: its files and sessions stay."""
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1
            if not self.running:
                self.idle.set()

    def __str__(self) -> str:
        return self.key


def sources(given: Sequence[str]) -> tuple[list[Source], list[Path]]:
    """The models that the command line names, and the folders among its words. `NAME=FILE` gives a
    name other than the file's. Raises UsageError."""
    found: list[Source] = []
    folders: list[Path] = []
    for word in given:
        name, equals, rest = word.partition("=")
        path = Path(rest if equals and not Path(word).exists() else word)
        if path.is_dir():
            inside = in_folder(path)
            if not inside:
                raise UsageError(f"{path}: a folder without models; looked for *.onnx")
            folders.append(path)
            found += inside
            continue
        if not path.exists():
            raise UsageError(
                f"{word}: no such file; expected an .onnx file, a folder of them, or NAME=FILE"
            )
        own = name if path != Path(word) else path.stem
        found.append(Source(checked_name(own, path), path))
    names = [n for one in found for n in (one.name, *one.aliases)]
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice is not None:
        raise UsageError(f"two models are called '{twice}'; NAME=FILE gives one another name")
    return found, folders


def checked_name(name: str, path: Path) -> str:
    """A name that a URL can hold. Raises UsageError."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{path}: '{name}' as a model's name; expected letters, digits, . _ - (NAME=FILE gives "
            "one)"
        )
    return name


def in_folder(folder: Path) -> list[Source]:
    """The models of a folder, without those whose names a URL can't hold."""
    files = sorted(f for f in folder.glob("*.onnx") if not f.name.startswith("."))
    return [Source(f.stem, f) for f in files if _NAME.fullmatch(f.stem) and f.is_file()]


def signature_of(path: Path) -> Signature:
    """What changes where a model may have: its file, and what lies beside it for its weights."""
    beside = [f for f in path.parent.iterdir() if f.suffix != ".onnx" and f.name[0] != "."]
    found: list[Any] = []
    for file in (path, *sorted(beside)):
        with contextlib.suppress(OSError):
            about = os.stat(file)
            if stat.S_ISREG(about.st_mode):
                found.append((file.name, about.st_ino, about.st_size, about.st_mtime_ns))
    return tuple(found)


async def _apart(call: Callable[..., Described], *args: Any) -> Described:
    """`call` in a thread that nobody waits for at the end: what it waits for, a process, ends with
    this one."""
    loop = asyncio.get_running_loop()
    made: asyncio.Future[Described] = loop.create_future()

    def settle(result: Described | None, error: BaseException | None) -> None:
        if made.done():  # given up
            return
        if error is not None:
            made.set_exception(error)
        else:
            assert result is not None
            made.set_result(result)

    def work() -> None:
        result, error = None, None
        try:
            result = call(*args)
        except BaseException as err:
            error = err
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=work, name="prepare", daemon=True).start()
    return await made


class Models:
    """The registry. home: a folder of the server's own, for what is made ready."""

    def __init__(self, home: Path, asked: Asked, pool: Pool, log: Log) -> None:
        self._home, self._asked, self._pool, self._log = home, asked, pool, log
        self._served: dict[str, Served] = {}
        self._seen: dict[str, Signature] = {}
        self._count = 0
        self._retiring: set[asyncio.Task[None]] = set()

    def __iter__(self) -> Iterator[Served]:
        return iter(self._served.values())

    def get(self, name: str, version: str | None = None) -> Served:
        """A model by its name. Raises Refused (404)."""
        found = self._served.get(name)
        if found is None:
            found = next((m for m in self._served.values() if name in m.aliases), None)
        if found is None:
            near = nearest(name, self._served)
            hint = f"; nearest: {near[0]}" if near else ""
            raise unknown(f"model '{name[:200]}'; served: {', '.join(self._served)}{hint}")
        if version is not None and version != str(found.version):
            raise unknown(
                f"version '{version[:40]}' of model '{found.name}'; served: {found.version}"
            )
        return found

    async def add(self, source: Source) -> bool:
        """Make a model ready and serve it; whether it is another one than before. Raises what
        reading it raises."""
        before = self._served.get(source.name)
        self._count += 1
        folder = self._home / f"{self._count}"
        folder.mkdir()
        try:
            described = await _apart(prepared, source.path, folder, self._asked)
            if before is not None and before.described.hash == described.hash:
                shutil.rmtree(folder, ignore_errors=True)
                return False
            self._fits(described, before)
            version = 1 if before is None else before.version + 1
            made = Served(source.name, version, described, f"{self._count}", folder, source.aliases)
            await self._pool.add(made.key, described)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._served[source.name] = made
        if before is not None:
            self._retire(before)
        return True

    def _fits(self, described: Described, before: Served | None) -> None:
        """Whether a worker's budget holds it beside the others. Raises UsageError."""
        if not self._asked.memory or not self._asked.hard:
            return
        others = [m.described for m in self._served.values() if m is not before]
        needed = sum(d.weights for d in (*others, described))
        needed += max(d.row_bytes * (d.batch or 1) for d in (*others, described))
        if needed > self._asked.memory:
            from ..runtime.budget import shown

            raise UsageError(
                f"the models take {shown(needed)} in each worker; --memory is "
                f"{shown(self._asked.memory)}"
            )

    def remove(self, name: str) -> None:
        """Serve a model no longer."""
        self._retire(self._served.pop(name))

    def _retire(self, old: Served) -> None:
        async def retired() -> None:
            while old.running:
                old.idle.clear()
                await old.idle.wait()
            await self._pool.remove(old.key)
            shutil.rmtree(old.folder, ignore_errors=True)

        task = asyncio.create_task(retired())
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    def seen(self, found: Iterable[Source]) -> None:
        """Remember what files are, before they are read."""
        for source in found:
            with contextlib.suppress(OSError):
                self._seen[source.name] = signature_of(source.path)

    async def watch(self, folders: Sequence[Path]) -> None:
        """Look at the folders for good."""
        mine = {s.name for folder in folders for s in in_folder(folder)}
        pending: dict[str, Signature] = {}
        while True:
            await asyncio.sleep(LOOK)
            try:
                there = {s.name: s for folder in folders for s in in_folder(folder)}
                now = {name: signature_of(s.path) for name, s in there.items()}
            except OSError as err:
                self._log.event("reload", "error", error=f"a folder can't be listed: {err}")
                continue
            for name in sorted(mine - there.keys()):
                mine.discard(name)
                self._seen.pop(name, None)
                if name in self._served:
                    self.remove(name)
                    self._log.event("removed", model=name)
            for name, source in there.items():
                if now[name] == self._seen.get(name):
                    continue
                # A file that is still being written is another one at the next look.
                if pending.get(name) != now[name]:
                    pending[name] = now[name]
                    continue
                if name in self._served and name not in mine:
                    continue  # a model that the command line names
                mine.add(name)
                self._seen[name] = now[name]
                await self._reload(source)

    async def _reload(self, source: Source) -> None:
        try:
            if await self.add(source):
                made = self._served[source.name]
                self._log.event("loaded", model=made.name, version=made.version,
                                hash=made.described.hash)  # fmt: skip
        except (BacklightError, OSError, Refused) as err:
            self._log.event("reload", "error", model=source.name, error=str(err))
