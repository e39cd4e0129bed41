"""``evalkit eval``: score a checkpoint on text, with and without adapters."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from evalkit.cli.recipe import DEFAULT_ADAPTERS, Recipe, RunSettings, read_recipe
from evalkit.cli.session import check_json, json_flag, tell
from evalkit.errors import InputError

EXAMPLES = """examples:
  evalkit eval                                            the bundled checkpoint on the bundled text
  evalkit eval --text notes.txt --adapter none            the model alone, on your text
  evalkit eval --text val.bin.xz --checkpoint model.ek --adapter ppm:memory_mib=512 --out runs/a
  evalkit eval recipe.toml --out runs/b                   the same command resumes an interrupted run
"""


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that every verb which scores something has."""
    parser.add_argument("recipe", nargs="?", metavar="RECIPE.toml", help="settings and adapters; flags override it")
    parser.add_argument("--checkpoint", metavar="C", help="FILE[:key=value,...] or module:Class (default: bundled)")
    parser.add_argument(
        "--tokenizer",
        metavar="T",
        help="FILE.model, tokenizer.json, 'byte' or 'bytes:separator=0' (default: the checkpoint's)",
    )
    parser.add_argument(
        "--trust-causal",
        action="store_true",
        default=None,
        help="skip the check that later tokens leave earlier rows alone",
    )
    parser.add_argument(
        "--lossy",
        action="store_true",
        default=None,
        help="score the text as a folding tokenizer decodes it, and count the changes",
    )
    parser.add_argument("--text", nargs="+", metavar="F", help="text files and token shards (default: bundled sample)")
    parser.add_argument(
        "--adapter", action="append", metavar="NAME[:k=v,...]", help="repeat for a stack; 'none': the model alone"
    )
    parser.add_argument("--plan", metavar="NAME[:k=v]", help="disjoint, sliding, document or banded")
    parser.add_argument("--limit-tokens", type=int, metavar="N", help="score the first N targets")
    parser.add_argument("--chunk-tokens", type=int, metavar="N", help="at most N targets per chunk (default 8192)")
    parser.add_argument("--batch-tokens", type=int, metavar="N", help="at most N input tokens per forward call (8192)")
    parser.add_argument("--seed", type=int, metavar="N", help="random seed (default 0)")
    parser.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1 or auto (default)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: torch's choice)")


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "eval",
        help="score a checkpoint on text, with adapters",
        description="Score text in bits per byte, with and without adapters that learn from what is already scored.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_run_flags(parser)
    parser.add_argument("--nproc", type=int, metavar="N", help="ranks on this machine (default 1)")
    parser.add_argument(
        "--deterministic",
        action=argparse.BooleanOptionalAction,
        help="learners over ranks: the same bits for any number of ranks (default), or sums in any order",
    )
    parser.add_argument(
        "--max-restarts", type=int, metavar="N", help="restart at most N times after a rank dies (default 0)"
    )
    parser.add_argument(
        "--hang-seconds", type=float, metavar="S", help="a rank silent for S seconds counts as hung (30)"
    )
    parser.add_argument("--out", metavar="DIR", help="keep the run here; the same command again resumes it")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="stop after this many seconds of scoring")
    parser.add_argument("--shed", action="append", metavar="NAME", help="work to drop first when the budget is short")
    json_flag(parser, " instead of the table")
    parser.add_argument(
        "--tracker", action="append", metavar="NAME[:k=v,...]", help="log the run to tensorboard, wandb or trackio"
    )
    parser.add_argument("--no-sentinel", action="store_true", help="skip the check of random whole rows")


def resolve(args: argparse.Namespace) -> Recipe:
    """Recipe, then flags over it, then defaults.  InputError on numbers out of range."""
    recipe = read_recipe(Path(args.recipe)) if args.recipe else Recipe(run=RunSettings(), adapters=[])
    run = recipe.run
    given = vars(args)  # a verb may leave some of the flags out
    for name in RunSettings.__struct_fields__:
        value = given.get(name)
        if value is not None:
            setattr(run, name, value)
    if given.get("no_sentinel"):
        run.sentinel = False
    for name, least in (("limit_tokens", 1), ("nproc", 1), ("chunk_tokens", 1), ("batch_tokens", 1), ("threads", 1)):
        value = getattr(run, name)
        if value is not None and value < least:
            raise InputError(f"--{name.replace('_', '-')} must be at least {least}, got {value}")
    if run.max_restarts < 0 or run.hang_seconds < 1 or run.stuck_seconds < 1:
        raise InputError(
            f"max_restarts must be at least 0, hang_seconds and stuck_seconds at least 1, got {run.max_restarts}, "
            f"{run.hang_seconds:g} and {run.stuck_seconds:g}"
        )
    if run.budget is not None and run.budget <= 0:
        raise InputError(f"--budget must be positive seconds, got {run.budget:g}")
    recipe.adapters = _chosen_adapters(args.adapter, recipe.adapters, bool(args.recipe))
    return recipe


def _chosen_adapters(
    flags: list[str] | None, tables: list[tuple[str, dict[str, Any]]], has_recipe: bool
) -> list[tuple[str, dict[str, Any]]]:
    from evalkit.settings import split_spec

    if flags is not None:
        if "none" in flags and len(flags) > 1:
            raise InputError(f"--adapter none stands alone, but {len(flags) - 1} more are given")
        return [] if flags == ["none"] else [split_spec(flag) for flag in flags]
    return tables if has_recipe else [(name, {}) for name in DEFAULT_ADAPTERS]


def run(args: argparse.Namespace) -> int:
    recipe = resolve(args)
    check_json(args)
    if recipe.run.nproc > 1:
        from evalkit.cli.launch import launch_ranks

        return launch_ranks(args, recipe)
    from evalkit.cli.session import execute
    from evalkit.cli.stop import on_sigterm

    with on_sigterm() as asked:
        result = execute(recipe, args.out, stopping=asked)
    return finish(result, args)


def finish(result: Any, args: argparse.Namespace) -> int:
    """Print the table or the JSON; exit code 1 when the budget stopped the run, 0 when SIGTERM did."""
    from evalkit.report.terminal import print_result

    tell(args, result.run, lambda: print_result(result))
    budget = result.record.budget
    for cut in budget.shed:
        where = f"from target {cut['from_target']:,} on"
        print(f"evalkit: to keep the budget, {cut['work']}: {cut['change']} {where}", file=sys.stderr)
    if not result.complete:
        booked = result.record.totals.targets
        signalled = budget.stopped == "signal"
        who = "SIGTERM" if signalled else f"the budget of {budget.seconds:g} s"
        further = "run it again with the same --out to go on" if result.folder else "without --out nothing is kept"
        print(f"evalkit: {who} stopped the run after {booked:,} targets; {further}", file=sys.stderr)
        return 0 if signalled else 1
    return 0
