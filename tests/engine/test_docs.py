"""Every command of docs/indirect.md, as it stands there, one after another in one folder."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import pytest
from PIL import Image

from backlight.engine.cli import run
from backlight.engine.cli.options import PHOTOS
from backlight.engine.photos import images

TEXT = (Path(__file__).parents[2] / "docs" / "indirect.md").read_text(encoding="utf-8")


def commands() -> list[list[str]]:
    """The words behind `backlight` in the shell blocks."""
    blocks = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    found = [shlex.split(line, comments=True) for line in lines]
    assert all(words[0] == "backlight" for words in found)
    return [words[1:] for words in found]


@pytest.mark.slow
def test_the_commands_run_as_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With few steps, for the time it takes: pytest -m slow tests/engine/test_docs.py"""
    pytest.importorskip("openTSNE")
    monkeypatch.chdir(tmp_path)
    Path("engine").symlink_to(Path(__file__).parents[2] / "engine", target_is_directory=True)
    Image.fromarray(images.decode(PHOTOS / "chelsea.jpg")[:, ::-1]).save("other.png")
    assert run(["embed", "bundled", "other.png", "-o", "other-store"]) == 0
    tools = Path(__file__).parents[2] / "tools"
    runpy.run_path(str(tools / "make_concept_folders.py"))["main"](Path("concept-pictures"))
    found = commands()
    assert len(found) > 10
    for words in found:
        few = ["--steps", "2"] if "--method" in words else []
        assert run([*words, *few]) == 0, (words, capsys.readouterr().err)
    assert len(list(tmp_path.rglob("*.html"))) == sum("--html" in words for words in found)


ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")])


def anchors(page: Path) -> set[str]:
    """What a page's headings are called in a link, as GitHub names them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    heads = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    bare = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", head) for head in heads]
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in bare}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target or target.startswith("mailto:"):
            continue
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        assert there.exists(), f"{page.name}: {target}"
        if anchor and there.suffix == ".md":
            assert anchor in anchors(there), f"{page.name}: {target}; {sorted(anchors(there))}"


def test_every_page_is_linked() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for page in ROOT.glob("docs/*.md"):
        assert page.name == "README.md" or f"({page.name})" in index, page.name


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_no_merge_is_left_half_done(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines if line.startswith(("<<<<<<<", ">>>>>>>", "======="))]


def test_every_method_is_in_the_table() -> None:
    """docs/README.md says of every method and command where it is."""
    from backlight.engine.cli import COMMANDS

    table = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    tools = {"export", "explain", "check", "methods", "bench", "serve", "batch", "triton"}
    for name in set(COMMANDS) - tools:
        assert f"`{name}`" in table or f"`backlight {name}`" in table, name
