"""A call of every command on a model and a photo."""

from __future__ import annotations

from pathlib import Path

import backlight

# Where the package is imported from, for children.
SRC = str(Path(backlight.__file__).parents[1])

# {m}: the model, {p}: the photo, {o}: the output.
COMMANDS = {
    "explain": "explain -m {m} {p} -o {o} --preprocess unit",
    "export": "export {m} -o {o}",
    "check": "check {m}",
    "occlude": "occlude -m {m} {p} -o {o} --window 4 --stride 4 --preprocess unit",
    "rise": "rise -m {m} {p} -o {o} --masks 8 --preprocess unit",
    "segment": "segment -m {m} {p} -o {o} --method vanilla --preprocess unit",
    "cem": "cem -m {m} {p} -o {o} --steps 2 --preprocess unit",
    "filters": "filters {m} -o {o} --preprocess unit",
    "list": "filters {m} --list",
    "activations": "activations {m} {p} -l h -o {o} --preprocess unit",
    "patches": "patches {m} {p} -l h -o {o} --preprocess unit",
    "deconvnet": "deconvnet {m} {p} -l h -o {o} --preprocess unit",
    "invert": "invert {m} {p} -l h -o {o} --preprocess unit --steps 2",
    "maximize": "maximize {m} --target-class 0 -o {o} --preprocess unit --steps 2",
    "bias": "bias {m} {p} -o {o} --preprocess unit",
    "graph": "graph {m} {p} -l h -o {o} --preprocess unit",
    "embed": "embed {m} {p} -o {o} --preprocess unit",
    "batch": "batch -m {m} {p} -o {o} --preprocess unit",
    "triton": "triton {m} -o {o} --preprocess unit",
}
