"""Commands over photos that are broken off: started again, they do the rest, and give what a run
that nobody disturbed does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backlight.engine.cli import kept, run
from backlight.engine.cli import photos as job
from backlight.engine.photos import images, outputs
from backlight.errors import OutputError

COMMANDS = {
    "cem": "--steps 3 --rounds 1 --batch 1",
    "counterfactual": "--class 1 --distractors {p}/one.png --distractors {p}/two.png --batch 1",
    "explain": "--method lime --segments grid:2 --masks 8 --batch 1",
    "occlude": "--window 4 --stride 4 --way dense",
    "rise": "--masks 8",
    "segment": "--method vanilla --way random-walker --batch 1",
}
# What a run took, and not what came of it.
CLOCK = ("seconds", "ms")


class StoppedError(BaseException):
    """As sudden as a signal."""


def words(command: str, model: Path, photos: Path, out: Path) -> list[str]:
    more = COMMANDS[command].format(p=photos)
    return f"{command} -m {model} {photos} -o {out} --preprocess unit {more}".split()


def told(out: Path) -> dict[str, Any]:
    summary = json.loads((out / "summary.json").read_bytes())
    summary["images"] = [
        {k: v for k, v in entry.items() if k not in CLOCK} for entry in summary["images"]
    ]
    return summary


def files(out: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in out.iterdir() if p.name != "summary.json"}


@pytest.fixture
def stopped(monkeypatch):
    """Break a command off with its third photo."""
    monkeypatch.setattr(job, "EVERY", 0)
    add, left = job.PhotoJob.add, [2]

    def stop(self: Any, *given: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            monkeypatch.setattr(job.PhotoJob, "add", add)
            raise StoppedError
        add(self, *given)

    def arm() -> None:
        left[0] = 2
        monkeypatch.setattr(job.PhotoJob, "add", stop)

    return arm


@pytest.mark.parametrize("command", COMMANDS)
def test_a_stopped_run_goes_on(command, tiny, photos, tmp_path, stopped, monkeypatch, capsys):
    if command == "segment":
        pytest.importorskip("skimage", reason="extra 'segments'")
    # One that can't be read, before the one that it stops at.
    (photos / "other.png").write_bytes(b"no picture")
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert run(words(command, tiny, photos, whole)) == 2
    stopped()
    with pytest.raises(StoppedError):
        run(words(command, tiny, photos, out))
    assert not (out / "summary.json").exists()
    read: list[str] = []
    decode = images.read

    def counted(file: Path, *given: Any) -> Any:
        read.append(file.name)
        return decode(file, *given)

    monkeypatch.setattr(images, "read", counted)
    capsys.readouterr()
    assert run(words(command, tiny, photos, out)) == 2
    said = capsys.readouterr().err
    assert "went on from photo 3, where a run was stopped" in said
    if command != "counterfactual":  # its distractors are the same photos
        assert read == ["two.png"]
    assert told(out) == told(whole)
    assert files(out) == files(whole), "and nothing of the stopped run is left"


def left_by(command: list[str], out: Path, stopped) -> Path:
    """The folder of the state that a run leaves in `out` when it is stopped."""
    stopped()
    with pytest.raises(StoppedError):
        run(command)
    (state,) = (p for p in out.iterdir() if p.is_dir())
    return state


def test_another_run_does_not_go_on(tiny, photos, tmp_path, stopped, capsys):
    out = tmp_path / "out"
    state = left_by(words("rise", tiny, photos, out), out, stopped)
    assert run([*words("rise", tiny, photos, out), "--seed", "1"]) == 2
    said = capsys.readouterr().err
    assert "the state of a pass with other arguments; take the same" in said
    (photos / "new.png").write_bytes((photos / "one.png").read_bytes())
    assert run(words("rise", tiny, photos, out)) == 2
    assert "other files in the folder" in capsys.readouterr().err
    (photos / "new.png").unlink()
    part = next(state.iterdir())
    part.write_bytes(b"no archive")
    assert run(words("rise", tiny, photos, out)) == 2
    said = capsys.readouterr().err
    assert "damaged; remove it or take --force" in said and said.count("\n") == 1
    assert run([*words("rise", tiny, photos, out), "--force"]) == 0
    assert "went on" not in capsys.readouterr().err
    assert not state.exists()
    assert run(words("rise", tiny, photos, out)) == 2, "results are refused as ever"


TAMPERED = [
    lambda held: held | {"about": np.array("5")},
    lambda held: held | {"about": np.array('"text"')},
    lambda held: held | {"about": np.array([1])},
    lambda held: held | {"index": np.int64(1)},
    lambda held: held | {"index": np.zeros((2, 2), np.int64)},
    lambda held: {n: v for n, v in held.items() if n != "index"},
    *(
        lambda held, key=key, value=value: (
            held | {"about": np.array(json.dumps(json.loads(str(held["about"])) | {key: value}))}
        )
        for key, value in (
            ("asked", 3), ("asked", []), ("done", "2"), ("done", True), ("done", 1e999),
            ("done", 10**40), ("start", None), ("skipped", 7), ("skipped", ["x"]),
            ("skipped", [{"file": 1, "error": ""}]), ("said", 3), ("said", {"a": 1}),
            ("said", [{"images": [{"file": "x"}], "notes": []}]),
            ("said", [{"images": [{"file": "x", "ms": "1"}], "notes": []}]),
        )
    ),
]  # fmt: skip


def test_a_state_that_was_tampered_with(tiny, photos, tmp_path, stopped, capsys):
    """Every field of it, and what a command reckons with (explain's ms)."""
    out = tmp_path / "out"
    state = left_by(words("explain", tiny, photos, out), out, stopped)
    part = sorted(state.iterdir())[-1]
    whole = dict(np.load(part))
    for number, change in enumerate(TAMPERED):
        np.savez(part, **change(whole))
        capsys.readouterr()
        assert run(words("explain", tiny, photos, out)) == 2, number
        said = capsys.readouterr().err
        assert "not the state of a pass, or damaged" in said or "other arguments" in said, number
        assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "rows"),
    [
        (lambda rows: rows * np.nan, "NaN"),
        (lambda rows: rows[:, :0], "of no width"),
        (lambda rows: rows.astype(np.float64), "of another type"),
    ],
)
def test_rows_that_somebody_else_wrote(change, rows, tiny, photos, tmp_path, monkeypatch, capsys):
    from backlight.engine.photos.rows import RowStore

    line = f"concepts {tiny} --concept a={photos} --random {photos} --images {photos} -l r"
    given = f"{line} --runs 2 --preprocess unit -o {tmp_path / 'out'}".split()
    with monkeypatch.context() as patch:
        patch.setattr(RowStore, "remove", lambda store: (_ for _ in ()).throw(StoppedError()))
        with pytest.raises(StoppedError):
            run(given)
    (part,) = (tmp_path / "out").rglob("random-0/part-000000.npz")
    held = dict(np.load(part))
    np.savez(part, **(held | {"0": change(held["0"])}))
    capsys.readouterr()
    assert run(given) == 2, rows
    said = capsys.readouterr().err
    assert "not the state of a pass, or damaged" in said and said.count("\n") == 1, said


@pytest.mark.parametrize("said", ['"text"', '{"images": [3], "notes": []}', '{"images": []}'])
def test_a_state_that_somebody_else_wrote(said, tiny, photos, tmp_path, stopped, capsys):
    from backlight.engine.photos.rows import RowStore

    out = tmp_path / "out"
    state = left_by(words("rise", tiny, photos, out), out, stopped)
    held = RowStore(state, {}, {})
    start = held.restore([], 3)
    held.remove()
    asked = json.loads(str(_about(words("rise", tiny, photos, out), tiny, photos)))
    RowStore(state, asked, {}, 0).add({}, start, [], last=True, said=[json.loads(said)])
    assert run(words("rise", tiny, photos, out)) == 2
    assert "not the state of a pass, or damaged" in capsys.readouterr().err


def _about(arguments: list[str], model: Path, photos: Path) -> str:
    from backlight.engine.photos.passes import listing_of

    return json.dumps(
        {
            "model": listing_of([model]),
            "files": listing_of(sorted(photos.iterdir())),
            "arguments": arguments,
        }
    )


class TestHowItEnds:
    """Results are of whole photos, whatever ends a run, and when."""

    def refusing(self, monkeypatch, ending: str, error: BaseException) -> None:
        """No file of this ending can be written."""
        write = outputs.write_bytes

        def refuse(path: Path, data: bytes) -> None:
            if path.name.endswith(ending):
                raise error
            write(path, data)

        monkeypatch.setattr(outputs, "write_bytes", refuse)

    def test_a_photo_whose_files_do_not_all_fit_has_none(
        self, tiny, photos, tmp_path, monkeypatch, capsys
    ):
        """A full disk at its second file: nothing is there, and it can be run again."""
        pytest.importorskip("skimage", reason="extra 'segments'")
        out = tmp_path / "new" / "out"
        full = OutputError("can't be written: No space left on device")
        with monkeypatch.context() as patched:
            self.refusing(patched, "-cutout.png", full)
            assert run(words("segment", tiny, photos, out)) == 2
        assert capsys.readouterr().err.splitlines()[-1].endswith("No space left on device")
        assert not (tmp_path / "new").exists()
        assert run(words("segment", tiny, photos, out)) == 0

    def test_ctrl_c_keeps_what_is_done(self, tiny, photos, tmp_path, monkeypatch, capsys):
        """Before the state was due: it is written then, and a photo half done is taken away."""
        out = tmp_path / "out"
        with monkeypatch.context() as patched:
            self.refusing(patched, "two.npy", KeyboardInterrupt())
            assert run(words("rise", tiny, photos, out)) == 130
        assert sorted(p.name for p in out.iterdir()) == [
            ".rise-state", "one.npy", "one.png", "three.npy", "three.png",
        ]  # fmt: skip
        capsys.readouterr()
        assert run(words("rise", tiny, photos, out)) == 0
        assert "went on from photo 2, where a run was stopped" in capsys.readouterr().err
        assert len(told(out)["images"]) == 3

    def test_a_kill_before_any_state_was_due(self, tiny, photos, tmp_path, monkeypatch, capsys):
        """Its files aren't taken for somebody's results: the same command runs again."""
        out, whole = tmp_path / "out", tmp_path / "whole"
        assert run(words("rise", tiny, photos, whole)) == 0
        monkeypatch.setattr(kept.Kept, "_settle", lambda *_: None)  # no time for that
        with monkeypatch.context() as patched:
            self.refusing(patched, "one.png", StoppedError())
            with pytest.raises(StoppedError):
                run(words("rise", tiny, photos, out))
        assert (out / "one.npy").exists()
        capsys.readouterr()
        assert run(words("rise", tiny, photos, out)) == 0
        assert files(out) == files(whole)

    @pytest.mark.parametrize("command", ["bias", "graph", "concepts"])
    def test_a_state_that_cannot_be_written_leaves_nothing(
        self, command, tiny, photos, tmp_path, monkeypatch, capsys
    ):
        from backlight.engine.photos import rows

        def refuse(path: Path, data: bytes) -> None:
            raise OutputError(f"{path}: can't be written: No space left on device")

        monkeypatch.setattr(rows, "write_bytes", refuse)
        more = {
            "bias": f"{tiny} {photos}", "graph": f"{tiny} {photos} --layers r",
            "concepts": f"{tiny} --concept a={photos} --random {photos} --images {photos} "
            "--layer r",
        }  # fmt: skip
        out = tmp_path / "new" / "out"
        line = f"{command} {more[command]} -o {out} --preprocess unit"
        assert run(line.split()) == 2
        assert capsys.readouterr().err.splitlines()[-1].endswith("No space left on device")
        assert not (tmp_path / "new").exists()
