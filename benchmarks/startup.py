"""How long it takes to start: `import backlight`, and exporting ResNet-50.

    python -m benchmarks.startup [--json FILE]

Each import runs in a process of its own; the time is that of the statement alone, after the
interpreter is up. ResNet-50 is PyTorch's, exported to a temporary file first; the export is timed
after imports, in a fresh process each time. Bounds: 0.3 s and 3 s.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

IMPORT = """
import sys, time
start = time.perf_counter()
import backlight
took = time.perf_counter() - start
heavy = [m for m in ("onnxruntime", "torch", "matplotlib") if m in sys.modules]
assert not heavy, heavy
print(took)
"""
EXPORT = """
import sys, time
import backlight
from backlight.export.saliency import explain_graph
explain_graph(sys.argv[2])
start = time.perf_counter()
backlight.export(sys.argv[1], ("vanilla", "deconv", "guided"))
print(time.perf_counter() - start)
"""


def timed(code: str, *arguments: str, runs: int) -> list[float]:
    """Seconds that `code` prints, over several processes; the first one warms the disk."""
    command = [sys.executable, "-c", code, *arguments]
    found = [
        float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        for _ in range(runs + 1)
    ]
    return found[1:]


def resnet50(folder: Path) -> Path:
    """ResNet-50 with random weights, as the newer of PyTorch's exporters writes it."""
    from tests.networks import nets

    net = next(n for n in nets.NETS if n.name == "resnet50")
    path = folder / "resnet50.onnx"
    nets.export(nets.build(net), net, "dynamo", path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--runs", type=int, default=7)
    given = parser.parse_args()
    from backlight.engine.cli.options import BUNDLED

    with tempfile.TemporaryDirectory() as name:
        model = resnet50(Path(name))
        rows = {
            "import backlight": (timed(IMPORT, runs=given.runs), 0.3),
            "export ResNet-50, three rules": (
                timed(EXPORT, str(model), str(BUNDLED), runs=given.runs),
                3.0,
            ),
        }
    print(f"{'':32} {'median':>9} {'min':>9} {'max':>9} {'bound':>7}")
    for title, (times, bound) in rows.items():
        middle = statistics.median(times)
        print(f"{title:32} {middle:8.3f}s {min(times):8.3f}s {max(times):8.3f}s {bound:6.1f}s")
    result = {
        "device": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "versions": {p: version(p) for p in ("onnx", "onnx-ir", "numpy")},
        "seconds": {title: times for title, (times, _) in rows.items()},
    }
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
