"""The exceptions of Backlight, all of them.

    BacklightError
      InputError          what the caller gave can't be used; the command line exits with 2
        UsageError        an argument: a class out of range, an unknown rule, tensor or provider
        ModelError        a model: not ONNX, truncated, no image input, data outside its folder
          UnsupportedNode a node on the way between `of` and `wrt` that has no rule
        ImageError        an image: truncated, empty, NaN, of the wrong shape
        OutputError       an output: exists already, cannot be written
      RunError            the run itself failed (a runtime, a device); the command line exits with 1

Every message is one line: it names the file or the node, then what would be accepted. Names come
from files and may be of any length: a message shows both their ends.
"""

from __future__ import annotations

# Not from typing: that alone takes longer to load than all the rest here.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "ACTS",
    "BacklightError",
    "ImageError",
    "InputError",
    "ModelError",
    "OutputError",
    "RunError",
    "UnsupportedNode",
    "UsageError",
    "cleaned",
    "hint",
    "nearest",
    "one_line",
]

# What does something to a terminal instead of standing there: control characters (8-bit ones too:
# U+009B is an escape sequence's beginning), line separators, and what turns the direction of text.
ACTS = (
    *range(0x20), *range(0x7F, 0xA0), 0x61C, 0x200E, 0x200F, *range(0x2028, 0x202F),
    *range(0x2066, 0x206A),
)  # fmt: skip
_CONTROL = dict.fromkeys(ACTS, "?")


def cleaned(text: str) -> str:
    """A line for a terminal: names come from models and files, and may hold anything."""
    return text.translate(_CONTROL)


def nearest(given: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The known names that a name is likely meant to be, best first; capitals don't matter."""
    import difflib

    lower: dict[str, str] = {}
    for name in known:
        lower.setdefault(name.casefold(), name)
    # What is longer than any name is none of them, and slow to compare.
    return [lower[n] for n in difflib.get_close_matches(given.casefold()[:100], lower, n=count)]


def hint(given: object, known: Iterable[str], count: int = 3) -> str:
    """The end of a message about a name that isn't known: the nearest, where there are any."""
    near = nearest(given, known, count) if isinstance(given, str) else []
    return f"; nearest: {', '.join(near)}" if near else ""


# Characters of a word (a name has no spaces, mostly), and of a message.
_LONGEST_WORD, _LONGEST = 160, 800


def one_line(text: str) -> str:
    """Text from a file as one line of at most 800 characters, long words and long texts cut in
    the middle; what doesn't print is written out."""
    words = (_cut(word, _LONGEST_WORD) for word in _printable(str(text)).split())
    return _cut(" ".join(words), _LONGEST)


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c.isspace() else ascii(c)[1:-1] for c in text)


def _cut(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    end = longest // 2 - 2
    return f"{text[:end]}...{text[-end:]}"


class BacklightError(Exception):
    """Base of everything that Backlight raises on purpose."""

    def __init__(self, message: str = "") -> None:
        # Names come from files and may hold anything: a message stays one line.
        super().__init__(one_line(cleaned(" ".join(str(message).split()))))


class InputError(BacklightError, ValueError):
    """What the caller gave can't be used. Exit code 2."""


class UsageError(InputError):
    """An argument is out of range or unknown."""

    @classmethod
    def unknown(cls, what: str, given: object, known: Iterable[str], more: str = "") -> UsageError:
        """The error for a name that isn't known: all that are accepted, and the nearest."""
        names = list(known)
        return cls(f"{what} '{given}'; accepted: {', '.join(names)}{more}{hint(given, names)}")


class ModelError(InputError):
    """A model can't be read, or isn't an image classifier that can be explained."""


class UnsupportedNode(ModelError):  # noqa: N818  # the name is part of the contract
    """A node between `of` and `wrt` has no gradient rule, or not for these attributes."""


class ImageError(InputError):
    """An image can't be read, or doesn't fit the model's input."""


class OutputError(InputError):
    """An output exists already or can't be written."""


class RunError(BacklightError, RuntimeError):
    """A runtime or a device failed. Exit code 1."""
