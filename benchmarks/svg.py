"""Charts as SVG texts, of bars and of lines, readable on light and on dark."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

_WIDTH = 760
_LEFT = 190
_RIGHT = 90
_BAR = 18
_PANEL = 110
_TEXT = "#7d8590"
_COLOURS = ("#4c8dff", "#f2993f", "#3fb68b", "#b18cf2", "#e5646e", "#8b949e")


def bars(title: str, groups: Mapping[str, Mapping[str, float]], *, mark: float | None = None) -> str:
    """Horizontal bars, one for each label of each group. mark: where to draw a line across them."""
    top, rows = 44, []
    longest = max((value for group in groups.values() for value in group.values()), default=0.0)
    scale = (_WIDTH - _LEFT - _RIGHT) / (max(longest, mark or 0.0) or 1.0)
    labels = list(dict.fromkeys(label for group in groups.values() for label in group))
    for name, group in groups.items():
        for number, (label, value) in enumerate(group.items()):
            text = name if len(group) == 1 else f"{name}, {label}" if number == 0 else label
            colour = _COLOURS[labels.index(label) % len(_COLOURS)]
            rows.append(_text(_LEFT - 8, top + 13, text, anchor="end"))
            rows.append(
                f'<rect x="{_LEFT}" y="{top}" width="{max(value * scale, 1):.1f}" height="{_BAR - 4}" fill="{colour}"/>'
            )
            rows.append(_text(_LEFT + value * scale + 6, top + 12, number_text(value)))
            top += _BAR
        top += 8
    if mark is not None:
        x = _LEFT + mark * scale
        rows.append(_line(x, 34, x, top - 4, dashed=True))
    return _document(title, top + 4, rows)


@dataclass(frozen=True, slots=True)
class Panel:
    """Lines over the x that all panels of a chart share. marks: where on x something happened.

    logarithmic: y goes by powers of ten, as far as the figures do; else it begins at 0.
    """

    title: str
    series: Mapping[str, Sequence[float]]
    logarithmic: bool = False
    marks: Sequence[float] = ()


def lines(title: str, unit: str, xs: Sequence[float], series: Mapping[str, Sequence[float]]) -> str:
    """Lines over a common x, whose unit is named; y begins at 0."""
    return panels(title, unit, xs, [Panel("", series)])


def panels(title: str, unit: str, xs: Sequence[float], drawn: Sequence[Panel]) -> str:
    """One below the other, over a common x, whose unit is named."""
    rows: list[str] = []
    top, height = 34, 206 if len(drawn) == 1 else _PANEL
    for panel in drawn:
        if panel.title:
            rows.append(_text(12, top + 12, panel.title))
            top += 16
        rows += _panel(panel, xs, top, height)
        top += height + 32
    rows.append(_text(_WIDTH - 20, top - 14, f"{number_text(max(xs, default=0.0))} {unit}", anchor="end"))
    return _document(title, top, rows)


def _panel(panel: Panel, xs: Sequence[float], top: float, height: float) -> list[str]:
    left, base = 60, top + height
    figures = [y for ys in panel.series.values() for y in ys]
    scale: Callable[[float], float]
    if panel.logarithmic:
        positive = [y for y in figures if y > 0] or [1.0]
        low, high = floor(log10(min(positive))), ceil(log10(max(positive)))
        powers = max(high - low, 1)
        steps = [10.0 ** (low + power) for power in range(powers + 1)]
        scale = lambda y: (log10(max(y, steps[0])) - low) / powers  # noqa: E731 - two of one kind
    else:
        highest = ceiling(max(figures, default=1.0))
        steps = [highest * part / 4 for part in range(5)]
        scale = lambda y: y / highest  # noqa: E731
    least = min(xs, default=0.0)
    x_scale = (_WIDTH - left - 20) / ((max(xs, default=1.0) - least) or 1.0)
    room = height - 10
    rows = []
    for step in steps:
        y = base - scale(step) * room
        rows.append(_line(left, y, _WIDTH - 20, y))
        rows.append(_text(left - 6, y + 4, number_text(step), anchor="end"))
    for mark in panel.marks:
        x = left + (mark - least) * x_scale
        rows.append(_line(x, base - room, x, base, dashed=True))
    for number, (name, ys) in enumerate(panel.series.items()):
        points = " ".join(
            f"{left + (x - least) * x_scale:.1f},{base - scale(y) * room:.1f}" for x, y in zip(xs, ys, strict=True)
        )
        colour = _COLOURS[number % len(_COLOURS)]
        rows.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        rows.append(_text(left + 8 + number * 120, base + 18, f"— {name}", colour=colour))
    return rows


def number_text(value: float) -> str:
    """Three digits that count, thousands apart."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.{max(2 - floor(log10(abs(value))), 0)}f}".rstrip("0").rstrip(".")


def ceiling(value: float) -> float:
    """The next of 1, 2, 2.5, 5 times a power of ten."""
    if value <= 0:
        return 1.0
    power: float = 10.0 ** floor(log10(value))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= value)


def _document(title: str, height: float, rows: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" width="{_WIDTH}" '
        f'height="{height:.0f}" font-family="system-ui, sans-serif" font-size="12">'
    )
    heading = f'<text x="12" y="22" font-size="15" font-weight="600" fill="{_TEXT}">{escape(title)}</text>'
    return "\n".join((head, heading, *rows, "</svg>")) + "\n"


def _text(x: float, y: float, text: str, *, anchor: str = "start", colour: str = _TEXT) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, *, dashed: bool = False) -> str:
    dash = ' stroke-dasharray="4 3"' if dashed else ' stroke-opacity="0.3"'
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{_TEXT}"{dash}/>'
