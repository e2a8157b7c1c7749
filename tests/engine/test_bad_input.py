"""Every command on what it can't use: exit code 2, one line that names it, and nothing left."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from backlight import embed
from backlight.engine.cli import run
from backlight.engine.photos.passes import listing_of
from backlight.engine.pictures.page import Page

from .. import models
from .commands import COMMANDS, SRC


def call(command: str, model: Path, photo: Path, output: Path) -> int:
    words = COMMANDS[command].split()
    return run([w.format(m=model, p=photo, o=output) for w in words])


def listed(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@pytest.mark.parametrize("command", COMMANDS)
def test_weights_beside_the_model(command: str, tmp_path: Path, photo: Path, capsys):
    """Every command reads external data from the model's folder, wherever it is started."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    onnx.save(
        models.tiny(), folder / "m.onnx", save_as_external_data=True, location="w.bin",
        size_threshold=0,
    )  # fmt: skip
    assert call(command, folder / "m.onnx", photo, tmp_path / "out") == 0
    assert capsys.readouterr().err == ""


# The commands that read photos.
READING = [c for c, words in COMMANDS.items() if "{p}" in words]


@pytest.mark.parametrize("command", READING)
def test_photos_that_are_all_broken_leave_nothing(command: str, tmp_path: Path, tiny: Path, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.jpg").write_bytes(b"no photo")
    (photos / "b.png").write_bytes(b"")
    before = listed(tmp_path)
    assert call(command, tiny, photos, tmp_path / "new" / "out") == 2
    err = capsys.readouterr().err
    assert "a.jpg: not an image" in err or "b.png: empty" in err
    assert "Traceback" not in err
    if command not in ("embed", "batch"):  # a store remembers what it could not read, and a part
        assert listed(tmp_path) == before


@pytest.mark.parametrize("command", [c for c in COMMANDS if "{o}" in COMMANDS[c]])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"shape": "N,5,8,8", "channels": 5}, "5 (channels|bands)"),
        ({"body": models.BODY.replace("Relu", "Covn"), "shape": "N,3,8,8"}, "Covn"),
    ],
)
def test_models_that_cannot_be_used_leave_nothing(
    command: str, change: dict, says: str, tmp_path: Path, photo: Path, capsys
):
    onnx.save(models.tiny(**change), tmp_path / "m.onnx")
    before = listed(tmp_path)
    code = call(command, tmp_path / "m.onnx", photo, tmp_path / "new" / "out.onnx")
    said = capsys.readouterr().err
    if code == 0:  # filters, or a layer before what is in the way
        assert said == ""
        return
    assert code == 2 and len(said.splitlines()) == 1 and "Traceback" not in said
    assert re.search(says, said) or "--layer" in said or "does not exist" in said
    if command != "batch" or "channels" not in change:  # a part's row says of a picture what it is
        assert listed(tmp_path) == before


def test_a_name_that_is_no_text(tmp_path: Path, tiny: Path, photo: Path):
    """Undecodable bytes, a newline, an escape sequence: one line each, and JSON stays JSON."""
    photos = tmp_path / "photos"
    photos.mkdir()
    names = [b"a\xff.png", b"b\n.png", b"c\x1b[31m.png"]
    for name in names:
        (photos / os.fsdecode(name)).write_bytes(photo.read_bytes())
    command = [sys.executable, "-m", "backlight", "explain", "-m", tiny, photos, "-o",
               tmp_path / "out", "--preprocess", "unit", "--rule", "guided"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line[:7].rstrip() for line in done.stdout.splitlines()] == [
        "a\\udcff", "b?.png", "c?[31m.", "3 image"
    ]  # fmt: skip
    summary = json.loads((tmp_path / "out" / "summary.json").read_bytes())
    assert [Path(i["file"]).name for i in summary["images"]] == [os.fsdecode(n) for n in names]
    assert Page("\udcff").to_bytes()
    assert listing_of([photos / os.fsdecode(n) for n in names])
    found = embed(tiny, [photos], tmp_path / "store", preprocess="unit")
    assert (found.added, [Path(p).name for p in found.skipped]) == (2, ["a\udcff.png"])
    assert "a name that is no UTF-8 text" in next(iter(found.skipped.values()))


@pytest.mark.parametrize("name", ["x.eps", "x.jpg"])
def test_a_picture_that_is_a_program_is_not_run(name: str, tmp_path: Path, tiny: Path, capsys):
    """Pillow hands PostScript to Ghostscript, whatever the file is called."""
    file = tmp_path / name
    file.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    assert call("explain", tiny, file, tmp_path / "out") == 2
    assert f"{name}: EPS is a program to run; expected JPEG" in capsys.readouterr().err


def test_a_model_among_the_photos_is_not_skipped(tmp_path: Path, tiny: Path, photo: Path, capsys):
    """`backlight explain photo.jpg my.onnx`: not the bundled model's maps in place of its own; in
    front of the photos it is the model (test_grammar.py)."""
    assert run(["explain", str(photo), str(tiny), "-o", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == (
        f"backlight: {tiny}: a model where an image is expected; see --model\n"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX's")
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, tiny: Path, capsys):
    os.mkfifo(tmp_path / "pipe.jpg")
    assert call("explain", tiny, tmp_path / "pipe.jpg", tmp_path / "out") == 2
    assert "pipe.jpg: a folder, pipe or device" in capsys.readouterr().err


def test_a_model_is_not_overwritten_by_its_own_export(tmp_path: Path, tiny: Path, capsys):
    data = tiny.read_bytes()
    other = tmp_path / "link.onnx"
    other.symlink_to(tiny)
    for output in (tiny, other):
        assert run(["export", str(tiny), "-o", str(output), "--force"]) == 2
        assert "the model itself; take another name" in capsys.readouterr().err
    assert tiny.read_bytes() == data


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is full")
def test_a_stdout_that_takes_no_more(tiny: Path):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "backlight", "check", tiny],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "backlight: No space left on device\n")


INTERRUPTING = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
wanted = sys.argv.pop(1)
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == wanted:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
from backlight.__main__ import main
main()
"""


@pytest.mark.parametrize(
    "module", ["typer", "backlight.engine.cli.export", "numpy", "onnx", "PIL.Image", "onnxruntime"]
)
def test_ctrl_c_while_it_starts(module: str, tmp_path: Path, tiny: Path, photo: Path):
    """As each of these is loaded: one line, no traceback, no other error made of it."""
    before = listed(tmp_path)
    words = COMMANDS["explain"].split()
    arguments = [w.format(m=tiny, p=photo, o=tmp_path / "out") for w in words]
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTING, module, *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "backlight: interrupted\n")
    assert listed(tmp_path) == before


def test_the_entry_point_loads_next_to_nothing():
    """What is loaded before Ctrl-C has its handler answers it with a traceback."""
    code = "import sys; before = set(sys.modules); import backlight.__main__; "
    code += "print(*sorted(set(sys.modules) - before))"
    found = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path.insert(0, {SRC!r}); {code}"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert not {"typing", "re", "dataclasses", "collections.abc", "json"} & set(found)
    assert len(found) < 40, found


def test_neighbours_in_a_store_of_a_few(tmp_path: Path, tiny: Path, photo: Path, capsys):
    """Without -k all that there are, where they are fewer than eight."""
    pytest.importorskip("pyarrow")
    pixels = np.asarray(Image.open(photo))
    for number in range(3):
        Image.fromarray(np.roll(pixels, number, 0)).save(tmp_path / f"{number}.png")
    assert call("embed", tiny, tmp_path, tmp_path / "store") == 0
    assert run(["neighbors", str(tmp_path / "store"), str(photo), "-o", str(tmp_path / "o")]) == 0
    found = json.loads((tmp_path / "o" / "neighbors.json").read_bytes())
    assert found["k"] == 3 and len(found["images"][0]["nearest"]["l2"]) == 3


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ('{"std": [-1, 1, 1]}', "std above 0"),
        ('{"std": 1e-300}', "std above 0"),
        ('{"scale": 1e300}', "a number other than 0"),
        ('{"mean": 1e308, "scale": -1}', "three numbers"),
    ],
)
def test_records_beyond_float32(record: str, says: str, tmp_path: Path, tiny: Path, capsys):
    """What would be NaN for every photo is said of the record, not of each photo."""
    (tmp_path / "p.json").write_text(record)
    arguments = ["explain", "-m", str(tiny), "-o", str(tmp_path / "o")]
    assert run([*arguments, "--preprocess", str(tmp_path / "p.json")]) == 2
    assert says in (err := capsys.readouterr().err) and len(err.splitlines()) == 1


def test_names_that_are_none(tmp_path: Path, tiny: Path, capsys):
    assert run(["explain", "-m", str(tiny), "", "-o", str(tmp_path / "o")]) == 2
    assert "an empty path; expected an image" in capsys.readouterr().err
    assert run(["check", "a\0b"]) == 2
    assert "'a\\x00b': no file's name" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["export", "explain", "occlude", "rise", "patches", "embed"])
@pytest.mark.parametrize("words", [["-o", ""], ["--output="], ["--output", ""]])
def test_an_output_of_no_name_is_no_current_folder(
    command: str, words: list[str], tmp_path: Path, tiny: Path, capsys, monkeypatch
):
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    before = [str(tiny)] if command in ("export", "patches", "embed") else ["-m", str(tiny)]
    assert run([command, *before, *words]) == 2
    said = capsys.readouterr().err
    assert f"{words[0].rstrip('=')} is empty" in said and len(said.splitlines()) == 1
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("data", [b"", b"junk", b"PK\x03\x04junk", b"\x93NUMPY\x01\x00"])
def test_baselines_that_are_no_array(data: bytes, tmp_path: Path, tiny: Path, photo: Path, capsys):
    (tmp_path / "b.npy").write_bytes(data)
    words = [w.format(m=tiny, p=photo, o=tmp_path / "o") for w in COMMANDS["occlude"].split()]
    assert run([*words, "--baseline", str(tmp_path / "b.npy")]) == 2
    assert "b.npy: no .npy file that can be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("neighbors", "STORE's model. [default: where it was]"),
        ("bench", "[vanilla alone, then all three]"),
        ("check", "[default: the class scores]"),
    ],
)
def test_help_says_the_defaults(command: str, says: str, capsys):
    assert run([command, "--help"]) == 0
    assert says in " ".join(capsys.readouterr().out.split())
