"""What the other servers run: the plain model for scores alone, the explaining one for maps, as
`backlight serve` does."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import onnxruntime as ort


class Sessions:
    """Both. threads: of each session; None: one for each core."""

    def __init__(self, plain: str, explaining: str, threads: int | None = None) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
        self.plain, self.explaining = (
            ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            for path in (plain, explaining)
        )
        self.own = [o.name for o in self.plain.get_outputs()]
        self.input = self.plain.get_inputs()[0].name

    def run(self, image: Any, outputs: list[str]) -> list[Any]:
        """The outputs of a batch; none named: the model's own."""
        outputs = outputs or self.own
        if set(outputs) <= set(self.own):
            return list(self.plain.run(outputs, {self.input: image}))
        feeds = {self.input: image, "target": np.full(len(image), -1)}
        return list(self.explaining.run(outputs, feeds))
