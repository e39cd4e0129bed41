"""``evalkit ablate``: leave one adapter out at a time."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from evalkit.cli.eval import add_run_flags
from evalkit.cli.session import check_json, json_flag, tell

EXAMPLES = """examples:
  evalkit ablate recipe.toml --out runs/ablation          one run per adapter, and the full stack; the same command resumes
  evalkit ablate --adapter lora_ttt --adapter ppm --limit-tokens 100000
"""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "ablate",
        help="leave one adapter out at a time",
        description="Score a stack, then the stack without each of its adapters, on the same targets and windows.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_run_flags(parser)
    parser.add_argument("--out", metavar="DIR", help="keep every run, ablation.json and ablation.svg here")
    json_flag(parser, " instead of the table")
    parser.add_argument("--svg", metavar="FILE", help="write the plot there")


def run(args: argparse.Namespace) -> int:
    from evalkit.cli.eval import resolve
    from evalkit.errors import InputError
    from evalkit.report.ablation import ablation, ablation_svg, ablation_table

    recipe = resolve(args)
    if not recipe.adapters:
        raise InputError("ablate: the stack is empty, there is nothing to leave out; give --adapter or a recipe")
    check_json(args)
    if args.svg and not Path(args.svg).resolve().parent.is_dir():
        raise InputError(f"--svg {args.svg}: its folder does not exist")
    full, without = _runs(recipe, Path(args.out) if args.out else None)
    found = ablation(full, without, recipe.run.seed)
    tell(args, found, lambda: print(ablation_table(found), end=""))
    if args.out:
        (Path(args.out) / "ablation.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    for name in filter(None, (args.svg, args.out and Path(args.out) / "ablation.svg")):
        Path(name).write_text(ablation_svg(found), encoding="utf-8")
    return 0


def _runs(recipe: Any, out: Path | None) -> tuple[Any, list[tuple[str, Any]]]:
    """(full stack, [(name, stack without it)]): one model, one plan, one chunk size for all of them."""
    from dataclasses import replace

    from evalkit.adapters.registry import make_adapter
    from evalkit.cli.progress import Progress
    from evalkit.cli.session import open_parts, say
    from evalkit.scoring.run import settled
    from evalkit.scoring.score import ScoreOptions, score

    run = recipe.run
    model, stream, plan, adapters = open_parts(recipe)
    options = ScoreOptions(run.chunk_tokens, run.batch_tokens, run.seed, run.sentinel, save_scores=run.save_scores)
    options, plan = settled(model, plan, adapters, options)

    def one(name: str, stack: list[Any], options: ScoreOptions) -> Any:
        say(name)
        folder = None if out is None else out / name.replace(" ", "-")
        with Progress(stream.n_targets) as progress:
            return score(model, stream, stack, plan, out=folder, options=options, on_chunk=progress.chunk)

    full = one("full stack", adapters, options)
    labels, without = _labels([name for name, _ in recipe.adapters]), []
    for left_out, label in enumerate(labels):
        stack = [make_adapter(n, raw) for i, (n, raw) in enumerate(recipe.adapters) if i != left_out]
        without.append((label, one(f"without {label}", stack, replace(options, base_pass=False))))
    return full, without


def _labels(names: list[str]) -> list[str]:
    """Names, numbered where one occurs twice."""
    return [f"{n} {names[:i].count(n) + 1}" if names.count(n) > 1 else n for i, n in enumerate(names)]
