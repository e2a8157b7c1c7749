"""The short run of random networks, and that a wrong map is found and told.

The long one, in processes of its own: python -m tests.fuzz --networks 10000 --minutes 30
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="random networks are PyTorch's")
pytest.importorskip("onnxruntime", reason="their maps are ONNX Runtime's")

from backlight.export.rules import RuleMap
from backlight.export.variants import GUIDED, VANILLA

from .campaign import Campaign, Limits, Worker
from .networks import judge
from .networks.judge import judged
from .networks.network import BLOCKS, Part, Spec, drawn, image_of, smaller
from .networks.subject import Networks

PLAIN = Spec(3, (Part(1, ("conv", "relu", "tanh")), Part(2, ("conv", "relu"))))


@pytest.mark.parametrize("seed", range(16))
def test_a_few_networks(seed: int) -> None:
    outcome = judged(replace(drawn(seed), dynamo=False))
    assert not outcome.failed, f"{drawn(seed).described()}\n{outcome.message}\n{outcome.trace}"


def test_a_network_is_drawn_from_its_number() -> None:
    for seed in (3, 17):
        assert drawn(seed) == drawn(seed)
        assert Spec.of_dict(json.loads(json.dumps(drawn(seed).to_dict()))) == drawn(seed)
        assert (image_of(drawn(seed)) == image_of(drawn(seed))).all()
    assert drawn(3) != drawn(4)
    used = {b for seed in range(6000) for p in drawn(seed).parts for b in p.blocks}
    assert used == set(BLOCKS)


@pytest.mark.parametrize("rule", ["vanilla", "deconv", "guided"])
@pytest.mark.parametrize("spellings", [True, False])
def test_the_plainest_is_right(rule: str, spellings: bool) -> None:
    assert judged(replace(PLAIN, rule=rule, spellings=spellings)).kind == "ok"


@pytest.mark.parametrize("rule", ["vanilla", "guided"])
def test_a_wrong_rule_is_found(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tanh's slope without its square: wrong by a factor between 1 and 2."""
    rules: RuleMap = {"vanilla": VANILLA, "guided": GUIDED}[rule]
    broken = replace(rules["Tanh"], function=lambda e, op, ct: (e.Mul(ct, e.Sub(1.0, op.y)),))
    monkeypatch.setitem(rules, "Tanh", broken)  # type: ignore[arg-type]
    outcome = judged(replace(PLAIN, rule=rule))
    assert outcome.kind == "wrong" and outcome.step == rule and outcome.failed


@pytest.mark.parametrize(
    ("asked", "broken"),
    [
        ({"extra": ("input_x_gradient",)}, "saliency_input_x_gradient"),
        ({"layer": 0, "extra": ("layercam",)}, "saliency_layercam"),
        ({"extra": ("integrated_gradients",)}, "saliency_integrated_gradients"),
    ],
)
def test_a_wrong_map_is_found(
    asked: dict[str, object], broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = replace(PLAIN, **asked)
    assert judged(spec).kind == "ok"
    run = judge._run

    def off(session: object, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = run(session, feeds)
        return {n: v * 1.01 if n == broken else v for n, v in found.items()}

    monkeypatch.setattr(judge, "_run", off)
    assert judged(spec).kind == "wrong"


def test_masked_images_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = replace(PLAIN, masked=True)
    assert judged(spec).kind == "ok"
    monkeypatch.setattr(judge, "HIDDEN", 0.5)
    outcome = judged(spec)
    assert outcome.kind == "wrong" and "occlusion" in outcome.message


def test_what_failed_is_cut_down_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a network that fails wherever it has a Tanh, the Tanh is left."""
    from .drive import Outcome
    from .networks import network

    def ask(worker: Worker, request: dict[str, object]) -> Outcome:
        spec = Spec.of_dict(request["spec"]) if "spec" in request else PLAIN
        bad = any("tanh" in p.blocks for p in spec.parts)
        return Outcome("wrong", "vanilla", "vanilla: 0.5 off") if bad else Outcome("ok")

    monkeypatch.setattr(Worker, "ask", ask)
    monkeypatch.setattr(network, "drawn", lambda seed: replace(PLAIN, seed=seed, batch=3))
    campaign = Campaign(Networks(), Limits(), tmp_path)
    campaign.run(range(3), minutes=10, workers=1)
    assert campaign.counts["wrong"] == 3 and len(campaign.failures) == 1
    (folder,) = tmp_path.iterdir()
    kept = json.loads((folder / "smaller.json").read_text())
    assert [p["blocks"] for p in kept["spec"]["parts"]] == [["tanh"]]
    assert "tanh" in kept["described"] and "tanh" in campaign.summary()
    names = {p.name for p in folder.iterdir()}
    assert {"seed-0.json", "seed-0.onnx", "seed-0.npz", "seed-0.txt", "smaller.onnx"} <= names
    assert "smaller-explained.onnx" in names


def test_smaller_ones_are_smaller() -> None:
    for seed in range(20):
        spec = drawn(seed)
        for other in smaller(spec):
            assert other != spec and sum(len(p.blocks) for p in other.parts) <= sum(
                len(p.blocks) for p in spec.parts
            )
