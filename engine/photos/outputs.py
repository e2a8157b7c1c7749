"""Files written whole or not at all."""

from __future__ import annotations

import contextlib
import io
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...errors import OutputError
from .plain import as_json

try:
    import fcntl
except ImportError:  # Windows: nothing there tells a file in use from one left behind
    fcntl = None  # type: ignore[assignment]

__all__ = ["OutputFolder", "names_of", "refuse_existing", "refuse_results", "write_bytes",
           "written_whole"]  # fmt: skip

# What is written until it is whole: `.name-xxxxxxxx.half`, locked by who writes it.
HALF = ".half"


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file through a temporary one beside it, then rename. Raises OutputError."""
    with written_whole(path) as file:
        file.write(data)


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to piece by piece: a temporary one, which becomes `path` at the end of the
    block, and nothing where the block raises. Raises OutputError."""
    refuse_special(path)
    try:
        handle, temporary = tempfile.mkstemp(HALF, f".{path.name[:40]}-", path.parent)
    except OSError as err:
        raise OutputError(f"{path}: can't be written: {err.strerror}") from err
    try:
        with os.fdopen(handle, "wb") as file:
            if fcntl is not None:
                with contextlib.suppress(OSError):
                    fcntl.flock(file, fcntl.LOCK_EX)
            yield file
            file.flush()
            # On the disk before its name: after a power cut a name never stands for half a file.
            with contextlib.suppress(OSError):  # file systems that can't
                os.fsync(file.fileno())
        # mkstemp makes files that only their owner reads; give what the umask would.
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as err:
        raise OutputError(f"{path}: can't be written: {err.strerror}") from err
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def clear(folder: Path) -> None:
    """Remove what a killed process has left half written in a folder."""
    for file in folder.glob(f".*-*{HALF}") if fcntl is not None else ():
        try:
            if file.is_symlink() or not file.is_file():
                continue
            with file.open("rb") as held:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                file.unlink()
        except OSError:  # in use, or gone by now
            continue


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def refuse_existing(path: Path, force: bool) -> None:
    """Raise OutputError when a file is there already, unless forced, or can't be one."""
    refuse_special(path)
    if path.is_dir():
        raise OutputError(f"{path}: a folder; expected the name of a file to write")
    if path.exists() and not force:
        raise OutputError(f"{path}: exists already; --force overwrites it")
    if not path.parent.is_dir():
        raise OutputError(f"{path}: the folder {path.parent} does not exist")
    clear(path.parent)


def refuse_special(path: Path) -> None:
    """Raise OutputError for a pipe or device: as root, a rename would replace the machine's own."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OutputError(f"{path}: a pipe or device; expected a file or folder to write")


def refuse_results(path: Path, expected: Iterable[str], force: bool) -> None:
    """Raise OutputError where results can't go to a folder: it is a file, can't be made or
    written, or, unless forced, has one of the `expected` names already. Makes nothing: for before
    the work, and `OutputFolder` asks again."""
    refuse_special(path)
    if path.exists() and not path.is_dir():
        raise OutputError(f"{path}: a file; expected a folder to write to")
    # `lexists`: what a broken link leads to can't be made into a folder either.
    there = next(p for p in (path, *path.absolute().parents) if os.path.lexists(p))
    if not there.is_dir():
        raise OutputError(f"{path}: can't be written: {there} is no folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise OutputError(f"{path}: can't be written: Permission denied")
    for name in () if force else expected:
        if (path / name).exists():
            raise OutputError(
                f"{path / name}: exists already; --force overwrites, or take another folder"
            )


def names_of(files: Iterable[Path]) -> list[str]:
    """A name for each file's outputs: its stem, with a number where two are the same; of a long one
    what leaves room for a layer and an ending."""
    return numbered(cut(file.stem, 140) or "image" for file in files)


def cut(name: str, most: int) -> str:
    """The beginning of a name, `most` bytes at most: file systems count bytes, and take 255."""
    while len(os.fsencode(name)) > most:
        name = name[:-1]
    return name


def numbered(names: Iterable[str]) -> list[str]:
    """The names, with a number where two are the same, in capitals or not."""
    taken: set[str] = set()
    made = []
    for name in names:
        own, count = name, 1
        while own.casefold() in taken:
            count += 1
            own = f"{name}-{count}"
        taken.add(own.casefold())
        made.append(own)
    return made


def finite(value: float, digits: int | None = None) -> float | None:
    """A number for JSON, which has neither NaN nor infinity: they become null."""
    if not math.isfinite(value):
        return None
    return value if digits is None else round(value, digits)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """No other command writes its results to the folder meanwhile: each would take the other's
    for its own. Raises OutputError where one does."""
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            # On the folder itself: nothing is left in it.
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(
                f"{folder}: another backlight command is writing to it; take another folder"
            ) from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(handle)


class OutputFolder:
    """A folder for results, made where it is missing.

    made: the files written that weren't there before. before: called once, when the first one is
    about to be.

    Raises OutputError when it can't be made or written, and, unless forced, when one of the
    `expected` names is there already.
    """

    def __init__(self, path: str | os.PathLike[str], expected: Iterable[str], force: bool) -> None:
        if not os.fspath(path):
            raise OutputError("an empty name; expected a folder to write to")
        self.path = Path(path)
        self.made: list[Path] = []
        self.before: Callable[[], None] | None = None
        refuse_results(self.path, expected, force)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass
            clear(self.path)
        except OSError as err:
            raise OutputError(f"{path}: can't be written: {err.strerror}") from err

    def picture(self, name: str, image: Image.Image) -> Path:
        """Write a PNG."""
        buffer = io.BytesIO()
        image.save(buffer, "PNG", optimize=False)
        return self.data(name, buffer.getvalue())

    def array(self, name: str, values: NDArray[Any]) -> Path:
        """Write an .npy file."""
        buffer = io.BytesIO()
        np.save(buffer, np.ascontiguousarray(values), allow_pickle=False)
        return self.data(name, buffer.getvalue())

    def json(self, name: str, value: Any) -> Path:
        """Write a JSON file."""
        text = as_json(value) + "\n"
        # The lone surrogates that stand for a name's undecodable bytes become JSON's escapes.
        return self.data(name, text.encode("utf-8", "backslashreplace"))

    def data(self, name: str, data: bytes) -> Path:
        """Write bytes."""
        if self.before is not None:
            before, self.before = self.before, None
            before()
        path = self.path / name
        fresh = not path.exists()
        write_bytes(path, data)
        if fresh:
            self.made.append(path)
        return path
