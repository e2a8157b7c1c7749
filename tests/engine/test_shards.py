"""Photos in shards: folders and lists."""

from __future__ import annotations

import shutil
from pathlib import Path

from backlight.engine.scale.shards import found_shards

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
