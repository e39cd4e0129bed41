"""Do plots place marks where the numbers are, and labels where they can be read?"""

from __future__ import annotations

import itertools
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.report.svg import (
    BAR,
    LEFT,
    NOTHING,
    RIGHT,
    WIDTH,
    Frame,
    Points,
    Series,
    bar_plot,
    dot_plot,
    line_plot,
    log_ticks,
    number,
    ratio_plot,
    ticks,
)

FINITE = st.floats(-1e9, 1e9, allow_nan=False)


@given(low=FINITE, width=st.floats(1e-9, 1e9), count=st.integers(2, 10))
def test_ticks_are_round_even_and_inside(low: float, width: float, count: int) -> None:
    high = low + width
    found = ticks(low, high, count)
    assert 1 <= len(found) <= count + 2
    slack = max(abs(low), abs(high), width) * 1e-6
    assert all(low - slack <= t <= high + slack for t in found)


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (2.63, 2.6304, ["2.63", "2.6301", "2.6302", "2.6303", "2.6304"]),
        (-0.3, 0.1, ["-0.3", "-0.2", "-0.1", "0", "0.1"]),
        (0, 65536, ["0", "20k", "40k", "60k"]),
        (0, 3e6, ["0", "1M", "2M", "3M"]),
    ],
)
def test_neighbouring_ticks_have_different_labels(low: float, high: float, labels: list[str]) -> None:
    found = ticks(low, high)
    assert [number(t, found[1] - found[0]) for t in found] == labels


@given(low=st.floats(1e-7, 1e6), factor=st.floats(1.5, 1e6))
def test_logarithmic_ticks_are_inside(low: float, factor: float) -> None:
    found = log_ticks(low, low * factor)
    assert found == sorted(set(found))
    assert all(low * 0.999 <= t <= low * factor * 1.001 for t in found)
    assert len(found) <= 14


def test_the_frame_maps_ends_to_edges() -> None:
    frame = Frame(1.0, 100.0, 0.0, 1.0, log_x=True)
    assert frame.x(1.0) == pytest.approx(LEFT)
    assert frame.x(100.0) == pytest.approx(WIDTH - RIGHT)
    assert frame.x(10.0) == pytest.approx((LEFT + WIDTH - RIGHT) / 2)
    flat = Frame(2.0, 2.0, 3.0, 3.0)
    assert flat.x(2.0) == LEFT


def texts(plot: str) -> list[tuple[float, float, str]]:
    """(x, y, what) of each text element."""
    root = ElementTree.fromstring(re.findall(r"<svg.*?</svg>", plot, re.S)[0])
    return [
        (float(t.get("x", "nan")), float(t.get("y", "nan")), "".join(t.itertext()))
        for t in root.iter("text")
        if t.get("x")
    ]


@given(names=st.lists(st.text("abc<&\"'", min_size=1, max_size=60), min_size=1, max_size=40))
def test_names_of_bars_do_not_overlap(names: list[str]) -> None:
    plot = bar_plot(names, [float(i) for i in range(len(names))], "seconds")
    labels = [t for t in texts(plot) if t[0] < 170]
    assert len(labels) == len(names)
    heights = [y for _, y, _ in labels]
    assert all(b - a == BAR for a, b in itertools.pairwise(heights))


def test_bars_start_at_zero_and_say_their_number() -> None:
    plot = bar_plot(["down", "up"], [-0.5, 0.25], "step", [(-0.6, -0.4), None], signed=True)
    bars = re.findall(r'<rect x="([\d.]+)" y="\d+" width="([\d.]+)"', plot)
    zero = float(bars[1][0])
    assert float(bars[0][0]) + float(bars[0][1]) == pytest.approx(zero, abs=0.11)
    assert float(bars[0][1]) == pytest.approx(2 * float(bars[1][1]), abs=0.2)
    assert {"-0.5000", "+0.2500"} <= {t[2] for t in texts(plot)}


def test_a_missing_value_breaks_the_line() -> None:
    plot = line_plot([Series("a", [0, 1, 2, 3], [1.0, None, 2.0, 3.0])], "x", "y")
    path = re.findall(r'<path d="([^"]+)" fill="none"', plot)[0]
    assert path.count("M") == 2
    assert path.count("L") == 1


def test_curves_beyond_the_palette_differ_in_dash() -> None:
    plot = line_plot([Series(f"s{i}", [0, 1], [i, i + 1]) for i in range(20)], "x", "y")
    pens = re.findall(r'fill="none" (stroke="[^"]+"(?: stroke-dasharray="[^"]+")?)', plot)
    assert len(set(pens)) == len(pens) == 20


def test_ratios_are_cut_at_the_top() -> None:
    plot = ratio_plot([Points("a", [0.1, 0.5], [1.0, 50.0], [(0.5, 1.5), (40.0, 60.0)])], "x", "y", 3.0)
    heights = [float(y) for y in re.findall(r'cy="([\d.]+)"', plot)]
    assert min(heights) >= 0
    assert heights[1] < heights[0]


def test_nothing_to_draw_is_said() -> None:
    assert line_plot([Series("a", [0.0], [None])], "x", "y") == NOTHING
    assert bar_plot([], [], "x") == NOTHING
    assert dot_plot([], [], "x", "y") == NOTHING
    assert ratio_plot([], "x", "y", 2.0) == NOTHING
