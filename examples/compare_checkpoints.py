"""Score two checkpoints on one text, say whether they can be told apart, and draw where they differ.

python examples/compare_checkpoints.py A.int8.ptz B.int8.ptz --text val.jsonl --out compared
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import evalkit
from evalkit.cli.session import choose_tokenizer
from evalkit.report.compare import compare
from evalkit.report.svg import Series, line_plot


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs=2, metavar="CHECKPOINT")
    parser.add_argument("--text", nargs="+", required=True)
    parser.add_argument("--tokenizer", default=None)
    parser.add_argument("--limit-tokens", type=int, default=None)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)

    rates = []
    for side, checkpoint in zip("ab", args.checkpoints, strict=True):
        model = evalkit.open_checkpoint(checkpoint)
        tokenizer, _ = choose_tokenizer(args.tokenizer, checkpoint, model)
        stream = evalkit.open_stream(args.text, tokenizer, limit_targets=args.limit_tokens)
        result = evalkit.score(model, stream, out=args.out / side)  # the same again goes on where it was stopped
        rows = result.documents
        rates.append((np.cumsum(rows.bytes), np.cumsum(rows.nats[:, 0]) / np.log(2.0)))
        print(f"{checkpoint}: {result.base_bpb:.4f} bits per byte of {int(rows.bytes.sum()):,}")

    found = compare(args.out / "a", args.out / "b")
    told = "can" if found["distinguishable"] else "cannot"
    low, high = found["ci95"] or (float("nan"), float("nan"))
    span = f"95 % interval {low:+.4f} .. {high:+.4f}" if found["ci95"] else "one document, so no interval"
    print(f"B - A: {found['delta_bpb']:+.4f} bits per byte ({span}); they {told} be told apart")

    (size, a), (_, b) = rates
    gained = Series("B - A", (size / 1e3).tolist(), (b - a).tolist())
    picture = line_plot([gained], "thousand bytes of text", "bits lost (above 0) or won by B so far", level=0.0)
    alone = picture[: picture.index("</svg>") + len("</svg>")]
    alone = alone.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" font-size="11" stroke-width="0.5" ', 1)
    (args.out / "difference.svg").write_text(alone + "\n", encoding="utf-8")
    print(f"picture: {args.out / 'difference.svg'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
