"""Results are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from backlight.engine.photos import outputs
from backlight.engine.photos.outputs import numbered
from backlight.export.saliency import explain_graph

posix = pytest.mark.skipif(os.name != "posix", reason="pipes and locks")


def test_a_file_written_in_pieces_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "made.bin"
    with outputs.written_whole(file) as out:
        out.write(b"one ")
        assert not file.exists()
        out.write(b"two")
    assert file.read_bytes() == b"one two"

    def half() -> None:
        with outputs.written_whole(file) as out:
            out.write(b"half")
            raise KeyError

    with pytest.raises(KeyError):
        half()
    assert file.read_bytes() == b"one two" and list(tmp_path.iterdir()) == [file]


@posix
@pytest.mark.parametrize("external", [False, True])
def test_files_are_on_the_disk_before_they_have_their_names(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, external: bool
) -> None:
    """fsync of each file before its rename, of an export and of results."""
    synced: set[int] = set()
    renamed: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted(handle: int) -> None:
        synced.add(os.fstat(handle).st_ino)
        fsync(handle)

    def checked(old: str, new: str) -> None:
        if Path(new).parent == tmp_path:  # else onnx-ir's own, inside the temporary folder
            assert os.stat(old).st_ino in synced, new
            renamed.append(Path(new).name)
        replace(old, new)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(os, "replace", checked)
    graph = explain_graph(str(tiny), "vanilla")
    graph.save(tmp_path / "out.onnx", external=external)
    outputs.write_bytes(tmp_path / "a.png", b"x")
    data = ["out.onnx.data"] if external else []
    assert renamed == [*data, "out.onnx", "a.png"]
    assert tmp_path.stat().st_ino in synced  # the folder: the names


class TestCommonParts:
    def test_photo_a_layer_b_c_is_not_photo_a_b_layer_c(self) -> None:
        assert numbered(["a-b-c", "a-b", "A-B-c", "a-b-c-2"]) == [
            "a-b-c", "a-b", "A-B-c-2", "a-b-c-2-2",
        ]  # fmt: skip
