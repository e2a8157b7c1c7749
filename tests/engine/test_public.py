"""The public surface: names of `backlight`, commands in the README."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import backlight
from backlight import errors
from backlight.engine.cli import COMMANDS
from backlight.errors import UsageError

from .. import models
from .commands import SRC

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
IG = ("integrated_gradients",)

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


@pytest.mark.parametrize("name", ["Explainer", "Occlusion", "Lime", "Cem", "Embedder", "export"])
@pytest.mark.parametrize("given", ["x=1", 3, ["x"], {1: 2}, {"x": "wide"}, np.ones(2)])
def test_shapes_and_inputs_are_mappings(name, given):
    wanted = [{"shapes": given}]
    if name != "export" and not (isinstance(given, dict) and "x" in given):
        wanted.append({"inputs": given})
    for one in wanted:
        with pytest.raises(UsageError) as said:
            getattr(backlight, name)(models.tiny(), **one)
        assert next(iter(one)) in str(said.value) and "\n" not in str(said.value)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m: backlight.Lime(m, space="pixls"), "space 'pixls'.*'pixels'"),
        (lambda m: backlight.ScoreCam(m, space="pixls"), "space 'pixls'"),
        (lambda m: backlight.Cem(m, space="pixls", preprocess="unit"), "space 'pixls'"),
        (lambda m: backlight.Rise(m, baseline=True), "baseline True"),
        (lambda m: backlight.Concepts(m, "h", preprocess="imagenet-torhc"), "imagenet-torch"),
        (lambda m: backlight.Counterfactual(m, preprocess="imagenet-torhc"), "imagenet-torch"),
        (lambda m: backlight.filters(m, preprocess="imagenet-torhc"), "imagenet-torch"),
        (lambda m: backlight.Explainer(m, contrast=1.5), "contrast is 1.5"),
        (lambda m: backlight.export(m, contrast=[]), "contrast is a list"),
        (lambda m: backlight.export(m, contrast=np.ones(2)), "contrast is a ndarray"),
        (lambda m: backlight.export(m, methods=IG, baseline=[]), "baseline is a list"),
        (lambda m: backlight.export(m, methods=IG, baseline=True), "baseline is True"),
        (lambda m: backlight.activations(m, 3, "h"), "image is 3"),
        (lambda m: backlight.batch(m, [], "out"), "no shards given"),
        (lambda m: backlight.batch(m, ["."], "out", limits=3), "limits is 3"),
        (lambda m: backlight.batch(3, ["."], "out"), "a model can't be a int"),
        (lambda m: list(backlight.deconvnet(m, "found", "h", [0])), "what backlight.patches gave"),
        (lambda m: backlight.patches(m, ".", ["h"], every=-1), "every -1; expected seconds"),
    ],
)
def test_a_mistaken_argument_is_a_line(call, said, tmp_path, monkeypatch):
    photo = models.noise_photo(tmp_path)
    monkeypatch.chdir(Path(photo).parent)
    with pytest.raises(backlight.BacklightError, match=said) as error:
        call(models.tiny())
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name",
    ["Lime", "KernelShap", "ScoreCam", "AblationCam", "Concepts", "Counterfactual", "Cem",
     "ExplanatoryGraph", "Segment", "BiasFinder"],
)  # fmt: skip
def test_what_a_method_s_docstring_says(name: str):
    """Its source, what it takes, what comes back, what is raised: of the class and of its call."""
    made = getattr(backlight, name)
    about, call = inspect.getdoc(made), inspect.getdoc(made.__call__)
    assert about is not None and call is not None
    assert re.search(r"\b(19|20)\d\d\)", about), "its source"
    assert "model: a path, bytes" in about and "Raises" in about
    assert "Raises" in call and "progress: " in call
    given = set(inspect.signature(made.__call__).parameters) - {"self"}
    told = {one for one in given if re.search(rf"\b{one}: ", call)}
    assert given - told <= {"images", "photos"}, f"{name}: {given - told}"
    assert re.search(r"\[N, |photos: a folder", call), "shapes"
