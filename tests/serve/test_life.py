"""A server's life: overload, callers who go, workers that die, models that change, the end."""

from __future__ import annotations

import base64
import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import backlight
from backlight.engine.cli import run
from backlight.engine.cli.options import PHOTOS

from .. import models
from ..engine.commands import SRC
from .running import UP, Server, binary

X = models.images(1, 3, 8, 8)
INFER = "/v2/models/m/infer"
MAP = [{"name": "saliency_vanilla"}]
posix = pytest.mark.skipif(os.name != "posix", reason="stops a process")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.onnx"
    onnx.save(models.tiny(), path)
    return path


def words(model: Path, *more: str) -> list[str]:
    """One worker, which takes two rows; six wait."""
    return [f"m={model}", "--preprocess", "unit", "--method", "vanilla", "--workers", "1",
            "--batch", "2", "--queue-rows", "6", *more]  # fmt: skip


@pytest.fixture(scope="module")
def single(model: Path) -> Iterator[Server]:
    with Server(*words(model)) as running:
        yield running
        assert running.end() == 0
        assert not running.events("failure")


def request(rows: int = 1, **more: Any) -> tuple[bytes, dict[str, str]]:
    return binary([("x", "FP32", np.repeat(X, rows, axis=0))], **more)


def metric(server: Server, name: str) -> float:
    """A metric's value, summed over its labels."""
    text = server.get("/metrics").bytes.decode()
    lines = [li for li in text.splitlines() if re.match(rf"backlight_{name}[{{ ]", li)]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def until(true: Any, seconds: float = 120) -> None:
    """Wait for something that comes."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


@contextmanager
def held(server: Server, pool: ThreadPoolExecutor) -> Iterator[Any]:
    """The worker stands still with a request of two rows; gives that request's answer to come."""
    (worker,) = server.workers()
    os.kill(worker, signal.SIGSTOP)
    try:
        before = server.get("/metrics") and metric(server, "queue_bytes")
        first = pool.submit(server.post, INFER, *request(2, outputs=MAP))
        until(lambda: metric(server, "queue_bytes") > before)
        until(lambda: metric(server, "queue_rows") == 0)
        time.sleep(0.2)  # between its arrival and the queue it is in neither
        until(lambda: metric(server, "queue_rows") == 0)
        yield first
    finally:
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGCONT)


@posix
def test_overload_ends_in_answers(single: Server) -> None:
    """Ten times what there is room for: what fits is answered, the rest told to come again, and the
    probes answer all the while."""
    with ThreadPoolExecutor(81) as pool:
        with held(single, pool) as first:
            many = [pool.submit(single.post, INFER, *request()) for _ in range(80)]
            until(lambda: sum(f.done() for f in many) == 74)
            assert metric(single, "queue_rows") == 6
            for path in ("live", "ready"):
                assert single.get(f"/v2/health/{path}").status == 200
        answers = [f.result() for f in many]
        assert first.result().status == 200
    assert sorted({a.status for a in answers}) == [200, 503]
    refused = [a for a in answers if a.status == 503]
    assert len(refused) == 74
    for answer in refused:
        assert int(answer.headers["retry-after"]) >= 1 and list(answer.json()) == ["error"]
    text = single.get("/metrics").bytes.decode()
    assert 'backlight_rejected_total{reason="queue_rows"} 74.0' in text
    assert metric(single, "queue_bytes") == 0


@posix
def test_a_request_too_large_for_the_queue_is_no_overload(single: Server) -> None:
    answer = single.post(INFER, *request(7))
    assert answer.status == 400 and "7 rows; at most 6" in answer.json()["error"]


@posix
def test_a_deadline_that_passes(single: Server) -> None:
    with ThreadPoolExecutor(1) as pool, held(single, pool) as first:
        body, header = request(parameters={"timeout": 100_000})  # microseconds
        answer = single.post(INFER, body, header)
        assert answer.status == 504 and "deadline passed" in answer.json()["error"]
        assert metric(single, "queue_rows") == 0
    assert first.result().status == 200


@posix
def test_a_caller_who_goes_is_dropped_before_it_costs_anything(single: Server) -> None:
    ran = metric(single, "batch_rows_sum")
    with ThreadPoolExecutor(1) as pool:
        with held(single, pool) as first:
            connection = http.client.HTTPConnection("127.0.0.1", single.port)
            connection.request("POST", INFER, *request(5))
            until(lambda: metric(single, "queue_rows") == 5)
            connection.close()
            until(lambda: metric(single, "queue_rows") == 0)
        assert first.result().status == 200
    assert single.last("request") and single.post(INFER, *request()).status == 200
    assert metric(single, "batch_rows_sum") == ran + 2 + 1
    assert [e for e in single.events("request") if e["status"] == 499]


@posix
def test_a_worker_s_death_is_answered_and_another_one_comes(single: Server) -> None:
    (worker,) = single.workers()
    ended = metric(single, "workers_ended_total")
    with ThreadPoolExecutor(1) as pool, held(single, pool) as first:
        os.kill(worker, signal.SIGKILL)
        answer = first.result()
    assert answer.status == 503 and "lost" in answer.json()["error"]
    assert int(answer.headers["retry-after"]) >= 1
    until(lambda: single.post(INFER, *request()).status == 200)
    (other,) = single.workers()
    assert other != worker and single.get("/v2/health/ready").status == 200
    # One that ends while it has nothing to do is replaced as well.
    os.kill(other, signal.SIGKILL)
    until(lambda: single.workers() not in ([other], []))
    until(lambda: single.post(INFER, *request()).status == 200)
    assert metric(single, "workers_ended_total") == ended + 2


@posix
def test_the_end_lets_what_is_under_way_finish(model: Path) -> None:
    with Server(*words(model)) as server, ThreadPoolExecutor(4) as pool:
        with held(server, pool) as first:
            waiting = pool.submit(server.post, INFER, *request())
            until(lambda: metric(server, "queue_rows") == 1)
            server.process.send_signal(signal.SIGTERM)
            until(lambda: server.get("/v2/health/ready").status == 503)
            assert server.get("/v2/health/live").status == 200
            new = server.post(INFER, *request())
            assert new.status == 503 and "shutting down" in new.json()["error"]
        assert first.result().status == waiting.result().status == 200
        assert server.process.wait(60) == 0


@posix
def test_the_end_may_come_while_models_are_read() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = Server("bundled", "--port", str(port))
    server.port = port
    try:
        until(lambda: _lives(server))
        assert server.get("/v2/health/ready").status == 503
        early = server.post("/v2/models/bundled/infer", b"{}")
        assert early.status == 503 and "loaded" in early.json()["error"]
        assert server.end() == 0
    finally:
        server.__exit__()


def _lives(server: Server) -> bool:
    assert server.process.poll() is None
    with suppress(OSError):
        return server.get("/v2/health/live").status == 200
    return False


@posix
def test_the_end_comes_within_bounds(model: Path) -> None:
    """A worker that never answers: those who wait are told, and the exit code is 0."""
    with Server(*words(model, "--drain", "1")) as server, ThreadPoolExecutor(4) as pool:
        with held(server, pool) as first:
            waiting = pool.submit(server.post, INFER, *request())
            until(lambda: metric(server, "queue_rows") == 1)
            assert server.end(seconds=60) == 0
        assert first.result().status == waiting.result().status == 503


def _tiny(folder: Path, name: str, seed: int) -> None:
    """A model whose scores tell which one it is, renamed into place."""
    made = models.tiny()
    weights = next(t for t in made.graph.initializer if t.name == "w")
    values = np.random.default_rng(seed).standard_normal(onnx.numpy_helper.to_array(weights).shape)
    weights.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32), "w"))
    onnx.save(made, folder / f".{name}")
    os.replace(folder / f".{name}", folder / name)


def _scores(server: Server, model: str, x: Any) -> Any:
    body, header = binary([("x", "FP32", x)])
    answer = server.post(f"/v2/models/{model}/infer", body, header)
    assert answer.status == 200, answer.json()
    told = answer.json()
    return told["model_version"], np.float32(told["outputs"][0]["data"])


def test_a_folder_is_reloaded(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    _tiny(folder, "one.onnx", 1)
    _tiny(folder, "two.onnx", 2)
    x = models.images(1, 3, 8, 8)
    with Server(str(folder), "--method", "vanilla", "--preprocess", "unit") as server:
        assert server.get("/v2").json()["models"] == ["one", "two"]
        version, before = _scores(server, "one", x)
        assert version == "1"
        np.testing.assert_allclose(
            before, backlight.Explainer(folder / "one.onnx", ["vanilla"])(x).scores[0], rtol=1e-5
        )
        stop, odd = threading.Event(), []

        def ask() -> None:
            while not stop.is_set():
                version, got = _scores(server, "one", x)
                if version == "1" and not np.allclose(got, before):
                    odd.append(version)

        asking = threading.Thread(target=ask)
        asking.start()
        (folder / "one.onnx").touch()  # the same bytes: the same version
        _tiny(folder, "two.onnx", 3)
        until(lambda: server.get("/v2/models/two").json()["versions"] == ["2"])
        assert server.get("/v2/models/one").json()["versions"] == ["1"]
        _tiny(folder, "one.onnx", 4)
        until(lambda: server.get("/v2/models/one").json()["versions"] == ["2"])
        stop.set()
        asking.join()
        assert not odd, "a request got another version's scores"
        version, after = _scores(server, "one", x)
        assert version == "2" and not np.allclose(after, before)
        np.testing.assert_allclose(
            after, backlight.Explainer(folder / "one.onnx", ["vanilla"])(x).scores[0], rtol=1e-5
        )
        assert server.get("/v2/models/one/versions/1").status == 404
        # What is no model leaves what was there; a new file is a new
        # model; one that is gone is no longer served.
        (folder / "one.onnx").write_bytes(b"no model")
        until(lambda: [e for e in server.events("reload") if e["model"] == "one"])
        assert _scores(server, "one", x)[0] == "2"
        _tiny(folder, "three.onnx", 5)
        (folder / "two.onnx").unlink()
        until(lambda: set(server.get("/v2").json()["models"]) == {"one", "three"})
        _scores(server, "three", x)
        assert server.end() == 0


def test_several_models_exported_ones_open_sizes_and_a_token(tmp_path: Path, model: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    token = {"Authorization": "Bearer s3cret"}
    exported = tmp_path / "exported.onnx"
    onnx.save(backlight.export(model, ["guided"]), exported)
    why = tmp_path / "why.onnx"
    onnx.save(backlight.export(model, methods=["contrastcam"]), why)
    x = models.images(3, 3, 8, 8)
    given = (str(model), f"e={exported}", str(why), "--preprocess", "unit", "--token-file",
             str(tmp_path / "token"))  # fmt: skip
    with Server(*given) as server:
        for path in ("/v2", "/v2/models/e", "/metrics", "/openapi.json"):
            answer = server.get(path)
            assert answer.status == 401 and answer.headers["www-authenticate"] == "Bearer"
            assert server.get(path, headers={"Authorization": "Bearer s3cres"}).status == 401
            assert server.get(path, headers=token).status == 200
        for path in ("live", "ready"):  # probes have none
            assert server.get(f"/v2/health/{path}").status == 200
        assert server.get("/v2", headers=token).json()["models"] == ["tiny", "e", "why"]
        told = server.get("/v2/models/e", headers=token).json()
        outputs = [o["name"] for o in told["outputs"]]
        assert outputs == ["prob", "saliency_guided", "target", "heatmap_guided"]
        want = backlight.Explainer(model, ["guided"], providers="cpu")(x, [0, 1, -1])
        body, header = binary(
            [("x", "FP32", x), ("target", "INT64", np.array([0, 1, -1]))],
            outputs=[{"name": "prob"}, {"name": "saliency_guided"}],
        )
        assert server.post("/v2/models/e/infer", body, header).status == 401
        for name in ("tiny", "e"):
            answer = server.post(f"/v2/models/{name}/infer", body, header | token).json()
            prob, guided = (np.float32(o["data"]).reshape(o["shape"]) for o in answer["outputs"])
            np.testing.assert_allclose(prob, want.scores, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(guided, want.saliency["guided"], rtol=1e-4, atol=1e-5)
        # A contrast: why this class, rather than that one.
        want = backlight.Explainer(why, providers="cpu")(x, [0, 1, -1], 3)
        names = ("saliency_contrastcam", "target", "contrast", "heatmap_contrastcam")
        body, header = binary(
            [("x", "FP32", x), ("target", "INT64", np.array([0, 1, -1]))],
            outputs=[{"name": n} for n in names], parameters={"contrast": 3},
        )  # fmt: skip
        answer = server.post("/v2/models/why/infer", body, header | token).json()
        cam, target, contrast, pictures = (o["data"] for o in answer["outputs"])
        np.testing.assert_allclose(cam, want.saliency["contrastcam"].ravel(), rtol=1e-4, atol=1e-5)
        assert target == want.target.tolist() and contrast == [3, 3, 3] and len(pictures) == 3
        # The class and its rival are said where they are, unasked; in V1 too.
        body, header = binary([("x", "FP32", x)], parameters={"contrast": 2})
        answer = server.post("/v2/models/why/explain", body, header | token).json()
        assert [o["name"] for o in answer["outputs"]] == [
            "prob", "target", "contrast", "heatmap_contrastcam"
        ]  # fmt: skip
        assert answer["outputs"][2]["data"] == [2, 2, 2]
        photo = base64.b64encode((PHOTOS / "coffee.jpg").read_bytes()).decode()
        told = {"instances": [{"image": photo, "contrast": 1}, photo], "contrast": 2}
        answer = server.post("/v1/models/why:explain", told, token).json()
        assert [one["contrast"] for one in answer["explanations"]] == [1, 2]
        assert server.end(signal.SIGINT) == 130
        assert not any("s3cret" in line for line in server.lines)


def test_methods_of_exported_files_are_their_own(tmp_path: Path, model: Path) -> None:
    two, one = tmp_path / "two.onnx", tmp_path / "one.onnx"
    onnx.save(backlight.export(model, ["guided", "vanilla"]), two)
    onnx.save(backlight.export(model, ["deconv"]), one)
    with Server(str(model), str(two), str(one), "--method", "vanilla") as server:
        found = {
            name: [
                m["name"] for m in server.get(f"/v2/models/{name}").json()["parameters"]["methods"]
            ]
            for name in ("tiny", "two", "one")
        }
        assert found == {"tiny": ["vanilla"], "two": ["vanilla"], "one": ["deconv"]}
        assert server.end() == 0
    nobody = Server(str(one), str(two), "--method", "gradcam")
    assert nobody.process.wait(UP) == 2
    assert nobody.lines == [
        "backlight: --method 'gradcam': one, two were exported with deconv, guided, vanilla"
    ]


BAD: list[tuple[list[str], str]] = [
    (["absent.onnx"], "absent.onnx: no such file; expected an .onnx file"),
    (["absent"], "absent: no such file"),
    (["EMPTY"], "a folder without models"),
    (["TEXT"], "not an ONNX model"),
    (["bundled", "bundled"], "two models are called 'bundled'"),
    (["a/b=TINY"], "as a model's name"),
    (["bundled", "--port", "99999"], "--port 99999"),
    (["bundled", "--port", "TAKEN"], "can't be listened at"),
    (["bundled", "--host", "192.0.2.1"], "can't be listened at"),
    (["bundled", "--grpc-port", "x"], "--grpc-port x"),
    (["bundled", "--method", "gradcan"], "gradcam"),
    (["bundled", "--workers", "0"], "--workers 0"),
    (["bundled", "--batch", "0"], "--batch 0"),
    (["bundled", "--deadline", "0"], "--deadline 0"),
    (["bundled", "--max-body", "much"], "memory 'much'"),
    (["bundled", "--memory", "256MB"], "--memory is 256 MB"),
    (["bundled", "--token-file", "absent"], "--token-file absent"),
    (["bundled", "--preprocess", "none", "--labels", "TEXT"], "names"),
    (["bundled", "--provider", "tpu"], "tpu"),
]


@pytest.mark.parametrize(("words", "says"), BAD, ids=[" ".join(words) for words, _ in BAD])
def test_bad_usage(
    words: list[str], says: str, tmp_path: Path, model: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.onnx").write_text("hello")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        names = {"EMPTY": "empty", "TEXT": "text.onnx", "TINY": str(model),
                 "TAKEN": str(taken.getsockname()[1])}  # fmt: skip
        given = [names.get(w, w.replace("TINY", names["TINY"])) for w in words]
        port = [] if "--port" in given else ["--port", "0"]
        assert run(["serve", *given, *port]) == 2
    said = capsys.readouterr().err
    lines = [li for li in said.splitlines() if not li.startswith("{")]
    assert len(lines) == 1 and says in lines[0] and "Traceback" not in said, said


ROOT = Path(__file__).parents[2]


@posix
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_readme_s_commands_run_as_pasted(tmp_path: Path) -> None:
    """Its server, on another port, and its curl, which comes before the server is up."""
    (block,) = re.findall(
        r"```bash\n(backlight serve.*?)```", (ROOT / "README.md").read_text(), re.S
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = block.replace("gradcam &", f"gradcam --port {port} &").replace(":8000", f":{port}")
    assert started.count(str(port)) == 2
    (tmp_path / "backlight").write_text(f'#!/bin/sh\nexec {sys.executable} -m backlight "$@"\n')
    (tmp_path / "backlight").chmod(0o755)
    (tmp_path / "engine").symlink_to(ROOT / "engine", target_is_directory=True)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": SRC}
    script = f"set -e\n{started}kill %1\nwait %1\n"
    done = subprocess.run(
        ["bash", "-mc", script], cwd=tmp_path, env=env, capture_output=True, text=True, check=False,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "why.png").read_bytes().startswith(b"\x89PNG")


def test_help_says_how(capsys: Any) -> None:
    assert run(["serve", "--help"]) == 0
    said = capsys.readouterr().out
    for option in ("--port", "--method", "--queue-rows", "--token-file", "--drain"):
        assert option in said
