"""`backlight triton`: a model repository, read as Triton reads it, and by Triton's own server.

    pytest -m slow tests/engine/test_triton.py

The slow test runs the tritonserver that the wheel of nvidia-pytriton ships (PYTHONPATH names the
folder that it was unpacked to). It has the Python backend alone: model.py stands for the ONNX
Runtime one and runs the same file. Configurations, batching, the reshape of `target`, warm-up,
labels and the ensemble are the server's own; ONNX Runtime's backend and TensorRT's are not tried.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from backlight.engine.cli import run
from backlight.engine.cli.options import BUNDLED

from .. import models

KINDS = {"TYPE_FP32": "tensor(float)", "TYPE_INT64": "tensor(int64)", "TYPE_UINT8": "tensor(uint8)"}


def config(folder: Path) -> Any:
    """config.pbtxt as Triton's own message. Nothing unknown is let through."""
    pb2 = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    text_format = pytest.importorskip("google.protobuf.text_format")
    text = (folder / "config.pbtxt").read_text(encoding="utf-8")
    return text_format.Parse(text, pb2.ModelConfig())


def written(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    assert run(["triton", *map(str, words), "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def fits(folder: Path) -> None:
    """A model file has the inputs and outputs that its configuration names, of these types."""
    said = config(folder)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(folder / "1" / "model.onnx", options)
    for tensors, held in ((said.input, session.get_inputs()), (said.output, session.get_outputs())):
        assert [t.name for t in tensors] == [v.name for v in held]
        for tensor, value in zip(tensors, held, strict=True):
            kind = type(tensor).DESCRIPTOR.fields_by_name["data_type"].enum_type
            assert KINDS[kind.values_by_number[tensor.data_type].name] == value.type
            dims = list(tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims)
            own = value.shape[1:] if said.max_batch_size else value.shape
            assert len(dims) == len(own)
            for have, want in zip(dims, own, strict=True):
                assert have == want or not isinstance(want, int)
    assert said.max_batch_size == 0 or not isinstance(session.get_inputs()[0].shape[0], int)


def test_a_repository_of_the_bundled_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = tmp_path / "repository"
    made = written(capsys, "bundled", "-o", repository, "--method", "guided", "--method", "gradcam")
    assert made["models"] == ["squeezenet1_1", "squeezenet1_1_plain", "squeezenet1_1_scores"]
    assert made["methods"] == ["guided", "gradcam"] and made["command"] == "triton"
    assert sorted(p.name for p in repository.iterdir()) == sorted(made["models"])
    explaining = config(repository / "squeezenet1_1")
    assert (explaining.name, explaining.backend) == ("squeezenet1_1", "onnxruntime")
    assert explaining.max_batch_size == 8
    image, target = explaining.input
    assert list(image.dims) == [3, 227, 227]
    assert target.name == "target" and list(target.dims) == [1]
    assert target.HasField("reshape") and list(target.reshape.shape) == []
    outputs = {o.name: o for o in explaining.output}
    assert list(outputs) == ["prob", "saliency_guided", "saliency_gradcam"]
    assert outputs["prob"].label_filename == "labels.txt"
    labels = (repository / "squeezenet1_1" / "labels.txt").read_text("utf-8").splitlines()
    assert len(labels) == 1000 and labels[967] == "espresso"
    queue = explaining.dynamic_batching.default_queue_policy
    assert explaining.dynamic_batching.max_queue_delay_microseconds == 2000
    assert (queue.timeout_action, queue.max_queue_size) == (0, 64)  # REJECT
    (group,) = explaining.instance_group
    assert group.count == 1 and group.kind == type(group).KIND_GPU
    assert [w.batch_size for w in explaining.model_warmup] == [1, 8]
    for warmup in explaining.model_warmup:
        assert list(warmup.inputs["data"].dims) == [3, 227, 227]
        assert list(warmup.inputs["target"].dims) == [1]
    record = json.loads(explaining.parameters["backlight.preprocess"].string_value)
    assert record["size"] == [227, 227] and record["color"] == "BGR"
    assert explaining.parameters["backlight.methods"].string_value == "guided,gradcam"
    plain = config(repository / "squeezenet1_1_plain")
    assert [t.name for t in (*plain.input, *plain.output)] == ["data", "prob"]
    for name in made["models"][:2]:
        fits(repository / name)
    held = repository / "squeezenet1_1_plain" / "1" / "model.onnx"
    x = np.random.default_rng(0).standard_normal((1, 3, 227, 227)).astype(np.float32)
    np.testing.assert_array_equal(
        ort.InferenceSession(held).run(None, {"data": x})[0],
        ort.InferenceSession(BUNDLED).run(None, {"data": x})[0],
    )
    scores = config(repository / "squeezenet1_1_scores")
    assert scores.platform == "ensemble" and not scores.backend
    (step,) = scores.ensemble_scheduling.step
    assert step.model_name == "squeezenet1_1_plain" and step.model_version == -1
    assert dict(step.input_map) == {"data": "data"} and dict(step.output_map) == {"prob": "prob"}
    assert scores.max_batch_size == 8 and (repository / scores.name / "1" / ".keep").exists()
    for part in repository.rglob("*"):
        assert not part.name.startswith(".backlight")


def test_tensorrt_is_built_where_it_runs(
    tmp_path: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = written(
        capsys, tiny, "-o", tmp_path / "r", "--backend", "tensorrt", "--max-batch", 4, "--name", "m"
    )  # fmt: skip
    assert made["models"] == ["m", "m_plain", "m_scores"]
    for name, shape in (("m", "x:4x3x8x8,target:4"), ("m_plain", "x:4x3x8x8")):
        said = config(tmp_path / "r" / name)
        assert (said.backend, said.default_model_filename) == ("tensorrt", "model.plan")
        script = tmp_path / "r" / name / "build.sh"
        assert f"--maxShapes={shape}" in script.read_text("utf-8")
        subprocess.run(["sh", "-n", str(script)], check=True)
    model = onnx.load(tmp_path / "r" / "m" / "1" / "model.onnx")
    assert {p.key: p.value for p in model.metadata_props}["backlight.for"] == "tensorrt"


def test_models_that_triton_cannot_batch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A batch that the model fixes, and inputs of open sizes."""
    onnx.save(models.tiny(shape="2,3,8,8"), tmp_path / "fixed.onnx")
    onnx.save(models.tiny(shape="N,3,H,W"), tmp_path / "open.onnx")
    made = written(capsys, tmp_path / "fixed.onnx", "-o", tmp_path / "r", "--rule", "vanilla")
    said = config(tmp_path / "r" / "fixed")
    assert said.max_batch_size == 0 and not said.HasField("dynamic_batching")
    assert [list(t.dims) for t in said.input] == [[2, 3, 8, 8], [2]]
    assert not said.input[1].HasField("reshape")
    assert any("no batcher" in note for note in made["notes"])
    fits(tmp_path / "r" / "fixed")
    made = written(capsys, tmp_path / "open.onnx", "-o", tmp_path / "r", "--rule", "vanilla")
    assert list(config(tmp_path / "r" / "open").input[0].dims) == [3, -1, -1]
    assert any("open sizes" in note for note in made["notes"])
    fits(tmp_path / "r" / "open")
    words = [tmp_path / "open.onnx", "-o", tmp_path / "r", "--rule", "vanilla", "--force"]
    made = written(capsys, *words, "--preprocess", "unit")
    assert list(config(tmp_path / "r" / "open").input[0].dims) == [3, 224, 224]
    assert not any("open sizes" in note for note in made["notes"])


def test_an_exported_file_is_deployed_as_it_is(
    tmp_path: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its maps, or those that are asked for, and the model that it was made of beside it."""
    file, repository = tmp_path / "e.onnx", tmp_path / "r"
    words = ["--method", "vanilla", "--method", "gradcam", "--method", "layercam"]
    assert run(["export", str(tiny), "-o", str(file), *words]) == 0
    capsys.readouterr()
    made = written(capsys, file, "-o", repository, "--name", "m", "--device", "cpu")
    assert made["models"] == ["m", "m_plain", "m_scores"]
    assert made["methods"] == ["vanilla", "gradcam", "layercam"]
    x = models.images(2, 3, 8, 8)
    feeds = {"x": x, "target": np.array([-1, 3])}
    want = dict(zip(made_outputs(file), run_file(file, feeds), strict=True))
    for name in made["models"][:2]:
        fits(repository / name)
    held = repository / "m" / "1" / "model.onnx"
    for output, values in zip(made_outputs(held), run_file(held, feeds), strict=True):
        np.testing.assert_array_equal(values, want[output])
    plain = repository / "m_plain" / "1" / "model.onnx"
    assert made_outputs(plain) == made_outputs(tiny)
    said = [p.key for p in onnx.load(plain).metadata_props]
    assert not {"backlight.methods", "backlight.rules"} & {*said}  # it is no exported file
    np.testing.assert_allclose(run_file(plain, {"x": x})[0], run_file(tiny, {"x": x})[0], rtol=1e-6)
    few = written(capsys, file, "-o", repository, "--name", "few", "--method", "gradcam")
    assert few["methods"] == ["gradcam"]
    held = repository / "few" / "1" / "model.onnx"
    assert [n for n in made_outputs(held) if n.startswith("saliency")] == ["saliency_gradcam"]
    fits(repository / "few")
    got = dict(zip(made_outputs(held), run_file(held, feeds), strict=True))
    np.testing.assert_array_equal(got["saliency_gradcam"], want["saliency_gradcam"])
    assert run(["export", str(tiny), "-o", str(file), "--force", "--for", "tensorrt"]) == 0
    capsys.readouterr()
    made = written(capsys, file, "-o", repository, "--name", "t", "--backend", "tensorrt")
    assert config(repository / "t").backend == "tensorrt"
    fits(repository / "t")


def made_outputs(file: Path) -> list[str]:
    return [v.name for v in onnx.load(file).graph.output]


def run_file(file: Path, feeds: dict[str, Any]) -> list[Any]:
    return list(ort.InferenceSession(file).run(None, feeds))


def test_names_and_labels_of_a_stranger(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever they hold, the text is one message with that in it."""
    proto = models.tiny()
    proto.graph.input[0].name = proto.graph.node[0].input[0] = 'x"} ] \n name: "evil" \\ é'
    labels = ["a\nb", "ü", "c", "d", '"']
    onnx.helper.set_model_props(proto, {"backlight.labels": json.dumps(labels)})
    onnx.save(proto, tmp_path / "m.onnx")
    written(capsys, tmp_path / "m.onnx", "-o", tmp_path / "r", "--rule", "vanilla")
    said = config(tmp_path / "r" / "m")
    assert said.name == "m" and said.input[0].name == proto.graph.input[0].name
    lines = (tmp_path / "r" / "m" / "labels.txt").read_text("utf-8").splitlines()
    assert lines == ["a b", "ü", "c", "d", '"']


def test_bad_usage_is_a_line(
    tmp_path: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["export", str(tiny), "-o", str(tmp_path / "e.onnx")]) == 0
    (tmp_path / "file").touch()
    (tmp_path / "there" / "tiny").mkdir(parents=True)
    capsys.readouterr()
    out = ["-o", str(tmp_path / "r")]
    for words, says in (
        ([tiny, "--backend", "libtorch", *out], "accepted: onnxruntime, tensorrt"),
        ([tiny, "--device", "npu", *out], "accepted: gpu, cpu"),
        ([tiny, "--device", "cpu", "--backend", "tensorrt", *out], "accepted: gpu"),
        ([tiny, "--instances", "0", *out], "instances 0; expected 1 or more"),
        ([tiny, "--max-batch", "0", *out], "max-batch 0; expected 1 or more"),
        ([tiny, "--delay", "-1", *out], "delay -1; expected 0 or more"),
        ([tiny, "--queue", "0", *out], "queue 0"),
        ([tiny, "--name", "../x", *out], "expected letters"),
        ([tiny, "--method", "gradcamm", *out], "nearest: gradcam"),
        ([tmp_path / "e.onnx", "--method", "gradcam", *out], "was exported with vanilla"),
        ([tmp_path / "e.onnx", "--layer", "h", *out], "layer is in the file"),
        ([tmp_path / "e.onnx", "--backend", "tensorrt", *out], "--for tensorrt"),
        ([tmp_path / "none.onnx", *out], "no such file"),
        ([tiny, "-o", tmp_path / "file"], "a file; expected a folder"),
        ([tiny, "-o", tmp_path / "there"], "exists already; --force"),
        # Before the model is read, which may take long.
        ([tmp_path / "no model" / "tiny.onnx", "-o", tmp_path / "there"], "exists already"),
    ):
        assert run(["triton", *map(str, words)]) == 2, words
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and says in err, err
        assert not (tmp_path / "r").exists()
    assert list((tmp_path / "there" / "tiny").iterdir()) == []
    assert run(["triton", str(tiny), "-o", str(tmp_path / "there"), "--force"]) == 0
    assert (tmp_path / "there" / "tiny" / "config.pbtxt").exists()


# What stands for ONNX Runtime's backend: it runs 1/model.onnx, and writes down what it was given.
MODEL = """
import sys
sys.path[:0] = {path}
import os
import numpy as np, onnxruntime as ort, triton_python_backend_utils as pb

class TritonPythonModel:
    def initialize(self, args):
        folder = os.path.join(args["model_repository"], args["model_version"])
        self.session = ort.InferenceSession(os.path.join(folder, "model.onnx"))
        self.log = open(os.path.join(args["model_repository"], "runs.txt"), "a")

    def execute(self, requests):
        names = [i.name for i in self.session.get_inputs()]
        held = [[np.from_dlpack(pb.get_input_tensor_by_name(r, n)).copy() for n in names]
                for r in requests]
        sizes = [len(one[0]) for one in held]
        print(sizes, [list(v.shape) for v in held[0]], file=self.log, flush=True)
        found = self.session.run(None, dict(zip(names, map(np.concatenate, zip(*held)))))
        answers, at = [], 0
        for size in sizes:
            made = [pb.Tensor.from_dlpack(o.name, f[at : at + size].copy())
                    for o, f in zip(self.session.get_outputs(), found)]
            answers.append(pb.InferenceResponse(made))
            at += size
        return answers
"""


@pytest.fixture
def server(tmp_path: Path) -> Any:
    """A running tritonserver over a repository of the bundled model: its port, and the folder."""
    spec = importlib.util.find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("nvidia-pytriton, whose wheel ships a tritonserver, is not on the path")
    home = Path(spec.submodule_search_locations[0])
    ships = home / "tritonserver"
    stub = ships / "python_backend_stubs" / f"{sys.version_info[0]}.{sys.version_info[1]}"
    if not stub.exists():
        pytest.skip(f"its Python backend has no stub for Python {sys.version_info[:2]}")
    backends, repository = tmp_path / "backends", tmp_path / "repository"
    shutil.copytree(ships / "backends" / "python", backends / "python")
    shutil.copytree(stub, backends / "python", dirs_exist_ok=True)
    words = ["triton", "bundled", "-o", str(repository), "--method", "guided", "--device", "cpu"]
    assert run([*words, "--delay", "300000"]) == 0
    for name in ("squeezenet1_1", "squeezenet1_1_plain"):
        (repository / name / "1" / "model.py").write_text(MODEL.format(path=sys.path[1:]))
        file = repository / name / "config.pbtxt"
        text = file.read_text("utf-8").replace('"onnxruntime"', '"python"')
        file.write_text(text.replace('"model.onnx"', '"model.py"'), "utf-8")
    ports = []
    for _ in range(3):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
    binary = ships / "bin" / "tritonserver"
    binary.chmod(0o755)
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(binary), f"--model-repository={repository}", f"--backend-directory={backends}",
             f"--http-port={ports[0]}", f"--grpc-port={ports[1]}", f"--metrics-port={ports[2]}"],
            env=os.environ | {"LD_LIBRARY_PATH": str(home.parent / "nvidia_pytriton.libs")},
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield process, ports[1], repository, tmp_path / "log"
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.slow
def test_tritonserver_runs_it(server: Any) -> None:
    process, port, repository, log = server
    grpc = pytest.importorskip("tritonclient.grpc")
    client = grpc.InferenceServerClient(f"127.0.0.1:{port}")

    def ready() -> bool:
        try:
            return bool(client.is_server_ready())
        except grpc.InferenceServerException:
            return False

    for _ in range(600):
        if ready() or process.poll() is not None:
            break
        time.sleep(0.5)
    assert process.poll() is None and ready(), log.read_text("utf-8", "replace")
    runs = (repository / "squeezenet1_1" / "runs.txt").read_text().splitlines()
    assert runs[0] == "[1] [[1, 3, 227, 227], [1]]", "warm-up, target without its dimension"
    assert runs[1].startswith("[1, 1, 1, 1, 1, 1, 1, 1] ")
    rng = np.random.default_rng(0)
    x = (50 * rng.standard_normal((2, 3, 227, 227))).astype(np.float32)
    target = np.array([[-1], [5]])

    def asked(image: Any, of: Any = None) -> list[Any]:
        made = [grpc.InferInput("data", image.shape, "FP32")]
        made[0].set_data_from_numpy(image)
        if of is not None:
            made.append(grpc.InferInput("target", of.shape, "INT64"))
            made[1].set_data_from_numpy(of)
        return made

    found = client.infer("squeezenet1_1", asked(x, target))
    session = ort.InferenceSession(repository / "squeezenet1_1" / "1" / "model.onnx")
    want = session.run(None, {"data": x, "target": target[:, 0]})
    for output, values in zip(session.get_outputs(), want, strict=True):
        np.testing.assert_allclose(found.as_numpy(output.name), values, rtol=1e-3, atol=1e-6)
    alone = client.infer("squeezenet1_1_scores", asked(x))
    np.testing.assert_allclose(alone.as_numpy("prob"), want[0], rtol=1e-3, atol=1e-6)
    before = len((repository / "squeezenet1_1" / "runs.txt").read_text().splitlines())
    top = grpc.InferRequestedOutput("prob", class_count=1)
    named = client.infer("squeezenet1_1_scores", asked(x), outputs=[top]).as_numpy("prob")
    labels = (repository / "squeezenet1_1" / "labels.txt").read_text("utf-8").splitlines()
    for row, told in enumerate(named[:, 0]):
        _, number, name = told.decode().split(":", 2)
        assert int(number) == want[0][row].argmax() and name == labels[int(number)]
    assert len((repository / "squeezenet1_1" / "runs.txt").read_text().splitlines()) == before
    # Requests that wait for each other become one run.
    waiting = [_begun(client, asked(x[:1], target[:1])) for _ in range(3)]
    for one in waiting:
        np.testing.assert_allclose(one().as_numpy("prob"), want[0][:1], rtol=1e-3, atol=1e-6)
    runs = (repository / "squeezenet1_1" / "runs.txt").read_text().splitlines()[before:]
    assert any(run.startswith("[1, 1") for run in runs), runs
    for bad, says in (
        (asked(x), "missing required input"),
        (asked(x[:, :, :9, :9].copy(), target), "unexpected shape for input 'data'"),
        (asked(np.concatenate([x] * 5), np.concatenate([target] * 5)), "must be <= 8"),
    ):
        with pytest.raises(grpc.InferenceServerException, match=says):
            client.infer("squeezenet1_1", bad)
    assert process.poll() is None


def _begun(client: Any, inputs: list[Any]) -> Any:
    """A request that is under way; called, its answer."""
    import queue

    answers: Any = queue.Queue()
    client.async_infer("squeezenet1_1", inputs, lambda result, error: answers.put((result, error)))

    def answer() -> Any:
        result, error = answers.get(timeout=120)
        assert error is None, error
        return result

    return answer
