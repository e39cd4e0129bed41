"""Does the audit keep to its seconds, whatever it audits?  Maximum and median over the zoo and all unseen sets.

    python -m benches.audit_seconds --seconds 60 20 --slower 30 --out FILE.json

Seconds are CPU seconds of this process times ``--slower`` (a machine so many times slower, which also makes the bench
short), and the seconds that slow scorers sleep, which nobody then sleeps.  So the figures do not depend on what else
the machine does.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from benches.audit_unseen import _commit, _environment, _load, cpu_clock
from evalkit.legality import audit
from evalkit.legality.effort import Clock
from evalkit.legality.referee import audit as referee
from evalkit.legality.target import open_target
from tests.zoo.registry import every_target

SETS = ("unseen.py", "unseen_second.py", "unseen_third.py")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", nargs="+", type=float, default=[60.0, 20.0])
    parser.add_argument("--slower", type=float, default=30.0, help="how many times slower a machine to play")
    parser.add_argument("--every", type=int, default=1, help="only every n-th target")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    clock, rows = cpu_clock(args.slower), []
    for seconds in args.seconds:
        for target in _targets()[:: args.every]:
            rows.append({"seconds": seconds, **_row(target, seconds, clock)})
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    command = (
        f"python -m benches.audit_seconds --seconds {' '.join(f'{s:g}' for s in args.seconds)} --slower {args.slower:g}"
    )
    found = {"commit": _commit(), "environment": _environment(), "command": command + f" --every {args.every}"}
    found["table"] = [_sums(seconds, [r for r in rows if r["seconds"] == seconds]) for seconds in args.seconds]
    text = json.dumps(found | {"rows": rows}, indent=1) + "\n"
    args.out.write_text(text, encoding="utf-8") if args.out else print(text)
    return 0


def _targets() -> list[tuple[str, str]]:
    """(set, name) of everything but our own adapters, whose toy model a slower machine would not finish."""
    folder = Path(__file__).parent.parent / "tests" / "illegal"
    found = [(name, scorer) for name in SETS for scorer in _load(folder / name).EXPECTED]
    return found + [("zoo", name) for name in every_target(own=False)]


def _row(target: tuple[str, str], seconds: float, clock: Clock) -> dict[str, Any]:
    start = clock()
    if target[0] == "zoo":
        opened = open_target(f"zoo:{target[1]}")
        expected = opened.expected or "legal"
        options = {"ruleset": opened.ruleset or "strict", "tokens": opened.tokens}
        verdict = referee(opened.box, seconds=seconds, clock=clock, **options)
    else:
        module = _load(Path(__file__).parent.parent / "tests" / "illegal" / target[0])
        expected = module.EXPECTED[target[1]]
        verdict = audit(getattr(module, target[1]), seconds=seconds, clock=clock)
    caught = verdict.verdict == "violation" and (expected == "any" or expected in verdict.violated())
    return {
        "set": target[0],
        "scorer": target[1],
        "expected": expected,
        "verdict": verdict.verdict,
        "right": verdict.verdict == "legal" if expected == "legal" else caught,
        "took": round(clock() - start, 2),
        "calls": verdict.calls,
    }


def _sums(seconds: float, rows: list[dict[str, Any]]) -> dict[str, Any]:
    took = [r["took"] for r in rows]
    kinds = {v: sum(r["verdict"] == v for r in rows) for v in ("legal", "violation", "inconclusive")}
    alarms = sum(r["verdict"] == "violation" and r["expected"] == "legal" for r in rows)
    return {
        "seconds": seconds,
        "scorers": len(rows),
        "maximum": max(took),
        "median": round(statistics.median(took), 2),
        "right": sum(r["right"] for r in rows),
        "false_alarms": alarms,
        **kinds,
    }


if __name__ == "__main__":
    sys.exit(main())
