"""`backlight.Concepts`: what a concept of one's own is to a class (TCAV, Kim et al. 2018).

    test = backlight.Concepts("model.onnx", "fire9")
    found = test("zebras/", concepts={"striped": "stripes/"}, random="anything/")
    found.scores[0].score, found.scores[0].significant

A concept is a folder of images. The direction in a layer that tells them from random images is its
vector; the share of the class's images whose score rises along it is its TCAV score. Derivatives
are the export's own backward pass, by the layer, with the vectors as an input of the graph.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import arguments as take
from ...errors import ImageError, ModelError, UsageError
from ...export import choose, scores
from ...export.graph import ModelLike, load
from ...export.layer import default_layer
from ...export.preprocess import Preprocess
from ...export.preprocess import given as given_preprocess
from ...export.sizes import Shapes
from ..classifier.extras import InputsLike
from ..classifier.intake import check_images, out_of_range
from ..classifier.ready import Reading, Ready
from ..classifier.scored import Scored
from ..photos import images as photos
from ..photos import stream
from ..runtime.session import Providers
from .cavs import ready_fit
from .derivatives import LayerDerivatives
from .looks import ImageSet, Looks
from .measures import Measures
from .testing import ConceptScore, random_sets, scored, vectors

__all__ = ["Concepts", "ConceptsFound", "SetOfImages"]

POSITIONS = ("mean", "all")
RUNS = 10

# A batch as the model takes it, or files and folders.
SetOfImages = Any
Progress = Callable[[int], None]


@dataclass(frozen=True)
class ConceptsFound:
    """Concepts tested.

    scores: one for each layer and concept. layers: the tensors' full names. target: the class, -1
    where it is each image's own top class. images: of the class, those that counted; of_class: how
    many of them have it as their top class. sets: the sizes of the random sets. tests: how many
    tests Bonferroni's correction counts. skipped: what could not be used.
    files, class_files: of each concept, and of the class's images; none where batches were given.
    likeness: by layer and concept, float32 [images]: how much of the concept the layer has for each
    image of the class, the cosine with the mean of its vectors.
    resumed: how many looks at an image an earlier, stopped run had done.
    """

    scores: tuple[ConceptScore, ...]
    layers: tuple[str, ...]
    target: int
    images: int
    of_class: int
    sets: tuple[int, ...]
    tests: int
    skipped: tuple[stream.Skipped, ...]
    files: Mapping[str, tuple[Path, ...]]
    class_files: tuple[Path, ...]
    likeness: Mapping[str, Mapping[str, NDArray[np.float32]]]
    resumed: int = 0


class Concepts(Reading):
    """Tests concepts against a classifier (TCAV, Kim et al. 2018).

    model: a path, bytes or an onnx.ModelProto. layer: tensors or nodes by name; None: the last one
    with rows and columns before the head, as for class activation maps.
    positions: "mean": a layer is averaged over its positions first, and a vector has a number per
        channel: needs the fewest images. "all": a vector has a number per unit, as in the paper.
    cav: how a vector is found: "mean", the difference of the two sides' means; or scikit-learn's
        "sgd" (the settings of tensorflow/tcav), "logistic", "svm".
    of: the tensor that holds the scores. runs: random sets that one random folder is split into.
    seed: of the sets, and of what is held back. preprocess: a preset's name or a record; None: the
    model's own. batch: images per run. providers, threads, shapes, inputs: as in
    `backlight.Explainer`.

    Raises ModelError, UnsupportedNode or UsageError.
    """

    @take.accepts(
        layer=take.names, positions=take.text, cav=take.text, of=take.text, runs=take.whole,
        seed=take.whole, preprocess=given_preprocess, providers=take.names, threads=take.whole,
        batch=take.whole,
    )  # fmt: skip
    def __init__(
        self,
        model: ModelLike | Ready,
        layer: str | Sequence[str] | None = None,
        *,
        positions: str = "mean",
        cav: str = "mean",
        of: str | None = None,
        runs: int = RUNS,
        seed: int = 0,
        preprocess: Preprocess | str | None = None,
        providers: Providers = None,
        threads: int | None = None,
        batch: int = 8,
        shapes: Shapes | None = None,
        inputs: InputsLike | None = None,
    ) -> None:
        if positions not in POSITIONS:
            raise UsageError.unknown("positions", positions, POSITIONS)
        for name, value, least in (("runs", runs, 2), ("batch", batch, 1), ("seed", seed, 0)):
            if value < least:
                raise UsageError(f"{name} {value}; expected {least} or more")
        ready_fit(cav)
        ready = Ready.of(model, shapes, inputs)
        named = (layer,) if isinstance(layer, str) else layer
        self.notes: list[str] = []
        if not named:
            named = (self._before_the_head(ready, of),)
        self.layers = [
            LayerDerivatives(ready, name, of, positions == "mean", providers, threads)
            for name in dict.fromkeys(named)
        ]
        names = [one.name for one in self.layers]
        self.scored = Scored(ready, names, of=of, providers=providers, threads=threads)
        super().__init__(ready, self.scored.fed)
        self.classes, self.of, self.hash = self.scored.classes, of, ready.hash
        self.positions, self.cav, self.runs, self.seed = positions, cav, runs, seed
        self.batch = batch
        self._given = preprocess
        told = (*self.scored.notes, *(n for one in self.layers for n in one.notes))
        self.notes += list(dict.fromkeys(told))

    def _before_the_head(self, ready: Ready, of: str | None) -> str:
        loaded = load(ready.loaded)
        image = choose.image_input(loaded.graph)
        found = default_layer(scores.score(loaded, of).of, image.wrt)
        self.notes.append(f"layer '{found.name}': {found.reason}")
        return found.name

    def __call__(
        self,
        images: SetOfImages,
        target: int | None = None,
        *,
        concepts: Mapping[str, SetOfImages],
        random: SetOfImages | Sequence[SetOfImages],
        state: str | Path | None = None,
        every: float = 5.0,
        progress: Progress | None = None,
    ) -> ConceptsFound:
        """Test concepts on the images of a class.

        images: of the class: a folder, files, or a batch [N, ...] as the model takes it.
        target: the class; None: the one that most of the images have on top; -1: each image's own.
        concepts: by name, a set of images each, two or more in each.
        random: a set of images of anything, which is split, or a list of such sets.
        state: a folder to keep the run in: one that was killed goes on from there. every: seconds
        from one time that it is kept to the next. progress: told of each image looked at.

        Raises UsageError or ImageError for a set that can't be used, and for a target that is no
        class, OutputError for the state of a run with other arguments. Files that can't be read are
        left out, and are among `skipped`.
        """
        wanted = self._target(target)
        if not concepts:
            raise UsageError("no concept given; expected a name and its images")
        named = {n: self._set(f"concept '{n}'", given, 2) for n, given in concepts.items()}
        several = isinstance(random, (list, tuple)) and not _are_files(random)
        others = [self._set("random", given, 2) for given in (random if several else [random])]
        seen = self._set("images", images, 1)
        asked = self._asked(named, others, seen, wanted)
        looks = Looks(state, asked, every, self._groups, progress or (lambda _: None))
        try:
            found = self._tested(looks, named, others, seen, wanted)
        except (ImageError, ModelError, UsageError):  # nothing to go on from
            looks.remove()
            raise
        return found

    def _asked(
        self, named: Mapping[str, ImageSet], others: Sequence[ImageSet], seen: ImageSet,
        wanted: int | None,
    ) -> dict[str, Any]:  # fmt: skip
        """What a run is told."""
        sets = [*named.values(), *others, seen]
        files = any(one.batch is None for one in sets)
        return {
            "model": self.hash, "files": [one.listing for one in sets], "concepts": list(named),
            "layers": [one.name for one in self.layers], "positions": self.positions,
            "cav": self.cav, "of": self.of, "runs": self.runs, "seed": self.seed,
            "batch": self.batch, "target": wanted,
            "preprocess": self.settled(self._given).to_json() if files else None,
        }  # fmt: skip

    def _tested(
        self, looks: Looks, named: Mapping[str, ImageSet], others: Sequence[ImageSet],
        seen: ImageSet, wanted: int | None,
    ) -> ConceptsFound:  # fmt: skip
        measures = Measures(self.layers, self.scored, looks)
        files: dict[str, tuple[Path, ...]] = {}
        rows = {}
        for at, (name, one) in enumerate(named.items()):
            rows[name], files[name] = measures.features(one, f"concept-{at}")
        pool = [measures.features(one, f"random-{at}")[0] for at, one in enumerate(others)]
        rng = np.random.default_rng(self.seed)
        sets = random_sets([len(next(iter(p.values()))) for p in pool], self.runs, rng)
        found = {
            one.name: vectors(
                {name: held[one.name] for name, held in rows.items()},
                np.concatenate([part[one.name] for part in pool]), sets, self.cav, rng,
            )
            for one in self.layers
        }  # fmt: skip
        look = measures.first(seen, found)
        tops = look.tops
        if wanted is None:
            wanted = int(np.bincount(tops[tops >= 0]).argmax())
        derivatives = measures.derivatives(seen, wanted, found, tops)
        tests = len(rows) * len(self.layers)
        counts = {name: len(next(iter(held.values()))) for name, held in rows.items()}
        answers = [
            answer
            for one in self.layers
            for answer in scored(
                one.name, found[one.name], derivatives[one.name], counts, sets, tests
            )
        ]
        sound = int((tops >= 0).sum())
        return ConceptsFound(
            tuple(answers), tuple(one.name for one in self.layers), wanted, sound,
            int((tops == wanted).sum()) if wanted >= 0 else sound,
            tuple(len(s) for s in sets), tests, tuple(dict.fromkeys(measures.skipped)), files,
            look.files, look.likeness, looks.resumed,
        )  # fmt: skip

    def _target(self, given: int | None) -> int | None:
        if given is None:
            return None
        number = take.whole("target", given)
        if number < -1 or (self.classes is not None and number >= self.classes):
            raise out_of_range(number, self.classes)
        return number

    def _set(self, what: str, given: SetOfImages, least: int) -> ImageSet:
        """A set, looked for but not read. Raises ImageError for one without images enough."""
        if hasattr(given, "__array__") and not isinstance(given, (str, os.PathLike)):
            batch = np.asarray(given)
            check_images(batch, self.input)
            _refuse_few(what, len(batch), least)
            return ImageSet(what, (), batch)
        paths = take.paths(what, given)
        paths = [paths] if isinstance(paths, (str, os.PathLike)) else paths
        try:
            found = photos.image_files(paths)
        except ImageError as err:
            raise ImageError(f"{what}: {err}") from None
        name = f"{what}: {paths[0]}" if len(paths) == 1 else what
        _refuse_few(name, len(found), least)
        return ImageSet(name, tuple(found), None)

    def _groups(self, one: ImageSet, start: int) -> Iterator[stream.Group]:
        if one.batch is not None:
            return one.groups(start, self.batch)
        settled = self.settled(self._given)
        return stream.groups(one.files, settled, self.input, self.batch, start=start)


def _are_files(given: Sequence[Any]) -> bool:
    """Whether a list is of image files, and so one set; folders and batches are one each."""
    return all(isinstance(g, (str, os.PathLike)) and not Path(g).is_dir() for g in given)


def _refuse_few(name: str, count: int, least: int) -> None:
    if count < least:
        have = "no image" if count == 0 else "one image"
        raise ImageError(f"{name}: {have}; expected {least} or more")
