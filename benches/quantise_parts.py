"""What is measured of quantisation?  Four parts over one loaded run; see quantise.py for the command."""

from __future__ import annotations

import lzma
import math
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from benches.quant import lab, refine
from benches.quant.generate import generated
from evalkit.errors import InputError
from evalkit.models.ek import coder, lqer
from evalkit.models.ek.grid import Grid, round_to_grid
from evalkit.models.ek.model import GPT
from evalkit.stream.shard import read_shard
from evalkit.stream.tokenizer import Tokenizer, open_tokenizer
from evalkit.train import checkpoint, measure
from evalkit.train.data import Blocks
from evalkit.train.data.write import encode_some
from evalkit.train.quant import target
from evalkit.train.quant.calibrate import hessians, text_batches
from evalkit.train.quant.gptq import gptq
from evalkit.train.quant.names import bits_and_k, damping, is_grid
from evalkit.train.recipe import Export, Recipe, load_recipe
from evalkit.train.text import read

FIELD = {"matrix_bits": 6, "matrix_k": 12.85, "embed_bits": 8, "embed_k": 20.0}
"""The field's setting (PR #1394)."""
Arrays = dict[str, np.ndarray]


@dataclass
class Bench:
    """A run's float weights, its Hessians, and two texts to score."""

    recipe: Recipe
    model: GPT
    weights: Arrays
    texts: dict[str, tuple[np.ndarray, int]]
    blocks: Blocks
    inputs: Arrays = field(default_factory=dict)
    base: dict[str, float] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, run: Path, recipe_name: str, val: Path, tokens: int, calibration: list[Path] | None) -> Bench:
        """Read checkpoint and shards; raises InputError when the run is not there."""
        recipe, saved = load_recipe(recipe_name), checkpoint.read(run)
        folders = sorted((run / "data").glob("*/tokenizer.model"))
        if saved is None or len(folders) != 1:
            raise InputError(
                f"{run}: no checkpoint with one prepared text there; run python -m evalkit.train --out {run} first"
            )
        opened = open_tokenizer(folders[0].read_bytes())
        model = GPT(recipe.model)
        model.load_state_dict(saved.part("average.") or saved.part("model."))
        weights = {n: p.detach().float().numpy().copy() for n, p in model.named_parameters()}
        blocks = Blocks(read_shard(folders[0].parent / "train_000000.bin"), max(recipe.run.seq_lens), recipe.run.seed)
        held = read_shard(folders[0].parent / "val_000000.bin")
        some = encode_some(read(val), opened, tokens)
        texts = {"held_out_training": _cut(held, tokens, opened), "validation": _cut(some, tokens, opened)}
        bench = cls(recipe, model, weights, texts, blocks)
        bench.inputs = bench.hessians_of(
            text_batches(calibration, [val], opened, recipe.export.calibration_tokens, blocks.block_len)
            if calibration
            else bench.shard_batches()
        )
        bench.base = bench.bpb()
        bench.about = {"recipe": recipe_name, "validation": val.name, "steps": saved.facts["step"]}
        return bench

    def shard_batches(self) -> list[torch.Tensor]:
        """The recipe's calibration: the first training blocks."""
        length = self.blocks.block_len
        count = max(1, self.recipe.export.calibration_tokens // length)
        return [
            torch.from_numpy(self.blocks.batch(at, min(8, count - at), length)[:, :-1]) for at in range(0, count, 8)
        ]

    def hessians_of(self, batches: list[torch.Tensor]) -> Arrays:
        return hessians(self.model, batches)

    def bpb(self, changed: Arrays | None = None, only: str = "") -> dict[str, float]:
        """BPB of both texts (or ``only`` one) with some weights changed; the float weights are put back."""
        state = self.model.state_dict()
        for name, value in (changed or {}).items():
            state[name].copy_(torch.from_numpy(value))
        found = {}
        for name, (tokens, size) in self.texts.items():
            if only in ("", name):
                nats = measure.nats_of(self.model, tokens, self.blocks.block_len, torch.device("cpu"))
                found[name] = nats / math.log(2) / size
        for name in changed or {}:
            state[name].copy_(torch.from_numpy(self.weights[name]))
        return found

    def grids(self, export: Export, inputs: Arrays | None) -> dict[str, Grid]:
        """Every matrix on its SDClip grid: GPTQ with ``inputs``, nearest without."""
        found = {}
        for name, weight in self.matrices().items():
            bits, k = bits_and_k(name, export)
            damp = damping(name, export)
            found[name] = gptq(weight, inputs[name], bits, k, damp) if inputs else round_to_grid(weight, bits, k)
        return found

    def matrices(self) -> Arrays:
        return {n: w for n, w in self.weights.items() if is_grid(n, w.shape)}

    def gaps(self, changed: Arrays, only: str = "") -> dict[str, float]:
        """BPB above the float weights, by text."""
        return {name: round(bpb - self.base[name], 6) for name, bpb in self.bpb(changed, only).items()}

    def circumstances(self) -> dict[str, Any]:
        from evalkit.scoring.environment import environment

        size = {name: {"tokens": len(t), "bytes": size} for name, (t, size) in self.texts.items()}
        return {
            "run": self.about | {"parameters": sum(w.size for w in self.weights.values())},
            "texts": size,
            "float_bpb": {n: round(b, 6) for n, b in self.base.items()},
            "calibration_tokens": self.recipe.export.calibration_tokens,
            "environment": environment("cpu"),
        }


def _cut(tokens: np.ndarray, limit: int, opened: Tokenizer) -> tuple[np.ndarray, int]:
    """The first whole documents within ``limit`` tokens, and the bytes of their text."""
    starts = np.flatnonzero(tokens == opened.bos_id)
    ends = starts[(starts > 0) & (starts <= limit)]
    end = len(tokens) if len(tokens) <= limit else int(ends[-1]) if len(ends) else limit
    part = np.asarray(tokens[:end], np.int64)
    before = np.concatenate(([opened.bos_id], part[:-1]))
    return part, int(opened.pieces.target_bytes(before, part).sum())


def coded_bytes(grids: dict[str, Grid]) -> int:
    """Range-coded symbols, tables and steps."""
    return sum(lab.Rounded(g.symbols, g.scale[:, None]).coded_bytes for g in grids.values())


def values(grids: dict[str, Grid]) -> Arrays:
    return {name: grid.dequantise() for name, grid in grids.items()}


def say(row: dict[str, Any]) -> dict[str, Any]:
    print(row, flush=True)
    return row


def table(bench: Bench) -> list[dict[str, Any]]:
    """int8, int6, int5; largest weight per row and per group of 64, and k; nearest and GPTQ.  All matrices alike."""
    rows = []
    for bits in (8, 6, 5):
        for k, group in ((0.0, 0), (0.0, 64), (12.85, 0)):
            for with_gptq in (False, True):
                rule = lab.Rule(bits, k, group, with_gptq)
                export = Export()
                found = {
                    n: lab.quantise(w, rule, bench.inputs[n], damping(n, export)) for n, w in bench.matrices().items()
                }
                gaps = bench.gaps({n: r.dequantise() for n, r in found.items()})
                size = sum(r.coded_bytes for r in found.values())
                rows.append(say({"rule": rule.name, **msgspec.to_builtins(rule), "bytes": size, "gap_bpb": gaps}))
    return rows


def sweep(bench: Bench) -> list[dict[str, Any]]:
    """k against bytes, entropy, the Gaussian's formula and BPB (GPTQ), at three widths of grid."""
    rows = []
    for bits in (5, 6, 8):
        for k in (4.0, 6.4, 9.0, 12.85, 18.0, 26.0, 36.0):
            export = Export(matrix_bits=bits, matrix_k=k, embed_bits=bits, embed_k=k)
            grids = bench.grids(export, bench.inputs)
            count = sum(g.symbols.size for g in grids.values())
            payload = sum(len(coder.encode(g.symbols, *coder.frequencies(g.symbols))) for g in grids.values())
            bound = sum(coder.entropy_bytes(g.symbols) for g in grids.values())
            row = {"bits": bits, "k": k, "step_in_std": k / (2 ** (bits - 1) - 1), "bytes": coded_bytes(grids)}
            row |= {"payload": payload, "entropy": round(bound), "over_entropy_percent": 100 * (payload / bound - 1)}
            row |= {"bits_per_weight": 8 * payload / count, "gaussian_bits": coder.gaussian_bits(bits, k)}
            rows.append(say(row | {"gap_bpb": bench.gaps(values(grids), "held_out_training")}))
    return rows


def ladder(bench: Bench) -> list[dict[str, Any]]:
    """From fine to coarse: nearest, GPTQ as published, with a damped embedding, and with its rank-1 correction."""
    rows = []
    for matrix_k, embed_k in ((6.4, 6.4), (8.0, 12.0), (12.85, 20.0), (18.0, 28.0)):
        export = Export(matrix_bits=6, matrix_k=matrix_k, embed_bits=8, embed_k=embed_k)
        published = msgspec.structs.replace(export, embed_damp=0.01)
        ways = {"nearest": bench.grids(export, None), "gptq": bench.grids(published, bench.inputs)}
        ways["gptq, embedding damped 0.1"] = bench.grids(export, bench.inputs)
        for what, grids in ways.items():
            row = {"matrix_k": matrix_k, "embed_k": embed_k, "what": what, "bytes": coded_bytes(grids)}
            rows.append(say(row | {"gap_bpb": bench.gaps(values(grids))}))
        last = ways["gptq, embedding damped 0.1"]
        table = values(last)["embed.weight"]
        pair = lqer.correction(bench.weights["embed.weight"] - table, 1)
        row = {
            "matrix_k": matrix_k,
            "embed_k": embed_k,
            "what": "gptq, damped, rank 1",
            "bytes": coded_bytes(last) + pair.bytes,
        }
        rows.append(say(row | {"gap_bpb": bench.gaps(values(last) | {"embed.weight": table + pair.dense()})}))
    return rows


def codecs(bench: Bench) -> list[dict[str, Any]]:
    """The same symbols (int6, k 12.85, GPTQ; embedding int8, k 20), one byte each, through byte codecs."""
    grids = bench.grids(Export(**FIELD), bench.inputs)
    blob = b"".join((grids[n].symbols.astype(np.int8)).tobytes() for n in sorted(grids))
    bound = sum(coder.entropy_bytes(g.symbols) for g in grids.values())
    ours = sum(
        len(coder.encode(g.symbols, *coder.frequencies(g.symbols))) + 2 * len(coder.frequencies(g.symbols)[1])
        for g in grids.values()
    )
    sizes: dict[str, int | None] = {"range coder, tables included": ours, "brotli 11": None, "zstd 22": None}
    sizes |= {
        "lzma 9 extreme": len(lzma.compress(blob, preset=9 | lzma.PRESET_EXTREME)),
        "zlib 9": len(zlib.compress(blob, 9)),
    }
    sizes["lzma 9 extreme, rows transposed"] = len(
        lzma.compress(
            b"".join(np.ascontiguousarray(grids[n].symbols.astype(np.int8).T).tobytes() for n in sorted(grids)),
            preset=9 | lzma.PRESET_EXTREME,
        )
    )
    try:
        import brotli

        sizes["brotli 11"] = len(brotli.compress(blob, quality=11, lgwin=24))
    except ImportError:
        pass
    try:
        import zstandard

        sizes["zstd 22"] = len(zstandard.ZstdCompressor(level=22).compress(blob))
    except ImportError:
        pass
    return [
        say({"codec": name, "bytes": size, "over_entropy_percent": None if size is None else 100 * (size / bound - 1)})
        for name, size in [("entropy of each tensor", round(bound)), *sizes.items()]
    ]


def experiments(bench: Bench) -> list[dict[str, Any]]:
    """At the field's setting: calibration sources, LQER, pruning against k, random steps.  None is in a recipe."""
    export = Export(**FIELD)
    nearest, grids = bench.grids(export, None), bench.grids(export, bench.inputs)
    size = coded_bytes(grids)
    rows = [
        say({"what": "nearest", "bytes": coded_bytes(nearest), "gap_bpb": bench.gaps(values(nearest))}),
        say({"what": "gptq, calibrated on training text", "bytes": size, "gap_bpb": bench.gaps(values(grids))}),
    ]
    own = bench.hessians_of(list(generated(bench.model, 64, bench.blocks.block_len).split(8)))
    written = bench.grids(export, own)
    rows.append(
        say({"what": "gptq, calibrated on text the model wrote (64 rows, T 0.8)", "bytes": coded_bytes(written),
             "gap_bpb": bench.gaps(values(written))})
    )  # fmt: skip
    head_only = bench.grids(msgspec.structs.replace(export, embed_damp=0.01), bench.inputs)
    rows.append(
        say({"what": "gptq, embedding damped by 0.01 as the matrices", "bytes": coded_bytes(head_only),
             "gap_bpb": bench.gaps(values(head_only))})
    )  # fmt: skip
    mixed = grids | {"embed.weight": nearest["embed.weight"]}
    rows.append(
        say({"what": "gptq, embedding nearest", "bytes": coded_bytes(mixed), "gap_bpb": bench.gaps(values(mixed))})
    )
    return [*rows, *_lqer_rows(bench, grids, size), *_prune_rows(bench, export, grids), _step_row(bench, grids, size)]


def _lqer_rows(bench: Bench, grids: dict[str, Grid], size: int) -> list[dict[str, Any]]:
    """Rank 1 and 4 on the embedding, rank 4 on the three worst tensors, and their bytes spent on a smaller k."""
    errors = {n: bench.weights[n] - g.dequantise() for n, g in grids.items()}
    rows, more = [], 0
    for names, rank in ((["embed.weight"], 1), (["embed.weight"], 4), (lqer.largest_errors(errors, 3), 4)):
        fixed = {n: lqer.correction(errors[n], rank) for n in names}
        changed = values(grids) | {n: grids[n].dequantise() + c.dense() for n, c in fixed.items()}
        more = sum(c.bytes for c in fixed.values())
        what = f"gptq, lqer rank {rank} on {', '.join(fixed)}"
        rows.append(say({"what": what, "bytes": size + more, "gap_bpb": bench.gaps(changed)}))
    return [*rows, _at_bytes(bench, size + more, "gptq, smaller k, bytes as the last")]


def _prune_rows(bench: Bench, export: Export, grids: dict[str, Grid]) -> list[dict[str, Any]]:
    """Zero 10 % of the +-1 of a finer grid down to about the field's bytes; k alone at the same bytes beside it."""
    power = {n: np.diag(h) / max(1e-30, float(np.diag(h).mean())) for n, h in bench.inputs.items()}
    rows = []
    for what, weigh in (("by step^2", None), ("by step^2 times input power", power)):
        pruned = refine.prune(grids, 0.1, weigh)
        rows.append(
            say(
                {
                    "what": f"prune 10 % of +-1 {what}",
                    "bytes": coded_bytes(pruned),
                    "gap_bpb": bench.gaps(values(pruned)),
                }
            )
        )
    return [*rows, _at_bytes(bench, rows[0]["bytes"], "larger k, bytes as pruned")]


def _at_bytes(bench: Bench, wanted: int, what: str) -> dict[str, Any]:
    """GPTQ with both k scaled until the coded bytes are ``wanted``."""
    made: dict[str, Grid] = {}

    def write(export: Export) -> int:
        made.clear()
        made.update(bench.grids(export, bench.inputs))
        return coded_bytes(made)

    fitted, size = target.fit(bench.matrices(), Export(**FIELD), wanted, write)
    return say({"what": f"{what} (k {fitted.matrix_k:.2f})", "bytes": size, "gap_bpb": bench.gaps(values(made))})


def _step_row(bench: Bench, grids: dict[str, Grid], size: int) -> dict[str, Any]:
    """EGGROLL-style: 60 trials of 1,024 bins on 4 rows of training text."""
    batch = torch.from_numpy(bench.blocks.batch(10_000, 4, bench.blocks.block_len))
    state = bench.model.state_dict()

    @torch.no_grad()
    def loss(tried: dict[str, Grid]) -> float:
        for name, grid in tried.items():
            state[name].copy_(torch.from_numpy(grid.dequantise()))
        logits = bench.model(batch[:, :-1]).float().flatten(0, 1)
        return float(torch.nn.functional.cross_entropy(logits, batch[:, 1:].flatten()))

    moved, kept = refine.step_bins(grids, loss, trials=60, bins=1024, seed=0)
    what = f"60 random steps of 1,024 bins, {len(kept)} kept on 4 rows"
    return say({"what": what, "bytes": coded_bytes(moved), "bytes_before": size, "gap_bpb": bench.gaps(values(moved))})
