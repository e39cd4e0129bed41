"""The command line of training: ``evalkit train --recipe tiny-cpu --data FILES --out DIR``."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.errors import EvalkitError, InputError

if TYPE_CHECKING:
    from evalkit.train.checks import Finding
    from evalkit.train.data import Corpus
    from evalkit.train.ranks import Ranks
    from evalkit.train.recipe import Recipe

EPILOGUE = """examples:
  evalkit train --recipe tiny-cpu --data train.jsonl.xz --out runs/tiny
  evalkit train --recipe smoke --data notes.txt --out runs/smoke --set run.steps=20
  evalkit train --recipe h200-10min --data shards/ --out runs/h200
  torchrun --nproc-per-node 8 -m evalkit.train --recipe 8xh100-10min --data shards/ --out runs/8xh100

The same command continues an interrupted run.  DIR gets train.log, run.json and model.ek.  Checks run before the first
step and after the export (python -m evalkit.train.check runs the first ones alone); a check that fails ends the command."""


DESCRIPTION = "Train the base model and write its artifact."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of ``evalkit train`` and of ``python -m evalkit.train``."""
    parser.add_argument(
        "--recipe", default="tiny-cpu", help="a bundled recipe's name or a .toml file (default tiny-cpu)"
    )
    parser.add_argument(
        "--data",
        nargs="+",
        required=True,
        type=Path,
        help="text (.txt, or .jsonl with 'text', plain or .xz), or one folder of shards and their tokenizer",
    )
    parser.add_argument("--out", required=True, type=Path, help="folder of the run; an interrupted run continues there")
    parser.add_argument("--seed", type=int, help="same as --set run.seed=N")
    parser.add_argument(
        "--set", action="append", default=[], metavar="TABLE.KEY=VALUE", help="override one recipe field"
    )


def main(argv: list[str] | None = None) -> int:
    """One sentence on stderr and an exit code for every failure, as ``evalkit`` has it."""
    parser = argparse.ArgumentParser(
        prog="python -m evalkit.train",
        description=DESCRIPTION,
        epilog=EPILOGUE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    try:
        return run_arguments(parser.parse_args(argv))
    except EvalkitError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"error: cannot read or write {error.filename}: {error.strerror}", file=sys.stderr)
        return InputError.exit_code
    except KeyboardInterrupt:
        print("stopped; the same command continues from the last checkpoint", file=sys.stderr)
        return 130


def run_arguments(args: argparse.Namespace) -> int:
    """Train as the parsed flags say; returns 0, raises EvalkitError."""
    # Two OpenMP threads that spin at barriers stall for seconds when another job holds a core.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    run(args.recipe, args.data, args.out, args.set + ([f"run.seed={args.seed}"] if args.seed is not None else []))
    return 0


def run(recipe_name: str, files: list[Path], out: Path, overrides: list[str]) -> Path:
    """Check, train, export, check again; returns the artifact's path.  Under torchrun this is one rank of several."""
    from evalkit.train.recipe import load_recipe

    recipe = load_recipe(recipe_name, overrides)
    out.mkdir(parents=True, exist_ok=True)
    from evalkit.train import checks, machine
    from evalkit.train.ranks import join

    ranks, device = join(machine.pick_device(recipe.run.device))
    try:
        corpus = open_text(recipe, files, out, ranks)
        before = checks.preflight(recipe, corpus, device, ranks.world)
        checks.say(before, ranks.rank)
        checks.stop_on_failure(before)
        return _train(recipe_name, recipe, corpus, out, ranks, before)
    finally:
        ranks.leave()


def open_text(recipe: Recipe, files: list[Path], out: Path, ranks: Ranks) -> Corpus:
    """Open a folder of shards, or tokenise text into DIR/data; rank 0 goes first and the others find the work done."""
    from evalkit.train import data

    def opened() -> Corpus:
        if len(files) == 1 and files[0].is_dir():
            return data.open_corpus(files[0])
        return data.prepare(files, out / "data", recipe.model.vocab_size, recipe.data.held_out_permille)

    corpus = opened() if ranks.rank == 0 else None
    ranks.wait()
    return corpus or opened()


def _train(recipe_name: str, recipe: Recipe, corpus: Corpus, out: Path, ranks: Ranks, before: list[Finding]) -> Path:
    from evalkit.train import checks, export
    from evalkit.train.loop import Trainer

    trainer = Trainer(recipe, corpus, out, ranks)
    trainer.run()
    path = out / export.NAME
    if ranks.rank == 0:
        path = export.finish(trainer, recipe_name)
        after = checks.postflight(recipe, out)
        checks.record(out, trainer, before, after)
        checks.say(after)
        checks.stop_on_failure(after)
    else:
        trainer.choose_weights()  # rank 0 does so inside export.finish, and scoring is shared
    ranks.wait()
    return path


if __name__ == "__main__":
    sys.exit(main())
