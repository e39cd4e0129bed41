"""``evalkit compare A B``: two runs, paired by document."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("compare", help="two runs, paired by document")
    parser.add_argument("run_a", metavar="RUN_A")
    parser.add_argument("run_b", metavar="RUN_B")
    parser.add_argument(
        "--more", nargs="+", metavar="RUN", default=[], help="further pairs A B of other seeds, for the field's rule"
    )
    parser.add_argument("--base", action="store_true", help="compare the base scores, without adapters")
    parser.add_argument("--force", action="store_true", help="compare although plans differ, and say so")
    parser.add_argument("--json", metavar="FILE", help="machine form; '-' prints it")


def run(args: argparse.Namespace) -> int:
    from evalkit.errors import InputError
    from evalkit.report.compare import compare, over_seeds

    if len(args.more) % 2:
        raise InputError(f"--more takes pairs of runs, got {len(args.more)}")
    pairs = [(Path(args.run_a), Path(args.run_b))]
    pairs += [(Path(a), Path(b)) for a, b in zip(args.more[::2], args.more[1::2], strict=True)]
    found = compare(*pairs[0], force=args.force, column="nats_base" if args.base else "nats")
    if len(pairs) > 1:
        found["field_rule"] = over_seeds(pairs)
    if args.json:
        text = json.dumps(found, indent=2)
        if args.json == "-":
            print(text)
            return 0
        Path(args.json).write_text(text + "\n", encoding="utf-8")
    _print(found)
    return 0


def _print(found: dict[str, Any]) -> None:
    for difference in found["differs_in"]:
        print(f"note: the runs differ in {difference}")
    print(f"A  {found['a']['bpb']:.5f} BPB  {found['a']['run']}")
    print(f"B  {found['b']['bpb']:.5f} BPB  {found['b']['run']}")
    interval = found["ci95"]
    span = f"95 % interval {interval[0]:+.5f} .. {interval[1]:+.5f}" if interval else "one document: no interval"
    print(f"B - A  {found['delta_bpb']:+.5f} BPB  ({span}, {found['documents']} documents)")
    if interval:
        better = "B is better" if found["delta_bpb"] < 0 else "A is better"
        print(better if found["distinguishable"] else "the two cannot be told apart on this text")
    for row in found["largest"]:
        print(f"  document {row['document']} ({row['name']}): {row['delta_bits']:+.1f} bits over {row['bytes']} bytes")
    if "field_rule" in found:
        rule = found["field_rule"]
        verdict = "a record by the field's rule" if rule["record"] else "not a record by the field's rule"
        print(f"{verdict}: gain {rule['gain_nats_per_token']:.5f} nats/token, bar {rule['bar']}, p = {rule['p']:.3g}")
