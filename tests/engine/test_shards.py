"""Photos in shards: folders and lists."""

from __future__ import annotations

import io
import lzma
import random
import shutil
import tarfile
from pathlib import Path

import pytest

from backlight.engine.scale.members import Columns, members
from backlight.engine.scale.shards import found_shards
from backlight.errors import ImageError

from ..mutants import flipped
from .batching import thumbnail


def test_a_folder_and_a_long_list_are_cut_into_shards(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    (folder / "deep").mkdir(parents=True)
    for n in range(5):
        (folder / "deep" / f"{n}.jpg").write_bytes(thumbnail(n))
    (folder / "readme.txt").write_text("no list of files")
    found, skipped = found_shards([folder], 2)
    assert not skipped and [s.name for s in found] == [f"files-00000{n}" for n in range(3)]
    assert [s.files for s in found][2] == ("deep/4.jpg",)
    (tmp_path / "all.txt").write_text("".join(f"pictures/deep/{n}.jpg\n" for n in range(5)))
    found, _ = found_shards([tmp_path / "all.txt"], 3)
    assert [(s.name, len(s.files)) for s in found] == [("all.txt-000000", 3), ("all.txt-000001", 2)]
    lists = tmp_path / "lists"
    lists.mkdir()
    for name in ("a.txt", "b.list"):
        (lists / name).write_text("../pictures/deep/0.jpg\n")
    assert [s.kind for s in found_shards([lists])[0]] == ["list", "list"]
    other = tmp_path / "other"
    shutil.copytree(lists, other)
    names = [s.name for s in found_shards([lists, other])[0]]
    assert len(set(names)) == 4 and all(n.startswith(("a.txt-", "b.list-")) for n in names)
    assert names == [s.name for s in found_shards([lists, other])[0]]


def _tar() -> bytes:
    """Two pictures, the first with a name that takes a header of its own."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name in ("a" * 120 + ".jpg", "b.jpg"):
            info = tarfile.TarInfo(name)
            info.size = len(thumbnail(0))
            archive.addfile(info, io.BytesIO(thumbnail(0)))
    return buffer.getvalue()


def test_tar_files_that_somebody_changed(tmp_path: Path) -> None:
    """Whatever is in them: pictures, or one line that names the file."""
    link = tarfile.TarInfo("././@LongLink")
    link.type, link.size = tarfile.GNUTYPE_LONGNAME, 4
    headers = link.tobuf(tarfile.GNU_FORMAT) + b"abc\0".ljust(512, b"\0")
    changed = [headers * 3000 + _tar()]  # headers within headers
    packed = lzma.compress(_tar())
    for seed in range(60):
        rng = random.Random(seed)
        changed += [
            flipped(_tar(), rng),
            flipped(packed, rng),
            packed[: rng.randrange(len(packed))],
        ]
    read, file = 0, tmp_path / "a.tar"
    for data in changed:
        file.write_bytes(data)
        (shard,) = found_shards([file])[0]
        try:
            read += len(list(members(shard, Columns())))
        except ImageError as err:
            assert "a.tar: " in str(err) and "\n" not in str(err)
    assert 0 < read < 2 * len(changed)
    file.write_bytes(changed[0])
    with pytest.raises(ImageError, match="can be read to its end: maximum recursion depth"):
        list(members(found_shards([file])[0][0], Columns()))
