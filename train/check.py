"""``python -m evalkit.train.check RECIPE [--data FILES]``: is it worth starting?  Answers without training; FAIL exits with 1."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from evalkit.errors import EvalkitError

EPILOGUE = """examples:
  python -m evalkit.train.check h200-10min --data shards/
  python -m evalkit.train.check tiny-cpu --data train.jsonl.xz
  python -m evalkit.train.check tiny-cpu --finished runs/tiny

The same checks run at the start and at the end of python -m evalkit.train and stand in DIR/run.json."""


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m evalkit.train.check",
        description="Check device, attention, text, step time, artifact and code size before a run, or a finished run.",
        epilog=EPILOGUE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("recipe", help="a bundled recipe's name or a .toml file")
    p.add_argument("--data", nargs="+", type=Path, default=[], help="the run's text, or one folder of shards")
    p.add_argument("--finished", type=Path, metavar="DIR", help="check this finished run instead")
    p.add_argument("--ranks", type=int, help="ranks the run will have (default: the recipe's GPUs, or 1)")
    p.add_argument("--set", action="append", default=[], metavar="TABLE.KEY=VALUE", help="override one recipe field")
    p.add_argument("--json", type=Path, help="also write the findings here")
    return p


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        return run(args)
    except EvalkitError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def run(args: argparse.Namespace) -> int:
    """Print a line for each finding on stdout; 1 when one failed."""
    import msgspec

    from evalkit.train import checks, machine
    from evalkit.train.__main__ import open_text
    from evalkit.train.ranks import ALONE
    from evalkit.train.recipe import load_recipe

    recipe = load_recipe(args.recipe, args.set)
    if args.finished:
        found = checks.postflight(recipe, args.finished)
    else:
        device = machine.pick_device(recipe.run.device)
        ranks = args.ranks or (recipe.expect.gpus if device.type == "cuda" else 0) or 1
        with tempfile.TemporaryDirectory() as folder:
            corpus = open_text(recipe, args.data, Path(folder), ALONE) if args.data else None
            found = checks.preflight(recipe, corpus, device, ranks)
    for finding in found:
        print(f"{finding.status.upper():<4}  {finding.check}: {finding.says}")
    if recipe.expect.source:
        print(f"figures of the recipe: {recipe.expect.source}")
    if args.json:
        args.json.write_text(json.dumps(msgspec.to_builtins(found), indent=1))
    return 1 if any(f.status == "fail" for f in found) else 0


if __name__ == "__main__":
    sys.exit(main())
