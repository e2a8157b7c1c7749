"""Names for class numbers."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ... import written
from ...errors import ModelError, UsageError, hint

__all__ = [
    "KEY",
    "bundled",
    "class_number",
    "counted",
    "fitting",
    "load_labels",
    "missing",
    "of_model",
    "rival_number",
]

KEY = "backlight.labels"
# Other programs' keys: Ultralytics' exporter writes `names`, Hugging Face's configuration has
# `id2label`.
FOREIGN = ("names", "id2label")
_MOST = 1 << 26
_ASSETS = Path(__file__).parent.parent / "assets"
FORMS = (
    "'imagenet', a text file with a name a line, or JSON: a list of names, or a map of index to "
    "name or to [id, name]"
)
# ImageNet's models have so many classes; TensorFlow's have a background before them.
IMAGENET, WITH_BACKGROUND = 1000, 1001


def bundled(classes: int | None = None) -> list[str]:
    """ImageNet's 1,000 class names; for 1,001 classes with the background first."""
    names = (_ASSETS / "imagenet_labels.txt").read_text(encoding="utf-8").splitlines()
    return ["background", *names] if classes == WITH_BACKGROUND else names


def counted(classes: int) -> str:
    """So many classes, for people."""
    return "1 class" if classes == 1 else f"{classes} classes"


def fitting(names: list[str], classes: int | None, source: str) -> list[str]:
    """The names, held against the number of classes: one name for the two classes of one logit is
    that of class 1. Raises ModelError."""
    if len(names) == 1 and classes == 2:
        return [f"not {names[0]}", names[0]]
    if classes is not None and len(names) != classes:
        raise ModelError(f"{source} names {counted(len(names))}; the model has {classes}")
    return names


def missing(classes: int | None) -> str | None:
    """A note where a model seems to have ImageNet's classes, and names none."""
    if classes not in (IMAGENET, WITH_BACKGROUND):
        return None
    return f"the model names none of its {classes} classes: --labels imagenet gives ImageNet's"


def load_labels(given: str, classes: int | None = None) -> list[str]:
    """Names from `imagenet`, a text file (line i names class i) or a JSON file: a list, a map of
    index to name or to [id, name], such a map as Python prints it, or an object that holds one as
    `names` or `id2label`. classes: how many the model has. Raises UsageError."""
    if given == "imagenet":
        return bundled(classes)
    file = Path(given)
    if "\0" not in given:
        if file.exists() and not (file.is_file() or file.is_dir()):
            raise UsageError(f"{given}: a pipe or device; expected a file with labels")
        if file.is_file() and file.stat().st_size > _MOST:
            raise UsageError(f"{given}: larger than {_MOST >> 20} MB; expected a file with labels")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as err:  # a NUL in the name; bytes that are no UTF-8
        reason = err.strerror if isinstance(err, OSError) else "not UTF-8 text"
        near = hint(given, ["imagenet"])
        said = f"labels can't be read: {reason}; expected {FORMS}{near}"
        raise UsageError(f"{given}: {said}") from err
    if text.lstrip()[:1] in ("[", "{"):
        return _listed(text, given)
    lines = [line.strip() for line in text.rstrip().split("\n")]
    if lines == [""]:
        raise UsageError(f"{given}: no labels in it; expected {FORMS}")
    keyed = [_KEYED.fullmatch(line) for line in lines if line]
    if any(keyed):  # a map without its braces, or YAML's
        if not all(keyed):
            wrong = next(
                n for n, line in enumerate(lines, 1) if line and not _KEYED.fullmatch(line)
            )
            raise UsageError(
                f"{given}: some lines are 'index: name', and line {wrong} is not; expected {FORMS}"
            )
        pairs = [(m["index"], _unquoted(m["name"])) for m in keyed if m is not None]
        if len(dict(pairs)) < len(pairs):
            raise UsageError(f"{given}: a class is named twice; expected {FORMS}")
        return _by_index(dict(pairs), given)
    if _is_other(lines):
        raise UsageError(
            f"{given}: its lines are more than names ('{_short(lines[0])[1:-1]}'); expected {FORMS}"
        )
    sets = [_SYNSET.fullmatch(line) for line in lines]
    return [m["name"] for m in sets if m] if all(sets) else lines


# `0: tench`, `"0": "tench",`
_KEYED = re.compile(r"""["']?(?P<index>[0-9]{1,9})["']?\s*:\s*(?P<name>\S.*?),?\s*""")

# `n01440764 tench, Tinca tinca`: ImageNet's synset.txt, as it comes with many files.
_SYNSET = re.compile(r"n[0-9]{8}[\s,]\s*(?P<name>\S.*)")

# `tench,0`; not `zone 0`, which may be a name.
_NUMBERED_BEHIND = re.compile(r".*\S\s*[\t,;=|]\s*[\"']?(?P<index>[0-9]{1,9})[\"']?")

# `0 tench`, `0,tench`, `0=tench`
_NUMBERED = re.compile(r"""["']?(?P<index>[0-9]{1,9})["']?\s*[\s,;=|.)]\s*\S.*""")


def _is_other(lines: Sequence[str]) -> bool:
    """Whether lines are another format's: a table with each line's number, a list of YAML's, a map
    of TensorFlow's. Taken for names, they would be wrong ones and look right."""
    filled = [line for line in lines if line]
    for form in (_NUMBERED, _NUMBERED_BEHIND):
        numbered = [form.fullmatch(line) for line in filled]
        if len(filled) > 1 and all(m and int(m["index"]) == n for n, m in enumerate(numbered)):
            return True
    return all(line.startswith("- ") for line in filled) or any(
        line.endswith("{") or line == "}" for line in filled
    )


def _unquoted(name: str) -> str:
    quoted = len(name) > 1 and name[0] == name[-1] and name[0] in "\"'"
    return name[1:-1] if quoted else name


def of_model(metadata: Mapping[str, str], source: str, classes: int | None) -> list[str] | None:
    """The names that a model's metadata gives: ours (`imagenet`, or JSON), else what Ultralytics
    or Hugging Face wrote, where it names as many classes as the model has. Raises UsageError for
    ours that can't be read."""
    if KEY in metadata:
        text = metadata[KEY]
        if text == "imagenet":
            return bundled(classes)
        return _listed(text, f"{source} (metadata {KEY})")
    for key in FOREIGN:
        if key in metadata:
            try:
                names = _listed(metadata[key], f"{source} (metadata {key})")
            except UsageError:
                continue  # not written for us: whatever it says, it may not mean classes
            if classes is None or len(names) == classes:
                return names
    return None


def _listed(text: str, source: str) -> list[str]:
    """Names from JSON, or from a dictionary as Python prints it: {0: 'person', 1: 'bicycle'}."""
    try:
        found = json.loads(text, object_pairs_hook=_once)
    except _TwiceError as err:
        raise UsageError(f"{source}: a class is named twice: {err}; expected {FORMS}") from err
    except (ValueError, RecursionError) as err:
        try:
            found = _literal(text)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            raise UsageError(f"{source}: labels are not JSON: {err}; expected {FORMS}") from err
    if isinstance(found, dict):
        inner = next((found[k] for k in ("id2label", "names") if k in found), None)
        if isinstance(inner, (dict, list)):
            found = inner
    if isinstance(found, dict):
        return _by_index(found, source)
    if not isinstance(found, list) or not all(isinstance(n, str) for n in found) or not found:
        raise UsageError(f"{source}: labels are no JSON list of names; expected {FORMS}")
    return found


class _TwiceError(ValueError):
    """A key comes twice."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        raise _TwiceError(next(k for k, _ in pairs if k in seen or seen.add(k)))  # type: ignore[func-returns-value]
    return made


def _literal(text: str) -> Any:
    # Python's parser takes minutes for what is deeply nested: label maps are flat.
    if len(text) > 4_000_000 or text.count("{") + text.count("(") > 2:
        raise ValueError("no flat dictionary")
    return ast.literal_eval(text.strip())


def _by_index(found: Mapping[Any, Any], source: str) -> list[str]:
    """The names of a map of index to name, or to [id, name], in order."""
    names: dict[int, str] = {}
    for key, value in found.items():
        if isinstance(value, (list, tuple)) and len(value) == 2 and isinstance(value[1], str):
            value = value[1]
        index = int(key) if str(key).isascii() and str(key).isdecimal() else -1
        if index < 0 or isinstance(key, bool) or not isinstance(value, str) or index in names:
            raise UsageError(
                f"{source}: {_short(key)}: {_short(value)} names no class; expected {FORMS}"
            )
        names[index] = value
    absent = next((i for i in range(len(names)) if i not in names), None)
    if absent is not None or not names:
        raise UsageError(
            f"{source}: names {counted(len(names))}, but not class {absent or 0}; expected all "
            "from 0 on"
        )
    return [names[i] for i in range(len(names))]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"


def class_number(
    given: str,
    labels: Sequence[str] | None,
    words: Sequence[str] = ("top1",),
    option: str = "--target-class",
) -> int:
    """A class by number or by name, -1 for one of the words, which mean a class that isn't known
    yet. option: what an error names. Raises UsageError."""
    if given in words:
        return -1
    number = written.whole(given)
    if number is not None and 0 <= number < 1 << 60:
        return number
    if labels is not None:
        # The bundled names list synonyms: "tabby, tabby cat".
        wanted = given.casefold()
        exact = [i for i, name in enumerate(labels) if name.casefold() == wanted]
        parts = [
            i
            for i, name in enumerate(labels)
            if wanted in (p.strip().casefold() for p in name.split(","))
        ]
        found = exact or parts
        if len(found) == 1:
            return found[0]
        if found:
            raise UsageError(
                f"{option} '{given}' names classes {', '.join(map(str, found))}; give one"
            )
    near = hint(given, [*words, *_names(labels or ())])
    if labels is None:
        near += "; the model names no classes, --labels does"
    accepted = "a class number or name"
    if words:
        accepted = ", ".join((*words, "a class number, or a name from the labels"))
    raise UsageError(f"{option} '{given}'; accepted: {accepted}{near}")


def rival_number(given: str, labels: Sequence[str] | None) -> int:
    """The class of a contrast by number or by name; -1 for "second", and for "input", which is
    what an export's input says unless it is told otherwise. Raises UsageError."""
    if given in ("-1", "input"):
        return -1
    return class_number(given, labels, ("second",), "--contrast")


def _names(labels: Sequence[str]) -> list[str]:
    """All names of all classes."""
    return [part.strip() for name in labels for part in name.split(",")]
