"""Every form on every runtime that is installed, as a table:

python -m tests.runtimes.matrix [--write docs/runtimes.md] [--small]
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backlight.export.lowering import LOWERINGS
from backlight.export.saliency import explain_graph

from .nets import NETS, Net
from .runners import RUNTIMES, Runtime, onnxruntime

# Of the largest value: float32, sums in another order.
LIMIT = 1e-4
BATCHES = (1, 3)
BEGIN, END = "<!-- matrix: python -m tests.runtimes.matrix -->", "<!-- end of the matrix -->"


@dataclass(frozen=True)
class Cell:
    """What a runtime gives of a form: the largest difference over all outputs, or why none."""

    error: float | None
    why: str = ""

    @property
    def word(self) -> str:
        if self.error is None:
            return "refused"
        return "right" if self.error <= LIMIT else f"**wrong** ({self.error:.1g})"


def cell(net: Net, form: str, rows: int, runtime: Runtime) -> Cell:
    """The largest difference to ONNX Runtime's own gradient by Indices (the form for CUDA), of the
    largest value; or what the runtime says."""
    feeds = net.feeds(rows)
    want = onnxruntime(explain_graph(net.build(), lowering="cuda").to_proto(), feeds)
    graph = explain_graph(net.build(), lowering=form).to_proto()
    try:
        got = runtime.run(graph, feeds)
    except Exception as err:  # of its own kinds
        return Cell(None, f"{type(err).__name__}: {err}")
    errors = []
    for name, value in want.items():
        if got[name].shape != value.shape or not np.isfinite(got[name]).all():
            return Cell(float("inf"))
        errors.append(float(np.abs(got[name] - value).max() / np.abs(value).max()))
    return Cell(max(errors))


def worst(cells: list[Cell]) -> Cell:
    """The one to tell of: wrong before refused before right."""
    wrong = [c for c in cells if c.error is not None and c.error > LIMIT]
    refused = [c for c in cells if c.error is None]
    return max(wrong, key=lambda c: c.error or 0) if wrong else (refused or cells)[0]


def table(nets: list[Net]) -> str:
    """A line per runtime and network, a column per form: the worst of both batches."""
    lines = [
        "| runtime | network | " + " | ".join(f"`{form}`" for form in LOWERINGS) + " |",
        "|---" * (2 + len(LOWERINGS)) + "|",
    ]
    for runtime in RUNTIMES:
        if runtime.version is None:
            continue
        for net in nets:
            words = []
            for form in LOWERINGS:
                found = [cell(net, form, rows, runtime) for rows in BATCHES]
                words.append(worst(found).word)
                print(runtime.name, net.name, form, [(c.error, c.why[:90]) for c in found])
            lines.append(f"| {runtime.name} {runtime.version} | {net.name} | {' | '.join(words)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, help="the Markdown file that holds the table")
    parser.add_argument("--small", action="store_true", help="the small networks alone")
    options = parser.parse_args(argv)
    text = table([net for net in NETS if net.small or not options.small])
    print(text)
    if options.write:
        page = options.write.read_text(encoding="utf-8")
        before, _, rest = page.partition(BEGIN)
        _, _, after = rest.partition(END)
        options.write.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
