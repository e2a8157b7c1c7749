"""A model that crashes, hangs or takes all memory: one line and exit code 2, and nothing left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

import backlight
from backlight.engine.cli import run
from backlight.engine.runtime import confined, isolated
from backlight.engine.runtime.confined import Limits
from backlight.errors import ModelError, OutputError, UsageError

from .. import models
from ..export.harness import run_runtime

ROOT = Path(__file__).parent.parent.parent


linux = pytest.mark.skipif(not confined.can_limit_memory(), reason="no limit of memory here")


FEW = ["--isolate-seconds", "2"]


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where a model does what its name says; children are tests.engine.hostile."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    real = confined.confined

    def stand_in(module: str, *arguments: object) -> object:
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        return real("tests.engine.hostile", *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(confined, "confined", stand_in)
    monkeypatch.setattr(isolated, "confined", stand_in)
    for name in ("crash", "abort", "hang", "fill", "bug", "leave"):
        onnx.save(models.tiny(), tmp_path / f"{name}.onnx")
    return tmp_path


def refused(capfd: pytest.CaptureFixture[str], arguments: list[object], *says: str) -> None:
    assert run([str(a) for a in arguments]) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.startswith("backlight: ") and err.count("\n") == 1, err
    assert "Traceback" not in err
    for text in says:
        assert text in err, err


def left(model: Path) -> list[str]:
    """Processes of a model's hang that go on."""
    found = subprocess.run(
        ["ps", "-ww", "-eo", "args"], capture_output=True, text=True, check=False
    )
    return [line for line in found.stdout.splitlines() if line.endswith(f"left behind {model}")]


@pytest.mark.parametrize("command", ["check", "export", "explain"])
def test_commands_say_what_they_say_without(
    tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], command: str
) -> None:
    """Output, files and exit code are those of the command itself."""
    said = []
    for name, more in (("a", []), ("b", ["--isolate"])):
        out = ["-o", str(tmp_path / name)]
        given = {
            "check": ["check", str(tiny), "--json"],
            "export": ["export", str(tiny), *out],
            "explain": ["explain", "-m", str(tiny), *out, "--preprocess", "unit", "--json"],
        }[command]
        assert run([*given, *more]) == 0
        text = capfd.readouterr().out.replace(str(tmp_path / name), "OUT")
        found = json.loads(text) if "--json" in given else text
        if command == "explain":
            for image in found["images"]:
                image.pop("ms")
        said.append(found)
    assert said[0] == said[1] and said[0]
    if command == "export":
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    if command == "explain":
        names = [sorted(p.name for p in (tmp_path / n).iterdir()) for n in "ab"]
        assert names[0] == names[1] and len(names[0]) > 3


def test_errors_are_the_command_s_own(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    refused(capfd, ["check", tmp_path / "none.onnx", "--isolate"], "no such file")
    refused(capfd, ["check", "x", "--isolate", "--isolate-seconds", "0"], "0 seconds")
    refused(capfd, ["check", "x", "--isolate", "--isolate-memory", "1MB"], "268 MB or more")
    refused(capfd, ["check", "x", "--isolate", "--isolate-memory", "much"], "such as")


@pytest.mark.parametrize(
    ("deed", "says"),
    [
        ("crash", "crashed the process that read it (SIGSEGV)"),
        ("abort", "crashed the process that read it (SIGABRT)"),
        ("bug", "failed inside: IndexError: tuple index out of range and more"),
    ],
)
def test_a_command_whose_model_crashes(
    hostile: Path, capfd: pytest.CaptureFixture[str], deed: str, says: str
) -> None:
    file, out = hostile / f"{deed}.onnx", hostile / "out.onnx"
    refused(capfd, ["check", file, "--isolate"], says)
    refused(capfd, ["export", file, "-o", out, "--isolate"], says)
    assert not out.exists() and not list(hostile.glob(".*"))


def test_a_command_whose_model_hangs(hostile: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What the model's process has started ends with it."""
    file = hostile / "hang.onnx"
    refused(capfd, ["check", file, "--isolate", *FEW], "nothing done in 2 seconds")
    assert not left(file)


@linux
def test_a_command_whose_model_takes_all_memory(
    hostile: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    limit = ["--isolate", "--isolate-memory", "512MB"]
    refused(capfd, ["check", hostile / "fill.onnx", *limit], "fill.onnx: more than 512 MB")


def test_the_function_exports(tiny: Path, tmp_path: Path) -> None:
    """Of a path, bytes and a message; the file gives what `backlight.export` gives."""
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    want = run_runtime(backlight.export(tiny), {"x": x, "target": np.array([-1, 2])})
    for number, model in enumerate((tiny, tiny.read_bytes(), onnx.load(tiny))):
        folder = tmp_path / str(number)
        folder.mkdir()
        made = isolated.isolated(model, "export", into=folder, external=number == 2)
        assert (made["of"], made["wrt"], made["classes"]) == ("scores", "x", 5)
        assert made["saliency"]["guided"] == "saliency_guided"
        got = run_runtime(onnx.load(made["path"]), {"x": x, "target": np.array([-1, 2])})
        assert got.keys() == want.keys()
        for name in want:
            np.testing.assert_array_equal(got[name], want[name])
        names = ["explaining.onnx", *(["explaining.onnx.data"] if number == 2 else [])]
        assert sorted(p.name for p in folder.iterdir()) == names


def test_the_function_checks_and_raises(tiny: Path, tmp_path: Path) -> None:
    assert isolated.isolated(tiny, "check")["of"] == "scores"
    assert isolated.isolated(tiny, "load") == {"opset": 18, "nodes": 6}
    with pytest.raises(UsageError, match="no tensor 'nothing'"):
        isolated.isolated(tiny, "check", of="nothing")
    with pytest.raises(ModelError, match=r"^the model's bytes: not an ONNX model"):
        isolated.isolated(b"junk", "load")
    with pytest.raises(UsageError, match="accepted: export, check, load"):
        isolated.isolated(tiny, "run")
    with pytest.raises(UsageError, match="into"):
        isolated.isolated(tiny, "export")
    assert issubclass(OutputError, isolated._ERRORS["OutputError"])


def test_bytes_reach_no_file(tmp_path: Path) -> None:
    """External data of a model without a folder: not that of the temporary one either."""
    model = models.tiny()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for name in ("model.onnx", "../job.json", "/etc/passwd"):
        del tensor.external_data[:]
        tensor.external_data.add(key="location", value=name)
        with pytest.raises(ModelError, match="give the model as a file|folder"):
            isolated.isolated(model, "load")


@pytest.mark.parametrize(
    ("deed", "says"),
    [
        ("crash", "SIGSEGV"),
        ("hang", "nothing done in 2 seconds"),
        ("bug", "failed inside: IndexError"),
        ("leave", "the process that read it failed"),
        pytest.param("fill", "more than 512 MB of memory", marks=linux),
    ],
)
def test_the_function_s_model_is_hostile(hostile: Path, deed: str, says: str) -> None:
    folder = hostile / "into"
    folder.mkdir()
    limits = Limits(2 if deed == "hang" else 60, 512_000_000)
    file = hostile / f"{deed}.onnx"
    with pytest.raises(ModelError) as caught:
        isolated.isolated(str(file), "export", limits=limits, into=folder)
    assert says in str(caught.value) and str(file) in str(caught.value)
    assert not list(folder.iterdir()) and not left(file)


def test_what_the_child_leaves_is_not_trusted(tmp_path: Path) -> None:
    """A link in place of the file, JSON that is none: refused."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "explaining.onnx").symlink_to("/etc/passwd")
    with pytest.raises(ModelError, match="left no file"):
        isolated._handed_over(folder, tmp_path, "m")
    for text in (b"", b"{", b"[" * 100_000, b"\xff"):
        (tmp_path / "r").write_bytes(text)
        assert confined._result(tmp_path / "r") is None
    (tmp_path / "l").symlink_to(tmp_path / "r")
    (tmp_path / "r").write_text("1")
    assert confined._result(tmp_path / "r") == 1 and confined._result(tmp_path / "l") is None


def test_modules_of_the_current_folder_are_not_imported(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a stranger's model may lie an onnx.py."""
    monkeypatch.chdir(tmp_path)
    for name in ("onnx", "numpy", "json", "backlight"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported')")
    assert isolated.isolated("tiny.onnx", "load")["nodes"] == 6


@pytest.mark.skipif(os.name != "posix", reason="signals to a group")
def test_ctrl_c_ends_both(hostile: Path) -> None:
    """A hang that ignores Ctrl-C: the command ends all the same, with 130 and one line."""
    code = (
        "import signal, sys\n"
        # A shell's background jobs ignore it, and what they start does too.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from backlight.engine.runtime import confined\n"
        "real = confined.confined\n"
        "confined.confined = lambda _, *a: real('tests.engine.hostile', *a)\n"
        "from backlight.engine.cli import main\nmain(sys.argv[1:])\n"
    )
    # Limits that no busy machine reaches before the hang is there.
    limits = ["--isolate", "--isolate-seconds", "600", "--isolate-memory", "4GB"]
    file = hostile / "hang.onnx"
    given = ["check", str(file), *limits]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *given], stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])},
    )  # fmt: skip
    while not left(file):
        time.sleep(0.1)
        assert process.poll() is None, process.communicate()[1]
    interrupt = threading.Timer(0.1, process.send_signal, [2])
    interrupt.start()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err == "backlight: interrupted\n"
    assert not left(file)
