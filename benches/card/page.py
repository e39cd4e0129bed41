"""How do the sheets read?  ``card.html``: what failed first, then each section with its picture, forecasts beside results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from benches.card.sheet import Card, read
from evalkit.report.elements import cut, facts, interval, note, section, signed, table
from evalkit.report.html import page
from evalkit.report.svg import Points, Series, bar_plot, line_plot, ratio_plot
from evalkit.stream.files import write_atomic

Rows = Sequence[dict[str, Any]]
TITLES = {
    "machine": "Machine",
    "parity": "Does it score as the CPU does?",
    "forward": "Forward pass against the peak",
    "attention": "Attention kernels",
    "rows": "Statistics of rows",
    "forecast": "Forecast by evalkit profile --target, and run",
    "learners": "Learners",
    "overlap": "The sequencer beside the forward",
    "train": "Training for the minutes that were left",
    "table": "Adapters on the model that came out",
}


def write(card: Card) -> None:
    """Write it from the files; it says what they have."""
    sheets = {name: read(card.out / f"{name}.json") for name in TITLES}
    body = [f"<h1>{cut('evalkit on ' + _device(sheets))}</h1>", _state(sheets)]
    for name, title in TITLES.items():
        rows = sheets[name].get("rows", [])
        good = [r for r in rows if r["status"] in ("ok", "violated") and len(r) > 3]
        others = [r for r in rows if r["status"] not in ("ok", "violated")]
        told = [note(sheets[name]["note"])] if sheets[name].get("note") else []
        body.append(section(title, *told, BODIES[name](good) if good else "", _others(others)) or "")
    write_atomic(card.out / "card.html", [page("evalkit on a GPU", "".join(body)).encode()])


def _device(sheets: dict[str, dict[str, Any]]) -> str:
    made = next((s["made_with"] for s in sheets.values() if s), {"device": "nothing yet", "torch": "?"})
    return f"{made['device']}, torch {made['torch']}"


def _state(sheets: dict[str, dict[str, Any]]) -> str:
    """What a reader must know first: rows that failed, that differ, or that time did not reach."""
    lines = []
    for name, sheet in sheets.items():
        rows = sheet.get("rows", [])
        for status, words in (("violated", "out of tolerance"), ("failed", "failed"), ("late", "not reached in time")):
            keys = [r["key"] for r in rows if r["status"] == status]
            if keys:
                lines.append(f'<p class="bad">{cut(f"{name}: {len(keys)} {words}: " + "; ".join(keys))}</p>')
        if not sheet:
            lines.append(f'<p class="bad">{cut(f"{name}: not measured")}</p>')
    return "".join(lines) or '<p class="ok">Everything was measured, and agrees with the CPU.</p>'


def _others(rows: Rows) -> str:
    return (
        table(("not measured", "state", "why"), [[r["key"], r["status"], r.get("why", "")] for r in rows])
        if rows
        else ""
    )


def _n(value: float | None, form: str = ".3g") -> str:
    return "" if value is None else format(value, form)


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def _machine(rows: Rows) -> str:
    return "".join(facts({k: v for k, v in r.items() if k not in ("at", "took_seconds")}) for r in rows)


def _parity(rows: Rows) -> str:
    cells = [
        [
            r["key"], r["status"], _n(r.get("worst_nats", r.get("windows")), ".2e"), _n(r.get("mean_nats"), ".2e"),
            _n(r.get("bpb_cpu"), ".6f"), _n(r.get("bpb_device"), ".6f"),
            "" if "bpb_cpu" not in r else f"{r['bpb_device'] - r['bpb_cpu']:+.1e}",
            _n(r.get("tolerance_nats", r.get("tolerance"))), _n(r.get("tolerance_bpb"), ".0e"),
        ]
        for r in rows
        if "same_bits" not in r
    ]  # fmt: skip
    head = ("", "", "worst nats", "mean nats", "BPB, CPU", "BPB, device", "difference", "tolerance, nats", "BPB")
    twice = [
        [r["key"], "yes" if r["same_bits"] else f"no, {r['worst_nats']:.2e} nats"] for r in rows if "same_bits" in r
    ]
    return table(head, cells) + (table(("", "same bits"), twice) if twice else "")


def _forward(rows: Rows) -> str:
    cells = [
        [
            r["key"], f"{1e3 * r['seconds']:.3f}", _n(r.get("tokens_a_second", r.get("targets_a_second")), ",.0f"),
            _n(r["tflops"], ".1f"), _share(r["of_peak"]), _n(r.get("logits_off"), ".1e"), _between(r),
        ]
        for r in rows
    ]  # fmt: skip
    head = ("", "ms", "tokens or targets a second", "Tflop/s", "of the peak", "logits off", "forecast, ms")
    against = [r for r in rows if r["of_peak"] is not None]
    picture = bar_plot([r["key"] for r in against], [100 * r["of_peak"] for r in against], "% of the data sheet's peak")
    return (picture if against else "") + _ratios([r for r in rows if "forecast_low" in r]) + table(head, cells)


def _between(r: dict[str, Any]) -> str:
    if "forecast_low" not in r:
        return ""
    return f"{1e3 * r['forecast_low']:.2f} .. {1e3 * r['forecast_high']:.2f}"


def _ratios(rows: Rows) -> str:
    """Forecast over measured: a point at 1 is a forecast that held."""
    if not rows:
        return ""
    x = [r["seconds"] for r in rows]
    spans = [(r["forecast_low"] / s, r["forecast_high"] / s) for r, s in zip(rows, x, strict=True)]
    middle = [(low * high) ** 0.5 for low, high in spans]
    return ratio_plot([Points("units of plans", x, middle, spans)], "seconds measured", "forecast / measured", 4.0)


def _attention(rows: Rows) -> str:
    cells = [
        [
            r["key"], f"{1e3 * r['seconds']:.3f}", _n(r["tflops"], ".1f"), _share(r["of_peak"]),
            f"{1e3 * r['both_seconds']:.3f}", _share(r["both_of_peak"]), _n(r["off"], ".1e"),
        ]
        for r in rows
    ]  # fmt: skip
    head = ("", "ms forward", "Tflop/s", "of the peak", "ms both", "of the peak", "off")
    return bar_plot([r["key"] for r in rows], [1e3 * r["both_seconds"] for r in rows], "ms, both ways") + table(
        head, cells
    )


def _rows(rows: Rows) -> str:
    cells = [
        [
            r["key"], f"{1e3 * r['plain_seconds']:.3f}", f"{1e3 * r['compiled_seconds']:.3f}", f"{1e3 * r['whole_seconds']:.3f}",
            f"{r['targets_a_second']:,.0f}", _n(r["compiled_off"], ".1e"), _n(r["cpu_off"], ".1e"),
        ]
        for r in rows
    ]  # fmt: skip
    return table(("", "ms plain", "compiled", "whole", "targets a second", "compiled off", "CPU off"), cells)


def _forecast(rows: Rows) -> str:
    cells = [
        [
            r["key"], f"{r['forecast']:.2f}", f"{r['low']:.2f} .. {r['high']:.2f}", f"{r['measured']:.2f}",
            "yes" if r["inside"] else "no", f"{100 * r['error']:+.0f} %",
        ]
        for r in rows
    ]  # fmt: skip
    x = [r["measured"] for r in rows]
    spans = [(r["low"] / m, r["high"] / m) for r, m in zip(rows, x, strict=True)]
    points = Points("runs", x, [r["forecast"] / m for r, m in zip(rows, x, strict=True)], spans)
    picture = ratio_plot([points], "seconds measured", "forecast / measured", 4.0)
    return picture + table(("", "forecast, s", "interval", "measured, s", "inside", "error"), cells)


def _learners(rows: Rows) -> str:
    picture = bar_plot([r["key"] for r in rows], [r["microseconds_a_target"] for r in rows], "us per target")
    cells = [
        [
            r["key"], f"{r['microseconds_a_target']:.1f}", _n(r["by_verb"].get("forward"), ".1f"),
            _n(sum(v for k, v in r["by_verb"].items() if k.startswith("observe/")), ".1f"),
            _n(r["bpb"], ".4f"), ", ".join(signed(g) for g in r["gain"]),
        ]
        for r in rows
    ]  # fmt: skip
    return picture + table(("", "us per target", "forward", "learning", "BPB", "gain"), cells)


def _overlap(rows: Rows) -> str:
    cells = [
        [
            r["key"], f"{r['alone_seconds']:.3f}", f"{r['after_seconds']:.3f}", f"{r['beside_seconds']:.3f}",
            _share(r["hidden"]),
        ]
        for r in rows
    ]  # fmt: skip
    return table(("", "s alone", "after", "beside", "of the experts hidden"), cells)


def _train(rows: Rows) -> str:
    parts = []
    for r in rows:
        steps = [p["step"] for p in r["pace"]]
        parts.append(
            line_plot([Series("loss", steps, [p["loss"] for p in r["pace"]])], "step", "nats") if steps else ""
        )
        parts.append(facts({k: r[k] for k in ("totals", "seconds", "whole_seconds", "command", "checks") if k in r}))
    return "".join(parts)


def _table(rows: Rows) -> str:
    picture = bar_plot(
        [r["key"] for r in rows], [r["delta_bpb"] for r in rows], "BPB against the base", [r["ci95"] for r in rows],
        signed=True,
    )  # fmt: skip
    cells = [
        [r["key"], f"{r['bpb']:.4f}", signed(r["delta_bpb"]), interval(r["ci95"], ""), f"{r['seconds']['wall']:.1f}"]
        for r in rows
    ]
    return picture + table(("", "BPB", "to base", "95 % interval", "s"), cells)


BODIES: dict[str, Callable[[Rows], str]] = {
    "machine": _machine,
    "parity": _parity,
    "forward": _forward,
    "attention": _attention,
    "rows": _rows,
    "forecast": _forecast,
    "learners": _learners,
    "overlap": _overlap,
    "train": _train,
    "table": _table,
}
