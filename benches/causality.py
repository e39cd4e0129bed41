"""Is every model judged right when it is opened, and in how many seconds?  The zoo's leaks, their look-alikes, and files.

    python -m benches.causality [--checkpoint C]...          writes benches/results/causality.json

Without ``--checkpoint`` the bundled model stands for files.  Nothing is read from the cache of earlier checks.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch

from evalkit.cli.recipe import ASSETS
from evalkit.models.causality import Causality, probe
from evalkit.models.registry import open_checkpoint
from tests.zoo.model import HONEST, LEAKS

RESULT = Path(__file__).parent / "results" / "causality.json"


def row(name: str, model: Any, causal: bool) -> dict[str, Any]:
    """Probe ``model`` once.  ``worst``: the largest move that passed, as a share of the largest logit."""
    start = time.monotonic()
    found: Causality = probe(model)
    return {
        "model": name,
        "causal": causal,
        "accepted": found.causal,
        "right": found.causal == causal,
        "seconds": round(time.monotonic() - start, 2),
        "tokens": found.tokens,
        "calls": found.calls,
        "forms": found.forms,
        "worst": found.worst / found.scale if found.scale else 0.0,
        "why": found.moves[0].sentence if found.moves else "",
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", action="append", default=[])
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row(kind.__name__, kind(), False) for kind in LEAKS] + [row(kind.__name__, kind(), True) for kind in HONEST]
    for checkpoint in args.checkpoint or [str(ASSETS / "tiny.ek")]:
        rows.append(row(Path(checkpoint).name, open_checkpoint(checkpoint), True))
    command = ["python -m benches.causality", *(f"--checkpoint {Path(name).name}" for name in args.checkpoint)]
    found = {
        "command": " ".join(command),
        "machine": {"processor": platform.machine(), "python": platform.python_version(), "torch": torch.__version__},
        "right": sum(r["right"] for r in rows),
        "of": len(rows),
        "rows": rows,
    }
    RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for r in rows:
        print(f"{r['model']:36s} {'accepted' if r['accepted'] else 'refused':9s} {r['seconds']:6.2f} s  {r['why']}")
    return 0 if found["right"] == found["of"] else 1


if __name__ == "__main__":
    sys.exit(main())
