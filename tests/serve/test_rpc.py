"""gRPC: tritonclient, which brings its own copy of the protocol, in a process of its own; and the
messages as they are read."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

pytest.importorskip("grpc", reason="the extra 'serve' is not installed")

from backlight.engine.serve.proto import METHODS, SERVICE, messages
from backlight.engine.serve.refused import Refused
from backlight.engine.serve.rpc import _parsed, _read

from ..engine.commands import SRC
from .running import Server

CLIENT = """
import json, sys
import numpy as np
import tritonclient.grpc as triton
from backlight.engine.cli.options import PHOTOS

client = triton.InferenceServerClient(f"127.0.0.1:{sys.argv[1]}")
assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("bundled")
told = {"name": client.get_server_metadata().name,
        "outputs": [o.name for o in client.get_model_metadata("bundled").outputs]}
photo = triton.InferInput("image", [1], "BYTES")
photo.set_data_from_numpy(np.array([(PHOTOS / "coffee.jpg").read_bytes()], dtype=object))
target = triton.InferInput("target", [1], "INT64")
target.set_data_from_numpy(np.array([285]))
names = ("prob", "target", "saliency_gradcam", "heatmap_gradcam")
wanted = [triton.InferRequestedOutput(n) for n in names]
parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
found = client.infer("bundled", [photo], outputs=wanted, request_id="7",
                     headers={"traceparent": parent})
told |= {"class": int(found.as_numpy("prob").argmax()), "target": found.as_numpy("target").tolist(),
         "map": list(found.as_numpy("saliency_gradcam").shape), "id": found.get_response().id,
         "png": found.as_numpy("heatmap_gradcam")[0][:4].decode("latin-1")}
errors = []
bad = triton.InferInput("data", [1, 3, 227, 227], "FP32")
bad.set_data_from_numpy(np.full((1, 3, 227, 227), np.nan, np.float32))
for given, name, more in (([bad], "bundled", {}), ([photo, target], "absent", {}),
                          ([photo], "bundled", {"model_version": "9"}),
                          ([target], "bundled", {}),
                          ([photo], "bundled", {"client_timeout": 1e-3})):
    try:
        client.infer(name, given, **more)
        errors.append("none")
    except Exception as err:
        errors.append(str(err))
print(json.dumps(told | {"errors": errors}))
"""


def test_tritonclient_s_defaults(server: Server) -> None:
    pytest.importorskip("tritonclient.http")
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, str(server.grpc_port)], capture_output=True, text=True,
        check=False, timeout=120, env={"PYTHONPATH": SRC, "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["name"] == "backlight" and "heatmap_guided" in told["outputs"]
    assert told["class"] == 967 and told["target"] == [967] and told["map"] == [1, 227, 227]
    assert told["png"] == "\x89PNG" and told["id"] == "7"
    nan, absent, version, missing, late = told["errors"]
    assert "INVALID_ARGUMENT" in nan and "NaN or infinite" in nan
    assert "NOT_FOUND" in absent and "NOT_FOUND" in version
    assert "INVALID_ARGUMENT" in missing and "'data' is missing" in missing
    assert "DEADLINE_EXCEEDED" in late
    assert server.last("request", method="gRPC", trace_id="4bf92f3577b34da6a3ce929d0e0e4736")


GARBAGE = """
import grpc, json, sys
channel = grpc.insecure_channel(f"127.0.0.1:{sys.argv[1]}")
found = []
for call in ("ModelInfer", "ModelMetadata", "ServerLive"):
    asked = channel.unary_unary(f"/inference.GRPCInferenceService/{call}")
    try:
        asked(b"\\xff\\xff\\xff\\xff\\x01no message", timeout=60)
    except grpc.RpcError as err:
        found.append([err.code().name, err.details()])
print(json.dumps(found))
"""


def test_what_is_no_message(server: Server) -> None:
    done = subprocess.run([sys.executable, "-c", GARBAGE, str(server.grpc_port)],
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert json.loads(done.stdout) == [
        ["INVALID_ARGUMENT", f"15 bytes that are no {call}Request"]
        for call in ("ModelInfer", "ModelMetadata", "ServerLive")
    ]
    assert not server.events("library")


def test_the_messages_are_the_protocol_s() -> None:
    """The same bytes as tritonclient's copy reads, which would be refused in this process."""
    pytest.importorskip("tritonclient.http")
    made = messages()
    asked = made["ModelInferRequest"](model_name="m", id="7", raw_input_contents=[b"abc"])
    asked.parameters["timeout"].int64_param = 5
    one = asked.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    one.contents.fp32_contents.extend([1.5, -2])
    one.parameters["p"].string_param = "q"
    asked.outputs.add(name="y").parameters["binary_data"].bool_param = True
    code = (
        "import sys; from tritonclient.grpc import service_pb2 as s; "
        "m = s.ModelInferRequest.FromString(sys.stdin.buffer.read()); "
        "print(m.model_name, m.parameters['timeout'].int64_param, m.inputs[0].name, "
        "list(m.inputs[0].shape), list(m.inputs[0].contents.fp32_contents), "
        "m.inputs[0].parameters['p'].string_param, "
        "m.outputs[0].parameters['binary_data'].bool_param, "
        "m.raw_input_contents[0], m.id)"
    )
    done = subprocess.run([sys.executable, "-c", code], input=asked.SerializeToString(),
                          capture_output=True, check=True)  # fmt: skip
    assert done.stdout.decode() == "m 5 x [1, 2] [1.5, -2.0] q True b'abc' 7\n"
    assert SERVICE == "inference.GRPCInferenceService" and len(METHODS) == 6


def request(**changes: Any) -> Any:
    made = messages()["ModelInferRequest"](model_name="m")
    one = {"name": "x", "datatype": "FP32", "shape": [1, 2], **changes}
    contents = one.pop("contents", {"fp32_contents": [1, 2]})
    made.inputs.add(**one, contents=contents)
    return made


def test_contents_and_raw_contents() -> None:
    np.testing.assert_array_equal(_parsed(request()).inputs["x"].values, [[1, 2]])
    raw = request(contents=None)
    raw.inputs[0].ClearField("contents")
    raw.raw_input_contents.append(np.float32([3, 4]).tobytes())
    np.testing.assert_array_equal(_parsed(raw).inputs["x"].values, [[3, 4]])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"shape": [1, 3]}, "2 elements in its contents"),
        ({"shape": [2**40, 2**40]}, "2 elements in its contents"),
        ({"shape": [-1, 2]}, "dimensions from 1 on"),
        ({"datatype": "FP33"}, "datatype 'FP33'"),
        ({"datatype": "FP16"}, "datatype 'FP16'"),
        ({"datatype": "INT8", "contents": {"int_contents": [1, 300]}}, "out of range"),
        ({"name": ""}, "no name"),
    ],
)
def test_bad_messages(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(Refused, match=r".") as refused:
        _parsed(request(**changes))
    assert refused.value.status == 400 and says in str(refused.value)


def test_more_bad_messages() -> None:
    empty = messages()["ModelInferRequest"](model_name="m")
    twice = request()
    twice.inputs.append(twice.inputs[0])
    both = request()
    both.raw_input_contents.append(b"12345678")
    more = request()
    more.raw_input_contents.extend([b"1", b"2"])
    for message, says in (
        (empty, "no inputs"), (twice, "given twice"), (both, "both contents and"),
        (more, "2 raw_input_contents for 1"),
    ):  # fmt: skip
        with pytest.raises(Refused) as refused:
            _parsed(message)
        assert says in str(refused.value)


def _many(where: str) -> Any:
    made = request()
    if where == "elements":
        made.inputs[0].contents.bytes_contents.extend([b""] * 20_000)
    elif where == "parameters":
        made.outputs.add(name="y")
        for at in range(20_000):
            made.outputs[0].parameters[str(at)].bool_param = True
    elif where == "numbers":
        made.inputs[0].contents.int_contents.extend([1] * ((1 << 23) + 1))
    return made


@pytest.mark.parametrize(
    ("where", "says"),
    [("elements", "16384 fields"), ("parameters", "16384 fields"), ("numbers", "8388608 bytes")],
)
def test_a_message_is_counted_before_it_is_read(where: str, says: str) -> None:
    """protobuf would make objects of all of it, and the probes wait."""
    kind = messages()["ModelInferRequest"]
    with pytest.raises(Refused, match=says):
        _read(kind, _many(where).SerializeToString())


def test_groups_and_messages_cut_short_are_no_messages() -> None:
    kind, whole = messages()["ModelInferRequest"], request().SerializeToString()
    for data in (b"\x0b\x0c", whole[:-1], b"\x2a\xff\xff\xff\xff\x0f", b"\x80" * 40):
        with pytest.raises(Refused):
            _read(kind, data)


def test_large_messages_of_few_fields_are_read() -> None:
    made = request()
    made.raw_input_contents.append(bytes(20 << 20))
    made.inputs[0].contents.fp32_contents.extend([0.5] * 100_000)
    made.inputs[0].contents.int_contents.extend([300] * 1_000_000)
    kind = messages()["ModelInferRequest"]
    assert _read(kind, made.SerializeToString()) == made
