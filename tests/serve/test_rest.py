"""The REST interface, on a real server with the bundled SqueezeNet."""

from __future__ import annotations

import base64
import gzip
import http.client
import io
import json
import re
import shutil
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import backlight
from backlight.engine.cli.options import BUNDLED, PHOTOS

from .running import Server, binary

INFER = "/v2/models/bundled/infer"
EXPLAIN = "/v2/models/bundled/explain"
ROOT = Path(__file__).parents[2]
METHODS = ("gradcam", "guided")
CHELSEA = PHOTOS / "chelsea.jpg"


@pytest.fixture(scope="module")
def explainer() -> backlight.Explainer:
    return backlight.Explainer(BUNDLED, methods=METHODS, providers="cpu")


@pytest.fixture(scope="module")
def photos(explainer: backlight.Explainer) -> Any:
    return explainer.load(sorted(PHOTOS.iterdir()))


def tensors(answer: Any) -> dict[str, Any]:
    """Raw outputs by name."""
    told, raw = answer.parts()
    kinds = {"FP32": np.float32, "INT64": np.int64}
    found, at = {}, 0
    for one in told["outputs"]:
        size = one["parameters"]["binary_data_size"]
        piece = raw[at : at + size]
        if one["datatype"] != "BYTES":
            piece = np.frombuffer(piece, kinds[one["datatype"]]).reshape(one["shape"])
        found[one["name"]] = piece
        at += size
    assert at == len(raw)
    return found


def test_what_the_server_says_of_itself(server: Server) -> None:
    told = server.get("/v2").json()
    assert told["name"] == "backlight" and told["version"] == backlight.__version__
    assert "binary_tensor_data" in told["extensions"] and told["models"] == ["bundled"]
    for path in ("live", "ready"):
        assert server.get(f"/v2/health/{path}").status == 200
    assert server.get("/v2/models/bundled/ready").json() == {"name": "bundled", "ready": True}


def test_what_a_model_says_of_itself(server: Server, explainer: backlight.Explainer) -> None:
    told = server.get("/v2/models/bundled/versions/1").json()
    assert told["name"] == "bundled" and told["versions"] == ["1"]
    assert told["inputs"] == [
        {"name": "data", "datatype": "FP32", "shape": [-1, 3, 227, 227]},
        {"name": "target", "datatype": "INT64", "shape": [-1]},
        {"name": "image", "datatype": "BYTES", "shape": [-1]},
    ]
    assert {o["name"]: o["shape"] for o in told["outputs"]} == {
        "prob": [-1, 1000], "saliency_gradcam": [-1, 227, 227],
        "saliency_guided": [-1, 3, 227, 227], "target": [-1], "heatmap_gradcam": [-1],
        "heatmap_guided": [-1],
    }  # fmt: skip
    more = told["parameters"]
    assert [m["name"] for m in more["methods"]] == list(METHODS) and more["of"] == "logits"
    assert more["labels"] == explainer.labels and more["classes"] == 1000
    assert more["preprocess"]["color"] == "BGR" and len(more["hash"]) == 64
    # Under its file's name too.
    assert server.get("/v2/models/squeezenet1_1").json() == told


def test_scores_are_the_model_s_own(server: Server, explainer: backlight.Explainer, photos: Any):
    want = explainer(photos).scores
    body, header = binary([("data", "FP32", photos)], parameters={"binary_data_output": True})
    got = tensors(server.post(INFER, body, header))
    assert list(got) == ["prob"]
    np.testing.assert_allclose(got["prob"], want, rtol=1e-5, atol=1e-7)  # another graph
    body, header = binary([("data", "FP32", photos)])
    answer = server.post(INFER, body, header).json()
    listed = np.float32(answer["outputs"][0]["data"]).reshape(want.shape)
    np.testing.assert_array_equal(listed, got["prob"])
    assert answer["model_name"] == "bundled" and answer["model_version"] == "1"


def test_maps_are_those_of_the_engine(server: Server, explainer: backlight.Explainer, photos: Any):
    target = np.arange(len(photos)) * 7 - 1
    want = explainer(photos, target)
    outputs = [{"name": n} for n in ("saliency_guided", "target", "saliency_gradcam", "prob")]
    body, header = binary(
        [("data", "FP32", photos), ("target", "INT64", target)], outputs=outputs, id="abc",
        parameters={"binary_data_output": True},
    )  # fmt: skip
    answer = server.post(INFER, body, header)
    got = tensors(answer)
    assert answer.parts()[0]["id"] == "abc"
    assert list(got) == [o["name"] for o in outputs]  # those asked for, in that order
    np.testing.assert_array_equal(got["target"], want.target)
    for method in METHODS:
        ours, theirs = got[f"saliency_{method}"], want.saliency[method]
        # float32; a batch of another size may take another kernel
        assert np.linalg.norm(ours - theirs) <= 1e-4 * np.linalg.norm(theirs)


def test_a_photo_is_read_as_explain_reads_it(server: Server, explainer: backlight.Explainer):
    want = explainer(explainer.load([CHELSEA]))
    text = base64.b64encode(CHELSEA.read_bytes()).decode()
    image = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [text]}
    outputs = [{"name": "prob"}, {"name": "target"}]
    answer = server.post(INFER, {"inputs": [image], "outputs": outputs}).json()
    scores = np.float32(answer["outputs"][0]["data"])
    np.testing.assert_allclose(scores, want.scores[0], rtol=1e-5, atol=1e-7)
    assert answer["outputs"][1]["data"] == want.target.tolist()
    raw = CHELSEA.read_bytes()
    raw = len(raw).to_bytes(4, "little") + raw
    body, header = binary([("image", "BYTES", raw)], shape=[1], outputs=outputs)
    assert server.post(INFER, body, header).json() == answer


def test_heat_maps_are_pictures(server: Server) -> None:
    path = f"{EXPLAIN}?method=gradcam&target=espresso"
    jpeg = {"Content-Type": "image/jpeg"}
    answer = server.post(path, CHELSEA.read_bytes(), jpeg).json()
    found = {o["name"]: o for o in answer["outputs"]}
    assert list(found) == ["prob", "target", "heatmap_gradcam"]
    assert found["target"]["data"] == [967]
    assert answer["parameters"]["labels"] == ["espresso"]
    assert 0 <= answer["parameters"]["probabilities"][0] < 0.1
    png = base64.b64decode(found["heatmap_gradcam"]["data"][0])
    assert Image.open(io.BytesIO(png)).width > 227
    direct = server.post(path, CHELSEA.read_bytes(), {**jpeg, "Accept": "image/png"})
    assert direct.headers["content-type"] == "image/png" and direct.bytes == png
    other = server.post(
        f"{EXPLAIN}?method=gradcam", CHELSEA.read_bytes(), {**jpeg, "Accept": "image/png"}
    )
    assert other.bytes != png


def test_explain_gives_all_of_it_unasked(server: Server, photos: Any) -> None:
    body, header = binary([("data", "FP32", photos[:1])])
    answer = server.post(EXPLAIN, body, header).json()
    names = [o["name"] for o in answer["outputs"]]
    assert names == ["prob", "target", "heatmap_gradcam", "heatmap_guided"]


def test_v1_explain(server: Server) -> None:
    pictures = [base64.b64encode(p.read_bytes()).decode() for p in (CHELSEA, PHOTOS / "coffee.jpg")]
    instances = [{"image": {"b64": pictures[0]}, "target": "espresso"}, {"b64": pictures[1]}]
    body = {"instances": instances, "methods": ["gradcam"]}
    cat, coffee = server.post("/v1/models/bundled:explain", body).json()["explanations"]
    assert cat["class"] == coffee["class"] == 967 and coffee["name"] == "espresso"
    assert coffee["probability"] > 0.8 > 0.1 > cat["probability"]
    assert list(cat["heatmaps"]) == ["gradcam"]
    assert base64.b64decode(cat["heatmaps"]["gradcam"]["b64"]).startswith(b"\x89PNG")


def test_v1_says_the_class_of_each_or_of_all(server: Server) -> None:
    picture = {"image": {"b64": base64.b64encode(CHELSEA.read_bytes()).decode()}}
    told = {"instances": [picture, {**picture, "target": "espresso"}, {**picture, "target": -1}],
            "methods": ["gradcam"], "target": 3}  # fmt: skip
    answer = server.post("/v1/models/bundled:explain", told)
    top = server.post("/v1/models/bundled:explain", {"instances": [picture]}).json()
    classes = [one["class"] for one in answer.json()["explanations"]]
    assert classes == [3, 967, top["explanations"][0]["class"]] == [3, 967, 285]
    for more, says in (
        ({"target": 1000}, "target 1000 is out of range"), ({"target": True}, "instance 0: "),
        ({"contrast": 3}, "input 'contrast'; the model takes"),
    ):  # fmt: skip
        answer = server.post("/v1/models/bundled:explain", {"instances": [picture], **more})
        assert answer.status == 400 and says in answer.json()["error"], answer.json()
    answer = server.post("/v1/models/bundled:predict", told)
    assert answer.status == 404 and "explain alone" in answer.json()["error"]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"method": ["gradcam"]}, "the request has 'method'; accepted: instances, methods"),
        ({"methods": "gradcam"}, "'methods' is no list of names; accepted: "),
        ({"methods": []}, "'methods' is no list of names; accepted: "),
        ({"targets": 3}, "nearest: target"),
        ({"of one": {"class": 3}}, "instance 0 has 'class'; accepted: image, image_bytes, b64"),
        ({"of one": {"target": [3]}}, "accepted: a class number, -1, or a name from the labels"),
    ],
)
def test_a_mistyped_field_is_no_missing_one(server: Server, more: dict[str, Any], says: str):
    more = dict(more)
    of_one = more.pop("of one", {})
    picture = {"b64": base64.b64encode(CHELSEA.read_bytes()).decode()}
    body = {"instances": [{"image": picture, **of_one}], "methods": ["gradcam"], **more}
    answer = server.post("/v1/models/bundled:explain", body)
    assert answer.status == 400 and says in answer.json()["error"], answer.json()


def test_methods_of_an_address(server: Server) -> None:
    """With commas, or the word again as on the command line; a class is said once, and tensors say
    theirs elsewhere."""
    photo, path = CHELSEA.read_bytes(), "/v2/models/bundled/explain"
    for query in ("method=guided,gradcam", "method=guided&method=gradcam"):
        told = server.post(f"{path}?{query}", photo).json()
        names = [o["name"] for o in told["outputs"] if o["name"].startswith("heatmap_")]
        assert names == ["heatmap_guided", "heatmap_gradcam"]
    for body, query, says in (
        (photo, "target=1&target=2", "'target' is twice in the address"),
        (photo, "methods=guided", "'methods' in the address; accepted: target, contrast, method"),
        (one(), "method=guided", "'method' in the address goes with a picture as body"),
    ):
        answer = server.post(f"{path}?{query}", body)
        assert answer.status == 400 and says in answer.json()["error"], answer.json()


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", None])
def test_a_picture_is_one_whatever_curl_says_of_it(server: Server, kind: str | None) -> None:
    header = {"Accept": "image/png"} | ({} if kind is None else {"Content-Type": kind})
    answer = server.post("/v2/models/bundled/explain?method=gradcam", CHELSEA.read_bytes(), header)
    assert answer.status == 200 and answer.bytes.startswith(b"\x89PNG")
    answer = server.post("/v2/models/bundled/infer", CHELSEA.read_bytes(), header)
    assert answer.status == 400 and "no JSON" in answer.json()["error"]


def test_a_label_or_a_number_for_all_rows(server: Server, photos: Any) -> None:
    for said in (967, "espresso"):
        body, header = binary(
            [("data", "FP32", photos[:2])],
            outputs=[{"name": "target"}],
            parameters={"target": said},
        )
        assert server.post(INFER, body, header).json()["outputs"][0]["data"] == [967, 967]


def test_tritonclient_s_defaults(server: Server, photos: Any) -> None:
    client_of = pytest.importorskip("tritonclient.http")
    client = client_of.InferenceServerClient(f"127.0.0.1:{server.port}")
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("bundled")
    assert client.get_model_metadata("bundled", "1")["name"] == "bundled"
    assert client.get_model_repository_index()[0]["state"] == "READY"
    given = client_of.InferInput("data", list(photos.shape), "FP32")
    given.set_data_from_numpy(photos)
    result = client.infer("bundled", [given])
    assert result.as_numpy("prob").shape == (len(photos), 1000)
    picture = client_of.InferInput("image", [1], "BYTES")
    picture.set_data_from_numpy(np.array([CHELSEA.read_bytes()], dtype=object))
    wanted = client_of.InferRequestedOutput("heatmap_gradcam")
    (png,) = client.infer("bundled", [picture], outputs=[wanted]).as_numpy("heatmap_gradcam")
    assert png.startswith(b"\x89PNG")
    compressed = client.infer("bundled", [given], request_compression_algorithm="gzip")
    np.testing.assert_array_equal(compressed.as_numpy("prob"), result.as_numpy("prob"))
    with pytest.raises(Exception, match="nearest: prob"):
        client.infer("bundled", [given], outputs=[client_of.InferRequestedOutput("porb")])


def test_many_at_once_get_their_own_answers(server: Server, photos: Any) -> None:
    """Batches don't mix up rows: each client's photo, alone and among others."""
    alone = []
    for row in photos:
        body, header = binary([("data", "FP32", row[None])])
        alone.append(np.float32(server.post(INFER, body, header).json()["outputs"][0]["data"]))

    def ask(at: int) -> float:
        which = at % len(photos)
        body, header = binary([("data", "FP32", photos[which][None])])
        got = np.float32(server.post(INFER, body, header).json()["outputs"][0]["data"])
        return float(np.abs(got - alone[which]).max())

    with ThreadPoolExecutor(12) as pool:
        assert max(pool.map(ask, range(36))) < 1e-5
    text = server.get("/metrics").bytes.decode()
    counts = {
        line.split()[0]: float(line.split()[1])
        for line in text.splitlines()
        if line.startswith("backlight_batch_rows")
    }
    count = counts['backlight_batch_rows_count{model="bundled"}']
    assert counts['backlight_batch_rows_sum{model="bundled"}'] > count, "none ran together"


def test_more_rows_than_a_run_has(server: Server, photos: Any) -> None:
    many = np.concatenate([photos] * 5)[:11]
    body, header = binary([("data", "FP32", many)], outputs=[{"name": "target"}])
    got = server.post(INFER, body, header).json()["outputs"][0]
    assert got["shape"] == [11] and got["data"] == (got["data"][: len(photos)] * 5)[:11]


def test_compressed_and_chunked_bodies(server: Server, photos: Any) -> None:
    body, header = binary([("data", "FP32", photos[:1])])
    want = server.post(INFER, body, header).json()
    squeezed = server.post(INFER, gzip.compress(body), {**header, "Content-Encoding": "gzip"})
    assert squeezed.json() == want
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    pieces = (body[at : at + 50_000] for at in range(0, len(body), 50_000))
    connection.request("POST", INFER, pieces, {**header, "Transfer-Encoding": "chunked"},
                       encode_chunked=True)  # fmt: skip
    assert json.loads(connection.getresponse().read()) == want
    connection.close()


def one(**changes: Any) -> dict[str, Any]:
    """A request for one image of zeros, changed."""
    data = {"name": "data", "datatype": "FP32", "shape": [1, 3, 227, 227],
            "data": [0] * 154587}  # fmt: skip
    return {"inputs": [{**data, **changes}]}


TARGET = {"name": "target", "datatype": "INT64", "shape": [1], "data": [0]}
PICTURE = {"name": "image", "datatype": "BYTES", "shape": [1]}
BAD: list[tuple[str, Any, int, str]] = [
    ("no JSON", b"{", 400, "no JSON"),
    ("nothing", b"", 400, "no JSON"),
    ("unknown tensor", {"inputs": [{**TARGET, "name": "dota"}]}, 400, "nearest: data"),
    ("missing tensor", {"inputs": [TARGET]}, 400, "input 'data' is missing"),
    ("doubled tensor", {"inputs": [TARGET, TARGET]}, 400, "given twice"),
    ("dtype", one(datatype="FP64"), 400, "expected FP32 [B,3,227,227]"),
    ("rank", one(shape=[3, 227, 227]), 400, "expected FP32 [B,3,227,227]"),
    ("shape", one(shape=[1, 3, 226, 226], data=[0] * 3 * 226**2), 400, "expected FP32"),
    ("batch 0", one(shape=[0, 3, 227, 227], data=[]), 400, "dimensions from 1 on"),
    ("negative", one(shape=[-1, 3, 227, 227]), 400, "dimensions from 1 on"),
    ("huge", one(shape=[2**40, 3, 227, 227]), 400, "elements in its data"),
    ("too many rows", one(shape=[154587, 1]), 400, "expected FP32"),
    ("infinity", one(data=[3e38 * 10] + [0] * 154586), 400, "row 0 has NaN or infinite"),
    ("overflow", one(data=[1e300] + [0] * 154586), 400, "row 0 has NaN or infinite"),
    ("target", {"inputs": [*one()["inputs"], {**TARGET, "data": [1000]}]}, 400, "0 to 999"),
    ("target below", {"inputs": [*one()["inputs"], {**TARGET, "data": [-2]}]}, 400, "-2 is out of"),
    ("target's type", {"inputs": [*one()["inputs"], {**TARGET, "datatype": "INT32"}]}, 400,
     "expected INT64 [1]"),
    ("target's rows", {"inputs": [*one()["inputs"], {**TARGET, "shape": [2], "data": [0, 0]}]}, 400,
     "expected INT64 [1]"),
    ("label", {**one(), "parameters": {"target": "expresso"}}, 400, "nearest: espresso"),
    ("target twice", {"inputs": [*one()["inputs"], TARGET], "parameters": {"target": 1}}, 400,
     "expected one"),
    ("contrast", {**one(), "parameters": {"contrast": 1}}, 400, "takes no contrast"),
    ("output", {**one(), "outputs": [{"name": "saliency_vanilla"}]}, 400, "the model gives prob"),
    ("both", {"inputs": [*one()["inputs"], {**PICTURE, "data": ["aaaa"]}]}, 400, "expected one"),
    ("no base64", {"inputs": [{**PICTURE, "data": ["?"]}]}, 400, "no base64"),
    ("no picture", {"inputs": [{**PICTURE, "data": ["aaaa"]}]}, 400, "neither JPEG nor PNG"),
    ("timeout", {**one(), "parameters": {"timeout": "soon"}}, 400, "microseconds"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "status", "says"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_bad_input(server: Server, body: Any, status: int, says: str) -> None:
    answer = server.post(INFER, body)
    told = answer.json()
    assert answer.status == status and list(told) == ["error"], told
    assert says in told["error"] and "\n" not in told["error"] and "Traceback" not in told["error"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v2/models/absent/infer", 404),
        ("/v2/models/bundled/versions/2/infer", 404),
        ("/v2/models/bundled/versions/x/infer", 404),
        ("/v1/models/absent:explain", 404),
        ("/v3", 404),
        ("/", 404),
        ("/v2/health/live", 405),
    ],
)
def test_unknown_paths(server: Server, path: str, status: int) -> None:
    answer = server.post(path, {"inputs": []})
    assert answer.status == status and list(answer.json()) == ["error"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_never_reaches_the_batch(server: Server, photos: Any, value: float):
    sick = photos[:2].copy()
    sick[1, 0, 5, 5] = value
    healthy, header = binary([("data", "FP32", photos[:1])])
    bad, bad_header = binary([("data", "FP32", sick)])
    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(server.post, INFER, *((bad, bad_header), (healthy, header))[i % 2])
                 for i in range(8)]  # fmt: skip
        answers = [a.result() for a in asked]
    assert [a.status for a in answers] == [400, 200] * 4
    assert "row 1 has NaN or infinite values" in answers[0].json()["error"]


def test_scores_that_overflow_are_nothing_to_explain(server: Server, photos: Any) -> None:
    """Found by the mutator: a finite row whose scores are not, among others that are well."""
    huge = np.full_like(photos[:1], 3e38)
    outputs = [{"name": "heatmap_gradcam"}, {"name": "target"}]
    bad, header = binary([("data", "FP32", huge)], outputs=outputs)
    good, good_header = binary([("data", "FP32", photos[:1])], outputs=outputs)
    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(server.post, INFER, *((bad, header), (good, good_header))[i % 2])
                 for i in range(6)]  # fmt: skip
        answers = [a.result() for a in asked]
    assert [a.status for a in answers] == [400, 200] * 3
    assert "nothing to explain" in answers[0].json()["error"]
    body, header = binary([("data", "FP32", huge)])  # its scores alone are what they are
    assert server.post(INFER, body, header).json()["outputs"][0]["data"][0] is None


def test_one_broken_picture_is_its_sender_s_own_matter(server: Server) -> None:
    whole = CHELSEA.read_bytes()
    jpeg = {"Content-Type": "image/jpeg"}
    with ThreadPoolExecutor(6) as pool:
        asked = [
            pool.submit(
                server.post, f"{EXPLAIN}?method=gradcam", whole[: 3000 if i % 2 else None], jpeg
            )
            for i in range(8)
        ]
        answers = [a.result() for a in asked]
    assert [a.status for a in answers] == [200, 400] * 4
    assert "image 0: can't be read" in answers[1].json()["error"]


def test_bombs(server: Server) -> None:
    """A picture of a few kilobytes that decodes to gigabytes, and a body that inflates to them."""
    made = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(made, "PNG")
    assert len(made.getvalue()) < 200_000
    answer = server.post(EXPLAIN, made.getvalue(), {"Content-Type": "image/png"})
    assert answer.status == 400 and "pixels; at most" in answer.json()["error"]
    zeros = gzip.compress(bytes(9_000_000))
    answer = server.post(INFER, zeros, {"Content-Encoding": "gzip"})
    assert answer.status == 413
    answer = server.post(INFER, zeros[:-900], {"Content-Encoding": "gzip"})
    assert answer.status in (400, 413)
    assert server.post(INFER, b"{}", {"Content-Encoding": "br"}).status == 415


def test_a_body_over_the_limit(server: Server) -> None:
    body = bytes(8_000_001)
    answer = server.post(INFER, body)
    assert answer.status == 413 and "at most 8000000 bytes" in answer.json()["error"]
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    pieces = (body[at : at + 100_000] for at in range(0, len(body), 100_000))
    connection.request("POST", INFER, pieces, {}, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


def test_a_length_that_is_told_wrong(server: Server) -> None:
    for value in ("abc", "-1", "9" * 30, "1e3"):
        answer = server.post(INFER, b"{}", {"Inference-Header-Content-Length": value})
        assert answer.status == 400 and list(answer.json()) == ["error"]
    # A body that ends early: nobody is left to be answered, and nothing happens.
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        raw.sendall(
            b"POST " + INFER.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{"
        )
    assert server.get("/v2/health/ready").status == 200


def test_a_trace_goes_on(server: Server) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    parent = f"00-{trace}-00f067aa0ba902b7-01"
    answer = server.get("/v2/models/bundled", headers={"traceparent": parent})
    version, same, span, flags = answer.headers["traceparent"].split("-")
    assert (version, same, flags) == ("00", trace, "01") and span != "00f067aa0ba902b7"
    assert server.last("request", trace_id=trace)["path"] == "/v2/models/bundled"
    for wrong in ("00-xyz-1-01", f"00-{'0' * 32}-00f067aa0ba902b7-01", "ff" + parent[2:]):
        assert "traceparent" not in server.get("/v2", headers={"traceparent": wrong}).headers


def test_logs_have_no_image_in_them(server: Server) -> None:
    server.post(INFER, {"inputs": [{**PICTURE, "data": ["c2VjcmV0IHBpY3R1cmU="]}]})
    entry = server.last("request", reason="bad_input")
    assert entry["status"] == 400 and entry["model"] == "bundled"
    assert {"time", "level", "ms", "method", "path"} <= entry.keys()
    assert not any("c2VjcmV0" in line or "secret" in line for line in server.lines)


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_docs_javascript_runs_as_it_stands(server: Server) -> None:
    text = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```js\n(.*?)```", text, re.DOTALL)
    assert ":8000" in code
    code = 'import fs from "node:fs";\n' + code.replace(":8000", f":{server.port}")
    code += "console.log(parameters.labels[0], outputs.map((o) => o.name).join());\n"
    done = subprocess.run(
        ["node", "--input-type=module", "-e", code], cwd=PHOTOS, capture_output=True, text=True,
        check=False, timeout=120,
    )  # fmt: skip
    assert done.stdout == "Egyptian cat prob,target,heatmap_gradcam\n", done.stderr


JAVA = """
import java.net.URI;
import java.net.http.*;
import java.nio.file.Path;

class Main {
    public static void main(String[] words) throws Exception {
        %s
        System.out.println(answer.statusCode() + answer.body());
    }
}
"""
CSHARP = """
using System.IO;
using System.Net.Http;
using System.Net.Http.Headers;
using System.Threading.Tasks;

class Program {
    static void Main() { Run().GetAwaiter().GetResult(); }

    static async Task Run() {
        %s
    }
}
"""


def snippet(language: str, server: Server) -> str:
    """What the docs show, for this server and a photo by its path."""
    text = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    (code,) = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    assert ":8000" in code and "chelsea.jpg" in code
    return code.replace(":8000", f":{server.port}").replace(
        "chelsea.jpg", (PHOTOS / "chelsea.jpg").as_posix()
    )


@pytest.mark.skipif(shutil.which("javac") is None, reason="no Java compiler is installed")
def test_the_docs_java_runs_as_it_stands(server: Server, tmp_path: Path) -> None:
    (tmp_path / "Main.java").write_text(JAVA % snippet("java", server), encoding="utf-8")
    done = subprocess.run(
        ["java", "Main.java"], cwd=tmp_path, capture_output=True, text=True, check=False,
        timeout=120,
    )  # fmt: skip
    assert done.stdout.startswith("200{"), done.stderr
    assert json.loads(done.stdout[3:])["parameters"]["labels"] == ["Egyptian cat"]


@pytest.mark.skipif(
    not (shutil.which("mcs") and shutil.which("mono")),
    reason="no C# compiler is installed (Debian: mono-mcs, libmono-system-net-http4.0-cil)",
)
def test_the_docs_csharp_runs_as_it_stands(server: Server, tmp_path: Path) -> None:
    (tmp_path / "Main.cs").write_text(CSHARP % snippet("csharp", server), encoding="utf-8")
    for words in (["mcs", "-r:System.Net.Http.dll", "Main.cs"], ["mono", "Main.exe"]):
        done = subprocess.run(
            words, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
    drawn = Image.open(tmp_path / "why.png")
    assert drawn.format == "PNG" and min(drawn.size) == 227


def test_the_docs_python_runs_as_it_stands(server: Server) -> None:
    pytest.importorskip("tritonclient.http")
    text = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", code.replace(":8000", f":{server.port}")], cwd=ROOT,
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.stdout == "[285] (1, 3, 227, 227)\n", done.stderr


def test_the_openapi_document(server: Server) -> None:
    told = server.get("/openapi.json").json()
    assert told["openapi"].startswith("3.")
    for path in (INFER, EXPLAIN, "/v1/models/{model}:explain", "/v2/health/ready", "/metrics"):
        assert path.replace("bundled", "{model}") in told["paths"]


def test_metrics(server: Server) -> None:
    server.post(INFER, b"{")
    answer = server.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    text = answer.bytes.decode()
    for name in (
        "request_seconds_bucket", "queue_seconds_bucket", "batch_wait_seconds_bucket",
        "compute_seconds_bucket", "batch_rows_bucket", "queue_rows", "queue_bytes",
        'rejected_total{reason="bad_request"}', "workers",
    ):  # fmt: skip
        assert f"backlight_{name}" in text
