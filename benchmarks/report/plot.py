"""Line charts and bar charts as SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 640, 380
LEFT, RIGHT, TOP, BOTTOM = 64, 18, 44, 52
COLORS = ("#0b6e4f", "#c8553d", "#3a6ea5", "#8a5fbf", "#b8860b", "#5b5b5b")

_HEADROOM = 1.06  # above the highest point, for its label below the legend


@dataclass(frozen=True)
class Series:
    """`points` of (x, y), drawn in their order. `labels`: a few characters beside each."""

    name: str
    points: Sequence[tuple[float, float]]
    labels: Sequence[str] = ()


def ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Round numbers from at most `low` to at least `high`."""
    raw = max(high - low, 1e-9) / max(1, count - 1)
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first = math.floor(low / step)
    last = math.ceil(high / step - 1e-9)
    return [step * i for i in range(first, last + 1)]


def number(value: float) -> str:
    """A tick's text."""
    if value >= 10000 and value % 1000 == 0:
        return f"{value / 1000:g}k"
    return f"{value:,.0f}" if value >= 100 else f"{value:g}"


def _text(x: float, y: float, text: str, anchor: str = "middle", extra: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {extra}>{escape(text)}</text>'


def _legend(names: Sequence[str]) -> list[str]:
    parts = []
    x = float(LEFT)
    for name, color in zip(names, COLORS, strict=False):
        parts.append(f'<rect x="{x:.1f}" y="27" width="11" height="11" rx="2" fill="{color}"/>')
        parts.append(_text(x + 16, 37, name, "start"))
        x += 34 + 6.6 * len(name)
    return parts


def _frame(title: str, parts: Sequence[str]) -> str:
    head = (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}" '
        'xmlns="http://www.w3.org/2000/svg">'
    )
    caption = _text(LEFT, 16, title, "start", 'class="title"')
    return "\n".join([head, caption, *parts, "</svg>"])


def _y_axis(values: Sequence[float], label: str) -> tuple[list[str], Callable[[float], float]]:
    marks = ticks(0.0, _HEADROOM * max([*values, 1e-9]))
    top = marks[-1]
    low, high = HEIGHT - BOTTOM, TOP

    def place(value: float) -> float:
        return low - (low - high) * value / top

    parts = []
    for mark in marks:
        y = place(mark)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(_text(LEFT - 7, y + 4, number(mark), "end"))
    middle = (low + high) / 2
    parts.append(_text(14, middle, label, "middle", f'transform="rotate(-90 14 {middle})"'))
    return parts, place


def _x_axis(
    values: Sequence[float], label: str, log2: bool
) -> tuple[list[str], Callable[[float], float]]:
    if log2:
        marks = sorted(set(values))
        low, high = math.log2(marks[0]), math.log2(marks[-1])
    else:
        marks = ticks(0.0, max([*values, 1e-9]), 7)
        low, high = marks[0], marks[-1]
    span = max(high - low, 1e-9)
    width = WIDTH - LEFT - RIGHT - 16

    def place(value: float) -> float:
        position = math.log2(value) if log2 else value
        return LEFT + 8 + width * (position - low) / span

    y = HEIGHT - BOTTOM
    parts = [f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>']
    parts += [_text(place(mark), y + 18, number(mark)) for mark in marks]
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, label))
    return parts, place


def line_chart(
    title: str, series: Sequence[Series], x_label: str, y_label: str, *, log2_x: bool = False
) -> str:
    """Lines through the points of each series; y begins at 0, x too unless `log2_x`."""
    points = [point for one in series for point in one.points]
    if not points:
        return ""
    x_parts, place_x = _x_axis([x for x, _ in points], x_label, log2_x)
    y_parts, place_y = _y_axis([y for _, y in points], y_label)
    parts = [*y_parts, *x_parts, *_legend([one.name for one in series])]
    for one, color in zip(series, COLORS, strict=False):
        places = [(place_x(x), place_y(y)) for x, y in one.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        for index, (x, y) in enumerate(places):
            value_x, value_y = one.points[index]
            tip = f"{one.name}: {value_x:,.4g}, {value_y:,.4g}"
            parts.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{color}">'
                f"<title>{escape(tip)}</title></circle>"
            )
        for (x, y), label in zip(places, one.labels, strict=False):
            parts.append(_text(x + 6, y - 6, label, "start", f'class="small" fill="{color}"'))
    return _frame(title, parts)


def bar_chart(title: str, bars: Sequence[tuple[str, float, float | None]], unit: str) -> str:
    """Horizontal bars of (name, value, target or None), from 0."""
    if not bars:
        return ""
    label_width, row = 190, min(40.0, (HEIGHT - TOP - 16) / len(bars))
    top = max(max(value, target or 0.0) for _, value, target in bars) * 1.12
    width = WIDTH - label_width - RIGHT - 40
    parts = []
    for index, (name, value, target) in enumerate(bars):
        y = TOP + index * row
        color = COLORS[0] if target is None or value >= target else COLORS[1]
        middle, length = y + row / 2, width * value / top
        parts.append(_text(label_width - 8, middle + 4, name, "end"))
        parts.append(
            f'<rect x="{label_width}" y="{y + row * 0.18:.1f}" width="{length:.1f}" '
            f'height="{row * 0.64:.1f}" rx="2" fill="{color}"/>'
        )
        parts.append(_text(label_width + length + 6, middle + 4, f"{value:.2f}{unit}", "start"))
        if target is not None:
            x = label_width + width * target / top
            parts.append(
                f'<line class="target" x1="{x:.1f}" x2="{x:.1f}" y1="{y + 2:.1f}" '
                f'y2="{y + row - 2:.1f}"><title>target {target:g}{unit}</title></line>'
            )
    return _frame(title, parts)
