"""What came of a network: its maps against the oracle's, its rows alone, its masked variants."""

from __future__ import annotations

import io
import logging
import traceback
import warnings
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

import backlight
from backlight.errors import BacklightError
from backlight.export.methods import METHODS
from backlight.export.saliency import explain_graph
from backlight.export.sampling import Sampling

from ..drive import Outcome
from .network import Spec, exported, image_of, rivals_of, targets_of
from .oracle import NOISE, SAMPLES, STEPS, Oracle, size_of

__all__ = ["judged", "made_of"]

Array = NDArray[Any]
# Of a map's largest value. float32 over some ten layers; beyond it, PyTorch's own float32 and what
# the map does beside the image have a say.
WITHIN = 1e-3
WITHIN_HALF = 0.05
# What a window shows: to the model, and to the oracle.
HIDDEN_BY = HIDDEN = 0.0
# Below it a map is 0 but for rounding.
NOTHING = 1e-10
# How many times PyTorch's own error, or what a nudge of the image changes, is no mistake.
LENIENT = 20
_VARIED = {n for n, m in METHODS.items() if m.varies}
_KINDS = {"float32": np.float32, "float64": np.float64, "float16": np.float16}


class WrongError(Exception):
    """A map that is not what it should be."""


def _session(model: bytes, spec: Spec) -> Any:
    if spec.dtype == "float64":  # ONNX Runtime convolves in float32 alone
        return _Reference(model)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class _Reference:
    """ONNX's reference evaluator, used as a session is."""

    def __init__(self, model: bytes) -> None:
        self._run = ReferenceEvaluator(onnx.load_from_string(model))
        self.get_inputs = lambda: [_Named(n) for n in self._run.input_names]
        self.get_outputs = lambda: [_Named(n) for n in self._run.output_names]
        self.run = self._run.run


@dataclass
class _Named:
    name: str


def _run(session: Any, feeds: dict[str, Array]) -> dict[str, Array]:
    wanted = {i.name: feeds[i.name] for i in session.get_inputs()}
    return dict(
        zip([o.name for o in session.get_outputs()], session.run(None, wanted), strict=True)
    )


def made_of(spec: Spec, data: bytes) -> Any:
    """The explaining model, as a message."""
    return explain_graph(
        data, (spec.rule, *spec.extra),
        of="y" if spec.second or spec.layer is not None else None,
        target_class=spec.target, lowering=spec.lowering, reduce=spec.reduce,
        layer=None if spec.layer is None else "layer",
        size=size_of(spec), signed=spec.layer is not None,
        contrast="input" if spec.contrast else None, contrast_form=spec.contrast or "loss",
        sampling=Sampling(SAMPLES, NOISE, STEPS) if _VARIED & {*spec.extra} else None,
    ).to_proto()  # fmt: skip


def judged(spec: Spec) -> Outcome:
    """What came of it. skip: PyTorch can't run or export it, or it isn't finite. kink: the map is
    another right beside the image too."""
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            oracle = Oracle(spec)
            x = image_of(spec)
            y, z = oracle.scores(x)
            data = exported(spec)
        except Exception as err:
            return Outcome("skip", "export", f"{type(err).__name__}: {err}"[:200])
        if not np.isfinite(y).all() or not np.isfinite(z).all() or np.abs(z).max() > 1e6:
            return Outcome("skip", "scores", "not finite")
        try:
            return _Judge(spec, oracle, data, x).outcome()
        except BacklightError as err:
            return Outcome("refusal", "explain", str(err)[:300])
        except WrongError as err:
            return Outcome("wrong", str(err).partition(":")[0], str(err))
        except Exception as err:
            trace = "".join(traceback.format_exception(err))[-6000:]
            return Outcome("traceback", "explain", f"{type(err).__name__}: {err}"[:300], "", trace)


class _Judge:
    def __init__(self, spec: Spec, oracle: Oracle, data: bytes, x: torch.Tensor) -> None:
        self.spec, self.oracle, self.data, self.x = spec, oracle, data, x
        rng = torch.Generator().manual_seed(spec.seed + 1)
        self.noise = torch.randn(SAMPLES, 3, *spec.size, generator=rng)
        self.kinks: list[str] = []
        self._narrow: dict[str, Array] | None = None
        self._beside: list[dict[str, Array]] | None = None

    def outcome(self) -> Outcome:
        spec = self.spec
        kind = _KINDS[spec.dtype]
        feeds = {
            "x": self.x.numpy().astype(kind), "noise": self.noise.numpy().astype(kind),
            "target": np.array(targets_of(spec)), "contrast": np.array(rivals_of(spec)),
        }  # fmt: skip
        try:
            plain = _run(_session(self.data, spec), feeds)
        except Exception as err:
            return Outcome("skip", "runtime", str(err)[:200])
        y = self.oracle.scores(self.x)[0]
        if _apart(plain["y"], y) > (0.02 if spec.dtype == "float16" else 1e-3):
            return Outcome("skip", "exporter", "the exported model has other scores")
        model = made_of(spec, self.data).SerializeToString()
        try:
            session = _session(model, spec)
            found = _run(session, feeds)
        except Exception as err:
            if spec.dtype != "float32":  # kernels that the runtime lacks
                return Outcome("skip", "runtime", str(err)[:200])
            raise
        # Of probabilities that are all small, what the runtime's Sigmoid leaves is no mistake.
        least = 0.0 if spec.closing in ("none", "log_softmax") else 1e-2
        off = float(np.abs(found["y"] - plain["y"]).max()) / max(
            np.abs(plain["y"]).max(), least, 1e-12
        )
        if not off < (0.01 if spec.dtype == "float16" else 1e-4):
            raise WrongError(f"scores: {off:.1e} off the model's own")
        wanted = self.oracle.maps(self.x, self.noise)
        finite = {n: w for n, w in wanted.items() if np.isfinite(w).all()}
        for name, want in finite.items():
            self._hold(name, found[f"saliency_{name}"], want)
        if spec.dynamic and spec.dtype == "float32":
            self._alone(session, feeds, found, finite)
        if spec.masked and spec.dtype == "float32":
            self._masked()
        if self.kinks:
            return Outcome("kink", self.kinks[0], ", ".join(self.kinks))
        if len(finite) < len(wanted):
            return Outcome("skip", "oracle", "PyTorch's gradient is not finite")
        return Outcome("ok")

    def _hold(self, name: str, got: Array, want: Array) -> None:
        half = self.spec.dtype == "float16"
        if got.shape != want.shape:
            raise WrongError(f"{name}: shape {got.shape}, not {want.shape}")
        if got.dtype != np.float32 and self.spec.dtype != "float64" and not half:
            raise WrongError(f"{name}: {got.dtype}")
        if half:  # single elements flip with a gate; the map as a whole doesn't
            off = float(np.linalg.norm(got - want) / max(np.linalg.norm(want), 1e-12))
            off = 0.0 if np.abs(want).max() < NOTHING and np.abs(got).max() < 1e-4 else off
        else:
            off = _apart(got, want)
        if off < (WITHIN_HALF if half else WITHIN):
            return
        if np.isfinite(got).all() and self._unsteady(name, want, off):
            self.kinks.append(name)
            return
        raise WrongError(
            f"{name}: {off:.1e} off (PyTorch's float32: {self._own(name, want):.1e}); "
            f"largest {np.abs(got).max():.3e}, not {np.abs(want).max():.3e}"
        )

    def _own(self, name: str, want: Array) -> float:
        """PyTorch's own error in float32."""
        if self._narrow is None:
            self._narrow = Oracle(self.spec, torch.float32).maps(self.x, self.noise)
        return _apart(self._narrow[name], want)

    def _unsteady(self, name: str, want: Array, off: float) -> bool:
        if self._own(name, want) * LENIENT > off:
            return True
        if self._beside is None:
            rng = torch.Generator().manual_seed(1)
            nudge = 1e-3 if self.spec.dtype == "float16" else 1e-6
            self._beside = []
            for _ in range(3):
                way = torch.randn(self.x.shape, generator=rng).double()
                near = self.x.double() + nudge * self.spec.scale * way
                self._beside.append(Oracle(self.spec, dither=nudge).maps(near, self.noise))
        return any(not _apart(beside[name], want) * LENIENT < off for beside in self._beside)

    def _alone(
        self, session: Any, feeds: dict[str, Array], found: dict[str, Array],
        wanted: dict[str, Array],
    ) -> None:  # fmt: skip
        row = self.spec.seed % self.spec.batch
        one = {n: v if n == "noise" else v[row : row + 1] for n, v in feeds.items()}
        alone = _run(session, one)
        for name in wanted:
            got, want = alone[f"saliency_{name}"], found[f"saliency_{name}"][row : row + 1]
            off = _apart(got, want)
            if off < WITHIN or name in self.kinks:
                continue
            if not self._unsteady(name, wanted[name], off):
                raise WrongError(f"{name}: {off:.1e} between row {row} alone and in the batch")

    def _masked(self) -> None:
        spec = self.spec
        way = ("incremental", "dense", "auto")[spec.seed % 3]
        occlude = backlight.Occlusion(
            self.data, window=3, stride=2, baseline=HIDDEN_BY, score="logit", method=way, threads=1,
            of="y" if spec.second or spec.layer is not None else None,
            providers=["CPUExecutionProvider"],
        )  # fmt: skip
        classes = self.oracle.scores(self.x)[1].shape[1]
        result = occlude.measure(self.x.numpy(), classes=list(range(classes)))
        for b, image in enumerate(self.x):
            clean = self.oracle.scores(self.x)[1][b]
            many = image.repeat(len(result.plan.boxes), 1, 1, 1)
            for i, (c0, c1, y0, y1, x0, x1) in enumerate(result.plan.boxes):
                many[i, c0:c1, y0:y1, x0:x1] = HIDDEN
            scores = self.oracle.scores(many)[1]
            want = (clean[None] - scores).T
            size = max(float(np.abs(scores).max()), float(np.abs(clean).max()), 1e-6)
            off = float(np.abs(result.drops[b] - want).max()) / size
            if off < 1e-3:
                continue
            own = Oracle(spec, torch.float32).scores(many)[1]
            near = self.oracle.scores(many.double() * (1 + 1e-6))[1]
            most = max(float(np.abs(other - scores).max()) for other in (own, near)) / size
            if not most * LENIENT > off:
                raise WrongError(f"occlusion, {way}: {off:.1e} of the scores off")


def _apart(got: Array, want: Array) -> float:
    """The largest difference by the largest value; where all should be 0, the largest value."""
    most = float(np.abs(want).max()) if want.size else 0.0
    with np.errstate(invalid="ignore"):
        off = float(np.abs(got.astype(np.float64) - want).max()) if got.size else 0.0
    if np.isnan(off):
        return float("inf")
    if most < NOTHING:
        return 0.0 if off < 1e-5 else off / NOTHING
    return off / most
