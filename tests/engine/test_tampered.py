"""Stores, maps and saved passes of somebody else's: used as what they should be, or refused in a
line; pictures of other folders stay where they are. Seeded throughout."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

import backlight
from backlight.engine.cli import run
from backlight.engine.inside.patches import patches
from backlight.engine.photos.outputs import alone
from backlight.engine.similar.embed import embedder_of
from backlight.engine.similar.lookup import Space
from backlight.engine.similar.maps import Map, project
from backlight.engine.similar.store import Embeddings
from backlight.engine.similar.store_writer import Writer
from backlight.errors import BacklightError, OutputError, UsageError

from .. import models

pa = pytest.importorskip("pyarrow")
import pyarrow.parquet as pq  # noqa: E402

VALUES: list[Any] = [
    None, True, -1, 0, 1, 3, 2**31, 2**63, -(2**70), 10**400, 1.5, float("nan"), float("inf"), "",
    "x", "\0", "../..", "/etc/passwd", "é" * 5000, [], [1], [[1]], {}, {"a": 1}, [None], "NaN",
]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, eight photos in two folders, their store, its map, a saved pass."""
    root = tmp_path_factory.mktemp("made")
    onnx.save(models.tiny(), root / "m.onnx")
    rng = np.random.default_rng(0)
    for number in range(8):
        file = root / "photos" / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (12, 14, 3)).astype(np.uint8)).save(file)
    backlight.embed(root / "m.onnx", [root / "photos"], root / "store", preprocess="unit")
    assert run(["map", str(root / "store"), "--method", "pca", "-o", str(root / "map")]) == 0
    passed(root / "m.onnx", root / "photos", root / "state.npz")
    return root


def passed(model: Path, photos: Path, state: Path) -> Any:
    return patches(model, photos, ["h"], k=3, preprocess="unit", state=state, every=0)


def held(use: Callable[[], Any]) -> bool:
    """Whether it could be used; refused is an error of ours, on one line. Raises all others."""
    try:
        use()
        return True
    except BacklightError as err:
        assert str(err) and "\n" not in str(err)
        return False


def same_store(folder: Path) -> tuple[Path, Any, dict[bytes, bytes]]:
    (part,) = folder.glob("part-*")
    table = pq.read_table(part)
    return part, table, dict(table.schema.metadata)


def used(folder: Path) -> None:
    """What map and neighbors read of a store."""
    store = Embeddings(folder)
    vectors, pixels = store.vectors, store.pixels
    assert vectors.dtype == np.float32 and vectors.shape == (len(store), store.source.width)
    assert pixels.dtype == np.uint8 and pixels.shape[1:] == (32, 32, 3)
    assert all(isinstance(p, str) for p in store.paths) and len(store.paths) == len(store)
    assert all(isinstance(t, (str, type(None))) for t in store.labels)
    for path in store.paths:
        store.picture(path)


def changed_column(table: Any, rng: random.Random) -> Any:
    """Another type, other rows, nulls, or a column more or less."""
    name = rng.choice(table.column_names)
    at = table.column_names.index(name)
    count, width = len(table), table.schema.field("vector").type.list_size
    numbers = np.random.default_rng(rng.randrange(99)).standard_normal((count, width))
    flat = pa.array(numbers.astype(np.float32).reshape(-1))
    nulled = flat.to_pylist()
    nulled[rng.randrange(len(nulled))] = None
    columns: list[Any] = [
        pa.FixedSizeListArray.from_arrays(pa.array(numbers.reshape(-1)), width),
        pa.FixedSizeListArray.from_arrays(pa.array(numbers.astype(np.int32).reshape(-1)), width),
        pa.FixedSizeListArray.from_arrays(pa.array(numbers.astype(np.float16).reshape(-1)), width),
        pa.FixedSizeListArray.from_arrays(flat[: count * (width - 1)], width - 1),
        pa.FixedSizeListArray.from_arrays(pa.array(nulled, pa.float32()), width),
        pa.array(list(numbers.astype(np.float32)), pa.list_(pa.float32())),
        pa.array([None] * count, pa.list_(pa.float32(), width)),
        pa.array([None] * count, pa.string()),
        pa.array([None] * count, pa.binary(32 * 32 * 3)),
        pa.array([b"x" * 5] * count, pa.binary(5)),
        pa.array([b"x" * 3072] * count, pa.binary()),
        pa.array(range(count), pa.int64()),
        pa.array([b"\xff\xfe"] * count, pa.binary()),
        pa.array(["/etc/passwd", "../x", "\0", ""] * (count // 4), pa.string()),
        pa.array([{"a": 1}] * count),
        pa.array(["a"] * count).dictionary_encode(),
    ]
    kind = rng.randrange(len(columns) + 3)
    if kind < len(columns):
        return table.set_column(at, name, columns[kind])
    if kind == len(columns):
        return table.drop_columns([name])
    if kind == len(columns) + 1:
        return table.append_column(name, table.column(name))
    return table.rename_columns([n if n != name else "other" for n in table.column_names])


def changed_record(text: bytes, rng: random.Random) -> bytes:
    """JSON with a value of another type, a key more or less, or none at all."""
    record = json.loads(text)
    kind = rng.randrange(5)
    if kind == 0:
        return json.dumps(rng.choice(VALUES)).encode()
    if kind == 1:
        return rng.choice([b"", b"{", b"[" * 100_000, b"\xff", b"nul"])
    path = [record]
    while (
        isinstance(path[-1], (dict, list)) and path[-1] and (len(path) == 1 or rng.random() < 0.7)
    ):
        inner = path[-1]
        keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        key = rng.choice(keys)
        if not isinstance(inner[key], (dict, list)) or not inner[key] or rng.random() < 0.4:
            if kind == 2 and isinstance(inner, dict):
                del inner[key]
            else:
                inner[key] = rng.choice(VALUES)
            break
        path.append(inner[key])
    return json.dumps(record).encode()


def test_stores(made: Path, tmp_path: Path) -> None:
    """Columns and records changed: 240 stores."""
    shutil.copytree(made / "store", tmp_path / "store")
    part, table, meta = same_store(tmp_path / "store")
    use = [lambda: used(tmp_path / "store"), lambda: written(tmp_path / "store")]
    count = 0
    for number in range(240):
        rng = random.Random(number)
        for file in (tmp_path / "store").glob("part-*"):
            file.unlink()
        other, about = table, dict(meta)
        if number % 2:
            other = changed_column(table, rng)
        else:
            key = rng.choice([b"backlight.source", b"backlight.skipped", b"backlight.store"])
            about[key] = changed_record(about[key], rng)
        pq.write_table(other.replace_schema_metadata(about), part, compression="NONE")
        count += held(use[number % 3 == 0])
    assert 10 < count < 120  # labels may be anything that is text; skipped files too


def written(folder: Path) -> None:
    """What embed does with a store that is there."""
    Writer(folder, Embeddings(folder).source).unlock()


def test_float64_is_not_taken_for_float32(made: Path, tmp_path: Path) -> None:
    """float64 bit by bit would be twice as many numbers, all of them wrong."""
    shutil.copytree(made / "store", tmp_path / "store")
    part, table, meta = same_store(tmp_path / "store")
    at = table.column_names.index("vector")
    width = table.schema.field("vector").type.list_size
    wide = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(len(table) * width)), width)
    pq.write_table(table.set_column(at, "vector", wide).replace_schema_metadata(meta), part)
    with pytest.raises(UsageError, match=r"column 'vector' is fixed_size_list<.*double>\[4\]"):
        Embeddings(tmp_path / "store")


def test_a_count_of_rows_that_memory_has_not(made: Path, tmp_path: Path) -> None:
    """A column of the same vector again and again packs a million rows into a few bytes."""
    shutil.copytree(made / "store", tmp_path / "store")
    part, table, meta = same_store(tmp_path / "store")
    many = pa.concat_tables([table.slice(0, 1)] * 20_000).combine_chunks()
    many = many.replace_schema_metadata(meta).cast(table.schema)
    pq.write_table(many, part, compression="ZSTD")
    assert part.stat().st_size < 20_000 * 16
    with pytest.raises(UsageError, match="20000 rows in"):
        Embeddings(tmp_path / "store")


@pytest.mark.skipif(os.name != "posix", reason="links and pipes")
def test_parts_are_files_of_the_store(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    for number in range(4):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(made / "store", folder)
        strange = folder / "part-000001.parquet"
        if number == 0:
            os.mkfifo(strange)
        elif number == 1:
            strange.symlink_to("/dev/zero")
        elif number == 2:
            strange.symlink_to(next((made / "store").glob("part-*")))
        else:
            strange.mkdir()
        for use in (used, lambda f: Writer(f, Embeddings(made / "store").source)):
            with pytest.raises(UsageError, match="a link, folder, pipe or device"):
                use(folder)
    shutil.rmtree(folder)
    shutil.copytree(made / "store", folder)
    # No numbers, or more digits than an integer may have: none of ours.
    for name in ("part-1x.parquet", f"part-{'9' * 200}.parquet"):
        (folder / name).write_bytes(b"x")
    written(folder)
    used(folder)


def test_pictures_of_other_folders_are_not_drawn(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A store that names somebody's picture; through a link and `..` as well."""
    secret = tmp_path / "secret" / "red.png"
    secret.parent.mkdir()
    Image.new("RGB", (64, 64), (255, 0, 0)).save(secret)
    home = tmp_path / "home"
    shutil.copytree(made / "store", home / "store")
    shutil.copytree(made / "photos", home / "photos")
    (home / "link.png").symlink_to(secret)
    (home / "folder").symlink_to(secret.parent)
    part, table, meta = same_store(home / "store")
    names = [str(secret), str(home / "link.png"), f"{home}/photos/../../secret/red.png",
             str(home / "folder" / "red.png"), "secret/red.png", "\0", "",
             str(home / "photos" / "a" / "0.png")]  # fmt: skip
    table = table.set_column(0, "path", pa.array(names)).replace_schema_metadata(meta)
    pq.write_table(table.cast(same_store(made / "store")[1].schema), part, compression="NONE")
    store = Embeddings(home / "store")
    assert [store.picture(p) is not None for p in store.paths] == [False] * 7 + [True]
    assert store.outside(store.paths) == 4
    given = Embeddings(home / "store", [secret.parent])
    assert [given.picture(p) is not None for p in given.paths] == [True] * 4 + [False] * 3 + [True]

    def red(folder: str, *more: str) -> int:
        out = tmp_path / folder
        arguments = ["map", str(home / "store"), "--method", "pca", "--html", "-o", str(out)]
        assert run([*arguments, *more]) == 0
        pixels = np.asarray(Image.open(out / "pictures.png")).reshape(-1, 3).astype(int)
        return int(((pixels[:, 0] > 240) & (pixels[:, 1:].max(axis=1) < 15)).sum())

    assert red("a") < 50  # a pixel or so of the noise
    assert "4 pictures of" in capsys.readouterr().err
    assert red("b", "--pictures", str(secret.parent)) > 4 * 30 * 30

    embedder, preprocess = embedder_of(store, made / "m.onnx")
    photo = home / "photos" / "a" / "0.png"
    for held_by, some in ((store, False), (given, True)):
        (similar,), _ = Space(held_by, embedder, preprocess).similar([photo], 7)
        strip = np.asarray(Space(held_by, embedder, preprocess).strip(similar)).astype(int)
        found = (strip[..., 0] > 240) & (strip[..., 1:].max(axis=2) < 15)
        # The frame around the query is not red.
        assert bool(found.sum() > 500) is some


def test_maps(made: Path, tmp_path: Path) -> None:
    """map.npz and map.json changed, joined by the store: 160 maps."""
    shutil.copytree(made / "map", tmp_path / "map")
    file, said = tmp_path / "map" / "map.npz", tmp_path / "map" / "map.json"
    whole, record = file.read_bytes(), said.read_bytes()
    arrays = dict(np.load(io.BytesIO(whole)))
    join = ["map", str(made / "store"), "--onto", str(tmp_path / "map"), "--force",
            "-o", str(tmp_path / "out")]  # fmt: skip
    count = 0
    for number in range(160):
        rng = random.Random(number)
        file.write_bytes(whole)
        said.write_bytes(record)
        if number % 4 == 0:
            said.write_bytes(changed_record(record, rng))
        elif number % 4 == 1:
            other = arrays | {"layout": np.array(changed_record(
                str(arrays["layout"]).encode(), rng).decode("latin-1"))}  # fmt: skip
            np.savez(file, **other)
        else:
            np.savez(file, **changed_arrays(arrays, rng))
        if number % 16 == 0 and said.read_bytes() != record:
            code = run(join)
            assert code in (0, 2)
            count += code == 0
        else:
            count += held(lambda: Map.load(file).place(np.zeros((2, 4), np.float32)))
    assert count < 100


def changed_arrays(arrays: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """An array of another type, shape or with other numbers; one more or less."""
    other = {name: value.copy() for name, value in arrays.items()}
    name = rng.choice(list(other))
    value, kind = other[name], rng.randrange(9)
    if kind == 0:
        del other[name]
    elif kind == 1:
        other["more"] = np.zeros(3)
    elif kind == 2:
        other[name] = np.zeros(value.shape, rng.choice([np.int8, np.float16, np.complex64, "U3"]))
    elif kind == 3:
        other[name] = value[None]
    elif kind == 4:
        other[name] = np.zeros((*value.shape[:-1], 0), value.dtype)
    elif kind == 5 and value.dtype.kind == "f" and value.size:
        value.reshape(-1)[rng.randrange(value.size)] = rng.choice([np.nan, np.inf, -np.inf, 1e30])
    elif kind == 6 and value.dtype.kind == "i" and value.size:
        value.reshape(-1)[rng.randrange(value.size)] = rng.choice([-2, 2**40, -(2**62), 10**6])
    elif kind == 7 and value.ndim:
        other[name] = np.concatenate([value, value])
    else:
        other[name] = np.array(json.dumps(rng.choice(VALUES)))
    return other


def test_passes(made: Path, tmp_path: Path) -> None:
    """A saved pass changed, and gone on with: 160 states."""
    state = tmp_path / "state.npz"
    whole = (made / "state.npz").read_bytes()
    arrays = dict(np.load(io.BytesIO(whole)))
    want = passed(made / "m.onnx", made / "photos", tmp_path / "own.npz").as_dict()

    def go_on() -> None:
        # Activations may be any number; images, places and boxes are those of the photos.
        found = passed(made / "m.onnx", made / "photos", state)
        assert found.as_dict().keys() == want.keys()
        json.dumps(found.as_dict(), allow_nan=False)
        found.rows("h", [0])

    count = 0
    for number in range(160):
        rng = random.Random(number)
        if number % 8 == 0:
            changed = bytearray(whole)
            for _ in range(rng.randint(1, 40)):
                changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
            state.write_bytes(bytes(changed))
        elif number % 2:
            text = changed_record(str(arrays["about"]).encode(), rng).decode("latin-1")
            np.savez(state, **(arrays | {"about": np.array(text)}))
        else:
            np.savez(state, **changed_arrays(arrays, rng))
        count += held(go_on)
    assert count < 100


def test_an_archive_that_unpacks_to_more_than_memory(tmp_path: Path) -> None:
    """A .npy header that says 4 TB, and zeros that pack to nothing."""
    import zipfile

    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": (1 << 39,)}
    )
    file = tmp_path / "map.npz"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("points", "reduced", "mean", "axes", "layout"):
            archive.writestr(f"{name}.npy", header.getvalue() + b"\0" * 1000)
    with pytest.raises(UsageError, match="not a map"):
        Map.load(file)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.npz")
        with pytest.raises(UsageError, match="pipe or device"):
            Map.load(tmp_path / "pipe.npz")


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    """All that the checks must let through: every method of a map, fewest points."""
    rng = np.random.default_rng(0)
    for count in (4, 7, 40):
        vectors = rng.standard_normal((count, 6)).astype(np.float32)
        for method in ("pca", "tsne") if count < 40 else ("pca",):
            laid = project(vectors, method)
            file = tmp_path / "map.npz"
            file.write_bytes(laid.to_bytes())
            again = Map.load(file)
            assert again.layout == laid.layout
            np.testing.assert_array_equal(again.points, laid.points)


@pytest.mark.skipif(os.name != "posix", reason="locks")
def test_two_commands_in_one_folder(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two passes with other layers each took the folder for its own: the second is refused."""
    out = tmp_path / "out"
    out.mkdir()
    common = [str(made / "m.onnx"), str(made / "photos"), "-o", str(out), "--preprocess", "unit"]
    photo = str(made / "photos" / "a" / "0.png")
    commands = [
        ["patches", *common, "-l", "h"],
        ["explain", photo, "-m", str(made / "m.onnx"), "-o", str(out), "--preprocess", "unit"],
        ["map", str(made / "store"), "--method", "pca", "-o", str(out)],
    ]
    with alone(out):
        for command in commands:
            assert run(command) == 2
            assert "another backlight command is writing to it" in capsys.readouterr().err
        with pytest.raises(OutputError), alone(out):
            pass
    assert not list(out.iterdir())
    assert run(commands[0]) == 0
    # One after the other: the first one's results are there.
    assert run(["patches", *common, "-l", "r"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert sorted(p.name for p in out.iterdir()) == ["h.png", "patches.json", "summary.json"]
