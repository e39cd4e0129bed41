"""What does the quantisation table look like?  One SVG of two panels, without a plotting library."""

from __future__ import annotations

import math
from typing import Any

WIDTH, HEIGHT, LEFT, TOP = 430, 300, 62, 46
COLOURS = {5: "#b3541e", 6: "#1b5e9b", 8: "#2e7d4f"}


def draw(found: dict[str, Any]) -> str:
    """Panel 1: BPB lost against bytes, a line for each grid width.  Panel 2: bits per weight against the step."""
    sweep = found.get("sweep", [])
    points = [(r["bytes"] / 1e6, max(1e-4, r["gap_bpb"]["held_out_training"]), r["bits"]) for r in sweep]
    rates = [(r["step_in_std"], r["bits_per_weight"], r["bits"]) for r in sweep]
    ideal = sorted((r["step_in_std"], math.log2(math.sqrt(2 * math.pi * math.e) / r["step_in_std"])) for r in sweep)
    body = [
        _panel(0, "BPB lost (GPTQ, held-out training text) and bytes", "coded bytes, MB", points, log_x=False),
        _panel(1, "bits per weight and step (line: entropy of a Gaussian)", "step in standard deviations", rates, log_x=True,
               line=[p for p in ideal if p[1] > 0.5]),
    ]  # fmt: skip
    total = 2 * (WIDTH + LEFT) + 40
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} {HEIGHT + TOP + 50}" '
        f'font-family="sans-serif" font-size="11" fill="#222">'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(body)}</svg>\n'
    )


def _panel(
    index: int, title: str, label: str, points: list[tuple[float, float, int]], *, log_x: bool,
    line: list[tuple[float, float]] | None = None,
) -> str:  # fmt: skip
    if not points:
        return ""
    log_y = index == 0
    fx, fy = (math.log10 if log_x else float), (math.log10 if log_y else float)
    xs, ys = [fx(p[0]) for p in points], [fy(p[1]) for p in points]
    box = (min(xs), max(xs), min(ys), max(ys))
    x0 = index * (WIDTH + LEFT + 20) + LEFT

    def at(x: float, y: float) -> tuple[float, float]:
        u = (fx(x) - box[0]) / max(1e-9, box[1] - box[0])
        v = (fy(y) - box[2]) / max(1e-9, box[3] - box[2])
        return x0 + 8 + u * (WIDTH - 24), TOP + HEIGHT - 8 - v * (HEIGHT - 16)

    parts = [
        f'<text x="{x0}" y="{TOP - 24}" font-size="13">{title}</text>',
        f'<rect x="{x0}" y="{TOP}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#999"/>',
        f'<text x="{x0 + WIDTH / 2}" y="{TOP + HEIGHT + 34}" text-anchor="middle">{label}</text>',
    ]
    for value in _ticks(box[0], box[1], log_x):
        x = at(value, points[0][1])[0]
        parts.append(f'<text x="{x:.1f}" y="{TOP + HEIGHT + 16}" text-anchor="middle">{value:g}</text>')
    for value in _ticks(box[2], box[3], log_y):
        y = at(points[0][0], value)[1]
        parts.append(f'<text x="{x0 - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
        parts.append(f'<line x1="{x0}" x2="{x0 + WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="#eee"/>')
    if line:
        parts.append(_path([at(*p) for p in line], "#999", "4 3"))
    for number, bits in enumerate(sorted({p[2] for p in points})):
        mine, colour = sorted((p[0], p[1]) for p in points if p[2] == bits), COLOURS.get(bits, "#555")
        parts.append(_path([at(*p) for p in mine], colour, ""))
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in (at(*p) for p in mine)]
        x, y = x0 + WIDTH - 8, TOP + 18 + 15 * number
        parts.append(f'<text x="{x}" y="{y}" text-anchor="end" fill="{colour}">int{bits}</text>')
    return "".join(parts)


def _path(points: list[tuple[float, float]], colour: str, dash: str) -> str:
    steps = " ".join(f"{'L' if i else 'M'}{x:.1f},{y:.1f}" for i, (x, y) in enumerate(points))
    return f'<path d="{steps}" fill="none" stroke="{colour}" stroke-width="1.5" stroke-dasharray="{dash}"/>'


def _ticks(low: float, high: float, log: bool) -> list[float]:
    """Round values within low..high (exponents when ``log``)."""
    if log:
        return [m * 10.0**e for e in range(math.floor(low), math.ceil(high) + 1) for m in (1, 2, 5)
                if low <= math.log10(m * 10.0**e) <= high]  # fmt: skip
    step = 10.0 ** math.floor(math.log10(max(1e-12, high - low)))
    step /= 2 if (high - low) / step < 3 else 1
    return [round(n * step, 10) for n in range(math.ceil(low / step), math.floor(high / step) + 1)]
