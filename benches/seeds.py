"""How much is seed noise?  The same training recipe with several seeds: BPB of weights and artifact, mean and deviation.

    python -m benches.seeds --data train.jsonl.xz --runs runs/seeds [--recipe tiny-cpu] [--seeds 0 1 2] [-- FLAGS OF train]

Each seed is a run of its own in RUNS/SEED; one that is complete is read, not trained again.  ``--data`` may be left out
when all are complete.  Writes benches/results/seeds.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
KINDS = ("val_bpb_float", "val_bpb_artifact", "artifact_bytes")


def run(recipe: str, data: list[str], out: Path, seed: int, flags: list[str]) -> dict[str, Any]:
    """run.json of the finished run in ``out``, trained there if it is not complete."""
    facts = out / "run.json"
    if not (facts.exists() and json.loads(facts.read_text())["complete"]):
        if not data:
            raise SystemExit(f"{out} holds no complete run: give --data")
        command = [sys.executable, "-m", "train", "--recipe", recipe, "--data", *data, "--out", str(out)]
        if subprocess.run([*command, "--seed", str(seed), *flags], check=False).returncode:
            raise SystemExit(f"seed {seed}: training failed")
    found = json.loads(facts.read_text())
    if found["settings"]["run"]["seed"] != seed:
        raise SystemExit(f"{out} was trained with seed {found['settings']['run']['seed']}, not {seed}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="tiny-cpu")
    parser.add_argument("--data", nargs="+", default=[])
    parser.add_argument("--runs", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    own, flags = parser.parse_known_args()
    flags = [f for f in flags if f != "--"]
    rows = []
    for seed in own.seeds:
        found = run(own.recipe, own.data, Path(own.runs) / str(seed), seed, flags)
        keep = {"seed": seed, **{k: found["totals"][k] for k in KINDS}, "seconds": found["seconds"]["train"]}
        rows.append({**keep, "fingerprint": found["fingerprint"], "environment": found["environment"]})
        print(json.dumps(rows[-1]), flush=True)
    sums = {}
    for kind in KINDS:
        values = [row[kind] for row in rows]
        sums[kind] = {"mean": statistics.fmean(values), "std": statistics.stdev(values) if len(values) > 1 else None}
    words = [Path(w).name if "/" in w else w for w in sys.argv[1:]]
    report = {"command": " ".join(["python -m benches.seeds", *words]), "recipe": own.recipe, "rows": rows, **sums}
    (RESULTS / "seeds.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(sums))
    return 0


if __name__ == "__main__":
    sys.exit(main())
