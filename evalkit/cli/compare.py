"""``evalkit compare A B``: two runs, paired by document."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from evalkit.cli.session import check_json, json_flag, tell

EXAMPLES = """examples:
  evalkit compare runs/a runs/b                           is b better than a on the same text and plan?
  evalkit compare runs/a runs/b --html words.html         and where: the text, coloured by bits won and lost
  evalkit compare runs/a runs/b --base                    the same question for the checkpoints, without adapters
  evalkit compare runs/a1 runs/b1 --more runs/a2 runs/b2 runs/a3 runs/b3
                                                          and the field's rule: 0.005 nats/token at p < 0.01 over seeds
"""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "compare",
        help="compare two runs, paired by document",
        description="B minus A in bits per byte, with a bootstrap interval over documents.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run_a", metavar="RUN_A")
    parser.add_argument("run_b", metavar="RUN_B")
    parser.add_argument(
        "--more", nargs="+", metavar="RUN", default=[], help="further pairs A B of other seeds, for the field's rule"
    )
    parser.add_argument("--base", action="store_true", help="compare the base scores, without adapters")
    parser.add_argument("--force", action="store_true", help="compare even if text or plan differ, and say so")
    parser.add_argument("--html", metavar="FILE", help="write a page with the words that B won and lost")
    json_flag(parser)


def run(args: argparse.Namespace) -> int:
    from evalkit.errors import InputError
    from evalkit.report.compare import compare
    from evalkit.report.seeds import over_seeds

    if len(args.more) % 2:
        raise InputError(f"--more takes pairs of runs A B, got {len(args.more)} runs")
    check_json(args)
    pairs = [(Path(args.run_a), Path(args.run_b))]
    pairs += [(Path(a), Path(b)) for a, b in zip(args.more[::2], args.more[1::2], strict=True)]
    column = "nats_base" if args.base else "nats"
    found = compare(*pairs[0], force=args.force, column=column)
    if len(pairs) > 1:
        found["field_rule"] = over_seeds(pairs, force=args.force, column=column)
    if args.html:
        _write_page(args.html, found)
    tell(args, found, lambda: print("\n".join(lines(found))))
    return 0


def _write_page(path: str, found: dict[str, Any]) -> None:
    """Opens the text of run A again; neither its adapters nor the causality of its model are asked for."""
    import msgspec

    from evalkit.cli.opening import open_run
    from evalkit.report.compare import compare_page
    from evalkit.scoring.result import RunRecord
    from evalkit.stream.files import write_atomic

    record = RunRecord.read(Path(found["a"]["run"]))
    bare = {**record.settings, "adapters": [], "trust_causal": True}
    _, stream = open_run(msgspec.structs.replace(record, settings=bare))
    write_atomic(Path(path), compare_page(found, stream).encode(errors="backslashreplace"))


def lines(found: dict[str, Any]) -> list[str]:
    """What the user reads."""
    return [*_warnings(found), *_answer(found), *_settings(found), *_documents(found), *_rule(found)]


def _warnings(found: dict[str, Any]) -> list[str]:
    told = [f"note: forced, although the runs differ in {difference}" for difference in found["differs_in"]]
    if any(found["left_out"]):
        a, b = found["left_out"]
        told.append(f"note: only documents that both scored are compared; left out: {a:,} of A, {b:,} of B")
    return told + [f"note: {text}" for text in found["notes"]]


def _answer(found: dict[str, Any]) -> list[str]:
    interval, count = found["ci95"], found["documents"]
    told = f"{count:,} {'document' if count == 1 else 'documents'}"
    span = f"95 % interval {interval[0]:+.5f} .. {interval[1]:+.5f}, {told}" if interval else f"{told}: no interval"
    answer = "the two cannot be told apart on this text"
    if found["distinguishable"]:
        answer = "B is better" if found["delta_bpb"] < 0 else "A is better"
    nats = found["delta_nats_per_token"]
    per_token = "" if nats is None else f", {nats:+.5f} nats/token"
    what = " (base)" if found["column"] == "nats_base" else ""
    return [
        f"A      {found['a']['bpb']:.5f} BPB{what}  {found['a']['run']}",
        f"B      {found['b']['bpb']:.5f} BPB{what}  {found['b']['run']}",
        f"B - A {found['delta_bpb']:+.5f} BPB{per_token}  ({span})",
        answer if interval else "one document cannot say which is better",
    ]


def _settings(found: dict[str, Any]) -> list[str]:
    """What was set differently, at most eight of them."""
    rows = [f"  {key}: {_short(a)} -> {_short(b)}" for key, a, b in found["settings"][:8]]
    more = len(found["settings"]) - len(rows)
    rows += [f"  and {more} more (see --json -)"] if more > 0 else []
    return ["settings that differ, A -> B:", *rows] if rows else ["no setting differs"]


def _documents(found: dict[str, Any]) -> list[str]:
    rows = [
        f"  {row['document']:>6}  {row['delta_bits']:+12,.1f} bits over {row['bytes']:,} bytes  {_short(row['name'])}"
        for row in found["largest"]
    ]
    return ["documents that differ most, B - A:", *rows] if rows else ["no document differs"]


def _rule(found: dict[str, Any]) -> list[str]:
    rule = found.get("field_rule")
    if rule is None:
        return []
    verdict = "a record by the field's rule" if rule["record"] else "not a record by the field's rule"
    return [
        f"{verdict}: B gains {rule['gain_nats_per_token']:+.5f} nats/token over {rule['seeds']} seeds; above the bar of "
        f"{rule['bar']} with p = {rule['p']:.3g} (paired t; Welch {rule['p_welch']:.3g}), asked is p < {rule['level']}"
    ]


def _short(text: Any) -> str:
    """One printable line, at most 60 characters."""
    line = "".join(ch if ch.isprintable() else "?" for ch in str(text))
    return line if len(line) <= 60 else line[:57] + "..."
