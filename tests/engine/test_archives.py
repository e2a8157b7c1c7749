"""Arrays from .npz files that somebody else may have written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from backlight.engine.photos import archives
from backlight.engine.photos.archives import arrays_in, expect


def test_all_arrays_or_the_named_ones(tmp_path: Path) -> None:
    held = {"a": np.arange(3), "b": np.ones((2, 2), np.float32)}
    np.savez(tmp_path / "x.npz", **held)  # type: ignore[arg-type]
    assert sorted(arrays_in(tmp_path / "x.npz")) == ["a", "b"]
    some = arrays_in(tmp_path / "x.npz", ["b"])
    np.testing.assert_array_equal(some.pop("b"), held["b"])
    assert not some
    with pytest.raises(ValueError, match="it lacks"):
        arrays_in(tmp_path / "x.npz", ["c"])


def test_what_is_no_archive(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        arrays_in(tmp_path / "none.npz")
    with pytest.raises(ValueError, match="a folder"):
        arrays_in(tmp_path)
    (tmp_path / "text.npz").write_text("text")
    with pytest.raises(ValueError, match="zip"):
        arrays_in(tmp_path / "text.npz")


def test_objects_are_programs_to_run(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.array([{}], object))
    with pytest.raises(ValueError, match="pickle"):
        arrays_in(tmp_path / "x.npz")


def test_more_than_memory_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "x.npz", a=np.zeros(1 << 16))
    monkeypatch.setattr(archives, "MOST", 1 << 16)
    with pytest.raises(ValueError, match="bytes unpacked"):
        arrays_in(tmp_path / "x.npz")


def test_types_and_shapes() -> None:
    expect("a", np.zeros((3, 2), np.float32), np.float32, (None, 2))
    for wrong in (np.zeros((3, 2)), np.zeros((3, 3), np.float32), np.zeros(3, np.float32)):
        with pytest.raises(ValueError, match=r"a is .*; expected float32 \['any', 2\]"):
            expect("a", wrong, np.float32, (None, 2))
