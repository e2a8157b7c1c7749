"""Writes the second table of docs/coverage.md: every network on OpenVINO.

    python -m tests.networks.on_openvino [--only resnet18,vgg11] [--json FILE] [--write FILE]

In pieces: `--json FILE` keeps the rows of other networks that FILE holds. Exit code 1 when a figure
is out of bounds.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx

from backlight.engine.runtime.machine import device
from backlight.engine.runtime.session import Session
from backlight.export.saliency import explain_graph

from . import nets
from .backward import backward_alone, each, relative
from .compare import RULES, SHARP, TARGETS, session

BEGIN = "## The same networks on OpenVINO"
END = "<!-- end of OpenVINO -->"
HEAD = """\
The CPU plugin in float32, three rules, norm-relative against ONNX Runtime on the same file, whose
maps the table above holds against PyTorch: per rule the median of six images, and the worst
of all images and rules. A gate or a pool within rounding of another decision falls otherwise on
some images, which is 1e-4 to 1e-2 of a map and says nothing of a rule. *Its own gates* does: of
the same images OpenVINO's maps against what ONNX Runtime's backward pass makes of OpenVINO's own
forward pass, the worst image and rule. The portable and the openvino form are node for node one.
Written by

    python -m tests.networks.on_openvino --write docs/coverage.md
"""
FORMS = ("portable", "openvino")
ROWS = 6


@dataclass(frozen=True)
class Row:
    """A network, exporter and form on OpenVINO's CPU plugin in float32: norm-relative errors
    against ONNX Runtime on the same file, which the first table holds against PyTorch.

    Per rule the median of ROWS images, and the worst of all, in which gates within rounding of zero
    may fall otherwise. gates: the backward pass alone, of OpenVINO's own forward pass, the worst
    rule and image. rows: an image of the batch against it alone.
    """

    net: str
    exporter: str
    form: str
    vanilla: float
    deconv: float
    guided: float
    worst: float
    gates: float
    scores: float
    rows: float

    @property
    def ok(self) -> bool:
        return self.gates <= SHARP and self.scores <= 1e-4 and self.rows <= 1e-4


def measured(net: nets.Net, exporter: str) -> list[Row]:
    """A row per form."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        nets.export(nets.build(net), net, exporter, path)
        graphs = {}
        for form in FORMS:
            explain_graph(path, RULES, lowering=form).save(Path(folder) / f"{form}.onnx")
            graphs[form] = onnx.load(Path(folder) / f"{form}.onnx")
            del graphs[form].metadata_props[:]  # they name the form
        # One form under two names is run once.
        same = graphs["portable"] == graphs["openvino"]
        del graphs
        shown = {"portable, openvino": "openvino"} if same else {form: form for form in FORMS}
        return [
            _row(net, exporter, name, str(Path(folder) / f"{form}.onnx"))
            for name, form in shown.items()
        ]


def _row(net: nets.Net, exporter: str, form: str, file: str) -> Row:
    targets = [TARGETS[at % 2] for at in range(ROWS)]
    by_ort = session(file)
    feeds = {
        by_ort.get_inputs()[0].name: nets.images(net, rows=ROWS).numpy(),
        "target": np.array(targets, np.int64),
    }
    scores, *maps = by_ort.run(None, feeds)
    del by_ort
    held = Session(file, "openvino", 2)
    own, *found = held.run(feeds).values()
    alone = list(held.run({k: v[:1] for k, v in feeds.items()}).values())[1:]
    del held
    errors = {rule: each(a, b) for rule, a, b in zip(RULES, found, maps, strict=True)}
    return Row(
        net.name, exporter, form, **{rule: float(np.median(of)) for rule, of in errors.items()},
        worst=max(map(max, errors.values())), gates=backward_alone(file, feeds, "openvino"),
        scores=float(np.abs(own - scores).max() / np.abs(scores).max()),
        rows=max(relative(a[0], b[0]) for a, b in zip(alone, found, strict=True)),
    )  # fmt: skip


def table(rows: list[Row]) -> str:
    """As docs/coverage.md has it."""
    lines = [
        "| network | exporter | forms | vanilla | deconv | guided | worst image | its own gates "
        "| scores | row alone |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        lines.append(
            f"| {r.net} | {r.exporter} | {r.form} | {r.vanilla:.1e} | {r.deconv:.1e} "
            f"| {r.guided:.1e} | {r.worst:.1e} | {r.gates:.1e} | {r.scores:.0e} | {r.rows:.0e} |"
        )
    over = [f"{r.net} ({r.exporter}, {r.form})" for r in rows if not r.ok]
    missing = [n.name for n in nets.NETS if n.name not in {r.net for r in rows}]
    lines += [f"\nOut of bounds: {', '.join(over)}."] if over else []
    lines += [f"\nNot measured: {', '.join(missing)}."] if missing else []
    packages = ", ".join(f"{p} {version(p)}" for p in ("torch", "onnxruntime", "openvino"))
    return "\n".join([*lines, f"\n{device()}; {packages}."])


def ordered(rows: list[Row]) -> list[Row]:
    """In the order of the networks' list."""
    names = [net.name for net in nets.NETS]
    return sorted(rows, key=lambda r: (names.index(r.net), r.exporter, r.form))


def section(page: str) -> str:
    """The table in a page, from its heading to its mark; nothing where it has none."""
    return page[page.index(BEGIN) : page.index(END) + len(END)] if BEGIN in page else ""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="names, comma-separated")
    parser.add_argument("--exporters", default=",".join(nets.EXPORTERS))
    parser.add_argument("--write", type=Path, help="the Markdown file that holds the table")
    parser.add_argument("--json", type=Path, help="rows as JSON; others' rows in it are kept")
    options = parser.parse_args(argv)
    rows: list[Row] = []
    if options.json and options.json.exists():
        rows = [Row(**row) for row in json.loads(options.json.read_text())]
    only = [n for n in options.only.split(",") if n]
    for net in [n for n in nets.NETS if n.name in only or not options.only]:
        for exporter in options.exporters.split(","):
            again = measured(net, exporter)
            print(*again, sep="\n", flush=True)
            rows = [r for r in rows if (r.net, r.exporter) != (net.name, exporter)]
            rows = ordered([*rows, *again])
            if options.json:
                options.json.write_text(json.dumps([asdict(r) for r in rows], indent=1))
    text = table(ordered(rows))
    print(text)
    if options.write:
        page = options.write.read_text(encoding="utf-8")
        fresh = f"{BEGIN}\n\n{HEAD}\n{text}\n{END}"
        options.write.write_text(page.replace(section(page), fresh), encoding="utf-8")
    return 0 if all(r.ok for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
