"""Does any input break the count table?  Minutes of mutated inputs under the sanitizers, and how many there were.

    python -m benches.fuzz [--seconds 600] [--seed 1]        (make fuzz)

Compares csrc/core/gram_table with a std::map at every step and reads arbitrary bytes as a table file.  A finding ends
the program with the sanitizer's report and exit code 1.  Writes benches/results/fuzz.json.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGET = "fuzz_gram_table"
SOURCES = (
    f"csrc/fuzz/{TARGET}.cpp",
    "csrc/core/gram_table.cpp",
    "csrc/core/gram_table_file.cpp",
    "csrc/core/pages.cpp",
)
FLAGS = ["-std=c++17", "-O1", "-g", "-DEVALKIT_FUZZ_MAIN", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "benches/results/fuzz.json")
    args = parser.parse_args()
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        print("no C++ compiler found; install g++", file=sys.stderr)
        return 2
    corpus = sorted(map(str, (ROOT / "csrc/fuzz/corpus/gram_table").iterdir()))
    with tempfile.TemporaryDirectory(prefix="evalkit-fuzz-") as folder:
        program = f"{folder}/fuzz"
        subprocess.run([compiler, *FLAGS, *(str(ROOT / s) for s in SOURCES), "-o", program], check=True)
        done = subprocess.run(
            [program, str(args.seconds), str(args.seed), *corpus], capture_output=True, text=True, check=False
        )
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        return 1
    print(done.stdout, end="")
    found = re.match(r"(\d+) executions, (\d+) bytes", done.stdout)
    assert found is not None
    content = {
        "command": f"python -m benches.fuzz --seconds {args.seconds} --seed {args.seed}",
        "target": TARGET,
        "flags": FLAGS,
        "compiler": subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout.split(
            "\n"
        )[0],
        "corpus_files": len(corpus),
        "seconds": args.seconds,
        "seed": args.seed,
        "executions": int(found[1]),
        "input_bytes": int(found[2]),
        "findings": 0,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
