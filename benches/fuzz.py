"""Does any input break the count table or the hint tables?  Minutes of mutated inputs under the sanitizers, counted.

    python -m benches.fuzz [--seconds 600] [--seed 1] [--target hint_tables]        (make fuzz)

Every target compares tables of csrc/core with a std::map at every step; the count table also reads arbitrary bytes as a
file.  A finding ends the program with the sanitizer's report and exit code 1.  Writes benches/results/fuzz.json, where
``seconds`` are of the clock and ``cpu_seconds`` what the target had of them.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TARGETS = {
    "gram_table": "gram_table*.cpp",
    "hint_tables": "hints_*.cpp match.cpp",
}
"""Target (csrc/fuzz/fuzz_NAME.cpp, corpus csrc/fuzz/corpus/NAME) -> its sources in csrc/core, beside pages.cpp."""
FLAGS = ["-std=c++17", "-O1", "-g", "-DEVALKIT_FUZZ_MAIN", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def sources(target: str) -> list[str]:
    core = ROOT / "csrc/core"
    found = sorted(path for pattern in TARGETS[target].split() for path in core.glob(pattern))
    return [str(path) for path in (ROOT / f"csrc/fuzz/fuzz_{target}.cpp", *found, core / "pages.cpp")]


def fuzz(target: str, compiler: str, seconds: int, seed: int) -> dict[str, Any] | None:
    """What one target did; None after a finding, whose report is on stderr."""
    corpus = sorted(map(str, (ROOT / "csrc/fuzz/corpus" / target).iterdir()))
    with tempfile.TemporaryDirectory(prefix="evalkit-fuzz-") as folder:
        program = f"{folder}/fuzz"
        subprocess.run([compiler, *FLAGS, *sources(target), "-o", program], check=True)
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        done = subprocess.run([program, str(seconds), str(seed), *corpus], capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{target}:\n{done.stderr}", file=sys.stderr)
        return None
    print(f"{target}: {done.stdout}", end="", flush=True)
    found = re.match(r"(\d+) executions, (\d+) bytes", done.stdout)
    assert found is not None
    return {
        "target": f"fuzz_{target}",
        "corpus_files": len(corpus),
        "seconds": seconds,
        "cpu_seconds": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before, 1),
        "seed": seed,
        "executions": int(found[1]),
        "input_bytes": int(found[2]),
        "findings": 0,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=600, help="for each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--target", choices=list(TARGETS), action="append", help="these only; others stay in the file")
    parser.add_argument("--out", type=Path, default=ROOT / "benches/results/fuzz.json")
    args = parser.parse_args()
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        print("no C++ compiler found; install g++", file=sys.stderr)
        return 2
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout.split("\n")[0]
    known = json.loads(args.out.read_text("utf-8"))["targets"] if args.out.is_file() else []
    for target in args.target or TARGETS:
        row = fuzz(target, compiler, args.seconds, args.seed)
        if row is None:
            return 1
        known = sorted([r for r in known if r["target"] != row["target"]] + [row], key=lambda r: r["target"])
        content = {"command": "python -m benches.fuzz", "flags": FLAGS, "compiler": version, "targets": known}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
