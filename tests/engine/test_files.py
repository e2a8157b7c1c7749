"""Files that are none, and files that a killed process leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from backlight.engine.cli import run
from backlight.engine.photos import outputs
from backlight.errors import ModelError, OutputError
from backlight.export import store
from backlight.export.saliency import explain_graph

from .. import models

posix = pytest.mark.skipif(os.name != "posix", reason="pipes and locks")


def refused(capsys: pytest.CaptureFixture[str], arguments: list[object], *says: str) -> None:
    assert run([str(a) for a in arguments]) == 2
    lines = capsys.readouterr().err.splitlines(keepends=True)
    err = "".join(line for line in lines if "how it wants its images" not in line)
    assert err.count("\n") == 1 and err.startswith("backlight: "), err
    for text in says:
        assert text in err, err


@posix
def test_pipes_and_devices_are_refused_at_once(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody writes to the pipe: to open it would wait for good."""
    pipe, out = tmp_path / "pipe", tmp_path / "out"
    os.mkfifo(pipe)
    for strange in (pipe, Path("/dev/zero")):
        for command in ("check", "bench", "embed", "filters"):
            refused(capsys, [command, strange], "a pipe or device; expected an .onnx file")
        refused(capsys, ["export", strange, "-o", out], "a pipe or device")
        for command in ("explain", "occlude", "rise"):
            refused(capsys, [command, "-m", strange, "-o", out], "a pipe or device")
            labelled = [command, "-m", tiny, "-o", out, "--preprocess", "unit"]
            refused(capsys, [*labelled, "--labels", strange], "a pipe or device")
            refused(capsys, [*labelled, strange])
            refused(capsys, [command, "-m", tiny, "-o", out, "--preprocess", strange])
        with pytest.raises(ModelError, match="a pipe or device"):
            explain_graph(str(strange))
    assert not out.exists()


@posix
def test_outputs_in_the_place_of_pipes_and_devices(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As root a rename would take the place of the machine's own /dev/null."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for force in ([], ["--force"]):
        refused(capsys, ["export", tiny, "-o", pipe, *force], "a pipe or device")
        refused(capsys, ["explain", "-m", tiny, "-o", pipe, *force], "a pipe or device")
        refused(capsys, ["embed", tiny, "-o", pipe, *force], "expected a folder")
    # The weights' file and a result's own name as well.
    os.mkfifo(tmp_path / "out.onnx.data")
    external = ["export", tiny, "-o", tmp_path / "out.onnx", "--external", "--force"]
    refused(capsys, external, "a pipe or device")
    with pytest.raises(OutputError, match="a pipe or device"):
        outputs.write_bytes(pipe, b"x")
    graph = explain_graph(models.tiny(), "vanilla")
    with pytest.raises(OutputError, match="a pipe or device"):
        graph.save(pipe)
    folder = tmp_path / "folder"
    folder.mkdir()
    os.mkfifo(folder / "summary.json")
    refused(capsys, ["explain", "-m", tiny, "-o", folder, "--preprocess", "unit", "--force"])
    assert pipe.is_fifo() and (tmp_path / "out.onnx.data").is_fifo()


def test_an_empty_name_is_no_folder(
    tiny: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    for command in ("explain", "occlude", "rise", "patches", "activations", "filters", "embed"):
        model = ["-m", tiny] if command in ("explain", "occlude", "rise") else [tiny]
        refused(capsys, [command, *model, "-o", ""], "-o is empty")
        refused(capsys, [command, *model, "--output="], "--output is empty")
    refused(capsys, ["export", tiny, "-o", ""], "-o is empty")
    refused(capsys, ["map", ""], "an empty name")
    refused(capsys, ["map", "x", "--onto", ""], "--onto is empty")
    refused(capsys, ["neighbors", "", "x.png"], "an empty name")
    with pytest.raises(OutputError, match="an empty name"):
        outputs.OutputFolder("", [], False)
    assert sorted(tmp_path.iterdir()) == before


def test_a_sparse_file_of_many_gigabytes(tmp_path: Path) -> None:
    file = tmp_path / "huge.onnx"
    with file.open("wb") as held:
        held.truncate(1 << 40)
    with pytest.raises(ModelError, match="larger than 2 GB"):
        explain_graph(file)


KILLED = """
import sys, time
from pathlib import Path
{patch}
from backlight.engine.cli import main
main(sys.argv[1:])
"""


BEFORE_RENAMING = """
import os
def stop(*_):
    print("there", flush=True)
    time.sleep(60)
os.replace = stop
"""


def killed(arguments: list[str]) -> None:
    """A command, killed as it is about to rename the first file that it has written."""
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED.format(patch=BEFORE_RENAMING), *arguments],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


@posix
def test_the_next_run_clears_what_a_killed_one_left(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    strange = tmp_path / ".backlight-own"
    strange.mkdir()  # not ours: no lock in it
    export = ["export", str(tiny), "-o", str(out), "--external"]
    killed(export)
    left = set(tmp_path.glob(".backlight-*")) - {strange}
    assert len(left) == 1 and not out.exists()
    # One that still runs keeps its folder.
    with store.temporary_folder(tmp_path) as busy:
        assert run(export) == 0
        assert busy.is_dir() and set(tmp_path.glob(".backlight-*")) == {strange, busy}
    assert set(tmp_path.glob(".*")) == {strange}

    folder = tmp_path / "explained"
    explain = ["explain", "-m", str(tiny), "-o", str(folder), "--preprocess", "unit"]
    killed(explain)
    assert list(folder.glob(".*"))
    assert run(explain) == 0
    assert not list(folder.glob(".*"))
    (folder / ".mine-12345678").write_text("not ours")
    assert run([*explain, "--force"]) == 0 and (folder / ".mine-12345678").exists()


def test_a_model_with_labels_of_10000_letters(tiny: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(c * 10_000 for c in "abcde"))
    given = ["-m", str(tiny), "--preprocess", "unit", "--labels", str(labels)]
    assert run(["explain", *given, "-o", str(tmp_path / "out")]) == 0
