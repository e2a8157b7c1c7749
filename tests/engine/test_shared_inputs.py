"""A further input shares the images' batch only where its dimension says so: N images, M texts."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from backlight.engine.direct.explainer import Explainer
from backlight.engine.masked.occlusion import Occlusion
from backlight.errors import ImageError

from ..models import parsed

RNG = np.random.default_rng(0)
W = {
    "w": RNG.standard_normal((4, 3, 3, 3)).astype(np.float32),
    "table": RNG.standard_normal((9, 4)).astype(np.float32),
}


def clip_like(texts: str = "texts") -> onnx.ModelProto:
    """Scores of N images against M texts, [N, M]."""
    return parsed(
        f"""<ir_version: 8, opset_import: ["": 18]>
clip (float[images,3,8,8] pixel_values, int64[{texts},6] input_ids) => (float[images,M] scores) {{
    h = Conv<pads=[1,1,1,1]>(pixel_values, w)
    r = Relu(h)
    p = GlobalAveragePool(r)
    f = Flatten(p)
    e = Gather(table, input_ids)
    axis = Constant<value_ints = [1]>()
    t = ReduceMean<keepdims = 0>(e, axis)
    tt = Transpose<perm = [1, 0]>(t)
    scores = MatMul(f, tt)
}}""",
        W,
    )


def feeds(images: int, texts: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    return {
        "pixel_values": rng.standard_normal((images, 3, 8, 8)).astype(np.float32),
        "input_ids": rng.integers(0, 9, (texts, 6)),
    }


def by_autograd(given: dict[str, np.ndarray], target: list[int]) -> tuple[np.ndarray, np.ndarray]:
    torch = pytest.importorskip("torch")
    x = torch.tensor(given["pixel_values"], requires_grad=True)
    h = torch.relu(torch.nn.functional.conv2d(x, torch.tensor(W["w"]), padding=1)).mean((2, 3))
    scores = h @ torch.tensor(W["table"])[given["input_ids"]].mean(1).T
    scores[torch.arange(len(target)), torch.tensor(target)].sum().backward()
    assert x.grad is not None
    return x.grad.numpy(), scores.detach().numpy()


@pytest.mark.parametrize("batch", [None, 1, 2, 3])
@pytest.mark.parametrize(("images", "texts"), [(4, 4), (4, 3), (2, 5), (1, 1), (3, 1)])
def test_every_run_gets_all_texts(images: int, texts: int, batch: int | None) -> None:
    given = feeds(images, texts)
    target = [i % texts for i in range(images)]
    saliency, scores = by_autograd(given, target)
    found = Explainer(clip_like(), ("vanilla",), of="scores", batch=batch)(given, np.array(target))
    np.testing.assert_allclose(found.scores, scores, atol=1e-5)
    np.testing.assert_allclose(found.saliency["vanilla"], saliency, atol=1e-5)
    top = Explainer(clip_like(), ("vanilla",), of="scores", batch=batch)(given)
    np.testing.assert_array_equal(top.target, scores.argmax(1))


@pytest.mark.parametrize(("images", "texts"), [(3, 3), (2, 5)])
@pytest.mark.parametrize("batch", [2, 5, None])
def test_windows(images: int, texts: int, batch: int | None) -> None:
    given = feeds(images, texts)
    occlude = Occlusion(
        clip_like(), of="scores", window=4, stride=4, baseline="zero", score="logit", batch=batch,
        method="dense",
    )  # fmt: skip
    found = occlude(given, 0)
    _, clean = by_autograd(given, [0] * images)
    for y in (0, 4):
        for x in (0, 4):
            hidden = {k: v.copy() for k, v in given.items()}
            hidden["pixel_values"][:, :, y : y + 4, x : x + 4] = 0
            _, scores = by_autograd(hidden, [0] * images)
            np.testing.assert_allclose(
                found[:, y, x], clean[:, 0] - scores[:, 0], rtol=0, atol=1e-5
            )


def test_one_of_the_images_batch_is_split() -> None:
    """By its name: then its rows go with the images'."""
    given = feeds(4, 3)
    with pytest.raises(ImageError, match="'input_ids' has no row per image"):
        Explainer(clip_like("images"), ("vanilla",), of="scores")(given)
