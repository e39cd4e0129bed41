"""Does a planned recipe keep its budget and its promise on another text?  Three budgets for each checkpoint.

    python -m benches.plan --text CALIBRATION --scored OTHER [--targets 20000] [--checkpoint C]... [--times 1.2 3 10]

The plain pass is measured by ``evalkit eval`` on the scored text; a budget is so many of its seconds.  The planned recipe, the
plain pass and recipes/fast.toml score that text; where recipes/experts.toml, best.toml or lanes.toml would fit the budget by
what evalkit plan measured, ``--beside`` scores those, too.  Each row is kept in benches/results/plan.json when it is there; a
row of the same checkpoint and budget is replaced.  ``busy`` is the share of its seconds in which the search had a processor:
a forecast holds while the machine stays as it was.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from benches.forecast import RESULTS, evalkit


def scored(folder: Path, name: str, *flags: str) -> dict[str, Any]:
    return json.loads(evalkit("eval", *flags, "--json", "-", "--out", str(folder / name)))


def one(folder: Path, model: list[str], times: float, args: argparse.Namespace) -> dict[str, Any]:
    """Plan, then score the plan and recipes/fast.toml on the other text."""
    other = ["--text", *args.scored, "--limit-tokens", str(args.targets), "--threads", "1"]
    load = os.getloadavg()[0]
    chunk = ["--chunk-tokens", "1024"]
    plain = scored(folder, f"plain{times}", *model, *other, *chunk, "--adapter", "none", "--plan", args.plain)
    budget = times * plain["seconds"]["wall"]
    out = folder / f"plan{times}"
    ask = ["--text", *args.text, "--budget", f"{budget:.3f}", "--targets", str(args.targets), "--threads", "1"]
    said = json.loads(evalkit("plan", *model, *ask, "--out", str(out), "--json", "-"))
    run = scored(folder, f"run{times}", str(out / "planned.toml"), *other)
    fast = scored(folder, f"fast{times}", "recipes/fast.toml", *model, *other)
    wall, gain = run["seconds"]["wall"], run["totals"]["bpb"] - plain["totals"]["bpb"]
    forecast, size = said["chosen"]["forecast"], said["at_size"]
    return {
        "checkpoint": Path(model[1]).name if model else "bundled",
        "times": times,
        "load": load,
        "targets": run["totals"]["targets"],
        "budget": budget,
        "chosen": said["chosen"]["name"],
        "why": said["why"],
        "search_seconds": said["search"]["spent"],
        "forecast": forecast["total"],
        "seconds": wall,
        "error": forecast["total"] / wall - 1.0,
        "within_budget": wall <= budget,
        "plain_bpb": plain["totals"]["bpb"],
        "bpb": run["totals"]["bpb"],
        "fast_bpb": fast["totals"]["bpb"],
        "fast_seconds": fast["seconds"]["wall"],
        "gain": gain,
        "interval": [size["low"], size["high"]],
        "inside": size["low"] <= gain <= size["high"],
        "environment": run["environment"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", nargs="+", required=True)
    parser.add_argument("--scored", nargs="+", required=True)
    parser.add_argument("--targets", type=int, default=20_000)
    parser.add_argument("--checkpoint", action="append", help="several; none: the bundled one")
    parser.add_argument("--times", nargs="+", type=float, default=[1.2, 3.0, 10.0])
    parser.add_argument("--plain", default="banded:window=512,block=1024,segment=0", help="plan of the plain pass")
    args = parser.parse_args()
    path = RESULTS / "plan.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    words = [Path(w).name if "/" in w else w for w in sys.argv[1:]]
    with tempfile.TemporaryDirectory(prefix="evalkit-plan-") as name:
        for i, checkpoint in enumerate(args.checkpoint or [None]):
            for times in args.times:
                folder = Path(name) / str(i)
                row = one(folder, ["--checkpoint", checkpoint] if checkpoint else [], times, args)
                row["command"] = " ".join(["python -m benches.plan", *words])
                rows = [r for r in rows if (r["checkpoint"], r["times"]) != (row["checkpoint"], times)] + [row]
                path.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")
                print(json.dumps(row), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
