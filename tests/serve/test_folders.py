"""Folders that models are reloaded from: what a look tells, and what a server makes of it."""

from __future__ import annotations

import asyncio
import io
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backlight.engine.serve import models
from backlight.engine.serve.folders import Source, look
from backlight.engine.serve.logs import Log
from backlight.engine.serve.refused import Refused
from backlight.errors import ModelError, UsageError

pytestmark = pytest.mark.skipif(os.name != "posix", reason="makes pipes and links")


def test_what_a_look_tells(tmp_path: Path) -> None:
    """Models are files of names that a URL can hold; what is no file is none of them."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    for name in ("a.onnx", "b.c-d_2.onnx", "with space.onnx", "é.onnx", "new\nline.onnx", ".h.onnx",
                 ".onnx", "x" * 201 + ".onnx", "A.ONNX", "w.data", "../second/a.onnx"):  # fmt: skip
        (first / name).write_bytes(b"m")
    os.mkfifo(first / "pipe.onnx")
    (first / "folder.onnx").mkdir()
    (first / "circle.onnx").symlink_to("circle.onnx")
    (first / "device.onnx").symlink_to("/dev/zero")
    (first / "link.onnx").symlink_to("a.onnx")
    with socket.socket(socket.AF_UNIX) as held:
        held.bind(str(first / "s.onnx"))
    found = look([first, second])
    assert sorted(found.sources) == ["a", "b.c-d_2", "link"]
    assert found.sources["a"] == Source("a", first / "a.onnx")
    assert sorted(p.name for p in found.left if p.parent == first) == [
        "new\nline.onnx", "with space.onnx", "x" * 201 + ".onnx", "é.onnx"]  # fmt: skip
    assert "has this name" in found.left[second / "a.onnx"]
    with pytest.raises(OSError, match="No such file"):
        look([tmp_path / "none"])
    for name in sorted(found.sources):
        (first / f"{name}.onnx").unlink()
    with pytest.raises(UsageError, match="without models.*its name can't be a model's") as caught:
        models.sources([str(first)])
    assert "\n" not in str(caught.value)


def test_whether_a_model_has_changed(tmp_path: Path) -> None:
    """By its file and its weights, once it is known which they are; by all beside it before."""
    for name in ("a.onnx", "w.data", "access.log"):
        (tmp_path / name).write_bytes(b"1")
    before = look([tmp_path]).signatures["a"]
    assert before.same(look([tmp_path]).signatures["a"], None)
    (tmp_path / "access.log").write_bytes(b"12")
    noise = look([tmp_path]).signatures["a"]
    assert (
        noise.same(before, ["w.data"]) and noise.same(before, []) and not noise.same(before, None)
    )
    (tmp_path / "w.data").write_bytes(b"12")
    assert not look([tmp_path]).signatures["a"].same(before, ["w.data"])
    (tmp_path / "w.data").unlink()
    assert not look([tmp_path]).signatures["a"].same(before, ["w.data"])
    (tmp_path / "a.onnx").write_bytes(b"12")
    assert not look([tmp_path]).signatures["a"].same(before, [])


class Watched(models.Models):
    """The registry, whose models are read at once: their content says what comes of it."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.said = io.StringIO()
        super().__init__(home, None, None, Log(self.said))  # type: ignore[arg-type]
        self.read: list[str] = []
        monkeypatch.setattr(models, "LOOK", 0.002)

    async def add(self, source: Source) -> bool:
        self.read.append(source.name)
        self._files.pop(source.name, None)
        text = source.path.read_text()
        if text == "bad":
            raise ModelError("bad")
        if text == "odd":
            raise RuntimeError("odd")
        self._files[source.name] = ("w.data",)
        self._served[source.name] = models.Served(
            source.name,
            1,
            described=Hashed(text),
            key="k",
            folder=source.path,  # type: ignore[arg-type]
        )
        return True

    def remove(self, name: str) -> None:
        self._served.pop(name)

    def names(self) -> list[str]:
        return sorted(m.name for m in self)

    def lines(self) -> list[str]:
        return [json.loads(line).get("error", "") for line in self.said.getvalue().splitlines()]


class Hashed:
    def __init__(self, text: str) -> None:
        self.hash = text


async def _watching(watched: Watched, folders: list[Path], steps: list[Callable[[], Any]]) -> None:
    """Do the steps one after the other; one that gives a condition's truth is waited for."""
    watched.seen([], folders)
    task = asyncio.create_task(watched.watch(folders))
    for step in steps:
        async with asyncio.timeout(30):
            while step() is False:
                await asyncio.sleep(0.002)
    assert not task.done()
    task.cancel()


def test_a_look_goes_on_whatever_a_folder_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    watched = Watched(tmp_path, monkeypatch)
    for name, text in (("a", "1"), ("bad", "bad"), ("odd", "odd"), ("no name", "1")):
        (folder / f"{name}.onnx").write_text(text)

    def noise() -> bool:
        """A log that is written all the time."""
        with (folder / "access.log").open("a") as file:
            file.write("x")
        return "z" in watched.names()

    asyncio.run(_watching(watched, [folder], [
        lambda: watched.names() == ["a"] and {"bad", "odd"} <= set(watched.read),
        lambda: (folder / "z.onnx").write_text("2"),
        noise,
        lambda: folder.rename(tmp_path / "gone"),
        lambda: any("can't be listed" in line for line in watched.lines()),
        lambda: watched.names() == ["a", "z"],
        lambda: (tmp_path / "gone").rename(folder),
        lambda: (folder / "a.onnx").unlink(),
        lambda: watched.names() == ["z"],
        lambda: (folder / "w.data").write_text("weights"),
        lambda: watched.read.count("z") == 2,
    ]))  # fmt: skip
    lines = watched.lines()
    assert sum("no name.onnx: not served: its name" in line for line in lines) == 1
    assert sum("can't be listed" in line for line in lines) == 1
    assert watched.read.count("a") == 1, "what lies beside a model that was read doesn't matter"
    assert not any("\n" in line for line in lines)


def test_a_name_that_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    watched = Watched(tmp_path, monkeypatch)
    (tmp_path / "m.onnx").write_text("1")
    asyncio.run(watched.add(Source("m", tmp_path / "m.onnx")))
    (folder / "m.onnx").write_text("2")
    asyncio.run(_watching(watched, [folder], [
        lambda: any("'m' is another model" in line for line in watched.lines()),
    ]))  # fmt: skip
    assert watched.get("m").described.hash == "1"


def test_an_unknown_model_is_a_line_however_many_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(tmp_path, monkeypatch)
    (tmp_path / "m.onnx").write_text("1")
    for number in range(1000):
        asyncio.run(watched.add(Source(f"model{number}", tmp_path / "m.onnx")))
    with pytest.raises(Refused, match="model0, model1, .* and 988 more; nearest: model") as caught:
        watched.get("modell")
    assert len(str(caught.value)) < 400
