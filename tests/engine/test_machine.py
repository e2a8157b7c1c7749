"""What the machine says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from backlight.engine.runtime.machine import device

pytest.importorskip("onnxruntime")


def test_the_machine_says_how_wide_its_vectors_are():
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    flags = [line for line in lines if line.startswith("flags")]
    if not flags:
        pytest.skip("no x86 flags to read")
    wide = "AVX-512" if "avx512f" in flags[0] else "AVX2" if "avx2" in flags[0] else ""
    assert device().endswith(f", {wide}" if wide else "cores")
