"""How is a plot drawn without a plotting library?  Lines, bars and dots as inline SVG; no script, no network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 720, 260
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 14, 40
COLOURS = ("#3b5b92", "#c1582f", "#3f8f5a", "#8a5aa8", "#b08a1e", "#5a7f8c", "#a33b4f", "#6b6b6b")


@dataclass(frozen=True)
class Series:
    """One curve: x and y of equal length; None in y breaks the line."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from low to high."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    unit = 10 ** math.floor(math.log10(raw))
    step = min((m * unit for m in (1, 2, 2.5, 5, 10) if m * unit >= raw), default=10 * unit)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def number(value: float) -> str:
    """Short form for an axis: 1.2k, 3M, 0.85."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.4g}"


@dataclass
class Frame:
    """Maps data to pixels and draws the axes."""

    x0: float
    x1: float
    y0: float
    y1: float
    x_label: str = ""
    y_label: str = ""

    def x(self, value: float) -> float:
        return LEFT + (value - self.x0) / (self.x1 - self.x0 or 1.0) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (value - self.y0) / (self.y1 - self.y0 or 1.0) * (HEIGHT - TOP - BOTTOM)

    def axes(self, with_x: bool = True) -> list[str]:
        parts = []
        for tick in ticks(self.y0, self.y1):
            y = self.y(tick)
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{number(tick)}</text>')
        for tick in ticks(self.x0, self.x1, 7) if with_x else []:
            x = self.x(tick)
            parts.append(
                f'<text class="tick" x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{number(tick)}</text>'
            )
        middle = (LEFT + WIDTH - RIGHT) / 2
        parts.append(
            f'<text class="label" x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(self.x_label)}</text>'
        )
        parts.append(
            f'<text class="label" transform="translate(14 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" '
            f'text-anchor="middle">{escape(self.y_label)}</text>'
        )
        return parts


def _svg(parts: list[str], title: str) -> str:
    body = "".join(parts)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{body}</svg>'


def _legend(names: Sequence[str]) -> str:
    items = (
        f'<span><i style="background:{COLOURS[i % len(COLOURS)]}"></i>{escape(name)}</span>'
        for i, name in enumerate(names)
    )
    return f'<div class="legend">{"".join(items)}</div>'


def _padded(values: Sequence[float], share: float = 0.06) -> tuple[float, float]:
    low, high = min(values), max(values)
    pad = (high - low) * share or abs(high) * 0.05 or 1.0
    return low - pad, high + pad


def line_plot(series: Sequence[Series], x_label: str, y_label: str) -> str:
    """Curves over a common frame, with a legend."""
    xs = [x for s in series for x in s.x]
    ys = [y for s in series for y in s.y if y is not None]
    if not ys:
        return "<p>nothing to draw</p>"
    frame = Frame(min(xs), max(xs), *_padded(ys), x_label, y_label)
    parts = frame.axes()
    for i, s in enumerate(series):
        path, pen = [], "M"
        for x, y in zip(s.x, s.y, strict=True):
            if y is None:
                pen = "M"
                continue
            path.append(f"{pen}{frame.x(x):.1f} {frame.y(y):.1f}")
            pen = "L"
        parts.append(f'<path d="{"".join(path)}" fill="none" stroke="{COLOURS[i % len(COLOURS)]}" stroke-width="1.6"/>')
    return _svg(parts, f"{y_label} over {x_label}") + _legend([s.name for s in series])


def bar_plot(
    names: Sequence[str], values: Sequence[float], y_label: str, spans: Sequence[Sequence[float] | None] = ()
) -> str:
    """One bar each, from zero; ``spans`` draws an interval (low, high) on each."""
    if not values:
        return "<p>nothing to draw</p>"
    ends = [v for span in spans if span for v in span]
    low, high = _padded([0.0, *values, *ends])
    frame = Frame(0.0, float(len(values)), min(low, 0.0), max(high, 0.0), "", y_label)
    parts, room = frame.axes(with_x=False), (WIDTH - LEFT - RIGHT) / len(values)
    for i, (name, value) in enumerate(zip(names, values, strict=True)):
        x, top, bottom = frame.x(i + 0.5), frame.y(max(value, 0.0)), frame.y(min(value, 0.0))
        wide = min(room * 0.6, 90)
        parts.append(
            f'<rect x="{x - wide / 2:.1f}" y="{top:.1f}" width="{wide:.1f}" height="{max(bottom - top, 0.8):.1f}" '
            f'fill="{COLOURS[i % len(COLOURS)]}"><title>{escape(name)}: {value:.5g}</title></rect>'
        )
        span = spans[i] if i < len(spans) else None
        if span:
            parts.append(
                f'<line class="span" x1="{x:.1f}" x2="{x:.1f}" y1="{frame.y(span[0]):.1f}" y2="{frame.y(span[1]):.1f}"/>'
            )
        shown = name if len(name) * 7 < room else name[: max(3, int(room / 7))]
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{escape(shown)}</text>'
        )
    return _svg(parts, y_label)


def dot_plot(x: Sequence[float], y: Sequence[float], x_label: str, y_label: str) -> str:
    """A cloud of points with the zero line."""
    if not x:
        return "<p>nothing to draw</p>"
    frame = Frame(*_padded(x), *_padded([*y, 0.0]), x_label, y_label)
    dots = (f'<circle cx="{frame.x(a):.1f}" cy="{frame.y(b):.1f}" r="2.4"/>' for a, b in zip(x, y, strict=True))
    zero = f'<line class="zero" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{frame.y(0):.1f}" y2="{frame.y(0):.1f}"/>'
    return _svg([*frame.axes(), zero, f'<g fill="{COLOURS[0]}" fill-opacity="0.55">{"".join(dots)}</g>'], y_label)
