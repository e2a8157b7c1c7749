"""What a measurement was made on: the processor, and the versions of what took part."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ... import __version__
from ...lanes import cores

__all__ = ["device", "versions"]


def device() -> str:
    """The processor, and how many cores this process may use."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    return f"{name}, {cores()} cores"


def versions() -> dict[str, str]:
    """Of what takes part."""
    found = {"backlight": __version__, "python": platform.python_version()}
    for package in ("onnx", "onnxruntime", "onnxruntime-gpu", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
