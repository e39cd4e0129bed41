"""Bytes against BPB: ``python -m evalkit.train.rates --recipe R --data FILES --out DIR`` prints the table.

Reads the finished run in DIR; each row quantises with one setting, writes a real artifact, loads it through the
public door and scores it on the held-out *training* text.  The choice of export settings is made from this table.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import msgspec

from evalkit.errors import EvalkitError
from evalkit.train.recipe import Export, load_recipe

# (matrix bits, matrix k, embedding bits, embedding k): the field's 12.85 / 20, and finer steps for small models.
SETTINGS = (
    (8, 30.0, 8, 30.0),
    (8, 12.85, 8, 12.85),
    (6, 6.4, 8, 10.0),
    (6, 8.0, 8, 12.0),
    (6, 10.0, 8, 14.0),
    (6, 12.85, 8, 20.0),
    (6, 16.0, 8, 24.0),
    (5, 6.4, 8, 14.0),
    (5, 10.0, 7, 14.0),
)


def table(recipe_name: str, files: list[Path], out: Path, overrides: list[str]) -> list[dict[str, object]]:
    """One row per setting and rounding: bits, k, bytes, BPB, gap to the float model."""
    from evalkit.train import data, export
    from evalkit.train.loop import Trainer

    recipe = load_recipe(recipe_name, overrides)
    corpus = data.prepare(files, out / "data", recipe.model.vocab_size, recipe.data.held_out_permille)
    trainer = Trainer(recipe, corpus, out)
    trainer.choose_weights()
    base = export.held_out_bpb(trainer, trainer.model)
    inputs = export.calibration(trainer)
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        for bits, k, embed_bits, embed_k in SETTINGS:
            choice = msgspec.structs.replace(
                recipe.export, matrix_bits=bits, matrix_k=k, embed_bits=embed_bits, embed_k=embed_k
            )
            for name, hessians in (("rtn", None), ("gptq", inputs)):
                size, bpb = export.write_and_measure(
                    trainer, Path(folder) / "m.ek", choice, hessians, recipe_name, base
                )
                rows.append(_row(choice, name, size, bpb, base))
                print(_line(rows[-1]), flush=True)
    return rows


def _row(choice: Export, rounding: str, size: int, bpb: float, base: float) -> dict[str, object]:
    settings = {f: getattr(choice, f) for f in ("matrix_bits", "matrix_k", "embed_bits", "embed_k")}
    return settings | {"rounding": rounding, "bytes": size, "val_bpb": bpb, "gap_bpb": bpb - base}


def _line(row: dict[str, object]) -> str:
    return (
        f"matrices {row['matrix_bits']} bits k {row['matrix_k']:<6} embedding {row['embed_bits']} bits k {row['embed_k']:<6}"
        f" {row['rounding']:<5} {row['bytes']:>9} bytes  {row['val_bpb']:.5f} BPB  {row['gap_bpb']:+.5f}"
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m evalkit.train.rates", description="Bytes against BPB for a finished run."
    )
    parser.add_argument("--recipe", default="tiny-cpu", help="the run's recipe (default tiny-cpu)")
    parser.add_argument("--data", nargs="+", required=True, type=Path, help="the run's text")
    parser.add_argument("--out", required=True, type=Path, help="the run's folder")
    parser.add_argument("--set", action="append", default=[], metavar="TABLE.KEY=VALUE", help="the run's overrides")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    args = parser.parse_args(argv)
    try:
        rows = table(args.recipe, args.data, args.out, args.set)
        if args.json:
            args.json.write_text(json.dumps(rows, indent=1))
    except EvalkitError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
