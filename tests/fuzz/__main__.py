"""`python -m tests.fuzz`: see `--help`. Exit status 1 where a model failed."""

from __future__ import annotations

import argparse
import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path

from .campaign import Campaign, Limits, Subject, Worker
from .drive import Use
from .files import Models
from .mutators import KINDS
from .networks.subject import Networks


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        "python -m tests.fuzz",
        description="Changed models against what the public uses; or random networks against "
        "PyTorch's autograd.",
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--models", type=int, metavar="N", help="so many changed models [1000]")
    how.add_argument(
        "--networks", type=int, metavar="N",
        help="so many random networks, whose maps are compared (needs torch and onnxruntime)",
    )  # fmt: skip
    parser.add_argument("--minutes", type=float, default=30, help="at most so long [30]")
    parser.add_argument("--seed", type=int, default=0, help="the first model's number [0]")
    parser.add_argument("--only", choices=sorted(KINDS), help="one kind of change, of models")
    parser.add_argument("--replay", type=Path, nargs="+", help="files kept before, or any models")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("fuzz-failures"), metavar="DIR",
        help="where what failed is kept [fuzz-failures]",
    )  # fmt: skip
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--seconds", type=float, default=20, help="of processor, per model [20]")
    parser.add_argument("--megabytes", type=int, default=1024, help="per model [1024]")
    given = parser.parse_args()
    limits = Limits(given.seconds, given.megabytes)
    if given.replay:
        return replay(given.replay, limits)
    count = given.models if given.models is not None else 1000
    subject: Subject = Models(given.only)
    if given.networks is not None:
        if find_spec("torch") is None or find_spec("onnxruntime") is None:
            parser.error("--networks needs torch and onnxruntime: pip install '.[cpu,torch]'")
        count, subject = given.networks, Networks()
    campaign = Campaign(subject, limits, given.output)
    campaign.run(range(given.seed, given.seed + count), given.minutes, given.workers)
    print(campaign.summary())
    if campaign.failures:
        print(f"kept in {given.output}; again: python -m tests.fuzz --replay FILE")
    return 1 if campaign.failures else 0


def replay(paths: list[Path], limits: Limits) -> int:
    """Use files again, each as its record beside it says; without one, in all ways."""
    worker, networks = Worker(limits), Worker(limits, Networks.module)
    failed = 0
    for path in paths:
        kept_as = path.with_suffix(".json")
        if kept_as.is_file() and "spec" in (kept := json.loads(kept_as.read_text())):
            outcome = networks.ask({"spec": kept["spec"]})
            print(f"{path}: {kept['described']}\n{outcome.kind} {outcome.message}")
            failed |= outcome.failed
            continue
        record = path.with_suffix(".json")
        if record.is_file():
            kept = json.loads(record.read_text())
            uses, aside = [Use.of_dict(kept["use"])], kept["aside"]
        else:
            uses, aside = [Use(lowering=f) for f in ("portable", "cpu", "cuda", "tensorrt")], []
        for use in uses:
            outcome = worker.ask({"file": str(path), "use": use.to_dict(), "aside": aside})
            print(f"{path} ({use.lowering}): {outcome.kind} {outcome.message}")
            if outcome.failed:
                failed = 1
                print(outcome.trace, file=sys.stderr)
    worker.close()
    networks.close()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
