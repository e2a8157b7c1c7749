"""Each module of the engine, the exporter and the kernels has its test file by name, or stands
below with the file that tests it.

By name: `test_<module>.py` or, where two modules share a name, `test_<room>_<module>.py`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parent

# Folders of code: the folder of their tests.
FOLDERS = {"engine": "engine", "export": "export", "kernels": "kernels"}
# Rooms that are tested as a whole: their modules answer one request together, or are the rows of
# one table that a test goes through.
WHOLE = {
    "engine/serve": "serve/test_protocol",
    "export/rules": "export/test_operators",
    "export/lowering": "export/test_lowering",
    "export/incremental": "incremental/test_exact",
}
# Why a module has no file of its own; which one has its tests.
ELSEWHERE: dict[str, dict[str, str]] = {
    "a command: tried through its words, with what it calls": {
        "cli/asking": "engine/test_targeted",
        "cli/exchanged": "engine/test_counterfactual",
        "cli/explain": "engine/test_cli",
        "cli/explaining": "engine/test_cli",
        "cli/export": "engine/test_drift",
        "cli/invert": "engine/test_synthesis",
        "cli/masked": "engine/test_cli_occlude",
        "cli/kept": "engine/test_stopped",
        "cli/maximize": "engine/test_synthesis",
        "cli/occluded": "engine/test_cli_occlude",
        "cli/numbers": "test_written",
        "cli/options": "engine/test_grammar",
        "cli/placed": "engine/test_grammar",
        "cli/progress": "engine/test_cli_photos",
        "cli/scored": "engine/test_rise",
        "cli/serve": "serve/test_life",
        "cli/started": "engine/test_isolated",
        "cli/starts": "engine/test_synthesis",
        "cli/conceptpage": "engine/test_concepts",
    },
    "a part of one result, which is held as a whole to cases that are known": {
        "classifier/fed": "engine/test_two_inputs",
        "classifier/intake": "engine/test_two_inputs",
        "classifier/scored": "engine/test_search",
        "classifier/scores": "engine/test_explainer",
        "direct/classes": "engine/test_explainer",
        "direct/compiled": "engine/test_explainer",
        "direct/describing": "engine/test_explainer",
        "direct/described": "engine/test_explainer",
        "direct/variants": "export/test_variations",
        "evidence/biasfigures": "engine/test_bias",
        "evidence/biaspictures": "engine/test_bias",
        "evidence/biasreport": "engine/test_bias",
        "evidence/biastests": "engine/test_bias",
        "evidence/looking": "engine/test_bias",
        "evidence/naming": "engine/test_bias",
        "inside/crops": "engine/test_patches",
        "inside/explanatory": "engine/test_graph",
        "inside/frames": "engine/test_parts",
        "inside/measures": "engine/test_concepts",
        "inside/partgraph": "engine/test_graph",
        "inside/partpictures": "engine/test_graph",
        "inside/patch_embedding": "engine/test_filters",
        "inside/patterns": "engine/test_parts",
        "inside/testing": "engine/test_concepts",
        "masked/ablationcam": "engine/test_cams",
        "masked/kernelshap": "engine/test_lime",
        "masked/scorecam": "engine/test_cams",
        "masked/methods": "export/test_methods",
        "masked/room": "engine/test_scoring",
        "masked/ways": "engine/test_drilldown",
        "measure/held": "engine/test_bench",
        "measure/report": "engine/test_bench",
        "measure/runs": "engine/test_bench",
        "measure/subjects": "engine/test_bench",
        "measure/processes": "engine/test_choice",
        "pictures/bars": "engine/test_concepts",
        "pictures/regions": "engine/test_counterfactual",
        "similar/lookup": "engine/test_neighbors",
        "targeted/regions": "engine/test_counterfactual",
    },
    "a step from a model's file to its explaining graph: cases of whole models hold them all": {
        "export/arithmetic": "export/test_budget",
        "export/asked_of": "export/test_saliency",
        "export/backward": "export/test_operators",
        "export/bare": "export/test_saliency",
        "export/choose": "export/test_odd_models",
        "export/clone": "engine/test_ready",
        "export/closers": "export/test_heads",
        "export/combinations": "engine/test_mistaken_asks",
        "export/directional": "engine/test_derivatives",
        "export/drawing": "export/test_cam",
        "export/emit": "export/test_operators",
        "export/enlarge": "export/test_cam",
        "export/explained": "export/test_saliency",
        "export/explaining": "export/test_heads",
        "export/field": "export/test_variations",
        "export/finish": "export/test_methods",
        "export/flow": "export/test_saliency",
        "export/front": "engine/test_preprocessing_inside",
        "export/graph": "export/test_load",
        "export/head": "export/test_heads",
        "export/inference": "export/test_load",
        "export/inline": "export/test_load",
        "export/judged": "export/test_heads",
        "export/layer": "export/test_cam",
        "export/legacy": "export/test_load",
        "export/named": "export/test_fold",
        "export/noted": "export/test_check",
        "export/outputs": "export/test_saliency",
        "export/parted": "engine/test_cams",
        "export/places": "export/test_cam",
        "export/placewise": "engine/test_cells",
        "export/preprocess": "engine/test_images",
        "export/pytorch": "engine/test_occlusion",
        "export/reciprocam": "export/test_cam",
        "export/report": "export/test_check",
        "export/said": "export/test_heads",
        "export/sampling": "export/test_variations",
        "export/scaling": "export/test_half",
        "export/score_nodes": "export/test_heads",
        "export/scores": "export/test_heads",
        "export/seed": "export/test_saliency",
        "export/shrinking": "export/test_traits",
        "export/span_rules": "export/test_receptive",
        "export/spans": "export/test_receptive",
        "export/sparse": "export/test_budget",
        "export/store": "engine/test_files",
        "export/structure": "export/test_hostile",
        "export/tail": "engine/test_cells",
        "export/tokens": "export/test_transformers",
        "export/tried": "export/test_heads",
        "export/unrounded": "export/test_heads",
        "export/variants": "export/test_saliency",
    },
    "one of several that have to agree to the bit, which one file compares": {
        "kernels/cpu/backend": "kernels/test_backends",
        "kernels/cuda/backend": "kernels/test_nvrtc",
        "kernels/masks": "kernels/test_backends",
        "kernels/reference": "kernels/test_backends",
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
        "scale/asked": "engine/test_batch",
        "scale/core": "engine/test_batch",
        "scale/held": "engine/test_triton",
        "scale/local": "engine/test_batch",
        "scale/members": "engine/test_batch",
        "scale/parts": "engine/test_batch",
        "scale/pbtxt": "engine/test_triton",
        "scale/run": "engine/test_batch",
        "scale/running": "engine/test_batch",
        "scale/table": "engine/test_batch",
        "similar/store_writer": "engine/test_tampered",
    },
}
TABLE = {module: file for of in ELSEWHERE.values() for module, file in of.items()}


def modules() -> list[str]:
    """Every module of the engine's rooms, `photos/images`, and of the other folders,
    `export/graph`."""
    found = []
    for folder in FOLDERS:
        within = ROOT / folder
        for file in sorted(within.rglob("*.py")):
            name = file.relative_to(ROOT).with_suffix("").as_posix()
            whole = any(name.startswith(f"{room}/") for room in WHOLE)
            if not whole and not file.name.startswith("__"):
                found.append(name.removeprefix("engine/"))
    return found


def folder_of(module: str) -> str:
    """The folder of code that a module lies in."""
    first = module.split("/")[0]
    return first if first in FOLDERS else "engine"


def by_name(module: str) -> list[Path]:
    """The files that test a module by their names."""
    room, name = module.split("/")[0], module.rsplit("/", 1)[-1]
    tests = TESTS / FOLDERS[folder_of(module)]
    return [f for n in (f"test_{room}_{name}.py", f"test_{name}.py") if (f := tests / n).exists()]


@pytest.mark.parametrize("module", modules())
def test_a_module_has_its_test_file_by_name(module: str) -> None:
    if module in TABLE:
        namesakes = [
            m
            for m in modules()
            if Path(m).name == Path(module).name and folder_of(m) == folder_of(module)
        ]
        assert not by_name(module) or len(namesakes) > 1, "it has a file by name: its row can go"
        file = TESTS / f"{TABLE[module]}.py"
        assert file.exists(), f"{file} is gone"
    else:
        assert by_name(module), f"no test_{Path(module).name}.py, and no row in {__file__}"


def test_the_table_names_modules_that_exist() -> None:
    assert set(TABLE) <= set(modules())
    for room, file in WHOLE.items():
        assert (ROOT / room).is_dir() and (TESTS / f"{file}.py").exists(), room
