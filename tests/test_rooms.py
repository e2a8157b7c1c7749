"""The arrows between rooms go one way: read from the imports, so that the design can't rot.

`python -m tests.test_rooms` prints the drawing of docs/how-it-works.md, and writes it there with
--write.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs" / "how-it-works.md"

# Every room of the engine, from the ground up: it may import those before it.
ENGINE = (
    "runtime",
    "photos",
    "classifier",
    "pictures",
    "direct",
    "masked",
    "inside",
    "similar",
    "targeted",
    "evidence",
    "measure",
    "scale",
    "serve",
    "cli",
)
# Beside the engine; a room may import what stands in its set, and itself.
BESIDE = {"export": {"lanes"}, "kernels": {"lanes"}, "lanes": set(), "errors": set()}
ROOMS = {*ENGINE, *BESIDE}


def room_of(file: Path) -> str:
    """The room of a file: `export`, or the folder below `engine`."""
    parts = file.relative_to(ROOT).parts
    return parts[1] if parts[0] == "engine" else parts[0]


def modules(folder: str) -> list[Path]:
    """The Python files of a folder."""
    return sorted((ROOT / folder).rglob("*.py"))


def imported(file: Path) -> Iterator[str]:
    """The dotted names that a file imports from this package, lazily or not: `engine.photos.images`
    for `from ..photos import images`."""
    package = file.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            if node.level:
                base = package[: len(package) - node.level + 1]
            elif node.module and node.module.split(".")[0] == "backlight":
                base = ()
            else:
                continue
            path = [*base, *(node.module or "").removeprefix("backlight").strip(".").split(".")]
            path = [p for p in path if p]
            yield from (".".join([*path, alias.name]) for alias in node.names)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("backlight."):
                    yield alias.name.removeprefix("backlight.")


def room_named(dotted: str) -> str | None:
    """The room that a dotted name lies in; None for the package's own names (`__version__`)."""
    first, *rest = dotted.split(".")
    if first == "engine":
        return rest[0] if rest and rest[0] in ENGINE else None
    return first if first in BESIDE else None


def arrows() -> dict[str, set[str]]:
    """For each room, the others that it imports."""
    found: dict[str, set[str]] = {room: set() for room in ROOMS}
    for folder in ("export", "kernels", "engine"):
        for file in modules(folder):
            room = room_of(file)
            if room in ROOMS:
                named = {room_named(name) for name in imported(file)}
                found[room] |= {r for r in named if r is not None and r != room}
    return found


def test_every_module_stands_in_a_room():
    loose = [f for f in modules("engine") if room_of(f) not in (*ENGINE, "__init__.py")]
    assert not loose
    assert {f.name for f in (ROOT / "engine").iterdir() if f.is_dir()} - {
        "assets",
        "__pycache__",
    } == set(ENGINE)


def test_arrows_between_the_engine_s_rooms_go_one_way():
    found = arrows()
    wrong = [
        f"{room} -> {other}"
        for at, room in enumerate(ENGINE)
        for other in found[room]
        if other in ENGINE and ENGINE.index(other) > at
    ]
    assert not wrong


def test_export_and_kernels_know_nothing_of_the_engine():
    found = arrows()
    for room, may in BESIDE.items():
        assert found[room] - may <= {"errors"}, room


def test_modules_of_one_room_import_each_other_in_no_circle():
    """Imports at the top of modules; those inside functions are lazy, and may look back."""
    files = [f for folder in ("export", "kernels", "engine") for f in modules(folder)]
    below = {f: list(_top_level(f)) for f in files}
    done: set[Path] = set()

    def visit(file: Path, way: tuple[Path, ...]) -> None:
        assert file not in way, " -> ".join(f.stem for f in (*way, file))
        if file not in done:
            for other in below.get(file, []):
                visit(other, (*way, file))
            done.add(file)

    for file in files:
        visit(file, ())


def _top_level(file: Path) -> Iterator[Path]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    package = file.parent
    for node in tree.body:
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = package
        for _ in range(node.level - 1):
            base = base.parent
        path = base.joinpath(*(node.module or "").split("."))
        for candidate in [path.with_suffix(".py"), *(path / f"{a.name}.py" for a in node.names)]:
            if candidate.exists() and candidate != file:
                yield candidate


def test_no_test_imports_another() -> None:
    """What two of them need stands in a module of its own, or in a conftest.py."""
    found = [
        f"{file.relative_to(ROOT)}: {name}"
        for file in (*modules("tests"), *modules("benchmarks"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
        for name in [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        if name.startswith("test_") and any((ROOT / "tests").rglob(f"{name}.py"))
    ]
    assert not found


def drawing() -> str:
    """The arrows as text, a line a room, from the top down."""
    found = arrows()
    lines = []
    for room in (*reversed(ENGINE), "export", "kernels"):
        others = sorted(found[room] - {"errors", "lanes"}, key=[*ENGINE, *BESIDE].index)
        lines.append(f"    {room:<11} -> {', '.join(others) or '(none)'}")
    return "\n".join(lines)


def test_the_drawing_in_the_docs_is_this_one():
    text = DOCS.read_text(encoding="utf-8")
    assert drawing() in text, f"docs/how-it-works.md lacks:\n{drawing()}"


def written() -> None:
    """Put the drawing into the docs."""
    text = DOCS.read_text(encoding="utf-8")
    DOCS.write_text(re.sub(r"(?:    \w+ +-> .*\n)+", lambda _: drawing() + "\n", text), "utf-8")


if __name__ == "__main__":
    print(drawing())
    if "--write" in sys.argv:
        written()
