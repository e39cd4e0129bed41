"""What do bits cost?  A finished run's float weights on many grids: bytes, and BPB on held-out text of two kinds.

    python -m benches.quantise --run runs/tiny-cpu --val val_mix.jsonl.xz [--part ladder|table|sweep|experiments|codecs]

Each part writes its rows into benches/results/quantise.json and leaves the others; the plot is drawn from all of them.
Hessians come from training shards (or from text that the model wrote), never from the validation text, which is only
scored.  BPB is over disjoint windows of the first --tokens tokens of whole documents; the gap is to the float weights on
the same tokens.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benches.quantise_parts import Bench, codecs, experiments, ladder, sweep, table
from evalkit.errors import EvalkitError

RESULT = Path(__file__).parent / "results" / "quantise.json"
PARTS = {"ladder": ladder, "table": table, "sweep": sweep, "experiments": experiments, "codecs": codecs}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benches.quantise", description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="folder of a finished run: its checkpoint and data")
    parser.add_argument("--recipe", default="tiny-cpu", help="the run's recipe (default tiny-cpu)")
    parser.add_argument("--val", type=Path, required=True, help="validation text, only scored")
    parser.add_argument(
        "--calibration", nargs="+", type=Path, help="training text for the Hessians instead of the shards"
    )
    parser.add_argument("--part", choices=PARTS, action="append", help="one or more parts (default all)")
    parser.add_argument("--tokens", type=int, default=65_536, help="tokens scored of each text (default 65,536)")
    parser.add_argument("--out", type=Path, default=RESULT, help="JSON to write; the plot stands beside it")
    args = parser.parse_args(argv)
    try:
        bench = Bench.open(args.run, args.recipe, args.val, args.tokens, args.calibration)
        found: dict[str, Any] = json.loads(args.out.read_text("utf-8")) if args.out.exists() else {}
        found |= {"schema": 1, "what": __doc__.splitlines()[0], **bench.circumstances()}
        for part in args.part or PARTS:
            found[part] = PARTS[part](bench)
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    except EvalkitError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    from benches.quantise_plot import draw

    args.out.with_suffix(".svg").write_text(draw(found), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
