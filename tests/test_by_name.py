"""Each module of the engine has its test file by name, or stands below with the file that tests it.

By name: `test_<module>.py` or, where two modules share a name, `test_<room>_<module>.py`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ENGINE = TESTS.parent / "engine"

# Rooms that are tested as a whole: their modules answer one request together.
WHOLE = {"serve"}
# Why a module has no file of its own; which one has its tests.
ELSEWHERE: dict[str, dict[str, str]] = {
    "a command: tried through its words, with what it calls": {
        "cli/asking": "engine/test_targeted",
        "cli/check": "engine/test_check_targets",
        "cli/drift": "engine/test_export_compare",
        "cli/exchanged": "engine/test_counterfactual",
        "cli/explain": "engine/test_cli",
        "cli/export": "engine/test_export_compare",
        "cli/invert": "engine/test_inversion",
        "cli/masked": "engine/test_cli_occlude",
        "cli/maximize": "engine/test_inversion",
        "cli/methods": "export/test_methods",
        "cli/occluded": "engine/test_cli_occlude",
        "cli/numbers": "test_written",
        "cli/options": "engine/test_grammar",
        "cli/photos": "engine/test_photo_job",
        "cli/placed": "engine/test_grammar",
        "cli/progress": "engine/test_photo_job",
        "cli/reconstruct": "engine/test_deconvnet",
        "cli/scored": "engine/test_rise",
        "cli/serve": "serve/test_life",
        "cli/started": "engine/test_isolated",
        "cli/starts": "engine/test_inversion",
    },
    "a part of one result, which is held as a whole to cases that are known": {
        "classifier/intake": "engine/test_two_inputs",
        "classifier/scored": "engine/test_search",
        "classifier/scores": "engine/test_explainer",
        "direct/classes": "engine/test_explainer",
        "direct/described": "engine/test_explainer",
        "direct/variants": "export/test_variations",
        "evidence/biasfigures": "engine/test_bias",
        "evidence/biaspictures": "engine/test_bias",
        "evidence/biasreport": "engine/test_bias",
        "evidence/biastests": "engine/test_bias",
        "evidence/naming": "engine/test_bias",
        "inside/crops": "engine/test_patches",
        "inside/explanatory": "engine/test_graph",
        "inside/frames": "engine/test_parts",
        "inside/partgraph": "engine/test_graph",
        "inside/partpictures": "engine/test_graph",
        "inside/patch_embedding": "engine/test_filters",
        "inside/patterns": "engine/test_parts",
        "inside/testing": "engine/test_concepts",
        "masked/ablationcam": "engine/test_channel_cams",
        "masked/cams": "engine/test_channel_cams",
        "masked/kernelshap": "engine/test_lime",
        "masked/scorecam": "engine/test_channel_cams",
        "masked/methods": "export/test_methods",
        "masked/ways": "engine/test_drilldown",
        "measure/processes": "engine/test_choice",
        "pictures/bars": "engine/test_concepts",
        "pictures/regions": "engine/test_counterfactual",
        "similar/lookup": "engine/test_neighbors",
        "targeted/regions": "engine/test_counterfactual",
    },
    "work that is stopped, killed, spoilt or shared: tests start it as a user does": {
        "inside/looks": "engine/test_concepts",
        "masked/together": "engine/test_lime",
        "measure/contention": "test_benchmarks",
        "photos/arrays": "engine/test_bands",
        "photos/layouts": "engine/test_images",
        "photos/passes": "engine/test_stopped",
        "photos/rows": "engine/test_stopped",
        "photos/stream": "engine/test_room",
        "runtime/arrays": "engine/test_recorded",
        "scale/core": "engine/test_batch",
        "scale/local": "engine/test_batch",
        "scale/members": "engine/test_batch",
        "scale/parts": "engine/test_batch",
        "scale/rayed": "engine/test_batch_ray",
        "scale/run": "engine/test_batch",
        "scale/worker": "engine/test_batch_killed",
        "similar/store_writer": "engine/test_tampered",
    },
}
TABLE = {module: file for of in ELSEWHERE.values() for module, file in of.items()}


def modules() -> list[str]:
    """Every module of the engine's rooms: `photos/images`."""
    found = (f.relative_to(ENGINE).with_suffix("") for f in sorted(ENGINE.glob("*/**/*.py")))
    return [m.as_posix() for m in found if not m.name.startswith("__") and m.parts[0] not in WHOLE]


def by_name(module: str) -> list[Path]:
    """The files that test a module by their names."""
    room, name = module.split("/")[0], module.rsplit("/", 1)[-1]
    names = [f"test_{room}_{name}.py", f"test_{name}.py"]
    return [f for n in names for f in TESTS.glob(f"engine/{n}") if f.exists()]


@pytest.mark.parametrize("module", modules())
def test_a_module_has_its_test_file_by_name(module: str) -> None:
    if module in TABLE:
        namesakes = [m for m in modules() if Path(m).name == Path(module).name]
        assert not by_name(module) or len(namesakes) > 1, "it has a file by name: its row can go"
        file = TESTS / f"{TABLE[module]}.py"
        assert file.exists(), f"{file} is gone"
    else:
        assert by_name(module), f"no test_{Path(module).name}.py, and no row in {__file__}"


def test_the_table_names_modules_that_exist() -> None:
    assert set(TABLE) <= set(modules())
    assert all((TESTS / room).is_dir() and any((TESTS / room).glob("test_*.py")) for room in WHOLE)
