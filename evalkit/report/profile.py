"""A profile on a terminal."""

from __future__ import annotations

from typing import Any

PLACES = {
    "device": "the forward pass",
    "host": "the sequencer (experts, journal)",
    "learn": "the learners",
}


def print_profile(report: dict[str, Any]) -> None:
    """The costs by verb, the forecasts, the verdict and what else the seconds could buy."""
    for line in profile_lines(report):
        print(line)


def profile_lines(report: dict[str, Any]) -> list[str]:
    c = report["calibration"]
    lines = [
        f"calibration: {c['targets']:,} of {c['of']:,} targets on {c['device']}, {_count(c['threads'], 'thread')}, "
        f"{c['seconds']:.1f} s in all",
        f"{'verb':<20} {'us/target':>10} {'whole run':>10} {'share':>7}",
    ]
    for row in report["stages"]:
        if row["share"] >= 0.0005:
            growth = "  grows with the text" if row["growth"] else ""
            cells = f"{row['microseconds_a_target']:>10.2f} {row['seconds']:>8.1f} s {100 * row['share']:>5.1f} %"
            lines.append(f"{row['verb']:<20} {cells}{growth}")
    lines.append(_forecast(f"here, {_count(report['here']['ranks'], 'rank')}", report["here"]))
    lines.append(f"  start and finish: about {report['around_seconds']:.1f} s more")
    if report["target"]:
        lines.append(_forecast(report["target"]["name"], report["target"]))
    if report["budget"]:
        lines.append(_verdict(report))
    where = report["target"]["name"] if report["target"] else "here"
    if report["options"]:
        lines.append(f"the whole run would take, {where}:")
    for option in report["options"]:
        fits = {True: "  fits", False: "  does not fit", None: ""}[option["fits"]]
        lines.append(f"  with {option['what']}: {option['total']:.1f} s{fits}")
    if report["best_use"]:
        lines.append(f"the rest of the budget could buy: {report['best_use']}")
    if report["trace"]:
        lines.append(f"trace: {report['trace']} (open it in https://ui.perfetto.dev)")
    return lines


def _count(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _forecast(where: str, seconds: dict[str, Any]) -> str:
    line = (
        f"forecast {where}: {seconds['total']:.1f} s ({seconds['low']:.1f} .. {seconds['high']:.1f}); "
        f"decided by {PLACES[seconds['path']]}"
    )
    return f"{line}\n  assumption: {seconds['assumption']}" if seconds["assumption"] else line


def _verdict(report: dict[str, Any]) -> str:
    left = report["left_seconds"]
    if report["fits"]:
        return f"budget {report['budget']:g} s: fits, {left:.1f} s to spare at the upper end"
    return f"budget {report['budget']:g} s: does not fit, {-left:.1f} s too long at the upper end"
