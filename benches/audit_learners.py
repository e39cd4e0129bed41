"""Is every learner legal, alone and in the best stack?  ``evalkit audit`` of a recipe on the bundled checkpoint for each.

    python -m benches.audit_learners [--seconds 60] [--only NAME ...]

Writes benches/results/audit_learners.json; a row of the same name that is there already is replaced.
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

from benches.learners import BY_DOCUMENT, EXPERTS, STACKS

RESULTS = Path(__file__).parent / "results"
ALONE = (
    "full_ttt",
    "muon_ttt",
    "lora_ttt, one state",
    "lora_ttt, per document",
    "phased_ttt",
    "slot",
    "slot, AdamW steps",
)
WITH_SLOT = ["muon_ttt", "slot:chunk=256", *EXPERTS]
AUDITED = {name: STACKS[name] for name in (*ALONE, "muon_ttt + experts")} | {"muon_ttt + slot + experts": WITH_SLOT}
AUDITED |= {name: BY_DOCUMENT[name] for name in ("lora_ttt, lanes", "lora_ttt, lanes + experts")}


def recipe(name: str) -> str:
    """A recipe file for one row."""
    from evalkit.settings import split_spec

    text = '[run]\nplan = "document:seq_len=512,stride=256"\n' if name in BY_DOCUMENT else "[run]\n"
    for spec in AUDITED[name]:
        adapter, settings = split_spec(spec)
        lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
        text += "\n".join(["\n[[adapter]]", f'name = "{adapter}"', *lines]) + "\n"
    return text


def audit(name: str, seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="evalkit-audit-") as folder:
        path, out = Path(folder) / "recipe.toml", Path(folder) / "verdict.json"
        path.write_text(recipe(name), encoding="utf-8")
        command = [sys.executable, "-m", "evalkit", "audit", str(path), "--seconds", str(seconds), "--json", str(out)]
        environ = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)
        if not out.exists():
            raise SystemExit(f"{name}: exit code {done.returncode}\n{done.stderr}")
        verdict = json.loads(out.read_text(encoding="utf-8"))
    kept = ("verdict", "laws", "ledgers", "evidence")
    said = {"name": name, "seconds": seconds, "recipe": recipe(name), "exit_code": done.returncode}
    return said | {k: verdict.get(k) for k in kept}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--only", nargs="+", choices=list(AUDITED), default=list(AUDITED))
    own = parser.parse_args()
    path = RESULTS / "audit_learners.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    for name in own.only:
        row = audit(name, own.seconds)
        rows = sorted([r for r in rows if r["name"] != name] + [row], key=lambda r: list(AUDITED).index(r["name"]))
        probes = {law: f"{found['status']} ({found.get('probes')})" for law, found in row["laws"].items()}
        print(f"{name:32s} {row['verdict']:13s} {probes}", flush=True)
        command = f"python -m benches.audit_learners --seconds {own.seconds:g}"
        content = {"command": command, "rows": rows}
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0 if all(r["verdict"] == "legal" for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
