"""Every command of docs/indirect.md, as it stands there, one after another in one folder."""

from __future__ import annotations

import json
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
    """What a page's headings are called in a link."""
    return named(page.read_text(encoding="utf-8"))


def named(text: str) -> set[str]:
    """What the headings in a text are called in a link, as GitHub names them."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
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


def rows_of(page: Path, width: int) -> list[list[str]]:
    """The cells of a page's table of this many columns, without its head."""
    lines = [line for line in page.read_text(encoding="utf-8").splitlines() if line[:1] == "|"]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    of_it = [row for row in rows if len(row) == width]
    assert set("".join(of_it[1])) <= set("- ")
    return of_it[2:]


TABLE = rows_of(ROOT / "docs" / "README.md", 5)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row[1][1:24])
def test_what_the_table_of_methods_says_is_so(row: list[str]) -> None:
    """Each row's links lead to a heading, whose part names what is given; its command is one; its
    sources are the method's own; what is said to be in the exported file is."""
    from backlight.engine.cli import COMMANDS
    from backlight.export.methods import METHODS as ROWS

    _, name, source, given, held = row
    links = re.findall(r"\]\(([^)]+)\)", name)
    assert links
    words = re.findall(r"`([^`]+)`", given)
    methods = [word.removeprefix("--method ") for word in words if word.startswith("--method ")]
    options = [word for word in words if word.startswith("--") and "--method" not in word]
    commands = [word.removeprefix("backlight ") for word in words if word[:2] != "--"]
    assert methods or commands, given
    assert set(commands) <= set(COMMANDS)
    assert {ROWS[one].source for one in methods} <= set(source.split(", ")), source
    in_graph = [ROWS[one].held == "graph" for one in methods]
    assert held == ("" if not any(in_graph) else "the latter" if commands else "yes")
    assert not methods or commands or all(in_graph) == bool(held)
    told = ""
    for link in links:
        page, _, anchor = link.partition("#")
        assert anchor, link
        told += part_of(ROOT / "docs" / page, anchor)
    for one in methods:
        assert f"`{one}`" in told, f"{one}: {name}"
    for one in [*options, *(f"backlight {command}" for command in commands)]:
        assert one.split(" Q")[0] in told, f"{one}: {name}"


def part_of(page: Path, anchor: str) -> str:
    """The text under a heading, up to the next one."""
    text = page.read_text(encoding="utf-8")
    (found,) = (p for p in re.split(r"^(?=#+ )", text, flags=re.MULTILINE) if anchor in named(p))
    return found


def test_every_method_is_in_the_table() -> None:
    """docs/README.md says of every method and command where it is."""
    from backlight.engine.cli import COMMANDS
    from backlight.export.methods import METHODS as ROWS

    table = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    tools = {"export", "explain", "check", "methods", "bench", "serve", "batch", "triton"}
    for name in set(COMMANDS) - tools:
        assert f"`{name}`" in table or f"`backlight {name}`" in table, name
    for name in ROWS:
        assert f"`--method {name}`" in table, name


@pytest.mark.parametrize("page", ["docs/segment.md", "benchmarks/README.md"])
def test_the_figures_of_segmentation_are_the_last_ones(page: str) -> None:
    """Both tables are of results/segment.json, which the command beside them writes."""
    held = json.loads((ROOT / "benchmarks" / "results" / "segment.json").read_bytes())
    by = {(row["method"], row["way"]): row for row in held}
    text = (ROOT / page).read_text(encoding="utf-8")
    for name in ("vanilla", "gradcam", "occlusion"):
        cut, walk = by[name, "grabcut"], by[name, "random-walker"]
        figures = [cut["seeds"], cut["iou"], cut["median"], cut["box"], walk["iou"]]
        told = " | ".join(f"{value:.3f}" for value in figures)
        shown = "Grad-CAM" if page.startswith("bench") and name == "gradcam" else name
        assert re.search(rf"^\| `?{shown}`? \| {re.escape(told)} \|$", text, re.MULTILINE), told
    assert f"{by['vanilla', 'grabcut']['all']:.3f}" in text
