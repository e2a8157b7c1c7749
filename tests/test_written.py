"""Numbers mean the same wherever text becomes one: all options of all commands, and their lists."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import typer

from backlight import written
from backlight.engine.classifier import extras
from backlight.engine.classifier.labels import class_number
from backlight.engine.cli import _app, run
from backlight.engine.cli.asking import asking
from backlight.engine.cli.layers import numbers as channels
from backlight.engine.cli.masked import numbers as sides
from backlight.engine.cli.numbers import ClickError
from backlight.engine.masked.superpixels import as_superpixels
from backlight.engine.runtime.budget import parse_memory
from backlight.errors import UsageError
from backlight.export.preprocess import parse_bands
from backlight.export.sizes import parse_shape
from backlight.kernels.baseline import as_baseline

# How a number is written: what it is, as a whole number and as another; None: refused.
SPELLED: dict[str, tuple[int | None, float | None]] = {
    "3": (3, 3.0), "+3": (3, 3.0), " 3": (3, 3.0), "3 ": (3, 3.0), "03": (3, 3.0),
    "-3": (-3, -3.0), "-0": (0, 0.0), "3.0": (None, 3.0), "3.": (None, 3.0), ".5": (None, 0.5),
    "1e1": (None, 10.0), "1E-1": (None, 0.1), "1_0": (None, None), "٣": (None, None),
    "0x3": (None, None), "nan": (None, None), "inf": (None, None), "-inf": (None, None),
    "Infinity": (None, None), "1e999": (None, None), "3,0": (None, None), "--3": (None, None),
    "three": (None, None), "3 3": (None, None), ".": (None, None), "e3": (None, None),
    "½": (None, None), "１": (None, None), "-": (None, None),
}  # fmt: skip
THIRTY = "9" * 30


APP: Any = typer.main.get_command(_app())


def options() -> list[tuple[str, str, Any]]:
    """Every option of every command that is a number: its command, its name, its type."""
    found = []
    for name, command in APP.commands.items():
        for option in command.params:
            default = str(option.type_descriptor.annotation)
            kind = next((k for k in (int, float) if k.__name__ in default), None)
            if option.param_type_name == "option" and kind is not None:
                found.append((name, max(option.opts, key=len), kind))
    return found


OPTIONS = options()


def parsed(command: str, option: str, value: str) -> Any:
    """What a command is given for an option's value, before it does anything."""
    params = APP.commands[command].params
    one = next(p for p in params if option in p.opts)
    words = [f"{option}={value}"] if option.startswith("--") else [option, value]
    for other in params:
        other.required = False
    got = APP.commands[command].make_context(command, words).params[one.name]
    return got[0] if isinstance(got, list | tuple) else got


def test_there_are_numbers_in_most_commands() -> None:
    assert len(OPTIONS) > 120 and len({command for command, _, _ in OPTIONS}) > 20


@pytest.mark.parametrize(("command", "option", "kind"), OPTIONS)
def test_an_option_reads_a_number_as_all_others(command: str, option: str, kind: type) -> None:
    for text, wanted in SPELLED.items():
        value = wanted[kind is float]
        if value is None:
            with pytest.raises(ClickError) as caught:
                parsed(command, option, text)
            said = caught.value.format_message()  # type: ignore[attr-defined]
            assert option in said and "expected a" in said and "\n" not in said
        else:
            got = parsed(command, option, text)
            assert got == value and type(got) is kind


@pytest.mark.parametrize(("command", "option"), [(c, o) for c, o, k in OPTIONS if k is int])
def test_a_whole_number_of_thirty_digits_is_a_line_at_once(command, option, capsys) -> None:
    """Before the model, the photos or anything else that is given is looked at."""
    words = [f"{option}={THIRTY}"] if "--" in option else [option, THIRTY]
    assert run([command, "there is no such model", *words]) == 2
    said = capsys.readouterr().err
    assert "expected at most" in said and option in said and said.count("\n") == 1
    with pytest.raises(ClickError, match="expected at least -"):
        parsed(command, option, f"-{THIRTY}")


def asked(text: str) -> Any:
    nothing = dict.fromkeys(("layer", "samples", "noise", "steps", "methods", "contrast"))
    told = asking(
        fuse=False, size="input", signed=False, contrast_form="loss", baseline=text, **nothing
    )["baseline"]
    return None if isinstance(told, str) else told


# Text with numbers in it, and where they end up; whether whole.
TEXTS: dict[str, tuple[Callable[[str], Any], bool]] = {
    "--channels": (lambda t: channels(t, "--channels")[0], True),  # type: ignore[index]
    "--window": (lambda t: sides(t, "--window"), True),
    "--stride": (lambda t: sides(f"{t}x2", "--stride")[0], True),  # type: ignore[index]
    "--target-class": (lambda t: class_number(t, None), True),
    "--bands": (lambda t: parse_bands(t)[0], True),
    "--shape": (lambda t: parse_shape(f"x={t},4")[1][0], True),
    "--segments": (lambda t: as_superpixels(f"felzenszwalb:{t}").size, False),
    "--memory": (lambda t: parse_memory(f"{t}MB") / 1e6, False),
    "--baseline": (lambda t: as_baseline(t).value, False),
    "--baseline blur": (lambda t: as_baseline(f"blur:{t}").sigma, False),
    "--baseline noise": (lambda t: as_baseline(f"noise:{t}").seed, True),
    "--baseline of a way": (asked, False),
    "--input": (lambda t: extras._number(t), False),
}
# Commas and x part these.
PARTED = {"3,0", "0x3"}


@pytest.mark.parametrize("option", TEXTS)
def test_text_with_numbers_in_it_reads_them_alike(option: str) -> None:
    read, whole = TEXTS[option]
    for text, wanted in SPELLED.items():
        value = wanted[not whole]
        if text in PARTED or (value is not None and value < 1):
            continue  # ranges are each option's own
        try:
            got = read(text)
        except UsageError as err:
            assert value is None, text
            assert "\n" not in str(err)
        else:
            assert got == value, text


@pytest.mark.parametrize("option", ["--channels", "--window", "--stride", "--target-class",
                                    "--bands", "--shape", "--segments", "--memory"])  # fmt: skip
def test_thirty_digits_in_text_are_refused(option: str) -> None:
    with pytest.raises(UsageError) as caught:
        TEXTS[option][0](THIRTY)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", SPELLED)
def test_a_number_as_written(text: str) -> None:
    assert (written.whole(text), written.number(text)) == SPELLED[text]


def test_text_of_any_length_is_read_at_once() -> None:
    assert written.whole("7" * 50_000) == written.whole("7" * 4000) == int("7" * 4000)
    assert written.whole("0" * 50_000 + "12") == 12 and written.whole("-" + "0" * 9) == 0
    assert written.whole("0" * 50_000 + "x") is None
    assert written.number("7" * 50_000) is None and written.number("0" * 50_000 + "1.5") == 1.5
