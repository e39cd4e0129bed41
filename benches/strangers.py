"""Checkpoints that strangers trained: a byte-level RWKV on four texts, and four siblings of one baseline, compared.

    pip install ./examples/rwkv_door
    python -m benches.strangers --data DATA --out runs/strangers        DATA: a folder with texts and checkpoints/

Writes benches/results/strangers.json.  A run that is complete in --out is read, not made again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

TEXTS = ("val_fineweb_head", "val_fineweb_tail", "val_wiki", "val_tech")
SIBLINGS = {"throughput": "", "lr0475": "", "lr045": "", "leaky": ":mlp=leaky^2"}
RESULT = Path(__file__).parent / "results" / "strangers.json"


def run(folder: Path, *arguments: object) -> dict[str, Any]:
    """run.json of ``evalkit eval ARGUMENTS --out folder``."""
    from evalkit.cli.main import main

    if not (folder / "run.json").is_file() and main(["eval", *map(str, arguments), "--out", str(folder)]):
        raise SystemExit(f"evalkit eval {' '.join(map(str, arguments))} failed")
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))


def row(name: str, found: dict[str, Any]) -> dict[str, Any]:
    kept = {k: found["totals"][k] for k in ("targets", "bytes", "base_bpb", "bpb")}
    stack = [stage["adapter"] for stage in found["stages"]]
    return {
        "name": name,
        **kept,
        "stack": stack,
        "plan": found["settings"]["plan"],
        "seconds": found["seconds"]["wall"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    from evalkit.report.compare import compare

    checkpoints, common = args.data / "checkpoints", ("--threads", 1)
    rwkv = (
        "recipes/experts.toml",
        "--checkpoint",
        checkpoints / "tiny_rwkv5v2_730k_fp32.bin",
    )
    texts = {t: run(args.out / t, *rwkv, "--text", args.data / f"{t}.jsonl.xz", *common) for t in TEXTS}
    shard = (
        "--text",
        args.data / "val_fineweb_head_sp1024.bin.xz",
        "--limit-tokens",
        65_536,
        "--plan",
        "banded:window=512",
    )
    siblings = {
        name: run(
            args.out / name, "--checkpoint", f"{checkpoints / f'base7x384_{name}.int8.ptz'}{option}", *shard, *common
        )
        for name, option in SIBLINGS.items()
    }
    pairs = {}
    for other in [name for name in SIBLINGS if name != "throughput"]:
        found = compare(args.out / "throughput", args.out / other)
        pairs[other] = {k: found[k] for k in ("delta_bpb", "ci95", "documents", "distinguishable")}
    result = {
        "command": "python -m benches.strangers --data DATA --out runs/strangers",
        "rwkv": [row(name, found) for name, found in texts.items()],
        "siblings": [row(name, found) for name, found in siblings.items()],
        "throughput against": pairs,
        "environment": texts[TEXTS[0]]["environment"],
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
