"""Top patches: one pass, exact crops, killed and resumed; and their projection back to pixels."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from backlight.engine.cli import run
from backlight.engine.inside.patches import Patches, patches
from backlight.engine.inside.taps import Taps
from backlight.errors import BacklightError, ImageError, OutputError, UsageError

from ..kernels.sorting import by_sorting
from ..models import parsed, tiny
from .nets import COUNT


def found_in(model: Path, folders: Path, **changes: object) -> Patches:
    arguments = {"preprocess": "unit", "batch": 4, "threads": 1, "k": 5} | changes
    layers = arguments.pop("layers", ["h", "r"])
    return patches(model, folders, layers, **arguments)  # type: ignore[arg-type]


def same(a: Patches, b: Patches) -> None:
    assert (a.files, a.count) == (b.files, b.count)
    assert [s.as_dict() for s in a.skipped] == [s.as_dict() for s in b.skipped]
    assert list(a.layers) == list(b.layers)
    for name, one in a.layers.items():
        for field in ("channels", "values", "image", "row", "column", "boxes"):
            np.testing.assert_array_equal(getattr(one, field), getattr(b.layers[name], field))


@pytest.mark.parametrize("one_per_image", [False, True])
def test_equals_a_full_sort_of_all_activations(
    model: Path, folders: Path, one_per_image: bool
) -> None:
    found = found_in(model, folders, one_per_image=one_per_image)
    assert found.count == COUNT
    assert [Path(s.file).name for s in found.skipped] == ["05-empty.png", "99-broken.jpg"]
    bad = {s.file for s in found.skipped}
    index = np.array([i for i, f in enumerate(found.files) if str(f) not in bad])
    taps = Taps(model, ["h", "r"], providers="cpu", threads=1)
    # One at a time, which must not matter; the runtime sums in another order then.
    rows = [taps(taps.load([found.files[i]], "unit")) for i in index]
    for name, top in found.layers.items():
        want = by_sorting(np.concatenate([r[name] for r in rows]), index, 5, one_per_image)
        for channel, entries in enumerate(want):
            width = top.field.dims[3]
            got = zip(
                top.values[channel].tolist(),
                top.image[channel].tolist(),
                (top.row[channel] * width + top.column[channel]).tolist(),
                strict=True,
            )
            for (v, *where), (want_v, *want_where) in zip(got, entries, strict=True):
                assert where == want_where
                assert v == pytest.approx(want_v, rel=1e-5)


def test_boxes_hold_all_that_a_unit_sees(model: Path, folders: Path) -> None:
    """What lies outside its box doesn't change an activation; what lies inside does."""
    found = found_in(model, folders, layers=["h"], k=3)
    top = found.layers["h"]
    taps = Taps(model, ["h"], providers="cpu", threads=1)
    for channel in range(4):
        for rank in range(3):
            x = taps.load([found.files[top.image[channel, rank]]], "unit")
            y0, x0, y1, x1 = top.boxes[channel, rank]
            assert (y1 - y0) * (x1 - x0) in (4, 6, 9)  # clipped at a corner, a side, not at all
            alone = np.zeros_like(x)
            alone[..., y0:y1, x0:x1] = x[..., y0:y1, x0:x1]
            unit = (0, channel, top.row[channel, rank], top.column[channel, rank])
            assert taps(alone)["h"][unit] == pytest.approx(top.values[channel, rank], rel=1e-5)
            assert taps(x - alone)["h"][unit] != pytest.approx(top.values[channel, rank], rel=1e-2)


def test_one_pass_gives_several_layers_what_each_would_get_alone(
    model: Path, folders: Path
) -> None:
    both = found_in(model, folders)
    for name in ("h", "r"):
        alone = found_in(model, folders, layers=[name]).layers[name]
        np.testing.assert_array_equal(alone.values, both.layers[name].values)
        np.testing.assert_array_equal(alone.image, both.layers[name].image)


def test_chosen_channels_are_those_of_the_whole(model: Path, folders: Path) -> None:
    whole = found_in(model, folders).layers["h"]
    part = found_in(model, folders, channels=[2, 0]).layers["h"]
    np.testing.assert_array_equal(part.channels, [2, 0])
    np.testing.assert_array_equal(part.values, whole.values[[2, 0]])
    assert part.place(0) == 1
    with pytest.raises(UsageError, match="wasn't asked for"):
        part.place(1)
    with pytest.raises(UsageError, match="channel 4 is out of range; 'h' has 0 to 3"):
        found_in(model, folders, channels=[4])


class StoppedError(Exception):
    """A pass that ends in the middle."""


@pytest.mark.parametrize("after", [4, 12, 23])
def test_a_stopped_pass_goes_on_with_the_same_result(
    model: Path, folders: Path, tmp_path: Path, after: int
) -> None:
    want = found_in(model, folders)
    state = tmp_path / "state.npz"
    seen: list[int] = []

    def stop(done: int, total: int) -> None:
        if done >= after:
            raise StoppedError

    with pytest.raises(StoppedError):
        found_in(model, folders, state=state, every=0, progress=stop)
    again = found_in(model, folders, state=state, progress=lambda done, _: seen.append(done))
    same(again, want)
    assert all(done > after for done in seen)  # nothing is done twice


def test_a_killed_pass_goes_on_with_the_same_result(
    model: Path, folders: Path, tmp_path: Path
) -> None:
    """SIGKILL in the middle of writing a state: the one before it stands."""
    script = f"""
import os, signal
from backlight.engine.photos import outputs, passes
from backlight.engine.inside.patches import patches
whole = passes.write_bytes
count = 0
def killed(path, data):
    global count
    count += 1
    if count == 3:
        with open(path.parent / (".half-" + path.name), "wb") as file:
            file.write(data[:100])
        os.kill(os.getpid(), signal.SIGKILL)
    whole(path, data)
passes.write_bytes = killed
patches({str(model)!r}, {str(folders)!r}, ["h", "r"], preprocess="unit", batch=4, threads=1, k=5,
        state={str(tmp_path / "state.npz")!r}, every=0)
"""
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    seen: list[int] = []
    again = found_in(
        model, folders, state=tmp_path / "state.npz", progress=lambda done, _: seen.append(done)
    )
    assert seen[0] == 12  # two batches of four were saved
    same(again, found_in(model, folders))


def test_a_state_of_something_else_is_refused(model: Path, folders: Path, tmp_path: Path) -> None:
    state = tmp_path / "state.npz"
    want = found_in(model, folders, state=state)
    for changes, said in (
        ({"k": 4}, "other k"),
        ({"batch": 3}, "other batch"),
        ({"layers": ["h"]}, "other layers"),
        ({"preprocess": "tf"}, "other preprocess"),
    ):
        with pytest.raises(OutputError, match=said):
            found_in(model, folders, state=state, **changes)
    other = tmp_path / "other.onnx"
    onnx.save(tiny(tail="prob = Sigmoid(scores)"), other)
    with pytest.raises(OutputError, match="other model"):
        found_in(other, folders, state=state)
    state.write_bytes(state.read_bytes()[:200])
    with pytest.raises(OutputError, match="damaged"):
        found_in(model, folders, state=state)
    same(found_in(model, folders, state=state, fresh=True), want)


def test_other_weights_beside_the_file_are_another_model(folders: Path, tmp_path: Path) -> None:
    """A state that went on with them would mix two models' activations."""
    file, weights, state = tmp_path / "m.onnx", tmp_path / "m.data", tmp_path / "state.npz"
    onnx.save(tiny(), file, save_as_external_data=True, location=weights.name, size_threshold=0)
    found_in(file, folders, state=state)
    held = np.frombuffer(weights.read_bytes(), np.float32) * np.float32(1.5)
    weights.write_bytes(held.tobytes())
    with pytest.raises(OutputError, match="other model"):
        found_in(file, folders, state=state)


def test_k_larger_than_the_set_is_said(model: Path, folders: Path) -> None:
    few = found_in(model, folders, one_per_image=True, k=100)
    assert few.notes == [f"k is 100, but {COUNT} images give {COUNT} for a channel"]
    assert found_in(model, folders, k=9).notes == []


def test_nothing_to_read(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="a folder without images"):
        found_in(model, tmp_path)
    (tmp_path / "a.png").write_bytes(b"nothing")
    with pytest.raises(ImageError, match=r"a\.png"):
        found_in(model, tmp_path)
    for layer in ("p", "f"):
        with pytest.raises(UsageError, match="no spatial extent"):
            found_in(model, tmp_path, layers=[layer])


def test_nhwc_inputs_and_tensors(folders: Path) -> None:
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((4, 3, 3, 3)).astype(np.float32)}
    proto = parsed(
        """<ir_version: 8, opset_import: ["": 18]>
g (float[N,12,10,3] x) => (float[N,5,4,4] y) {
    t = Transpose<perm=[0,3,1,2]>(x)
    h = Conv<strides=[2,2]>(t, w)
    y = Transpose<perm=[0,2,3,1]>(h)
}""",
        weights,
    )
    found = patches(proto, folders, ["h", "y"], preprocess="unit", k=4, threads=1)
    first, last = found.layers.values()
    for field in ("values", "image", "row", "column", "boxes"):
        np.testing.assert_array_equal(getattr(first, field), getattr(last, field))
    assert found.picture("y").width > 100


def test_command(
    model: Path, folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["patches", str(model), str(folders), "-l", "r", "-l", "h", "-k", "4", "-o", str(out)]
    command += ["--preprocess", "unit", "--threads", "1", "--one-per-image", "--html"]
    assert run(command) == 2  # two files can't be read
    err = capsys.readouterr().err
    assert "05-empty.png" in err
    assert "2 skipped, 21 read" in err
    assert {f.name for f in out.iterdir()} == {
        "r.png", "h.png", "summary.json", "patches.json", "patches.html",
    }  # fmt: skip
    about = json.loads((out / "patches.json").read_text())
    want = found_in(model, folders, k=4, one_per_image=True)
    channel = about["layers"]["h"]["channels"][3]
    np.testing.assert_array_equal(
        np.float32([p["activation"] for p in channel["patches"]]), want.layers["h"].values[3]
    )
    np.testing.assert_array_equal([p["box"] for p in channel["patches"]], want.layers["h"].boxes[3])
    assert run(command) == 2  # the results are there
    assert "exists already" in capsys.readouterr().err
    assert run([*command[:-1], "-o", str(tmp_path / "new"), "-l", "nothing"]) == 2
    assert "no tensor 'nothing'" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--limit", "0"], "--limit 0; expected 1 or more"),
        (["-k", str(10**15)], "expected at most 2147483647"),
        (["-k", str(10**19)], "expected at most 2147483647"),
        (["--decoders", "0"], "workers 0; expected 1 or more"),
    ],
)
def test_numbers_out_of_range(
    more: list[str], said: str, model: Path, folders: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "out"
    given = ["patches", str(model), str(folders), "-l", "r", "--preprocess", "unit", "-o", str(out)]
    assert run([*given, *more]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1
    assert not out.exists()


def test_errors_are_one_line(model: Path, folders: Path) -> None:
    with pytest.raises(BacklightError) as caught:
        found_in(model, folders, k=0)
    assert str(caught.value) == "k 0; expected 1 or more"


def test_several_layers_cost_one_forward_pass(
    model: Path, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runs of the session, and the rows of each, are the same for one layer and for two."""
    from backlight.engine.runtime.session import Session

    runs: list[tuple[int, int]] = []
    whole = Session.run

    def counted(self: Session, feeds: dict[str, np.ndarray], outputs: object = None) -> object:
        (x,) = feeds.values()
        found = whole(self, feeds, outputs)  # type: ignore[arg-type]
        runs.append((len(x), len(found)))
        return found

    monkeypatch.setattr(Session, "run", counted)
    found_in(model, folders, layers=["h"])
    one, runs[:] = list(runs), []
    found_in(model, folders, layers=["h", "r"])
    assert sum(rows for rows, _ in one) == COUNT
    assert [rows for rows, _ in runs] == [rows for rows, _ in one]
    assert {outputs for _, outputs in runs} == {2}


def test_a_command_killed_between_its_files_can_be_started_again(
    model: Path, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backlight.engine.photos.outputs import OutputFolder

    out = tmp_path / "out"
    command = ["patches", str(model), str(folders), "-l", "r", "-o", str(out)]
    command += ["--preprocess", "unit", "--threads", "1"]

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(OutputFolder, "json", killed)
        assert run(command) == 130
    assert (out / "r.png").exists()
    (out / ".patches.json-half").touch()
    assert run(command) == 2  # two files can't be read
    assert sorted(f.name for f in out.iterdir()) == ["patches.json", "r.png", "summary.json"]
    assert run(command) == 2
    assert (out / "patches.json").exists()
