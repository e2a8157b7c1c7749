"""Claim: 1.6 times the throughput of the best PyTorch peer (benchmarks.peers compiles them too)."""

from __future__ import annotations

import pytest

SIDES = ("Backlight vanilla", "Backlight guided", "PyTorch, eager", "captum, Saliency",
         "captum, GuidedBackprop")  # fmt: skip


@pytest.fixture(scope="module")
def sides(tmp_path_factory):
    torch = pytest.importorskip("torch")
    pytest.importorskip("captum")
    from tests.networks import nets

    from .. import peers

    torch.set_num_threads(peers.THREADS)
    network = peers.built("squeezenet1_1")
    folder = tmp_path_factory.mktemp("peers")
    path = folder / "squeezenet1_1.onnx"
    nets.export(network, nets.Net("squeezenet1_1"), "legacy", path)
    x = torch.randn(1, 3, peers.SIZE, peers.SIZE, generator=torch.Generator().manual_seed(0))
    return {**peers.ours(path, x.numpy(), folder), **peers.peers(network, x)}


@pytest.mark.parametrize("side", SIDES)
def test_saliency_beside_its_peers(benchmark, sides, side):
    benchmark.group = "one image explained"
    benchmark.pedantic(sides[side], rounds=10, warmup_rounds=2)
