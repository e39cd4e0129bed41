"""``make bench``: every bench that runs without arguments, one after the other; each writes benches/results/NAME.json."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SLOW = {
    "ablation",
    "artifact_fuzz",
    "audit_seconds",
    "audit_unseen",
    "bases",
    "chaos",
    "worldsize",
    "forecast",
    "learners",
    "plan",
    "quantise",
    "audit_learners",
    "experts",
    "fuzz",
    "full_table",
    "hf",
}
"""Minutes to hours: asked for by name only."""


def names() -> list[str]:
    """Modules of this folder that are benches."""
    return sorted(
        p.stem for p in HERE.glob("*.py") if not p.stem.startswith("_") and "def main" in p.read_text("utf-8")
    )


def main() -> int:
    """Run the benches named, or all quick ones; returns 1 when one of them failed."""
    parser = argparse.ArgumentParser(prog="python -m benches", description=__doc__)
    parser.add_argument("bench", nargs="*", help=f"one or more of: {', '.join(names())}")
    wanted = parser.parse_args().bench
    unknown = sorted(set(wanted) - set(names()))
    if unknown:
        parser.error(f"no bench is called {unknown[0]}; known: {chr(44).join(names())}")
    chosen = wanted or [n for n in names() if n not in SLOW]
    failed = []
    for name in chosen:
        print(f"== {name}", flush=True)
        if subprocess.run([sys.executable, "-m", f"benches.{name}"], cwd=HERE.parent, check=False).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
