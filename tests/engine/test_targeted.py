"""Class activation maps, contrasts and variants in the engine, on the bundled model and photos."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

import backlight
from backlight.engine.cli import run
from backlight.engine.cli.options import BUNDLED
from backlight.errors import UsageError

from .. import models
from ..export.harness import run_runtime

CAT = BUNDLED.parent / "photos" / "chelsea.jpg"


EGYPTIAN, TIGER, ESPRESSO = 285, 282, 967


X = models.images(3, 3, 8, 8)


@pytest.fixture(scope="module")
def cat() -> tuple[backlight.Explainer, np.ndarray]:
    explain = backlight.Explainer(BUNDLED, methods=("gradcam", "contrastcam", "vanilla"))
    return explain, explain.load([CAT])


class TestExplainer:
    @pytest.mark.parametrize("contrast", [5, -2, [1, 2, 9]])
    def test_a_contrast_that_there_is_not(self, contrast: Any):
        """-1 isn't the top class here."""
        explain = backlight.Explainer(models.tiny(), methods=("contrastcam",))
        with pytest.raises(
            UsageError, match=r"contrast: class -?\d is out of range.*-1 for the best"
        ):
            explain(X, contrast=contrast)

    def test_the_cat(self, cat):
        explain, x = cat
        found = explain(np.repeat(x, 2, axis=0), target=[-1, ESPRESSO], contrast=[TIGER, -1])
        assert explain.layers == ("fire9",)
        assert explain.contrasted == ("contrastcam",) and explain.contrasts
        assert found.target.tolist() == [EGYPTIAN, ESPRESSO]
        # Not asked for the second row: the best class but the target.
        assert found.contrast.tolist() == [TIGER, EGYPTIAN]
        assert found.saliency["gradcam"].shape == (2, 227, 227)
        assert found.saliency["vanilla"].shape == (2, 3, 227, 227)
        # Where the cat is and where the espresso would be differ.
        one, two = (m / np.linalg.norm(m) for m in found.saliency["gradcam"])
        assert (one * two).sum() < 0.9

    def test_a_file_says_the_same(self, cat, tmp_path: Path):
        explain, x = cat
        proto = backlight.export(BUNDLED, methods=explain.methods, for_="cpu")
        onnx.save(proto, tmp_path / "e.onnx")
        held = backlight.Explainer(tmp_path / "e.onnx")
        assert held.methods == explain.methods and held.layers == explain.layers
        assert held.contrasted == explain.contrasted
        a, b = held(x, contrast=TIGER), explain(x, contrast=TIGER)
        for name in held.methods:
            np.testing.assert_allclose(a.saliency[name], b.saliency[name], rtol=1e-3, atol=1e-6)
        with pytest.raises(UsageError, match="exported already; layer is in the file"):
            backlight.Explainer(tmp_path / "e.onnx", layer="fire8")
        with pytest.raises(UsageError, match="exported already; samples is in the file"):
            backlight.Explainer(tmp_path / "e.onnx", steps=3)

    def test_several_layers(self):
        explain = backlight.Explainer(
            BUNDLED, methods=("gradcam",), layer=("fire8", "fire9"), size="layer"
        )
        found = explain(explain.load([CAT]))
        assert explain.methods == ("gradcam_0", "gradcam_1")
        assert found.saliency["gradcam_0"].shape == (1, 13, 13)
        assert explain.layers == ("fire8", "fire9")

    def test_contrasts_are_checked(self):
        explain = backlight.Explainer(models.tiny(), methods=("contrastcam",))
        with pytest.raises(UsageError, match="contrast is float64"):
            explain(X, contrast=1.5)
        with pytest.raises(UsageError, match="class 7 is out of range"):
            explain(X, contrast=7)
        with pytest.raises(UsageError, match="takes no contrast"):
            backlight.Explainer(models.tiny(), ("vanilla",))(X, contrast=1)
        fixed = backlight.Explainer(models.tiny(), methods=("vanilla",), contrast="second")
        order = fixed(X).scores.argsort(axis=1)
        assert fixed(X).contrast.tolist() == order[:, -2].tolist()

    @pytest.mark.parametrize("count", [5, 16, 37])
    def test_any_number_of_variants(self, count: int):
        """In parts: IG's parts are one quadrature; noise has its mean and its size."""
        methods = ("integrated_gradients", "smoothgrad", "squaregrad", "vargrad")
        settings: dict[str, Any] = dict(steps=count, samples=count, noise=0.1)
        explain = backlight.Explainer(models.tiny(), methods=methods, **settings)
        found = explain(X, target=[0, 1, -1])
        assert set(found.saliency) == set(methods)
        whole = backlight.export(models.tiny(), methods=methods, **settings)
        want = run_runtime(whole, {"x": X, "target": np.array([0, 1, -1])})
        np.testing.assert_allclose(
            found.saliency["integrated_gradients"], want["saliency_integrated_gradients"],
            rtol=1e-4, atol=1e-6,
        )  # fmt: skip
        np.testing.assert_allclose(
            found.gap, want["gap_integrated_gradients"], rtol=1e-3, atol=1e-5
        )
        # The same noise, part for part.
        for name in methods[1:]:
            got, held = found.saliency[name], want[f"saliency_{name}"]
            np.testing.assert_allclose(got, held, rtol=1e-4, atol=1e-6 * np.abs(held).max())
        plain = backlight.Explainer(models.tiny(), ("vanilla",))(X, target=[0, 1, -1])
        a, b = (m.ravel() for m in (found.saliency["smoothgrad"], plain.saliency["vanilla"]))
        assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 0.9
        assert (found.saliency["vargrad"] >= 0).all() and found.saliency["vargrad"].any()

    @pytest.mark.parametrize("rows", [1, 2, 5, 64])
    @pytest.mark.parametrize("contrast", [None, "second", 3])
    def test_however_many_rows_a_run_has(self, rows: int, contrast, monkeypatch):
        """Parts of variants and of images, with methods beside them; of some alone, and of a row
        that isn't finite."""
        from backlight.engine.direct import variants

        monkeypatch.setattr(variants, "FEWEST", rows)
        monkeypatch.setattr(variants, "MOST", rows)
        methods = ("vargrad", "gradcam", "integrated_gradients")
        settings: dict[str, Any] = dict(steps=7, samples=7, contrast=contrast)
        explain = backlight.Explainer(models.tiny(), methods=methods, **settings)
        x = np.concatenate([X, X[:1]])
        x[3, 0, 0, 0] = np.nan
        want = run_runtime(
            backlight.export(models.tiny(), methods=methods, **settings),
            {"x": x, "target": np.array([0, 1, -1, 0])},
        )
        monkeypatch.setattr("backlight.engine.direct.explainer.check_rows", lambda *_: None)
        found = explain(x, target=[0, 1, -1, 0])
        for name in methods:
            got, held = found.saliency[name], want[f"saliency_{name}"]
            np.testing.assert_allclose(got, held, rtol=1e-3, atol=1e-6)
            assert np.isnan(got[3]).all() and np.isfinite(got[:3]).all()
        np.testing.assert_allclose(
            found.gap[:3], want["gap_integrated_gradients"][:3], rtol=1e-3, atol=1e-5
        )
        alone = explain(X, target=[0, 1, -1], methods=["vargrad"])
        assert list(alone.saliency) == ["vargrad"]
        np.testing.assert_array_equal(alone.saliency["vargrad"], found.saliency["vargrad"][:3])

    def test_as_many_steps_as_samples_or_not(self):
        """Runtimes take axes of one name for equal, and hand one's buffer on to the other."""
        settings: dict[str, dict[str, Any]]
        settings = {"integrated_gradients": {"steps": 3}, "smoothgrad": {"samples": 2}}
        both = {k: v for held in settings.values() for k, v in held.items()}
        found = backlight.Explainer(models.tiny(), methods=[*settings], **both)(X, target=0)
        for name, own in settings.items():
            alone = backlight.Explainer(models.tiny(), methods=name, **own)(X, target=0)
            want = alone.saliency[name]
            np.testing.assert_allclose(found.saliency[name], want, rtol=1e-4, atol=1e-6)

    def test_the_image_s_own_pass_isn_t_in_every_part(self):
        """The parts' graph has one forward pass and one backward pass of the variants alone."""
        explain = backlight.Explainer(models.tiny(), methods=("integrated_gradients",))
        assert explain._variants is not None
        held = {i.name for i in explain._variants.session.inputs}
        assert held == {"x", "target", "alphas", "weights"}
        assert explain._variants.session.outputs == ["saliency_integrated_gradients"]

    def test_open_sizes(self):
        """Height and width open: the engine brings the noise."""
        explain = backlight.Explainer(
            models.tiny(shape="N,3,H,W"), methods=("smoothgrad",), samples=4
        )
        assert explain(models.images(2, 3, 6, 9)).saliency["smoothgrad"].shape == (2, 3, 6, 9)


class TestCommand:
    def test_pictures_of_the_cat(self, tmp_path: Path, capsys):
        words = ["explain", str(CAT), "-o", str(tmp_path / "o"), "--method", "gradcam"]
        words += ["--method", "counterfactualcam", "--versus", "tiger cat"]
        assert run(words) == 0
        summary = json.loads((tmp_path / "o" / "summary.json").read_text())
        (entry,) = summary["images"]
        assert entry["contrast"] == TIGER and entry["contrast_name"] == "tiger cat (282)"
        assert summary["methods"] == ["gradcam", "counterfactualcam"]
        heat = np.load(tmp_path / "o" / entry["maps"]["gradcam"])
        assert heat.shape == (227, 227) and heat.min() >= 0
        assert Image.open(tmp_path / "o" / entry["panel"]).width > 600

    def test_no_evidence_is_said(self, tmp_path: Path, capsys):
        words = ["explain", str(CAT), "-o", str(tmp_path / "o"), "--method", "counterfactualcam"]
        assert run([*words, "--layer", "conv10"]) == 0
        said = capsys.readouterr().out
        assert "no positive evidence at conv10: counterfactualcam all 0" in said

    def test_export_and_check_say_the_layer(self, tmp_path: Path, capsys):
        out = str(tmp_path / "e.onnx")
        assert run(["export", str(BUNDLED), "-o", out, "--method", "gradcam"]) == 0
        assert "class activation maps are of 'fire9'" in capsys.readouterr().err
        assert run(["check", str(BUNDLED), "--method", "gradcam"]) == 0
        assert "before the maps of the classes themselves" in capsys.readouterr().out

    @pytest.mark.parametrize("method", ["gradcam", "scorecam"])
    def test_explain_says_the_layer_it_chose(self, method: str, tmp_path: Path, capsys):
        """And why, on the terminal and in the summary; not where somebody named it."""
        onnx.save(models.tiny(), tmp_path / "tiny.onnx")
        models.noise_photo(tmp_path)
        line = f"explain -m {tmp_path}/tiny.onnx {tmp_path}/photo.png --preprocess unit --force"
        words = [*line.split(), "-o", str(tmp_path / "o"), "--method", method]
        says = "class activation maps are of 'r': the last rectified tensor with rows and columns"
        assert run(words) == 0
        assert says in capsys.readouterr().err
        (note,) = json.loads((tmp_path / "o" / "summary.json").read_text())["notes"][:1]
        assert note.startswith(says)
        assert run([*words, "--layer", "r"]) == 0
        assert "maps are of" not in capsys.readouterr().err

    @pytest.mark.parametrize("more", [[], ["--contrast-form", "logit"]])
    def test_a_contrast_that_turns_out_to_be_the_class(self, more, tmp_path: Path, capsys):
        """Why not P with certainty? By logit it is 0. Both are said, never "P rather than P"."""
        line = f"explain {CAT} -o {tmp_path}/o --method contrastcam --json --versus"
        assert run([*line.split(), "Egyptian cat", *more]) == 0
        (entry,) = json.loads(capsys.readouterr().out)["images"]
        assert entry["contrast"] == entry["class"] == EGYPTIAN
        assert bool(entry["no_gradient"]) == bool(more)
        line = f"explain {CAT} -o {tmp_path}/p --method contrastcam --versus"
        assert run([*line.split(), "Egyptian cat", *more]) == 0
        says = "difference is 0 everywhere" if more else "what keeps it from certainty"
        assert f"the contrast is the class itself: {says}" in capsys.readouterr().out.replace(
            "their ", ""
        )

    def test_every_class_at_once(self, tmp_path: Path, capsys):
        onnx.save(models.tiny(), tmp_path / "m.onnx")
        line = f"export {tmp_path}/m.onnx -o {tmp_path}/e.onnx --method cam --target-class all"
        assert run(line.split()) == 0
        held = onnx.load(tmp_path / "e.onnx")
        assert [i.name for i in held.graph.input] == ["x"]
        assert {p.key: p.value for p in held.metadata_props}["backlight.target_class"] == "all"
        capsys.readouterr()
        photo = models.noise_photo(tmp_path)
        line = f"explain -m {tmp_path}/e.onnx {photo} -o {tmp_path}/o --preprocess unit"
        assert run(line.split()) == 2
        assert "the maps of every class" in capsys.readouterr().err
        line = f"export {tmp_path}/m.onnx -o {tmp_path}/f.onnx --method gradcam --target-class all"
        assert run(line.split()) == 2 and not (tmp_path / "f.onnx").exists()
        assert "one class at a time; cam gives" in capsys.readouterr().err

    def test_the_second_class_is_never_the_class(self, tmp_path: Path, capsys):
        line = f"explain {CAT} -o {tmp_path}/o --method vanilla --contrast second"
        assert run(line.split()) == 0
        assert "certainty" not in "".join(capsys.readouterr())

    def test_names_of_classes(self, tmp_path: Path, capsys):
        out = str(tmp_path / "e.onnx")
        words = ["export", str(BUNDLED), "-o", out, "--method", "vanilla", "--contrast"]
        assert run([*words, "tiger cat"]) == 0
        meta = {p.key: p.value for p in onnx.load(out).metadata_props}
        assert meta["backlight.contrast"] == str(TIGER)
        assert run([*words, "tigre cat", "--force"]) == 2
        assert "--contrast 'tigre cat'" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("more", "says"),
        [
            (["--layer", "fire99"], "no tensor 'fire99'"),
            (["--layer", "prob"], "no rows and columns"),
            (["--method", "gradkam"], "nearest: gradcam"),
            (["--method", "causalcam", "--versus", "second"], "takes no contrast"),
            (["--method", "smoothgrad", "--samples", "0"], "samples 0; expected 1 to 4096"),
            (["--method", "integrated_gradients", "--steps", "-1"], "steps -1; expected"),
            (["--method", "vanilla", "--size", "layer"], "signed are of class activation maps"),
            (["--versus", "1000"], "--contrast 1000 is out of range"),
        ],
    )
    def test_mistakes(self, more: list[str], says: str, tmp_path: Path, capsys):
        words = ["explain", str(CAT), "-o", str(tmp_path / "o")]
        if "--method" not in more:
            words += ["--method", "gradcam"]
        assert run([*words, *more]) == 2
        said = capsys.readouterr().err
        assert says in said and len(said.splitlines()) == 1
        assert not (tmp_path / "o").exists()
