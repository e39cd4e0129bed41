"""What does the audit find on black boxes that it was not tuned on?  One row for each scorer and seed.

    python -m benches.audit_unseen tests/illegal/unseen_second.py --seconds 30 --out FILE.json

The file has factories without arguments and EXPECTED: name -> "legal", the law that must be named, or "any".
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.legality import audit
from evalkit.legality.effort import Clock


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--only", nargs="*", help="names of some scorers")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument(
        "--cpu", action="store_true", help="count CPU seconds and the scorers' sleep, not the wall's seconds"
    )
    parser.add_argument("--what", default="", help="a sentence kept in the file")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    module = _load(args.file)
    clock = cpu_clock() if args.cpu else time.monotonic
    rows = []
    for name in args.only or module.EXPECTED:
        for seed in range(args.seeds):
            rows.append(_row(getattr(module, name), name, module.EXPECTED[name], seed, args.seconds, clock))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    found = {"what": args.what, "commit": _commit(), "environment": _environment(), "command": _command(args)}
    found |= {"right": sum(r["right"] for r in rows), "of": len(rows), "rows": rows}
    text = json.dumps(found, indent=1) + "\n"
    args.out.write_text(text, encoding="utf-8") if args.out else print(text)
    return 0 if found["right"] == found["of"] else 1


def cpu_clock(slower: float = 1.0) -> Clock:
    """CPU seconds of this process (times ``slower``) and the seconds that scorers ask to sleep, which nobody then sleeps:
    on a machine that others use, too, the same questions are asked as on an idle one."""
    slept = 0.0

    def sleep(seconds: float) -> None:
        nonlocal slept
        slept += seconds

    time.sleep = sleep
    return lambda: slower * time.process_time() + slept


def _load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _row(factory: Any, name: str, expected: str, seed: int, seconds: float, clock: Clock) -> dict[str, Any]:
    start, cpu = clock(), time.process_time()
    verdict = audit(factory, seconds=seconds, seed=seed, clock=clock)
    caught = verdict.verdict == "violation" and (expected == "any" or expected in verdict.violated())
    return {
        "scorer": name,
        "expected": expected,
        "seed": seed,
        "verdict": verdict.verdict,
        "laws": sorted(verdict.violated()),
        "right": verdict.verdict == "legal" if expected == "legal" else caught,
        "reason": verdict.reason,
        "calls": verdict.calls,
        "seconds": round(clock() - start, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "power": {k: verdict.power["normalised"][k] for k in ("full_forks", "gate_fraction")},
    }


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _environment() -> dict[str, str]:
    return {"machine": platform.machine(), "python": platform.python_version(), "numpy": np.__version__}


def _command(args: argparse.Namespace) -> str:
    return (
        f"python -m benches.audit_unseen {args.file} --seconds {args.seconds:g} --seeds {args.seeds}"
        + " --cpu" * args.cpu
    )


if __name__ == "__main__":
    sys.exit(main())
