"""How good is a forecast?  ``evalkit profile`` on a twentieth of a text against the run of the whole.

    python -m benches.forecast [--targets 400000] [--share 0.05]

Three recipes: experts only, LoRA TTT, both.  Writes benches/results/forecast.json.
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
    "everything": ["--adapter", "lora_ttt", "--adapter", "ppm"],
}


def evalkit(*arguments: str) -> str:
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "evalkit", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr}")
    return done.stdout


def one(name: str, stack: list[str], targets: int, share: float, flags: list[str], folder: Path) -> dict[str, Any]:
    common = [*flags, *stack, "--limit-tokens", str(targets), "--threads", "1"]
    small = ["--tokens", str(round(share * targets)), "--seconds", "600", "--json", "-"]
    profile = json.loads(evalkit("profile", *common, *small))
    run = json.loads(evalkit("eval", *common, "--json", "-", "--out", str(folder / name)))
    said, wall = profile["here"], run["seconds"]["wall"]
    return {
        "recipe": name,
        "calibration_targets": profile["calibration"]["targets"],
        "targets": run["totals"]["targets"],
        "forecast": said["total"],
        "low": said["low"],
        "high": said["high"],
        "measured": wall,
        "error": said["total"] / wall - 1.0,
        "inside": said["low"] <= wall <= said["high"],
        "stages": {row["verb"]: [row["seconds"], run["seconds"].get(row["verb"])] for row in profile["stages"]},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", type=int, default=400_000)
    parser.add_argument("--share", type=float, default=0.05)
    own, flags = parser.parse_known_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="evalkit-forecast-") as name:
        for recipe, stack in RECIPES.items():
            rows.append(one(recipe, stack, own.targets, own.share, [f for f in flags if f != "--"], Path(name)))
            print(json.dumps(rows[-1]), flush=True)
            RESULTS.mkdir(exist_ok=True)
            (RESULTS / "forecast.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0 if all(abs(row["error"]) <= 0.1 for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
