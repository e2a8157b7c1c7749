"""Memory that the server and a worker share: rows lie there, and only what they are is sent.

Through a pipe of a megabyte a batch takes several turns of both processes, each of which waits for
a core and the server's for the interpreter too. Here it is one copy in and one out. An area has one
writer, for whom it is a file; it grows with what is written, and is sealed against shrinking, under
which a reader would end. What is read is data: a length that runs past the end is an end.
"""

from __future__ import annotations

import contextlib
import mmap
import os

import numpy as np
from numpy.typing import NDArray

__all__ = ["Area"]

_LEAST = 1 << 22


class Area:
    """An area by its file descriptor, written and read from its beginning on for each message."""

    def __init__(self, fd: int) -> None:
        self.fd, self._at = fd, 0
        self._held: NDArray[np.uint8] = np.empty(0, np.uint8)

    @classmethod
    def made(cls) -> Area | None:
        """A new one; None where the system has no such memory: rows go through the pipe then."""
        try:
            import fcntl

            fd = os.memfd_create("backlight-rows", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            try:
                fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
            except OSError:
                os.close(fd)
                return None
        except (ImportError, AttributeError, OSError):
            return None
        return cls(fd)

    def rewound(self) -> Area:
        """At its beginning, for the next message."""
        self._at = 0
        return self

    def write(self, data: memoryview) -> int:
        """All of it, behind what was written before. Raises OSError."""
        end = self._at + len(data)
        if end > len(self._held):
            size = max(_LEAST, 1 << (end - 1).bit_length())
            if os.fstat(self.fd).st_size < size:
                os.ftruncate(self.fd, size)
            self._map(size)
        self._held[self._at : end] = np.frombuffer(data, np.uint8)
        self._at = end
        return len(data)

    def readinto(self, into: memoryview) -> int:
        """As much as asked for, behind what was read before; nothing where that isn't there."""
        found = self.read_in_place(len(into))
        np.frombuffer(into, np.uint8)[: len(found)] = found
        return len(found)

    def read_in_place(self, size: int) -> NDArray[np.uint8]:
        """The same where it lies, until the next message is written."""
        end = self._at + size
        if end > len(self._held):
            there = os.fstat(self.fd).st_size
            if end > there:
                return self._held[:0]
            self._map(there)
        self._at = end
        return self._held[end - size : end]

    def close(self) -> None:
        """Give the memory back, when nobody reads from it any more."""
        self._held = np.empty(0, np.uint8)
        with contextlib.suppress(OSError):
            os.close(self.fd)

    def _map(self, size: int) -> None:
        self._held = np.frombuffer(mmap.mmap(self.fd, size), np.uint8)
