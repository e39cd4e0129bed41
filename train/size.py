"""How many bytes a model will take, and how large a model fits (``python -m evalkit.train.size``; before a second is trained).

A grid's payload is the entropy of a Gaussian rounded on the SDClip grid (``coder.gaussian_bits``), for each weight; the
range coder adds next to nothing.  Scales, frequency tables, float16 tensors and the header are counted, the tokenizer
is estimated by its pieces.  The estimate is before training: weights with heavy tails take less.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import numpy as np

from evalkit.errors import InputError
from evalkit.models.ek.coder import gaussian_bits
from evalkit.models.ek.config import GPTConfig, parameter_shapes
from evalkit.models.ek.container import CAP_BYTES, Header, TensorEntry, TokenizerEntry, read_artifact
from evalkit.models.ek.grid import largest
from evalkit.models.ek.lqer import packed_bytes
from evalkit.train.quant.names import bits_and_k, is_grid
from evalkit.train.recipe import Export, load_recipe

TOKENIZER_BYTES = ((0, 0), (1024, 4034), (2048, 9825), (4096, 21892), (8192, 46216), (16384, 94864))
"""Packed size by number of pieces: measured on the bundled training text (the last extrapolated)."""
LEAST_K = 4.0
"""Below, the grid clips what it should keep (4.5 % of a Gaussian at k = 2): more bits serve better."""
FRAME = 20 + 32
"""Prefix and sha256 of an artifact."""


@dataclass(frozen=True)
class Size:
    """Bytes by part; ``parameters`` counts weights."""

    parameters: int
    payload: float
    scales: int
    tables: int
    half: int
    header: int
    tokenizer: int

    @property
    def total(self) -> int:
        return round(self.payload) + self.scales + self.tables + self.half + self.header + self.tokenizer + FRAME


def estimate(config: GPTConfig, export: Export, tokenizer_bytes: int | None = None) -> Size:
    """The artifact's size from shapes and settings alone."""
    payload, scales, tables, half, parameters = 0.0, 0, 0, 0, 0
    entries = list[TensorEntry]()
    for name, shape in sorted(parameter_shapes(config).items()):
        count, kind = math.prod(shape), "grid" if is_grid(name, shape) else "half"
        parameters += count
        symbols, bits = 0, 16
        if kind == "grid":
            bits, k = bits_and_k(name, export)
            symbols = _symbols(count, bits, k)
            payload += count * gaussian_bits(bits, k) / 8
            scales += 2 * shape[0]
            tables += 2 * symbols
            if name == "embed.weight" and export.gptq and export.embed_rank:
                tables += packed_bytes(shape[0], shape[1], export.embed_rank)
        else:
            half += 2 * count
        entries.append(
            TensorEntry(name=name, shape=shape, kind=kind, bits=bits, lo=-symbols // 2, table=symbols,
                        offset=CAP_BYTES // 2, length=count, crc32=1 << 31)
        )  # fmt: skip
    pieces, sizes = [p for p, _ in TOKENIZER_BYTES], [b for _, b in TOKENIZER_BYTES]
    packed = round(float(np.interp(config.vocab_size, pieces, sizes)))
    packed = packed if tokenizer_bytes is None else tokenizer_bytes
    tokenizer = TokenizerEntry(offset=0, length=packed, crc32=1 << 31, bytes=3 * packed, sha256="0" * 64)
    notes: dict[str, str | int | float] = {"recipe": "x" * 10, "steps": 4000, "tokens": 10**9, "text_sha256": "0" * 64}
    header = len(msgspec.json.encode(Header(config=config, tokenizer=tokenizer, tensors=tuple(entries), notes=notes)))
    return Size(parameters, payload, scales, tables, half, header, packed)


def _symbols(count: int, bits: int, k: float) -> int:
    """Entries of a frequency table: how far ``count`` Gaussian draws reach, in steps of k / R, within -R..R."""
    r = largest(bits)
    reach = min(r, math.ceil(math.sqrt(2 * math.log(max(2, count))) * r / k))
    return 2 * reach + 1


def fitting_k(config: GPTConfig, export: Export, target: int, tokenizer_bytes: int | None = None) -> tuple[float, Size]:
    """(factor on both k, its size): the smallest k that fits ``target`` bytes, LEAST_K at the least.

    Raises InputError when no k fits.
    """

    def at(factor: float) -> Size:
        k = {"matrix_k": export.matrix_k * factor, "embed_k": export.embed_k * factor}
        return estimate(config, msgspec.structs.replace(export, **k), tokenizer_bytes)

    low, high = LEAST_K / min(export.matrix_k, export.embed_k), 1000.0
    if (least := at(high).total) > target:
        raise InputError(
            f"{least:,} bytes however large k, {target:,} are wanted; take a smaller model or fewer pieces"
        )
    if at(low).total <= target:
        return low, at(low)
    while high / low > 1.0005:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if at(middle).total <= target else (middle, high)
    return high, at(high)


def largest_model(config: GPTConfig, export: Export, target: int, field: str) -> tuple[GPTConfig, Size]:
    """The recipe's model with the most ``field`` ("layers" or "width") that fits ``target`` bytes; InputError for none."""
    best: tuple[GPTConfig, Size] | None = None
    for number in range(1, 257):
        value = number if field == "layers" else number * config.head_dim
        changed = _with(config, field, value)
        if changed is None:
            continue
        size = estimate(changed, export)
        if size.total > target:
            break
        best = (changed, size)
    if best is None:
        raise InputError(f"no {field} of this model fits {target:,} bytes; take fewer pieces or a larger k")
    return best


def _with(config: GPTConfig, field: str, value: int) -> GPTConfig | None:
    """The config with one field changed, or None where that cannot be built."""
    changes: dict[str, int] = {field: value}
    if field == "width":
        heads = value // config.head_dim
        changes["kv_heads"] = 1 if config.kv_heads == 1 else max(1, round(heads * config.kv_heads / config.heads))
    try:
        return msgspec.structs.replace(config, **changes).check()
    except InputError:
        return None


def flat(params: float, bits: int, k: float) -> float:
    """Bytes of ``params`` Gaussian weights on one grid, without scales and header."""
    return params * gaussian_bits(bits, k) / 8


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m evalkit.train.size",
        description="Bytes of a model before it is trained, and the largest model that fits.",
        epilog="examples: python -m evalkit.train.size --params 30e6 --bits 6; python -m evalkit.train.size --recipe tiny-cpu; "
        "python -m evalkit.train.size --artifact model.ek",
    )
    p.add_argument("--params", type=float, help="number of weights on one grid")
    p.add_argument("--bits", type=int, default=6, help="bits of the grid (default 6)")
    p.add_argument("--k", type=float, default=12.85, help="SDClip's k (default 12.85, the field's for 6 bits)")
    p.add_argument("--recipe", help="a recipe: its own size, the k that fills the budget, the largest models")
    p.add_argument("--set", action="append", default=[], metavar="TABLE.KEY=VALUE", help="override one recipe field")
    p.add_argument("--artifact", type=Path, help="a finished artifact: its estimate against its real size")
    p.add_argument("--budget", type=float, default=CAP_BYTES, help="bytes to fit (default 16,000,000)")
    p.add_argument("--json", action="store_true", help="print the numbers as JSON")
    return p


def answers(args: argparse.Namespace) -> list[dict[str, object]]:
    """One row per question."""
    rows: list[dict[str, object]] = []
    if args.params is not None:
        _check_grid(args)
        rows.append(_flat_row(args.params, args.bits, args.k))
        rows.append(_flat_row(8 * args.budget / gaussian_bits(args.bits, args.k), args.bits, args.k, "largest "))
    if args.recipe:
        rows += _recipe_rows(args.recipe, args.set, int(args.budget))
    if args.artifact:
        rows.append(_artifact_row(args.artifact))
    if not rows:
        raise InputError("nothing to size; give --params N, --recipe NAME or --artifact FILE.ek")
    return rows


def _check_grid(args: argparse.Namespace) -> None:
    if not (args.params > 0 and math.isfinite(args.params) and 2 <= args.bits <= 16 and 0 < args.k < 1e6):
        raise InputError(
            f"--params {args.params:g}, --bits {args.bits}, --k {args.k:g}: weights and k must be positive and bits 2 to 16"
        )


def _flat_row(params: float, bits: int, k: float, what: str = "") -> dict[str, object]:
    return {
        "what": f"{what}{int(params):,} weights at {bits} bits, k {k:g}: {gaussian_bits(bits, k):.3f} bits each",
        "parameters": int(params),
        "bytes": math.floor(flat(params, bits, k)),
    }


def _row(what: str, size: Size, **more: object) -> dict[str, object]:
    return {"what": what, "bytes": size.total, **asdict(size), **more}


def _recipe_rows(name: str, overrides: list[str], budget: int) -> list[dict[str, object]]:
    recipe = load_recipe(name, overrides)
    config, export = recipe.model, recipe.export
    factor, filled = fitting_k(config, export, budget)
    rows = [
        _row(f"{name}, {config.layers} layers of width {config.width}", estimate(config, export)),
        _row(f"the same at {factor:.3f} times k, the finest that fits {budget:,} bytes", filled, k_factor=factor),
    ]
    for field in ("layers", "width"):
        changed, size = largest_model(config, export, budget, field)
        rows.append(_row(f"most {field} that fit {budget:,} bytes: {getattr(changed, field)}", size))
    return rows


def _artifact_row(path: Path) -> dict[str, object]:
    """Estimate with the artifact's own bits and the recipe it names, against the file."""
    found = read_artifact(path)
    name = str(found.header.notes.get("recipe", ""))
    if not name:
        raise InputError(f"{path} names no recipe in its notes, so its k is unknown; use --recipe")
    size = estimate(found.config, load_recipe(name).export, found.header.tokenizer.length)
    real = found.size - len(found.corpus or b"")
    error = 100 * (size.total / real - 1)
    beside = f" beside a corpus of {len(found.corpus):,}" if found.corpus else ""
    return _row(
        f"{path.name}: {real:,} bytes really{beside}, the estimate is {error:+.2f} %", size, error_percent=error
    )


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        rows = answers(args)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if args.json:
        print(json.dumps(rows, indent=1))
        return 0
    for row in rows:
        print(f"{row['bytes']:>12,} bytes  {row['parameters']:>11,} weights  {row['what']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
