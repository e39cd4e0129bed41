"""How good is a forecast?  ``evalkit profile`` on a twentieth of a text against the run of the whole.

    python -m benches.forecast [--targets 400000] [--share 0.05] [--only lora] [-- FLAGS OF evalkit eval]

Three recipes: experts only, LoRA TTT, everything.  Rows go to benches/results/forecast.json; a row of the same recipe
that is there already is replaced, so that recipes can be run one at a time.
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

RESULTS = Path(__file__).parent / "results"
RECIPES = {
    "experts": ["--adapter", "ppm"],
    "lora": ["--adapter", "lora_ttt"],
    "everything": [
        *("--adapter", "lora_ttt"),
        *("--adapter", "slot"),
        *("--adapter", "ppm"),
        *("--adapter", "match"),
        *("--adapter", "log_bias"),
        *("--adapter", "temperature"),
    ],
}


def evalkit(*arguments: str) -> str:
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "evalkit", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr}")
    return done.stdout


def one(
    name: str, stack: list[str], targets: int, share: float, flags: list[str], folder: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(what was forecast and what was measured, environment of the run)."""
    common = [*flags, *stack, "--limit-tokens", str(targets), "--threads", "1"]
    small = ["--tokens", str(round(share * targets)), "--seconds", "600", "--json", "-"]
    profile = json.loads(evalkit("profile", *common, *small))
    run = json.loads(evalkit("eval", *common, "--json", "-", "--out", str(folder / name)))
    said, wall = profile["here"], run["seconds"]["wall"]
    row = {
        "recipe": name,
        "adapters": run["settings"]["adapters"],
        "calibration_targets": profile["calibration"]["targets"],
        "targets": run["totals"]["targets"],
        "forecast": said["total"],
        "low": said["low"],
        "high": said["high"],
        "measured": wall,
        "error": said["total"] / wall - 1.0,
        "inside": said["low"] <= wall <= said["high"],
        "stages": {r["verb"]: [r["seconds"], run["seconds"].get(r["verb"])] for r in profile["stages"]},
    }
    return row, run["environment"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", type=int, default=400_000)
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--only", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    own, flags = parser.parse_known_args()
    flags = [f for f in flags if f != "--"]
    words = ["--targets", str(own.targets), "--share", str(own.share), "--", *flags]
    path = RESULTS / "forecast.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    with tempfile.TemporaryDirectory(prefix="evalkit-forecast-") as name:
        for recipe in own.only:
            row, environment = one(recipe, RECIPES[recipe], own.targets, own.share, flags, Path(name))
            row["command"] = " ".join(["python -m benches.forecast", *(Path(w).name if "/" in w else w for w in words)])
            rows = [r for r in rows if r["recipe"] != recipe] + [row]
            rows.sort(key=lambda r: list(RECIPES).index(r["recipe"]))
            print(json.dumps(row), flush=True)
            RESULTS.mkdir(exist_ok=True)
            content = {"environment": environment, "rows": rows}
            path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0 if all(abs(row["error"]) <= 0.1 for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
