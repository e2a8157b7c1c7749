"""The models that are served, by name and version, and the folders they are reloaded from.

A folder is looked at again and again. What is new or has changed there is made ready beside what is
served, loaded by every worker, and takes its place at once; requests that are under way finish with
the version that they began with. Whether a model has changed is told by its hash: a file that was
only touched stays what it is. What can't be made ready is logged, and what was there stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ...errors import BacklightError, UsageError, hint
from .described import Described
from .folders import Look, Signature, Source, checked_name, look
from .logs import Log
from .pool import Pool
from .prepare import Asked, prepared
from .refused import Refused, unknown

__all__ = ["Models", "Served", "Source", "sources"]

# Seconds between looks at a folder.
LOOK = 1.0
# Looks that a new model waits for what lies beside it to be written: it may be its weights, and a
# log there never is. The other: until one that couldn't be read is tried again.
_PATIENCE, _AGAIN = 5, 60

T = TypeVar("T")


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
            inside = _looked(path)
            if not inside.sources:
                left = next(iter(inside.left.items()), None)
                also = "" if left is None else f"; {left[0].name}: {left[1]}"
                raise UsageError(f"{path}: a folder without models; looked for *.onnx{also}")
            folders.append(path)
            found += inside.sources.values()
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


def _looked(folder: Path) -> Look:
    try:
        return look([folder])
    except OSError as err:
        raise UsageError(f"{folder}: can't be listed: {err.strerror}") from err


def _few(names: Iterable[str]) -> str:
    """Names in a line, of a thousand the first."""
    known = list(names)
    more = f" and {len(known) - 12} more" if len(known) > 13 else ""
    return ", ".join(known[:12] if more else known) + more


async def _apart(call: Callable[..., T], *args: Any) -> T:
    """`call` in a thread that nobody waits for at the end: what it waits for, a process or a disk,
    ends with this one."""
    loop = asyncio.get_running_loop()
    made: asyncio.Future[T] = loop.create_future()

    def settle(result: list[T], error: BaseException | None) -> None:
        if made.done():  # given up
            return
        if error is not None:
            made.set_exception(error)
        else:
            made.set_result(result[0])

    def work() -> None:
        result: list[T] = []
        error = None
        try:
            result.append(call(*args))
        except BaseException as err:
            error = err
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=work, name="apart", daemon=True).start()
    return await made


class Models:
    """The registry. home: a folder of the server's own, for what is made ready."""

    def __init__(self, home: Path, asked: Asked, pool: Pool, log: Log) -> None:
        self._home, self._asked, self._pool, self._log = home, asked, pool, log
        self._served: dict[str, Served] = {}
        self._seen: dict[str, Signature] = {}
        self._files: dict[str, tuple[str, ...]] = {}
        self._mine: set[str] = set()
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
            near = hint(name, self._served, 1)
            raise unknown(f"model '{name[:200]}'; served: {_few(self._served)}{near}")
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
        self._files.pop(source.name, None)
        folder.mkdir()
        try:
            described = await _apart(prepared, source.path, folder, self._asked)
            self._files[source.name] = described.files
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

    def seen(self, found: Iterable[Source], folders: Sequence[Path]) -> None:
        """Remember what the folders' files are, before they are read."""
        self._mine = {source.name for source in found if source.path.parent in folders}
        with contextlib.suppress(OSError):  # `watch` says it
            signatures = look(folders).signatures
            self._seen = {name: signatures[name] for name in self._mine & signatures.keys()}

    async def watch(self, folders: Sequence[Path]) -> None:
        """Look at the folders for good."""
        pending: dict[str, tuple[Signature, int]] = {}
        said: set[str] = set()
        while folders:
            await asyncio.sleep(LOOK)
            try:
                found = await _apart(look, folders)
            except OSError as err:  # what was there is served on
                said |= self._say({f"a folder can't be listed: {err}"}, said)
                continue
            left = {f"{path}: not served: {why}" for path, why in found.left.items()}
            taken = (found.sources.keys() & self._served.keys()) - self._mine
            left |= {f"{found.sources[n].path}: not served: '{n}' is another model" for n in taken}
            said = self._say(left, said)
            for name in sorted(self._mine - found.sources.keys()):
                self._mine.discard(name)
                self._seen.pop(name, None)
                if name in self._served:
                    self.remove(name)
                    self._log.event("removed", model=name)
            for name, source in found.sources.items():
                now = found.signatures[name]
                if name not in taken and self._changed(name, now, pending):
                    self._mine.add(name)
                    self._seen[name] = now
                    await self._reload(source)

    def _say(self, left: set[str], said: set[str]) -> set[str]:
        """Log what isn't served, once for as long as it is so."""
        for line in sorted(left - said):
            self._log.event("reload", "error", error=line)
        return left

    def _changed(
        self, name: str, now: Signature, pending: dict[str, tuple[Signature, int]]
    ) -> bool:
        """Whether a model is another one, and written: one that is still being written is another
        one at the next look."""
        files, seen = self._files.get(name), self._seen.get(name)
        if seen is not None and now.same(seen, files):
            pending.pop(name, None)
            return False
        before, looks = pending.get(name, (None, 0))
        if before is None or now.own != before.own:
            pending[name] = now, 0
            return False
        pending[name] = now, looks + 1
        patience = _PATIENCE if seen is None or seen.own != now.own else _AGAIN
        if now.same(before, files) or (files is None and looks + 1 >= patience):
            del pending[name]
            return True
        return False

    async def _reload(self, source: Source) -> None:
        try:
            if await self.add(source):
                made = self._served[source.name]
                self._log.event("loaded", model=made.name, version=made.version,
                                hash=made.described.hash)  # fmt: skip
        except (BacklightError, OSError, Refused) as err:
            self._log.event("reload", "error", model=source.name, error=str(err))
        except Exception as err:  # that nobody expected: the other files are looked at all the same
            self._log.failure(err, model=source.name)
