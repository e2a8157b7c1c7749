"""The explanatory graph: planted parts are found, with the parents they were given."""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import onnx
import pytest
from PIL import Image

import backlight
from backlight.engine.cli import run
from backlight.engine.inside.partgraph import PartGraph
from backlight.errors import BacklightError, ImageError, OutputError, UsageError

from .. import models

nx = pytest.importorskip("networkx")


SIDE, COUNT = 48, 24


# A figure has two red eyes and a blue mouth, so many pixels (down, right) from its middle. A green
# square lies anywhere.
EYES, MOUTH = ((-6, -6), (-6, 6)), (8, 0)


TEXT = """<ir_version: 8, opset_import: ["": 18]>
planted (float[N,3,48,48] x) => (float[N,3] prob) {
    c = Conv<pads=[1,1,1,1]>(x, w, b)
    parts = Relu(c)
    small = MaxPool<kernel_shape=[2,2],strides=[2,2]>(parts)
    d = Conv<pads=[4,4,4,4]>(small, v, e)
    whole = Relu(d)
    p = GlobalAveragePool(whole)
    f = Flatten(p)
    s = Gemm(f, g)
    prob = Softmax(s)
    unused = Relu(small)
}"""


def planted() -> onnx.ModelProto:
    """`parts`: red, blue and green squares. `whole`: a figure's middle (all three of its parts,
    each where it belongs), and the green square."""
    w = np.full((3, 3, 3, 3), -1 / 9, np.float32)
    for channel, colour in enumerate((0, 2, 1)):
        w[channel, colour] = 1 / 9
    v = np.zeros((2, 3, 9, 9), np.float32)
    for y, x in EYES:
        v[0, 0, 4 + y // 2, 4 + x // 2] = 1
    v[0, 1, 4 + MOUTH[0] // 2, 4 + MOUTH[1] // 2] = 1
    v[1, 2, 4, 4] = 1
    return models.parsed(
        TEXT,
        {
            "w": w, "b": np.full(3, -0.3, np.float32), "v": v,
            "e": np.array([-1.6, -0.3], np.float32), "g": np.ones((2, 3), np.float32),
        },
    )  # fmt: skip


def figures(folder: Path, count: int = COUNT) -> list[tuple[int, int]]:
    """Photos, and where the figure's middle is in each."""
    folder.mkdir()
    rng = np.random.default_rng(3)
    middles = []
    for number in range(count):
        pixels = rng.integers(0, 60, (SIDE, SIDE, 3)).astype(np.uint8)
        y, x = (int(v) for v in rng.integers(12, 36, 2))
        green = [int(v) for v in rng.integers(3, 45, 2)]
        for (top, left), colour in (
            (green, (0, 255, 0)),
            *(((y + dy, x + dx), (255, 0, 0)) for dy, dx in EYES),
            ((y + MOUTH[0], x + MOUTH[1]), (0, 0, 255)),
        ):
            pixels[max(top - 2, 0) : top + 3, max(left - 2, 0) : left + 3] = colour
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
        middles.append((y, x))
    return middles


@pytest.fixture(scope="module")
def at_hand(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[int, int]]]:
    folder = tmp_path_factory.mktemp("planted")
    onnx.save(planted(), folder / "m.onnx")
    return folder, figures(folder / "photos")


@pytest.fixture(scope="module")
def found(at_hand: tuple[Path, list[tuple[int, int]]]) -> PartGraph:
    folder, _ = at_hand
    # In the wrong order: the graph has the layer nearest to the scores on top.
    graph = backlight.ExplanatoryGraph(
        folder / "m.onnx", ["parts", "whole"], preprocess="unit", providers="cpu", threads=1
    )
    return graph(folder / "photos")


def test_the_planted_parts_and_no_others(found, at_hand):
    """A filter with two parts in it (red: two eyes) gets a pattern for each, the others one."""
    _, middles = at_hand
    whole, parts = found.layers
    assert [layer.name for layer in found.layers] == ["whole", "parts"]
    assert whole.fitted.filter.tolist() == [0, 1]
    assert parts.fitted.filter.tolist() == [0, 0, 1, 2]
    middle = np.array(middles, float)
    at = whole.places(whole.fitted.position)[:, 0]
    # A square is a plateau of five pixels, and a unit of `whole` two of them.
    assert abs(at - middle).max() <= 3
    expected = sorted([*EYES]), MOUTH
    eyes = parts.places(parts.fitted.position)[:, :2] - middle[:, None]
    order = np.argsort(eyes.mean(axis=0)[:, 1])
    for one, want in zip(order, expected[0], strict=True):
        assert abs(eyes[:, one] - want).max() <= 3
    mouth = parts.places(parts.fitted.position)[:, 2] - middle
    assert abs(mouth - expected[1]).max() <= 3
    assert (parts.fitted.score > 0.5).all()


def test_parts_go_by_what_they_move_with(found):
    """Eyes and mouth by the figure, the green square by itself; and where they are from there."""
    whole, parts = found.layers
    first = whole.fitted.filter[parts.fitted.parents[:, 0]]
    assert first.tolist() == [0, 0, 0, 1]
    offset = parts.fitted.offset[:, 0] * parts.pixels
    wanted = [*sorted(EYES, key=lambda e: e[1]), MOUTH, (0, 0)]
    order = [*np.argsort(offset[:2, 1]), 2, 3]
    np.testing.assert_allclose(offset[order], wanted, atol=1.5)  # pixels, of a grid of two
    residual = parts.fitted.residual * parts.pixels
    assert (residual[:, 0] < 4).all() and (residual[:, 1] > 2 * residual[:, 0]).all()


def test_as_a_graph(found):
    graph = found.networkx()
    assert set(graph) == {"whole/0/0", "whole/1/0", "parts/0/0", "parts/0/1", "parts/1/0",
                          "parts/2/0"}  # fmt: skip
    assert graph.number_of_edges() == 8 and nx.is_directed_acyclic_graph(graph)
    told = found.as_dict()
    again = nx.node_link_graph(json.loads(json.dumps(told)), edges="edges")
    assert set(again.edges) == set(graph.edges)
    read = nx.parse_graphml(found.graphml().decode())
    assert set(read.edges) == set(graph.edges)
    node, mouth = read.nodes["parts/1/0"], told["nodes"][4]
    assert mouth["id"] == "parts/1/0" and node["y"] == mouth["y"] and node["layer"] == "parts"
    assert mouth["top"][0]["file"].endswith(".png") and mouth["present"] == 1.0
    link = read.edges["whole/0/0", "parts/1/0"]
    assert abs(link["dy"] - MOUTH[0]) < 1.5 and abs(link["dx"]) < 1.5


def test_names_that_xml_lacks(tmp_path, at_hand, found):
    name = 'a\x1b<b>&"\ud800'
    graph = PartGraph(name, *(getattr(found, n) for n in (
        "layers", "files", "skipped", "preprocess", "spec", "settings")))  # fmt: skip
    assert nx.parse_graphml(graph.graphml().decode()).graph["model"].startswith("a\\u001b<b>&")


def cli(at_hand, out: Path, *words: str) -> int:
    folder, _ = at_hand
    line = ["graph", str(folder / "m.onnx"), str(folder / "photos"), "-o", str(out)]
    return run([*line, "--preprocess", "unit", *words])


def test_the_command_writes_it_all(at_hand, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli(at_hand, out, "--layers", "whole,parts", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads((out / "summary.json").read_bytes())
    assert told["command"] == "graph" and told["patterns"] == 6 and told["read"] == COUNT
    assert [layer["name"] for layer in told["layers"]] == ["whole", "parts"]
    assert sorted(p.name for p in out.iterdir()) == [
        "graph.graphml", "graph.html", "graph.json", "graph.png", "patterns", "summary.json"
    ]  # fmt: skip
    assert set(nx.read_graphml(out / "graph.graphml")) == set(told["pictures"])
    for name in told["pictures"].values():
        with Image.open(out / name) as picture:
            assert picture.width > 400
    page = (out / "graph.html").read_text()
    for key in told["pictures"]:
        assert f'<h3 id="{key}">' in page
    places = set(re.findall(r'<h[23] id="([^"]*)"', page))
    assert {unquote(to) for to in re.findall(r'href="#([^"]*)"', page)} <= places
    assert page.count('href="#whole%2F0%2F0"') == 4, "each part links to its parents"
    assert cli(at_hand, out, "--layers", "whole,parts") == 2
    assert "exists already; --force" in capsys.readouterr().err
    (out / "patterns" / "mine.png").write_bytes(b"kept")
    assert cli(at_hand, out, "--layer", "whole", "--force", "--no-html", "--filters", "1") == 0
    left = sorted(p.name for p in (out / "patterns").iterdir())
    assert left == ["mine.png", "whole-1-0.png"]


def test_a_stopped_pass_goes_on(at_hand, tmp_path, found, capsys):
    folder, _ = at_hand

    class StoppedError(Exception):
        pass

    def make() -> backlight.ExplanatoryGraph:
        return backlight.ExplanatoryGraph(
            folder / "m.onnx", ["whole", "parts"], preprocess="unit", batch=5, threads=1,
            providers="cpu",
        )  # fmt: skip

    def stop(what: str, done: int, total: int) -> None:
        if done >= 10:
            raise StoppedError

    state = tmp_path / "state"
    with pytest.raises(StoppedError):
        make()(folder / "photos", state=state, every=0, progress=stop)
    parts = len(list(state.iterdir()))
    assert parts == 2
    again = make()(folder / "photos", state=state, every=0)
    assert again.resumed == 10
    for got, want in zip(again.layers, found.layers, strict=True):
        np.testing.assert_array_equal(got.fitted.unit, want.fitted.unit)
    other = backlight.ExplanatoryGraph(folder / "m.onnx", ["parts"], preprocess="unit", batch=5)
    with pytest.raises(OutputError, match="other layers"):
        other(folder / "photos", state=state)
    out = tmp_path / "out"
    with pytest.raises(StoppedError):  # as the command calls it, killed
        backlight.ExplanatoryGraph(folder / "m.onnx", ["whole"], preprocess="unit")(
            folder / "photos", state=out / ".graph-state", every=0, progress=stop
        )
    assert cli(at_hand, out, "--layers", "parts") == 2
    assert "other layers" in capsys.readouterr().err
    assert cli(at_hand, out, "--layers", "whole") == 0
    assert "went on from photo 16, where a pass was stopped" in capsys.readouterr().err
    assert not (out / ".graph-state").exists()
    (state / "part-000000.npz").write_bytes(b"no archive")
    with pytest.raises(OutputError, match="damaged"):
        make()(folder / "photos", state=state)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("", "no layer given; --layers A,B,C"),
        ("--layers whole,,parts", "an empty name in it"),
        ("--layers whole,part", "nearest: parts"),
        ("--layers p", "no spatial extent"),
        (
            "--layers whole,unused",
            "layer 'unused' has no way to the score 'prob': the head doesn't need it; expected",
        ),
        ("--layers whole -k 99", "-k 99: the set has 24 photos; expected 1 to 24"),
        ("--layers whole -k 0", "-k 0"),
        ("--layers whole --filters 2", "filter 2 is out of range; 'whole' has 0 to 1"),
        ("--layers whole --filters 1 --limit 2", "exclude each other"),
        ("--layers whole --limit 0", "--limit 0; expected 1 or more"),
        ("--layers whole --density 0", "density 0.0; expected"),
        ("--layers whole --parents 0", "parents 0; expected 1 or more"),
        ("--layers whole --tau -1", "tau -1.0; expected"),
    ],
)
def test_bad_input_is_a_line(words, says, at_hand, tmp_path, capsys):
    out = tmp_path / "new" / "out"
    assert cli(at_hand, out, *words.split()) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1 and "Traceback" not in said
    assert not (tmp_path / "new").exists()


def test_photos_that_cannot_be_read(at_hand, tmp_path, capsys):
    folder, _ = at_hand
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.png").write_bytes(b"no photo")
    line = ["graph", str(folder / "m.onnx"), str(photos), "-o", str(tmp_path / "out")]
    line += ["--preprocess", "unit", "--layers", "whole"]
    assert run(line) == 2
    assert "a.png: not an image" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    (photos / "b.png").write_bytes((folder / "photos" / "00.png").read_bytes())
    assert run(line) == 2
    said = capsys.readouterr()
    assert "1 skipped, 1 read" in said.err and "1 photo tells little" in said.out
    told = json.loads((tmp_path / "out" / "summary.json").read_bytes())
    assert len(told["skipped"]) == 1 and told["read"] == 1


def test_without_networkx(at_hand, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "networkx", None)
    assert cli(at_hand, tmp_path / "out", "--layers", "whole") == 2
    assert "pip install 'backlight[graph]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"layers": []}, "no layer"),
        ({"filters": 0}, "filters 0"),
        ({"filters": [-1]}, "expected numbers"),
        ({"filters": "x"}, "filters"),
        ({"deviation": 2}, "deviation 2"),
        ({"iterations": 1.5}, "iterations"),
    ],
)
def test_arguments_that_cannot_be(changes, says, at_hand):
    folder, _ = at_hand
    with pytest.raises(UsageError, match=says):
        backlight.ExplanatoryGraph(
            folder / "m.onnx", **{"layers": ["whole"], "preprocess": "unit"} | changes
        )


def test_maps_that_are_no_numbers(at_hand, tmp_path):
    folder, _ = at_hand
    model = planted()
    for tensor in model.graph.initializer:
        if tensor.name == "b":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.full(3, np.inf, np.float32), "b"))
    graph = backlight.ExplanatoryGraph(model, "parts", preprocess="unit")
    with pytest.raises(ImageError, match="NaN or infinite"):
        graph(folder / "photos")
    with pytest.raises(BacklightError, match="no such file"):
        graph(tmp_path / "none")
