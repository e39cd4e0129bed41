"""Plots without a plotting library: lines, bars and dots as inline SVG; no script, no network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 720, 260
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 14, 40
BAR, NAME = 26, 170
"""Height of a horizontal bar's row, and width of the names in front of the bars."""
COLOURS = ("#3b5b92", "#c1582f", "#3f8f5a", "#8a5aa8", "#b08a1e", "#2f8390", "#a33b4f", "#6b6b6b")
DASHES = ("", "6 3", "2 3")
GOOD, BAD = "#3f8f5a", "#a33b4f"
NOTHING = '<p class="dim">Nothing to draw.</p>'


@dataclass(frozen=True)
class Series:
    """One curve: x and y of equal length; None in y breaks the line.  ``pen``: its colour and dash; None: the next."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    pen: int | None = None


@dataclass(frozen=True)
class Points:
    """A cloud: ``spans`` is the vertical interval (low, high) of each point."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    spans: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Dot:
    """One mark of a scatter plot, its title on hover."""

    x: float
    y: float
    title: str
    bad: bool = False
    pale: bool = False


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from low to high, evenly spaced."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    unit = 10 ** math.floor(math.log10(raw))
    step = min((m * unit for m in (1, 2, 2.5, 5, 10) if m * unit >= raw * (1 - 1e-9)), default=10 * unit)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [k * step for k in range(first, last + 1)] or [low]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten from low to high; also their double and fivefold where there are few."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for parts in ((1,), (1, 2, 5)):
        found = [m * 10.0**e for e in exponents for m in parts if low <= m * 10.0**e <= high * (1 + 1e-9)]
        if len(found) >= 3 or len(parts) > 1:
            break
    return found or [low]


def number(value: float, step: float = 0.0) -> str:
    """Short form for an axis: 1.2k, 3M, 0.85; with as many digits as ``step`` needs to tell neighbours apart."""
    if abs(value) < 1e-12 or abs(value) < step * 1e-6:
        return "0"
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return number(value / size, step / size) + suffix
    if step > 0:
        text = f"{value:.{max(0, min(9, -math.floor(math.log10(step) + 1e-9) + 1))}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return f"{value:.4g}"


@dataclass
class Frame:
    """Maps data to pixels and draws the axes; ``log_x``: logarithmic, data above zero."""

    x0: float
    x1: float
    y0: float
    y1: float
    x_label: str = ""
    y_label: str = ""
    log_x: bool = False

    def x(self, value: float) -> float:
        return LEFT + _share(value, self.x0, self.x1, self.log_x) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - _share(value, self.y0, self.y1, False) * (HEIGHT - TOP - BOTTOM)

    def axes(self) -> list[str]:
        """Grid lines, tick labels, axis labels."""
        parts = []
        for value, text in _labels(self.y0, self.y1, False, 5):
            y = self.y(value)
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
        for value, text in _labels(self.x0, self.x1, self.log_x, 7):
            at = f'x="{self.x(value):.1f}" y="{HEIGHT - BOTTOM + 16}"'
            parts.append(f'<text class="tick" {at} text-anchor="middle">{text}</text>')
        middle = (LEFT + WIDTH - RIGHT) / 2
        where = f'x="{middle}" y="{HEIGHT - 6}"'
        parts.append(f'<text class="label" {where} text-anchor="middle">{escape(self.x_label)}</text>')
        turn = f'transform="translate(14 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)"'
        parts.append(f'<text class="label" {turn} text-anchor="middle">{escape(self.y_label)}</text>')
        return parts

    def level(self, value: float) -> str:
        """A dashed horizontal line."""
        y = self.y(value)
        return f'<line class="zero" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'


def _share(value: float, low: float, high: float, log: bool) -> float:
    if log:
        value, low, high = math.log(value), math.log(low), math.log(high)
    return (value - low) / ((high - low) or 1.0)


def _labels(low: float, high: float, log: bool, count: int) -> list[tuple[float, str]]:
    values = log_ticks(low, high) if log else ticks(low, high, count)
    step = 0.0 if log or len(values) < 2 else values[1] - values[0]
    return [(value, number(value, step)) for value in values]


def _svg(parts: Sequence[str], title: str, height: float = HEIGHT) -> str:
    body = "".join(parts)
    return f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(title)}">{body}</svg>'


def _pen(i: int) -> str:
    """Colour, then dash pattern: curves stay apart beyond the eighth."""
    dash = DASHES[i // len(COLOURS) % len(DASHES)]
    return f'stroke="{COLOURS[i % len(COLOURS)]}"' + (f' stroke-dasharray="{dash}"' if dash else "")


def _legend(names: Sequence[str], pens: Sequence[int] = ()) -> str:
    items = (
        f'<span><svg class="key" viewBox="0 0 22 8"><path d="M0 4L22 4" {_pen(i)} stroke-width="3"/></svg>'
        f"{escape(name)}</span>"
        for name, i in zip(names, pens or range(len(names)), strict=True)
    )
    return f'<div class="legend">{"".join(items)}</div>'


def padded(values: Sequence[float], share: float = 0.06) -> tuple[float, float]:
    """Least and greatest with some room around them."""
    low, high = min(values), max(values)
    pad = (high - low) * share or abs(high) * 0.05 or 1.0
    return low - pad, high + pad


def _log_padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = padded([math.log10(v) for v in values])
    return 10**low, 10**high


def line_plot(series: Sequence[Series], x_label: str, y_label: str, level: float | None = None) -> str:
    """Curves over a common frame, with a legend; ``level``: a dashed line to compare with."""
    xs = [x for s in series for x in s.x]
    ys = [y for s in series for y in s.y if y is not None]
    if not ys:
        return NOTHING
    frame = Frame(min(xs), max(xs), *padded(ys if level is None else [*ys, level]), x_label, y_label)
    parts = frame.axes() + ([] if level is None else [frame.level(level)])
    pens = [i if s.pen is None else s.pen for i, s in enumerate(series)]
    for s, pen in zip(series, pens, strict=True):
        parts.append(f'<path d="{_path(frame, s)}" fill="none" {_pen(pen)} stroke-width="1.7"/>')
    return _svg(parts, f"{y_label} over {x_label}") + _legend([s.name for s in series], pens)


def line_file(series: Sequence[Series], x_label: str, y_label: str, level: float | None = None) -> str:
    """:func:`line_plot` as a file of its own, with its style, and its names in the head."""
    head = line_plot(series, x_label, y_label, level).partition("</svg>")[0]
    step = (WIDTH - LEFT - RIGHT) / max(1, len(series))
    key = "".join(
        f'<text x="{LEFT + 8 + step * i:.0f}" y="12" style="fill:{COLOURS[i % len(COLOURS)]}">{escape(s.name)}</text>'
        for i, s in enumerate(series)
    )
    style = (
        "<style>text{font:11px sans-serif;fill:#222}.grid{stroke:#ddd}.zero{stroke:#888;stroke-dasharray:3 3}</style>"
    )
    return head.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1) + style + key + "</svg>\n"


def _path(frame: Frame, s: Series) -> str:
    steps, pen = [], "M"
    for x, y in zip(s.x, s.y, strict=True):
        if y is not None:
            steps.append(f"{pen}{frame.x(x):.1f} {frame.y(y):.1f}")
        pen = "M" if y is None else "L"
    return "".join(steps)


def bar_plot(
    names: Sequence[str],
    values: Sequence[float],
    label: str,
    spans: Sequence[Sequence[float] | None] = (),
    *,
    signed: bool = False,
) -> str:
    """One horizontal bar each, from zero, with its number; ``spans``: an interval (low, high) on each.

    ``signed``: less is better, green below zero and red above.
    """
    if not values:
        return NOTHING
    ends = [v for span in spans if span for v in span]
    low, high = padded([0.0, *values, *ends], 0.12)
    left, room = NAME, WIDTH - NAME - 70
    low, high = (low if min([*values, *ends]) < 0 else 0.0), (high if max([*values, *ends]) > 0 else 0.0)

    def x(value: float) -> float:
        return left + _share(value, low, high, False) * room

    parts = []
    for i, (name, value) in enumerate(zip(names, values, strict=True)):
        y, a, b = i * BAR + 4, *sorted((x(0.0), x(value)))
        fill = (GOOD if value < 0 else BAD) if signed else COLOURS[0]
        text = f"{value:+.4f}" if signed else f"{value:,.3g}"
        span = spans[i] if i < len(spans) else None
        parts.append(_name(name, y))
        parts.append(f'<rect x="{a:.1f}" y="{y}" width="{max(b - a, 1):.1f}" height="{BAR - 8}" fill="{fill}"/>')
        parts.append(f'<text class="tick" x="{WIDTH - 4}" y="{y + 13}" text-anchor="end">{text}</text>')
        if span:
            parts.append(_span(x(span[0]), x(span[1]), y + (BAR - 8) / 2))
    height = len(names) * BAR + 20
    parts.append(f'<line class="axis" x1="{x(0.0):.1f}" x2="{x(0.0):.1f}" y1="0" y2="{len(names) * BAR}"/>')
    parts.append(f'<text class="label" x="{left}" y="{height - 4}">{escape(label)}</text>')
    return _svg(parts, label, height)


def _name(name: str, y: float) -> str:
    """A name in front of a bar, cut to its room; the whole of it on hover."""
    most = NAME // 7
    shown = name if len(name) <= most else name[: most - 3] + "..."
    return (
        f'<text class="name" x="{NAME - 8}" y="{y + 13}" text-anchor="end">{escape(shown)}'
        f"<title>{escape(name[:200])}</title></text>"
    )


def _span(x0: float, x1: float, y: float) -> str:
    ends = "".join(f"M{x:.1f} {y - 4:.1f}L{x:.1f} {y + 4:.1f}" for x in (x0, x1))
    return f'<path class="span" d="M{x0:.1f} {y:.1f}L{x1:.1f} {y:.1f}{ends}"/>'


def dot_plot(x: Sequence[float], y: Sequence[float], x_label: str, y_label: str) -> str:
    """A cloud over a logarithmic x (values above zero), with the zero line."""
    if not x:
        return NOTHING
    frame = Frame(*_log_padded(x), *padded([*y, 0.0]), x_label, y_label, log_x=True)
    dots = (f'<circle cx="{frame.x(a):.1f}" cy="{frame.y(b):.1f}" r="2.4"/>' for a, b in zip(x, y, strict=True))
    cloud = f'<g fill="{COLOURS[0]}" fill-opacity="0.55">{"".join(dots)}</g>'
    return _svg([*frame.axes(), frame.level(0.0), cloud], y_label)


def ratio_plot(clouds: Sequence[Points], x_label: str, y_label: str, most: float) -> str:
    """Points with intervals over a logarithmic x (values above zero), from 0 to at most ``most``, with the line at 1."""
    xs = [x for c in clouds for x in c.x]
    if not xs:
        return NOTHING
    tops = [v for c in clouds for v in (*c.y, *(high for _, high in c.spans))]
    top = min(max(1.2, *tops) * 1.04, most)
    frame = Frame(*_log_padded(xs), 0.0, top, x_label, y_label, log_x=True)
    parts = [*frame.axes(), frame.level(1.0)]
    for i, cloud in enumerate(clouds):
        pen, shift = _pen(i), 5 * i - 2.5 * (len(clouds) - 1)
        for a, b, (low, high) in zip(cloud.x, cloud.y, cloud.spans, strict=True):
            x, y = frame.x(a) + shift, frame.y(min(b, top))
            reach = f"M{x:.1f} {frame.y(max(low, 0.0)):.1f}L{x:.1f} {frame.y(min(high, top)):.1f}"
            parts.append(f'<path d="{reach}" {pen} stroke-width="1.3"/>')
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.6" fill="{COLOURS[i % len(COLOURS)]}"/>')
    return _svg(parts, f"{y_label} over {x_label}") + _legend([c.name for c in clouds])


def front_plot(
    dots: Sequence[tuple[float, float, str]],
    front: Sequence[int],
    chosen: int | None,
    limit: float,
    x_label: str,
    y_label: str,
) -> str:
    """(x, y, name) over a logarithmic x (values above zero), the name on hover; the front as a stair, ``limit`` dashed.

    ``front``: indexes of the dots that no other beats, by x.  ``chosen``: a ring around this one.
    """
    if not dots:
        return NOTHING
    xs, ys = [d[0] for d in dots], [d[1] for d in dots]
    frame = Frame(*_log_padded([*xs, limit]), *padded(ys), x_label, y_label, log_x=True)
    at = f"{frame.x(limit):.1f}"
    parts = [*frame.axes(), f'<line class="zero" x1="{at}" x2="{at}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>']
    stair = ""
    for i in front:
        x, y = frame.x(xs[i]), frame.y(ys[i])
        stair += f"H{x:.1f}V{y:.1f}" if stair else f"M{x:.1f} {y:.1f}"
    parts.append(f'<path d="{stair}" fill="none" {_pen(1)} stroke-width="1.5"/>' if stair else "")
    for i, (a, b, name) in enumerate(dots):
        colour = COLOURS[1] if i in front else COLOURS[0]
        where = f'cx="{frame.x(a):.1f}" cy="{frame.y(b):.1f}"'
        parts.append(f'<circle {where} r="3.2" fill="{colour}"><title>{escape(name[:200])}</title></circle>')
        if i == chosen:
            parts.append(f'<circle {where} r="7" fill="none" stroke="{BAD}" stroke-width="1.6"/>')
    return _svg(parts, f"{y_label} over {x_label}")


def scatter_plot(
    dots: Sequence[Dot], span: tuple[float, float], x_label: str, y_label: str, level: float | None = None
) -> str:
    """Dots over x from 0 to 1 and y within ``span``, what is wrong in red; ``level``: a dashed line to compare with."""
    frame = Frame(0.0, 1.0, *span, x_label, y_label)
    parts = frame.axes() + ([] if level is None else [frame.level(level)])
    for d in dots:
        look = f'fill="{BAD if d.bad else COLOURS[0]}" fill-opacity="{0.4 if d.pale else 1}"'
        at = f'cx="{frame.x(d.x):.1f}" cy="{frame.y(d.y):.1f}" r="3"'
        parts.append(f"<circle {at} {look}><title>{escape(d.title[:200])}</title></circle>")
    return _svg(parts, f"{y_label} over {x_label}")


def strip_plot(count: int, marked: Sequence[int], position: int) -> str:
    """A stream of ``count`` tokens as a bar: marked tokens in yellow, one position in red."""
    cell = (WIDTH - 20) / max(1, count)

    def box(at: float, y: int, height: int, width: float, fill: str) -> str:
        return f'<rect x="{at:.1f}" y="{y}" width="{width:.1f}" height="{height}" fill="{fill}"/>'

    parts = [box(10, 20, 22, WIDTH - 20, "#d0d7de")]
    parts += [box(10 + i * cell, 20, 22, max(1.0, cell), COLOURS[4]) for i in marked]
    parts.append(box(10 + position * cell, 14, 34, max(2.0, cell), BAD))
    parts.append('<text class="tick" x="10" y="58">0</text>')
    parts.append(f'<text class="tick" x="{WIDTH - 10}" y="58" text-anchor="end">{count}</text>')
    return _svg(parts, f"a stream of {count} tokens", 62)
