"""What a measurement was made on: the processor, and the versions of what took part."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ... import __version__
from ...lanes import cores

__all__ = ["device", "installed", "versions"]


def device() -> str:
    """The processor, how many cores this process may use, and its widest vectors: AVX-512 and
    AVX2 machines differ by more than their speed (blocks of 16 channels, or of 8)."""
    told = _cpuinfo()
    name = told.get("model name") or platform.processor() or platform.machine()
    flags = told.get("flags", "").split()
    widest = next((shown for flag, shown in _VECTORS if flag in flags), "")
    return f"{name}, {cores()} cores" + (f", {widest}" if widest else "")


_VECTORS = (("avx512f", "AVX-512"), ("avx2", "AVX2"), ("avx", "AVX"))


def _cpuinfo() -> dict[str, str]:
    """What Linux says of the first processor."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return {}
    first = info.read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def versions() -> dict[str, str]:
    """Of what takes part."""
    here = {"backlight": __version__, "python": platform.python_version()}
    return here | installed(("onnx", "onnxruntime", "onnxruntime-gpu", "openvino", "numpy"))


def installed(packages: Iterable[str]) -> dict[str, str]:
    """The versions of those that are there."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
