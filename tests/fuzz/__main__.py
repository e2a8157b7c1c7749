"""`python -m tests.fuzz`: see `--help`. Exit status 1 where a model failed."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from .campaign import Campaign, Limits, Worker
from .drive import Use
from .mutators import KINDS


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        "python -m tests.fuzz", description="Changed models against what the public uses."
    )
    parser.add_argument("--models", type=int, default=1000, help="how many [1000]")
    parser.add_argument("--minutes", type=float, default=30, help="at most so long [30]")
    parser.add_argument("--seed", type=int, default=0, help="the first model's number [0]")
    parser.add_argument("--only", choices=sorted(KINDS), help="one kind of change")
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
    campaign = Campaign(limits, given.output, given.only)
    campaign.run(range(given.seed, given.seed + given.models), given.minutes, given.workers)
    print(campaign.summary())
    if campaign.failures:
        print(f"kept in {given.output}; again: python -m tests.fuzz --replay FILE")
    return 1 if campaign.failures else 0


def replay(paths: list[Path], limits: Limits) -> int:
    """Use files again, each as its record beside it says; without one, in all ways."""
    worker = Worker(limits)
    failed = 0
    for path in paths:
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
    return failed


if __name__ == "__main__":
    sys.exit(main())
