"""Does a planned recipe keep its budget and its promise on another text?  Three budgets for each checkpoint.

    python -m benches.plan --text CALIBRATION --scored OTHER [--targets 20000] [--checkpoint C]... [--times 1.2 3 10]

The plain pass is measured by ``evalkit eval`` on the scored text; a budget is so many of its seconds.  The planned recipe and
recipes/fast.toml score that text, and with ``--beside experts best`` those recipes, each once a checkpoint: where one of
them took no more than the budget, the plan should be at least as good.  Each row is kept in benches/results/plan.json when it
is there; a row of the same checkpoint, budget and text is replaced.  ``busy`` is the share of its seconds in which the search
had a processor: a forecast holds while the machine stays as it was.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benches.forecast import RESULTS


def told(*arguments: str) -> dict[str, Any]:
    """What ``evalkit ... --json -`` printed; code 1, a run that its budget stopped or a plan that does not fit, is an answer."""
    command = [sys.executable, "-m", "evalkit", *arguments, "--json", "-"]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    if done.returncode not in (0, 1) or not done.stdout:
        raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr}")
    return json.loads(done.stdout)


def others(folder: Path, model: list[str], flags: list[str], names: list[str]) -> dict[str, dict[str, float]]:
    """BPB and seconds of recipes/NAME.toml on the scored text."""
    found = dict[str, dict[str, float]]()
    for name in names:
        run = told("eval", f"recipes/{name}.toml", *model, *flags, "--out", str(folder / name))
        found[name] = {"bpb": run["totals"]["bpb"], "seconds": run["seconds"]["wall"]}
    return found


def one(
    folder: Path, model: list[str], times: float, args: argparse.Namespace, beside: dict[str, Any]
) -> dict[str, Any]:
    """Measure the plain pass, plan, then score the plan on the other text."""
    other = ["--text", *args.scored, "--limit-tokens", str(args.targets), "--threads", "1"]
    bare = ["--chunk-tokens", "1024", "--adapter", "none", "--plan", args.plain]
    plain = told("eval", *model, *other, *bare, "--out", str(folder / f"plain{times}"))
    budget = times * plain["seconds"]["wall"]
    out = folder / f"plan{times}"
    ask = ["--text", *args.text, "--budget", f"{budget:.3f}", "--targets", str(args.targets), "--threads", "1"]
    said = told("plan", *model, *ask, "--out", str(out))
    run = told("eval", str(out / "planned.toml"), *other, "--out", str(folder / f"run{times}"))
    wall, gain = run["seconds"]["wall"], run["totals"]["bpb"] - plain["totals"]["bpb"]
    forecast, size = said["chosen"]["forecast"], said["at_size"]
    fitting = {name: r["bpb"] for name, r in beside.items() if r["seconds"] <= budget}
    return {
        "checkpoint": Path(model[1]).name if model else "bundled",
        "text": [Path(name).name for name in args.text],
        "scored": [Path(name).name for name in args.scored],
        "times": times,
        "targets": run["totals"]["targets"],
        "complete": run["complete"],
        "budget": budget,
        "chosen": said["chosen"]["name"],
        "why": said["why"],
        "tried": said["tried"],
        "search_seconds": said["search"]["spent"],
        "busy": said["search"]["busy"],
        "forecast": forecast["total"],
        "seconds": wall,
        "error": forecast["total"] / wall - 1.0,
        "within_budget": run["complete"] and wall <= budget,
        "plain_bpb": plain["totals"]["bpb"],
        "bpb": run["totals"]["bpb"],
        "gain": gain,
        "interval": [size["low"], size["high"]],
        "inside": size["low"] <= gain <= size["high"],
        "beside": beside,
        "best_that_fits": min(fitting, key=lambda name: fitting[name]) if fitting else None,
        "behind_it": run["totals"]["bpb"] - min(fitting.values()) if fitting else None,
        "environment": run["environment"],
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, a line a checkpoint and budget."""
    head = "| checkpoint | budget | planned | forecast, s | seconds | error | gain | interval | fast | best that fits |"
    lines = [head, "|---" * 10 + "|"]
    for r in sorted(rows, key=lambda r: (r["checkpoint"], r["times"])):
        low, high = r["interval"]
        fast = r["bpb"] - r["beside"]["fast"]["bpb"]
        cells = (
            r["checkpoint"], f"{r['times']:g}x, {r['budget']:.1f} s", f"`{short(r['chosen'])}`", f"{r['forecast']:.1f}",
            f"{r['seconds']:.1f}", f"{100 * r['error']:+.1f} %", f"{r['gain']:+.4f}", f"{low:+.4f} .. {high:+.4f}",
            f"{fast:+.4f}", f"{r['behind_it']:+.4f}" if r["behind_it"] is not None else "",
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def short(name: str) -> str:
    """Adapters by name, the plan without what it always has."""
    plan, _, adapters = name.partition(" | ")
    words = [word.partition(":")[0] for word in adapters.split(" + ")]
    return f"{plan.replace(',segment=0', '')}; {' + '.join(words)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", nargs="+", required=True)
    parser.add_argument("--scored", nargs="+", required=True)
    parser.add_argument("--targets", type=int, default=20_000)
    parser.add_argument("--checkpoint", action="append", help="several; none: the bundled one")
    parser.add_argument("--times", nargs="+", type=float, default=[1.2, 3.0, 10.0])
    parser.add_argument(
        "--beside", nargs="*", default=[], help="recipes that are scored as well, such as experts best lanes"
    )
    parser.add_argument("--plain", default="banded:window=512,block=1024,segment=0", help="plan of the plain pass")
    args = parser.parse_args()
    path = RESULTS / "plan.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    words = [Path(w).name if "/" in w else w for w in sys.argv[1:]]
    with tempfile.TemporaryDirectory(prefix="evalkit-plan-") as name:
        for i, checkpoint in enumerate(args.checkpoint or [None]):
            folder, model = Path(name) / str(i), ["--checkpoint", checkpoint] if checkpoint else []
            flags = ["--text", *args.scored, "--limit-tokens", str(args.targets), "--threads", "1"]
            beside = others(folder, model, flags, ["fast", *args.beside])
            for times in args.times:
                row = one(folder, model, times, args, beside)
                row["command"] = " ".join(["python -m benches.plan", *words])
                rows = [r for r in rows if any(r[k] != row[k] for k in ("checkpoint", "times", "scored"))] + [row]
                path.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")
                print(json.dumps(row), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
