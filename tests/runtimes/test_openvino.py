"""What `check --for openvino` says of operators is what OpenVINO says of them."""

from __future__ import annotations

import onnx
import pytest

from backlight.export.check import check
from backlight.export.lowering.operators import NOT_OPENVINO

from .. import models

SAYS_NO = "No conversion rule|unsupported op|Unsupported|not supported operation|no conversion"


def test_the_list_is_openvinos_own() -> None:
    """Of every operator a node by itself; of those that are listed nothing is read."""
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    for schema in onnx.defs.get_all_schemas():
        if schema.domain or schema.name not in NOT_OPENVINO:
            continue
        names = [f"i{k}" for k in range(max(schema.min_input, min(schema.max_input, 1)))]
        node = onnx.helper.make_node(schema.name, names, ["y"])
        infos = [onnx.helper.make_tensor_value_info(n, 1, None) for n in (*names, "y")]
        graph = onnx.helper.make_graph([node], "one", infos[:-1], infos[-1:])
        opset = onnx.helper.make_opsetid("", max(schema.since_version, 18))
        model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10)
        with pytest.raises(RuntimeError, match=SAYS_NO):
            core.read_model(model.SerializeToString(), b"")


def test_check_names_the_node() -> None:
    body = models.BODY.replace(
        "p = GlobalAveragePool(r)",
        """
        m, i = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)
        n = MaxUnpool<kernel_shape=[2,2], strides=[2,2]>(m, i)
        q = Add(r, n)
        p = GlobalAveragePool(q)
    """,
    )
    report = check(models.tiny(body=body), lowering="openvino")
    assert [r.operator for r in report.refused] == ["MaxUnpool"]
    assert not report.refused[0].ours and "OpenVINO 2026.4" in report.refused[0].reason
    assert not report.ok
    assert check(models.tiny(), lowering="openvino").ok
