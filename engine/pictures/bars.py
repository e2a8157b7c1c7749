"""Bars with error bars: shares from 0 to 1, in groups with a heading."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from .fonts import font
from .panel import BLANK, FAINT, INK, MARGIN, PAPER, shortened_inside, wrapped

__all__ = ["Bar", "Group", "bars"]

# Of CIELAB lightness 55 and 75: told apart in grey as well.
STARRED, PLAIN, REFERENCE = (0, 110, 190), (145, 189, 228), (176, 176, 184)
LINE, TALL, GAP = 460, 22, 10
# For the names beside the bars, at least and at most.
BESIDE, MOST_BESIDE = 150, 300
NOTE = 300


@dataclass(frozen=True)
class Bar:
    """name: left of it. value: 0..1. error: half the length of its error bar. starred: whether it
    has a star. notes: lines at its right. reference: of one that others are held against."""

    name: str
    value: float
    error: float
    starred: bool = False
    notes: Sequence[str] = ()
    reference: bool = False


@dataclass(frozen=True)
class Group:
    """Bars under a heading."""

    title: str
    bars: Sequence[Bar]


def bars(heading: str, detail: Sequence[str], groups: Sequence[Group], note: str) -> Image.Image:
    """A chart, from left (0) to right (1); a heading and lines of detail above, a note below."""
    big, middle, small = font(20), font(14), font(13)
    names = [middle.getlength(bar.name) for group in groups for bar in group.bars]
    beside = math.ceil(min(max([BESIDE, *(n + 12 for n in names)]), MOST_BESIDE))
    left = MARGIN + beside
    width = left + LINE + MARGIN + NOTE + MARGIN
    inner = width - 2 * MARGIN
    heads = wrapped(heading, big, inner)[:3]
    lines = [line for text in detail for line in wrapped(text, middle, inner)]
    notes = wrapped(note, small, inner)
    remarks = [
        [[line for n in bar.notes for line in wrapped(n, small, NOTE - 24)[:2]] for bar in g.bars]
        for g in groups
    ]
    steps = [[max(TALL, 16 * len(r)) + GAP for r in group] for group in remarks]
    top = MARGIN + 26 * len(heads) + 20 * len(lines) + 8
    height = top + sum(26 + sum(s) + 28 for s in steps) + 17 * len(notes) + 4 + MARGIN
    picture = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(picture)
    for number, line in enumerate(heads):
        big.write(draw, (MARGIN, MARGIN - 2 + 26 * number), line, INK)
    for number, line in enumerate(lines):
        middle.write(draw, (MARGIN, MARGIN + 26 * len(heads) + 20 * number), line, FAINT)

    def across(share: float) -> float:
        return left + LINE * min(max(share, 0.0), 1.0)

    for group, step, said in zip(groups, steps, remarks, strict=True):
        middle.write(draw, (MARGIN, top), shortened_inside(group.title, middle, inner), INK)
        top += 26
        bottom = top + sum(step)
        for tick in (0, 0.25, 0.5, 0.75, 1):
            draw.line((across(tick), top - 2, across(tick), bottom), fill=BLANK)
            text = f"{tick:g}"
            at = across(tick) - small.getlength(text) / 2
            small.write(draw, (at, bottom + 2), text, FAINT)
        for bar, tall, remark in zip(group.bars, step, said, strict=True):
            name = shortened_inside(bar.name, middle, beside - 12)
            at = left - 8 - middle.getlength(name)
            middle.write(draw, (at, top + 1), name, FAINT if bar.reference else INK)
            colour = REFERENCE if bar.reference else STARRED if bar.starred else PLAIN
            draw.rectangle((left, top, max(across(bar.value), left + 1), top + TALL - 1), colour)
            centre = top + TALL // 2
            if bar.error > 0:
                low, high = across(bar.value - bar.error), across(bar.value + bar.error)
                draw.line((low, centre, high, centre), fill=INK)
                for end in (low, high):
                    draw.line((end, centre - 4, end, centre + 4), fill=INK)
            for number, line in enumerate(remark):
                at = left + LINE + MARGIN + (24 if bar.starred else 4)
                small.write(draw, (at, top + 2 + 16 * number), line, FAINT)
            if bar.starred:
                _star(draw, left + LINE + MARGIN + 10, centre)
            top += tall
        top = bottom + 28
    for number, line in enumerate(notes):
        small.write(draw, (MARGIN, top + 4 + 17 * number), line, FAINT)
    return picture


def _star(draw: ImageDraw.ImageDraw, x: float, y: float) -> None:
    points = []
    for corner in range(10):
        radius = 8.0 if corner % 2 == 0 else 3.4
        angle = math.pi * (corner / 5 - 0.5)
        points.append((x + radius * math.cos(angle), y + radius * math.sin(angle)))
    draw.polygon(points, fill=STARRED)
