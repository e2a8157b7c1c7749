"""Writes docs/coverage.md: every network x exporter against PyTorch.

    python -m tests.networks.coverage [--only resnet18,vgg11] [--for portable] [--write FILE]

Takes more than half an hour on two cores. In pieces: `--only NAMES --json FILE`, which keeps the
rows of other networks that FILE holds. Exit code 1 when a figure is out of bounds.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import traceback
from importlib.metadata import version
from pathlib import Path

from backlight.engine.runtime.machine import device

from .compare import LIMIT, SHARP, Outcome, compare
from .nets import EXPORTERS, NETS
from .on_openvino import section

HEAD = f"""# Coverage: whole networks against PyTorch

Each of torchvision's networks, random weights, two images of different classes, by both of
PyTorch's exporters. Errors are norm-relative, the exported graph in float32 against PyTorch in
float64: vanilla against autograd, deconv and guided against plain hooks
(`tests/networks/reference.py`). At most {LIMIT:g} is asked.
The column *PyTorch itself* is PyTorch's float32 against its own float64, the worst of the three
rules and of four forms: BatchNorm folded into the convolutions or not (exporters and runtimes fold
it), summed in oneDNN's order or in PyTorch's own. Where it is above {SHARP:g}, gates or pools lie
within rounding of another decision, PyTorch's own forms decide them differently, and float64
tells nothing of a rule; the column *nearest float32* does: each row of the batch and rule against
the form that decided as the runtime did, the worst of them. Written by

    python -m tests.networks.coverage --write docs/coverage.md

"""


def table(outcomes: list[Outcome], failures: list[tuple[str, str, str]]) -> str:
    lines = [
        "| network | exporter | vanilla | deconv | guided | nearest float32 | PyTorch itself "
        "| own scores | row alone | file grows | nodes |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for o in outcomes:
        lines.append(
            f"| {o.net} | {o.exporter} | {o.vanilla:.1e} | {o.deconv:.1e} | {o.guided:.1e} "
            f"| {o.nearest:.1e} | {o.pytorch:.1e} | {o.scores:.0e} | {o.rows:.0e} "
            f"| {o.growth:+.1%} | {o.nodes} |"
        )
    for net, exporter, why in failures:
        lines.append(f"| {net} | {exporter} | {why} | | | | | | | | |")
    return "\n".join(lines) + "\n"


def page(outcomes: list[Outcome], failures: list[tuple[str, str, str]]) -> str:
    """The table under its heading, and what it does not hold."""
    shown = {o.net for o in outcomes} | {net for net, _, _ in failures}
    missing = [net.name for net in NETS if net.name not in shown]
    rest = f"\nNot measured in this run: {', '.join(missing)}.\n" if missing else ""
    over = [f"{o.net} ({o.exporter})" for o in outcomes if not o.ok]
    if over:
        rest += f"\nOut of bounds: {', '.join(over)}.\n"
    return HEAD + table(outcomes, failures) + rest


def written(file: Path, text: str) -> None:
    """With the page's other table, which `on_openvino` writes, as it was."""
    page = file.read_text(encoding="utf-8") if file.exists() else ""
    file.write_text(text + "\n" + section(page) + "\n" if section(page) else text)


def ordered(outcomes: list[Outcome]) -> list[Outcome]:
    """In the order of the networks' list."""
    names = [net.name for net in NETS]
    return sorted(outcomes, key=lambda o: (names.index(o.net), o.exporter))


def kept(file: Path | None, again: set[str]) -> list[Outcome]:
    """What an earlier run left in `file`, without the networks that are measured again."""
    if file is None or not file.exists():
        return []
    rows = [Outcome(**row) for row in json.loads(file.read_text())]
    return ordered([row for row in rows if row.net not in again])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="names, comma-separated")
    parser.add_argument("--exporters", default=",".join(EXPORTERS))
    parser.add_argument("--for", dest="lowering", default="portable")
    parser.add_argument("--write", type=Path, help="the Markdown file to write")
    parser.add_argument("--json", type=Path, help="rows as JSON; others' rows in it are kept")
    options = parser.parse_args(argv)
    only = [n for n in options.only.split(",") if n]
    packages = ", ".join(f"{p} {version(p)}" for p in ("torch", "onnx", "onnxruntime"))
    foot = (
        f"\n{device()}; {packages}, Python {platform.python_version()}, "
        f"lowering: {options.lowering}.\n"
    )
    failures: list[tuple[str, str, str]] = []
    todo = [net for net in NETS if not only or net.name in only]
    outcomes = kept(options.json, {net.name for net in todo})
    for net in todo:
        for exporter in options.exporters.split(","):
            try:
                outcome = compare(net, exporter, options.lowering)
            except Exception as err:  # the table shows what fails, whatever it is
                traceback.print_exc()
                failures.append((net.name, exporter, f"{type(err).__name__}: {err}"[:160]))
                continue
            outcomes = ordered([*outcomes, outcome])
            print(outcome, "" if outcome.ok else "<-- out of bounds", flush=True)
            if options.write:  # as far as it has come
                written(options.write, page(outcomes, failures) + foot)
    text = page(outcomes, failures) + foot
    print(text)
    if options.write:
        written(options.write, text)
    if options.json:
        options.json.write_text(json.dumps([o.as_dict() for o in outcomes], indent=1))
    return 1 if failures or not all(o.ok for o in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
