"""The public surface: names of `backlight`, commands in the README."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import backlight
from backlight import errors
from backlight.engine.cli import COMMANDS

from .commands import SRC

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")

NAMES = [
    "AblationCam", "BacklightError", "Batched", "BiasFinder", "Cem", "Concepts", "Counterfactual",
    "Embedder", "Embeddings", "Explainer", "Explanation", "ExplanatoryGraph", "ImageError",
    "InputError", "KernelShap", "Lime", "ModelError", "Occlusion", "OutputError", "Preprocess",
    "Rise", "RunError", "ScoreCam", "Segment", "Segmentation", "Segments", "UnsupportedNode",
    "UsageError", "__version__", "activations", "batch", "check", "deconvnet", "embed", "export",
    "filters", "from_pytorch", "invert", "maximize", "neighbors", "patches",
]  # fmt: skip


def test_the_public_names_are_these():
    """Other people's programs hold on to them: add, and take none away."""
    assert backlight.__all__ == NAMES
    for name in NAMES:
        assert getattr(backlight, name) is not None
    assert set(dir(backlight)) == set(NAMES)


def test_they_are_what_their_rooms_have():
    import backlight.export.check
    import backlight.export.graph
    from backlight.export.preprocess import Preprocess
    from backlight.export.pytorch import from_pytorch

    assert backlight.check is backlight.export.check.check
    assert backlight.Preprocess is Preprocess and backlight.from_pytorch is from_pytorch


def test_the_error_tree_is_whole():
    tree = {
        name: one
        for name, one in vars(errors).items()
        if isinstance(one, type) and issubclass(one, errors.BacklightError)
    }
    assert {n: getattr(backlight, n) for n in tree} == tree


@pytest.mark.parametrize("name", NAMES)
def test_a_name_alone_can_be_imported(name):
    assert vars(__import__("backlight", fromlist=[name])) is not None
    namespace: dict[str, object] = {}
    exec(f"from backlight import {name}", namespace)
    assert name in namespace


def test_importing_it_loads_no_library():
    code = "import sys; before = set(sys.modules); import backlight; "
    code += "print(*{m.split('.')[0] for m in set(sys.modules) - before})"
    found = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path.insert(0, {SRC!r}); {code}"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert not {"numpy", "onnx", "onnxruntime", "PIL", "torch", "typing"} & set(found), found


def test_the_readme_has_all_commands():
    table = re.search(r"\| command \|.*?\n\n", README, re.DOTALL)
    assert table is not None
    assert re.findall(r"^\| `(\w+)` \|", table[0], re.MULTILINE) == list(COMMANDS)


def test_the_docs_have_all_names():
    """Each of them stands on a page, and has a docstring where it is no version."""
    pages = (Path(__file__).parents[2] / "docs").glob("*.md")
    words = set(re.findall(r"\w+", README + "".join(p.read_text("utf-8") for p in pages)))
    assert set(NAMES) - words <= {"__version__"}
    assert all(getattr(backlight, name).__doc__ for name in NAMES)
