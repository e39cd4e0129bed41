"""What do adapters bring, by base and by text?  Every checkpoint at hand on web, encyclopaedia, technical and mixed text.

    pip install ./examples/rwkv_door
    python -m benches.bases --data DATA [--targets 12000]        DATA: a folder with texts and checkpoints/
    python -m benches.bases --draw                               only the picture and the lines from what was measured

Experts are scored on recorded rows, one forward pass a checkpoint and text; ``slot`` learns in a pass of its own.  Every
row is in benches/results/bases.json as soon as it is measured, and a row that is there is not measured again.  The picture is
benches/results/bases.svg: BPB gained against the base's BPB, both logarithmic, and the fitted line of each adapter.

A fit is gain = c * base^k by least squares on logarithms, over token models on web text whose interval is below zero:
other texts are further from what the models read, and bytes are other targets.  What it says
of a base of 1.06 lies far outside of what was measured; its 95 % interval is drawn from resampled checkpoints.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from benches.experts import BEST, Recorded, score_stack, without_corpus
from benches.learners import PLAN, run_stack
from evalkit.cli.recipe import Recipe, RunSettings

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "bases.json"
CHECKPOINTS = {
    "3x128, published": "tiny3x128_power3_seed1337.int8.ptz",
    "7x384, throughput": "base7x384_throughput.int8.ptz",
    "7x384, lr 0.0475": "base7x384_lr0475.int8.ptz",
    "7x384, lr 0.045": "base7x384_lr045.int8.ptz",
    "7x384, leaky": "base7x384_leaky.int8.ptz:mlp=leaky^2",
    "RWKV 730 k, bytes": "tiny_rwkv5v2_730k_fp32.bin",
    "bundled": "",
}
TEXTS = {"web": "val_fineweb_head", "wiki": "val_wiki", "technical": "val_tech", "mixed": "val_mix"}
STACKS = {
    "ppm": ["ppm"],
    "best_agree": ["best_agree"],
    "hedge": ["hedge"],
    "match": ["match"],
    "log_bias": ["log_bias"],
    "slot": ["slot"],
    "all experts": BEST,
}
BYTES = 3
"""A model over bytes is given so many times the targets."""
FRONTIER = 1.06
COLOURS = ("#3b5b92", "#c1582f", "#3f8f5a", "#8a5aa8", "#b08a1e", "#2f8390", "#1b1b1b")


def measure(data: Path, targets: int) -> None:
    rows = kept()
    for checkpoint, file in CHECKPOINTS.items():
        for text, name in TEXTS.items():
            done = {r["stack"] for r in rows if (r["checkpoint"], r["text"]) == (checkpoint, text)}
            if done >= set(STACKS):
                continue
            for row in one(data, checkpoint, file, text, name, targets * (BYTES if "bytes" in checkpoint else 1)):
                if row["stack"] not in done:
                    rows.append(row)
                    write(rows, targets)
                    print(json.dumps(row), flush=True)


def one(data: Path, checkpoint: str, file: str, text: str, name: str, targets: int) -> Any:
    """Rows of one checkpoint on one text, one after the other."""
    from evalkit.cli.session import open_parts
    from evalkit.scoring.statistics import paired_interval

    where = [str(data / f"{name}.jsonl.xz")]
    spec = str(data / "checkpoints" / file) if file else None
    run = RunSettings(
        checkpoint=spec, text=where, limit_tokens=targets, threads=1, device="cpu", lossy=True
    )  # the field's tokenizer folds white space: scored is what it gives back
    model, stream, _, _ = open_parts(Recipe(run=run, adapters=[]))
    recorded = Recorded()
    base = score_stack((model, stream), [], PLAN, recorded)
    for stack, specs in STACKS.items():
        began, used = time.process_time(), [without_corpus(s) for s in specs]
        if stack == "slot":
            result = run_stack((model, stream), used, PLAN, 8192)
        else:
            result = score_stack((model, stream), used, PLAN, recorded)
        delta = result.documents.nats[:, -1] - base.documents.nats[:, -1]
        span = paired_interval(delta, result.documents.bytes.astype(np.float64))
        yield {
            "checkpoint": checkpoint,
            "text": text,
            "stack": stack,
            "adapters": used,
            "targets": stream.n_targets,
            "documents": len(base.documents.bytes),
            "base_bpb": base.bpb,
            "bpb": result.bpb,
            "delta_bpb": result.bpb - base.bpb,
            "ci95": list(span) if span else None,
            "cpu_seconds": round(time.process_time() - began, 2),
        }


def kept() -> list[dict[str, Any]]:
    return json.loads(RESULT.read_text(encoding="utf-8"))["rows"] if RESULT.exists() else []


def write(rows: list[dict[str, Any]], targets: int) -> None:
    command = f"python -m benches.bases --data DATA --targets {targets}"
    content = {"command": command, "plan": PLAN, "rows": rows, "at": FRONTIER, "fits": fits(rows)}
    RESULT.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


# -- the fit ------------------------------------------------------------------------------------------------------------------


def points(rows: Sequence[dict[str, Any]], stack: str) -> list[dict[str, Any]]:
    """Rows whose gain is sure: their logarithm exists."""
    return [r for r in rows if r["stack"] == stack and r["ci95"] and r["ci95"][1] < 0.0]


def fits(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By stack: exponent k, and the gain at FRONTIER with its interval over resampled checkpoints; none with too few rows."""
    found = dict[str, dict[str, Any]]()
    for stack in STACKS:
        sure = [r for r in points(rows, stack) if r["text"] == "web" and "bytes" not in r["checkpoint"]]
        names = sorted({r["checkpoint"] for r in sure})
        if len(names) < 4:
            continue
        rng, draws = np.random.default_rng(0), list[float]()
        for _ in range(1000):
            pick = rng.choice(names, len(names))
            if len(set(pick)) > 2:
                draws.append(gain_at([r for name in pick for r in sure if r["checkpoint"] == name])[0])
        gain, exponent = gain_at(sure)
        low, high = np.quantile(draws, [0.025, 0.975])
        found[stack] = {"gain": gain, "low": float(low), "high": float(high), "exponent": exponent, "rows": len(sure)}
    return found


def gain_at(sure: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """(BPB at FRONTIER, exponent)."""
    k, c = np.polyfit([math.log(r["base_bpb"]) for r in sure], [math.log(-r["delta_bpb"]) for r in sure], 1)
    return float(math.exp(c + k * math.log(FRONTIER))), float(k)


# -- the picture --------------------------------------------------------------------------------------------------------------

WIDTH, HEIGHT, LEFT, TOP, BOTTOM, RIGHT = 760, 430, 60, 16, 44, 120
LEAST, MOST = 5e-4, 1.5
FROM, TO = 1.0, 3.4


def x_of(base: float) -> float:
    return LEFT + (math.log(base) - math.log(FROM)) / (math.log(TO) - math.log(FROM)) * (WIDTH - LEFT - RIGHT)


def y_of(gain: float) -> float:
    part = (math.log(max(gain, LEAST)) - math.log(LEAST)) / (math.log(MOST) - math.log(LEAST))
    return HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM)


def draw(rows: Sequence[dict[str, Any]]) -> str:
    """A standalone SVG; the name of checkpoint and text on hover."""
    parts = [text(x_of(b), HEIGHT - BOTTOM + 18, f"{b:g}", "middle") for b in (1.06, 1.25, 1.5, 2.0, 2.5, 3.0)]
    for gain in (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0):
        parts.append(f'<path d="M{LEFT} {y_of(gain):.1f}H{WIDTH - RIGHT}" stroke="#e4e4e4"/>')
        parts.append(text(LEFT - 6, y_of(gain) + 4, f"{gain:g}", "end"))
    at = x_of(FRONTIER)
    parts.append(f'<path d="M{at:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#777" stroke-dasharray="4 3"/>')
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, "BPB of the base", "middle"))
    parts.append(text(LEFT, TOP - 4, "BPB gained", "start"))
    lines = fits(rows)
    for i, stack in enumerate(STACKS):
        parts += _cloud(points(rows, stack), COLOURS[i]) + _line(lines.get(stack), COLOURS[i])
        parts.append(f'<circle cx="{WIDTH - RIGHT + 14}" cy="{TOP + 14 + 20 * i}" r="4" fill="{COLOURS[i]}"/>')
        parts.append(text(WIDTH - RIGHT + 24, TOP + 18 + 20 * i, stack, "start"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _cloud(sure: Sequence[dict[str, Any]], colour: str) -> list[str]:
    parts = []
    for r in sure:
        x, (low, high) = x_of(r["base_bpb"]), r["ci95"]
        parts.append(f'<path d="M{x:.1f} {y_of(-low):.1f}V{y_of(-high):.1f}" stroke="{colour}" stroke-opacity="0.35"/>')
        name = escape(f"{r['stack']}, {r['checkpoint']}, {r['text']}: {r['delta_bpb']:+.4f}")
        where = f'cx="{x:.1f}" cy="{y_of(-r["delta_bpb"]):.1f}"'
        parts.append(f'<circle {where} r="3.2" fill="{colour}"><title>{name}</title></circle>')
    return parts


def _line(fit: dict[str, Any] | None, colour: str) -> list[str]:
    if fit is None:
        return []
    ends = [(b, fit["gain"] * (b / FRONTIER) ** fit["exponent"]) for b in (FRONTIER, 3.0)]
    path = "L".join(f"{x_of(b):.1f} {y_of(g):.1f}" for b, g in ends)
    return [f'<path d="M{path}" stroke="{colour}" stroke-opacity="0.6" stroke-dasharray="5 3" fill="none"/>']


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: a line a checkpoint and text."""
    lines = [f"| checkpoint | text | base | {' | '.join(STACKS)} |", f"|---|---|---|{'---|' * len(STACKS)}"]
    cell: Callable[[dict[str, Any]], str] = lambda r: (  # noqa: E731
        f"{r['delta_bpb']:+.4f} ({r['ci95'][0]:+.3f} .. {r['ci95'][1]:+.3f})" if r["ci95"] else f"{r['delta_bpb']:+.4f}"
    )
    for key in dict.fromkeys((r["checkpoint"], r["text"], r["base_bpb"]) for r in rows):
        found = {r["stack"]: r for r in rows if (r["checkpoint"], r["text"]) == key[:2]}
        cells = [cell(found[stack]) if stack in found else "" for stack in STACKS]
        lines.append(f"| {key[0]} | {key[1]} | {key[2]:.4f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--targets", type=int, default=12_000)
    parser.add_argument("--draw", action="store_true", help="measure nothing")
    args = parser.parse_args()
    if not args.draw:
        if args.data is None:
            parser.error("give --data DATA, or --draw")
        measure(args.data, args.targets)
    rows = kept()
    write(rows, args.targets)
    RESULT.with_suffix(".svg").write_text(draw(rows), encoding="utf-8")
    print(table(rows))
    for stack, fit in fits(rows).items():
        print(
            f"{stack}: {fit['gain']:.4f} ({fit['low']:.4f} .. {fit['high']:.4f}) at {FRONTIER}, exponent {fit['exponent']:.1f}"
        )
    return 0


if __name__ == "__main__":
    import sys

    sys.exit(main())
