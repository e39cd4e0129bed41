"""How is the base model trained from a shell?  ``python -m train --recipe tiny-cpu --data FILES --out DIR``"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from evalkit.errors import EvalkitError, InputError

EPILOGUE = """examples:
  python -m train --recipe tiny-cpu --data train.jsonl.xz --out runs/tiny
  python -m train --recipe smoke --data notes.txt --out runs/smoke --set run.steps=20

The same command continues an interrupted run.  DIR gets train.log, run.json and model.ek."""


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m train",
        description="Train the base model and write its artifact.",
        epilog=EPILOGUE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--recipe", default="tiny-cpu", help="a bundled recipe's name or a .toml file (default tiny-cpu)")
    p.add_argument("--data", nargs="+", required=True, type=Path, help="text: .txt or .jsonl with 'text', plain or .xz")
    p.add_argument("--out", required=True, type=Path, help="folder of the run; an interrupted run continues there")
    p.add_argument("--seed", type=int, help="same as --set run.seed=N")
    p.add_argument("--set", action="append", default=[], metavar="TABLE.KEY=VALUE", help="override one recipe field")
    return p


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    # Two OpenMP threads that spin at barriers stall for seconds when another job holds a core.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        run(args.recipe, args.data, args.out, args.set + ([f"run.seed={args.seed}"] if args.seed is not None else []))
    except EvalkitError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"error: cannot read or write {error.filename}: {error.strerror}", file=sys.stderr)
        return InputError.exit_code
    except KeyboardInterrupt:
        print("stopped; the same command continues from the last checkpoint", file=sys.stderr)
        return 130
    return 0


def run(recipe_name: str, files: list[Path], out: Path, overrides: list[str]) -> Path:
    """Train and export; returns the artifact's path."""
    from train.recipe import load_recipe

    recipe = load_recipe(recipe_name, overrides)
    out.mkdir(parents=True, exist_ok=True)
    from train import data
    from train.loop import Trainer

    corpus = data.prepare(files, out / "data", recipe.model.vocab_size, recipe.data.held_out_permille)
    trainer = Trainer(recipe, corpus, out)
    trainer.run()
    from train import export

    return export.finish(trainer, recipe_name)


if __name__ == "__main__":
    sys.exit(main())
