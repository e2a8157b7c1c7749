"""Small models that several tests share, as ONNX text a person can read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
from PIL import Image

Array = np.ndarray[Any, Any]


def parsed(text: str, weights: Mapping[str, Array] | None = None) -> onnx.ModelProto:
    """A model of ONNX text, with initializers."""
    model = onnx.parser.parse_model(text)
    for name, value in (weights or {}).items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    return model


def weights(seed: int = 0, channels: int = 3, classes: int = 5) -> dict[str, Array]:
    """Of `tiny`: a 3x3 convolution to 4 channels, a dense layer to the classes."""
    rng = np.random.default_rng(seed)
    return {
        "w": rng.standard_normal((4, channels, 3, 3)).astype(np.float32),
        "b": rng.standard_normal(4).astype(np.float32),
        "v": rng.standard_normal((classes, 4)).astype(np.float32),
        "c": rng.standard_normal(classes).astype(np.float32),
    }


BODY = """
    h = Conv<pads=[1,1,1,1]>(x, w, b)
    r = Relu(h)
    p = GlobalAveragePool(r)
    f = Flatten(p)
    scores = Gemm<transB=1>(f, v, c)
"""


def tiny(
    *,
    shape: str = "N,3,8,8",
    tail: str = "prob = Softmax(scores)",
    output: str = "float[N,5] prob",
    head: str = "",
    dtype: str = "float",
    opset: int = 18,
    body: str = BODY,
    channels: int = 3,
) -> onnx.ModelProto:
    """Conv, Relu, global pool, dense, Softmax: a classifier of 5 classes in a few lines."""
    source = "image" if head else "x"
    text = f"""<ir_version: 8, opset_import: ["": {opset}, "com.example": 1]>
tiny ({dtype}[{shape}] {source}) => ({output}) {{
    {head}
    {body}
    {tail}
}}"""
    return parsed(text, weights(channels=channels))


def thousand(**changes: Any) -> onnx.ModelProto:
    """`tiny` of as many classes as ImageNet has, without their names."""
    model = tiny(output="float[N,1000] prob", **changes)
    for tensor in model.graph.initializer:
        if tensor.name in ("v", "c"):
            shape = (1000, *tensor.dims[1:])
            wide = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(wide, tensor.name))
    return model


BLOCK = """
    {norm1}
    {attention}
    o{i} = MatMul(a{i}, wo{i})
    r{i} = Add(p{i}, o{i})
    {norm2}
    h{i} = MatMul(m{i}, wu{i})
    g{i} = Relu(h{i})
    d{i} = MatMul(g{i}, wd{i})
    p{next} = Add(r{i}, d{i})
"""
NORMS = {
    "fused": "{y} = LayerNormalization<axis=-1>({x}, gain)",
    "spelled": """{y}_m = ReduceMean<keepdims=1>({x}, last)
    {y}_c = Sub({x}, {y}_m)
    {y}_s = Mul({y}_c, {y}_c)
    {y}_v = ReduceMean<keepdims=1>({y}_s, last)
    {y}_e = Add({y}_v, tiny)
    {y}_d = Sqrt({y}_e)
    {y}_n = Div({y}_c, {y}_d)
    {y} = Mul({y}_n, gain)""",
}
HEADS = """
    q{i}_4 = Reshape(q{i}, split)
    k{i}_4 = Reshape(k{i}, split)
    v{i}_4 = Reshape(v{i}, split)
    q{i}_t = Transpose<perm=[0,2,1,3]>(q{i}_4)
    k{i}_t = Transpose<perm=[0,2,3,1]>(k{i}_4)
    v{i}_t = Transpose<perm=[0,2,1,3]>(v{i}_4)
    qk{i} = MatMul(q{i}_t, k{i}_t)
    z{i} = Mul(qk{i}, scale)
    s{i} = Softmax<axis=-1>(z{i})
    sv{i} = MatMul(s{i}, v{i}_t)
    t{i} = Transpose<perm=[0,2,1,3]>(sv{i})
    a{i} = Reshape(t{i}, join)
"""
THREE = """
    q{i} = MatMul(n{i}, wq{i})
    k{i} = MatMul(n{i}, wk{i})
    v{i} = MatMul(n{i}, wv{i})
"""
ATTENTIONS = {
    "three": THREE + HEADS,
    "one": """
    qkv{i} = MatMul(n{i}, wqkv{i})
    q{i}, k{i}, v{i} = Split<axis=-1, num_outputs=3>(qkv{i})
"""
    + HEADS,
    "fused": THREE + "    a{i} = Attention<q_num_heads=2, kv_num_heads=2>(q{i}, k{i}, v{i})\n",
}
EMBEDDINGS = {
    "conv": """
    e = Conv<strides=[4,2]>(x, we)
    f = Reshape(e, [[0,4,-1]])
    t = Transpose<perm=[0,2,1]>(f)
""",
    "nhwc": """
    e = Conv<strides=[4,2]>(x, we)
    el = Transpose<perm=[0,2,3,1]>(e)
    t = Reshape(el, [[0,-1,4]])
""",
    "linear": """
    e = Reshape(x, [[0,3,2,4,4,2]])
    el = Transpose<perm=[0,2,4,3,5,1]>(e)
    f = Reshape(el, [[0,8,24]])
    t = MatMul(f, wl)
""",
}
READINGS = {
    "class": "y = Gather<axis=1>(last_norm, first)",
    "slice": """yw = Slice(last_norm, [[0]], [[1]], [[1]])
    y = Squeeze(yw, [[1]])""",
    "pooled": "y = ReduceMean<keepdims=0>(last_norm, [[1]])",
    "patches": """yp = Slice(last_norm, [[{extra}]], [[999]], [[1]])
    y = ReduceMean<keepdims=0>(yp, [[1]])""",
}


def transformer(
    *,
    embedding: str = "conv",
    norm: str = "fused",
    attention: str = "three",
    reading: str = "class",
    extra: int = 1,
    dark: float = 0.0,
    shape: str = "N,3,8,8",
    opset: int = 18,
    values: Mapping[str, Array] | None = None,
) -> onnx.ModelProto:
    """A vision transformer of two blocks, 2 heads, 4 channels, 5 classes: patches of 4 x 2, that
    is 2 x 4 of them, behind `extra` class tokens. dark: what is added before the last rectifier.
    values: weights, in place of random ones."""
    blocks = "".join(
        BLOCK.format(
            i=i,
            next=i + 1,
            norm1=NORMS[norm].format(x=f"p{i}", y=f"n{i}"),
            norm2=NORMS[norm].format(x=f"r{i}", y=f"m{i}"),
            attention=ATTENTIONS[attention].format(i=i),
        )
        for i in (0, 1)
    )
    front = """
    rows = Shape<start=0, end=1>(x)
    wanted = Concat<axis=0>(rows, cls_dims)
    cls_n = Expand(cls, wanted)
    tokens = Concat<axis=1>(cls_n, t)
""" if extra else "    tokens = Identity(t)\n"  # fmt: skip
    text = f"""<ir_version: 8, opset_import: ["": {opset}]>
transformer (float[{shape}] x) => (float[N,5] prob) {{
    {EMBEDDINGS[embedding]}
    {front}
    p0 = Add(tokens, pos)
    {blocks}
    {NORMS[norm].format(x="p2", y="last_norm")}
    {READINGS[reading].format(extra=extra)}
    yd = Add(y, dark)
    yr = Relu(yd)
    scores = Gemm<transB=1>(yr, wc, bc)
    prob = Softmax(scores)
}}"""
    given: dict[str, Array] = {}

    def lifted(found: re.Match[str]) -> str:
        """Shapes and axes, written into the text, as weights."""
        name = f"ints{len(given)}"
        given[name] = np.array([int(v) for v in found[1].split(",")], np.int64)
        return name

    text = re.sub(r"\[\[([-0-9,]+)\]\]", lifted, text)
    rng = np.random.default_rng(5)
    sizes = {
        "we": (4, 3, 4, 2), "wl": (24, 4), "cls": (1, extra, 4), "pos": (1, 8 + extra, 4),
        "wc": (5, 4), "bc": (5,),
    }  # fmt: skip
    for i in (0, 1):
        sizes |= {f"w{n}{i}": (4, 4) for n in "qkvo"}
        sizes |= {f"wu{i}": (4, 8), f"wd{i}": (8, 4)}
    made = {k: rng.standard_normal(v).astype(np.float32) for k, v in sizes.items()}
    made |= {
        "gain": np.float32([1, 2, 0.5, 1.5]), "last": np.array([-1]), "tiny": np.float32(1e-5),
        "split": np.array([0, 0, 2, 2]), "join": np.array([0, 0, 4]),
        "scale": np.float32(0.5**0.5), "first": np.array(0), "dark": np.float32(dark),
        "cls_dims": np.array([extra, 4]),
    }  # fmt: skip
    made |= values or {}
    for i in (0, 1):
        made[f"wqkv{i}"] = np.concatenate([made[f"w{n}{i}"] for n in "qkv"], axis=1)
    used = set(re.findall(r"\w+", text))
    return parsed(text, {k: v for k, v in (made | given).items() if k in used})


def model_m() -> onnx.ModelProto:
    """Model M of the literal cases: Conv (all ones, biases -50 and -75), Relu, Gemm, Relu."""
    row = [1, 1, 1, 1, 1, -1, -1, -1]
    return parsed(
        """<ir_version: 8, opset_import: ["": 18]>
m (float[N,1,4,4] x) => (float[N,4] y) {
    h = Conv(x, w, b)
    r = Relu(h)
    f = Flatten(r)
    s = Gemm<transB=1>(f, v)
    y = Relu(s)
}""",
        {
            "w": np.ones((2, 1, 3, 3), np.float32),
            "b": np.array([-50, -75], np.float32),
            "v": np.array([row] * 4, np.float32),
        },
    )


OLDER = """<ir_version: 7, opset_import: ["": 11]>
g (float[N,3,8,8] x) => (float[N,5] y) {
    h = Conv<kernel_shape=[3,3], auto_pad="SAME_UPPER">(x, w)
    l = LeakyRelu<alpha=0.1>(h)
    g = GlobalAveragePool(l)
    m = Mul(l, g)
    s0, s1 = Split<axis=1>(m)
    a = Sum(s0, s1)
    p = Pad<mode="constant">(a, pads)
    z = Slice(p, starts, ends, axes)
    k = MaxPool<kernel_shape=[2,2], strides=[2,2]>(z)
    t = Transpose<perm=[0,2,3,1]>(k)
    sh = Shape(t)
    i = Constant<value=int64 {0}>()
    n = Gather<axis=0>(sh, i)
    u = Unsqueeze<axes=[0]>(n)
    r = Constant<value=int64[1] {-1}>()
    to = Concat<axis=0>(u, r)
    f = Reshape(t, to)
    d = Gemm<transB=1>(f, v, b)
    y = LogSoftmax<axis=1>(d)
}"""


def older() -> onnx.ModelProto:
    """A classifier as the older exporters wrote: opset 11, sizes computed, attributes of then."""
    more = {
        "v": np.ones((5, 8), np.float32), "b": np.zeros(5, np.float32),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "starts": np.array([1, 1]),
        "ends": np.array([5, 5]), "axes": np.array([2, 3]),
    }  # fmt: skip
    return parsed(OLDER, {**weights(), **more})


def images(count: int, *shape: int, seed: int = 1) -> Array:
    """Normal numbers, float32 [count, *shape]."""
    return np.random.default_rng(seed).standard_normal((count, *shape)).astype(np.float32)


def noise_photo(folder: Path) -> Path:
    """A picture of noise, 24 x 20, in a file."""
    path = folder / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path
