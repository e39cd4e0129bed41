"""Checks before a run (is it worth starting?) and after it (did it end as it should?); a FAIL stops the command."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import torch

import evalkit.models.ek
from evalkit.errors import InputError, NoError
from evalkit.models.ek.container import CAP_BYTES, read_artifact
from evalkit.models.ek.parts.kernel import attention_path
from evalkit.stream.files import write_atomic
from evalkit.train import machine, size
from evalkit.train.data import Corpus
from evalkit.train.flops import flops_per_token, peak_flops
from evalkit.train.recipe import Recipe

if TYPE_CHECKING:
    from evalkit.train.loop import Trainer

# Share of the peak that a run reaches: 0.40 is #1855's (215 to 319 MFLOP per token and attention, 786,432 tokens in 122 ms
# on 8 GPUs); on CPUs about half of what a plain matrix product does, measured on tiny-cpu.
EFFICIENCY = {"cuda": 0.40, "cpu": 0.5}
LOADER_FILES = ("*.py", "parts/*.py")


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One check: its name, how it went, and one sentence with the numbers."""

    check: str
    status: Literal["ok", "warn", "fail"]
    says: str


def preflight(recipe: Recipe, corpus: Corpus | None, device: torch.device, world: int) -> list[Finding]:
    """Everything that can be known before the first step; ``corpus`` None leaves the text out."""
    precision = machine.pick_precision(recipe.run.precision, device)
    found = [_devices(recipe, device, world), _attention(device, precision)]
    if corpus is not None:
        found += [_vocabulary(recipe, corpus), _text(recipe, corpus), _epochs(recipe, corpus)]
    found += [_batch(recipe, world), _memory(recipe, device, world), _pace(recipe, device, precision, world)]
    return [*found, _artifact_fits(recipe), _code()]


def postflight(recipe: Recipe, out: Path) -> list[Finding]:
    """What run.json and the artifact beside it say; raises InputError when one of them is missing."""
    try:
        facts = json.loads((out / "run.json").read_bytes())
        totals = facts["totals"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{out} holds no finished run ({error}); run python -m evalkit.train there first") from None
    path = out / "model.ek"
    artifact = read_artifact(path)
    same = artifact.digest == facts["fingerprint"]["model"]
    return [
        _finding("complete", facts["complete"], f"{totals['steps']} of at most {recipe.run.steps} steps are done"),
        _finding("file", same, f"model.ek {'is' if same else 'is not'} the file that run.json names"),
        _real_size(artifact.size),
        _bpb("BPB of the weights", totals["val_bpb_float"], recipe),
        _bpb("BPB of the artifact", totals["val_bpb_artifact"], recipe),
        _gap(totals["val_bpb_artifact"] - totals["val_bpb_float"]),
        _clock(recipe, facts["seconds"]["train"]),
    ]


def say(findings: Iterable[Finding], rank: int = 0) -> None:
    """One line each on stderr, rank 0 only."""
    for finding in findings if rank == 0 else ():
        print(f"check {finding.status.upper():<4} {finding.check}: {finding.says}", file=sys.stderr, flush=True)


def stop_on_failure(findings: Sequence[Finding]) -> None:
    """Raises NoError (exit code 1) with the first failure."""
    for finding in findings:
        if finding.status == "fail":
            raise NoError(f"check '{finding.check}' failed: {finding.says}")


def record(out: Path, trainer: Trainer, before: Sequence[Finding], after: Sequence[Finding]) -> None:
    """Add the checks, the attention path and the ranks to DIR/run.json."""
    facts: dict[str, Any] = json.loads((out / "run.json").read_bytes())
    facts["checks"] = {"before": msgspec.to_builtins(list(before)), "after": msgspec.to_builtins(list(after))}
    facts["world_size"] = trainer.world_size
    facts["environment"]["attention"] = trainer.attention
    write_atomic(out / "run.json", json.dumps(facts, indent=1, sort_keys=True).encode())


def code_bytes() -> int:
    """Source bytes that loading and running an artifact needs, as they are: not packed, not minified."""
    here = Path(evalkit.models.ek.__file__).parent
    return sum(path.stat().st_size for pattern in LOADER_FILES for path in here.glob(pattern))


def step_seconds(recipe: Recipe, device: torch.device, precision: str, world: int) -> tuple[float, float]:
    """Expected seconds of the first and of the last step, by arithmetic over the machine's share of its peak."""
    run = recipe.run
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    peak = peak_flops(name, precision) or machine.product_flops(device, precision)
    speed = peak * world * EFFICIENCY.get(device.type, 0.5)
    return tuple(  # type: ignore[return-value]
        run.tokens_per_step * flops_per_token(recipe.model, seq_len, looping) / speed
        for seq_len, looping in ((run.seq_lens[0], False), (run.seq_lens[-1], True))
    )


def _finding(check: str, good: bool, says: str, otherwise: Literal["warn", "fail"] = "fail") -> Finding:
    return Finding(check=check, status="ok" if good else otherwise, says=says)


def _devices(recipe: Recipe, device: torch.device, world: int) -> Finding:
    wanted, kind = recipe.expect.gpus, recipe.expect.gpu_kind
    here = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    says = f"{world} x {here}"
    if not wanted:
        return _finding("devices", True, says)
    says += f", the recipe is made for {wanted} x {kind or 'any GPU'}"
    if recipe.run.device == "cpu":
        return _finding("devices", False, f"{says}; run.device is cpu by choice", "warn")
    good = device.type == "cuda" and world == wanted and kind in here
    return _finding("devices", good, says if good else f"{says}; start torchrun --nproc-per-node {wanted} there")


def _attention(device: torch.device, precision: str) -> Finding:
    return _finding("attention", True, f"{attention_path(device, precision)}, {precision}")


def _vocabulary(recipe: Recipe, corpus: Corpus) -> Finding:
    largest = max(int(shard[: 1 << 20].max()) for shard in (*corpus.shards, corpus.val))
    vocab = recipe.model.vocab_size
    return _finding(
        "vocabulary",
        largest < vocab,
        f"token ids up to {largest} for a model of {vocab}"
        + ("" if largest < vocab else "; set model.vocab_size, or give the shards of the recipe's tokenizer"),
    )


def _text(recipe: Recipe, corpus: Corpus) -> Finding:
    says = f"{len(corpus.shards)} shards, {corpus.train_tokens} tokens, held out {len(corpus.val)}, sha256 {corpus.fingerprint}"
    wanted = recipe.expect.text
    good = not wanted or wanted == corpus.fingerprint
    return _finding("text", good, says if good else f"{says}; the recipe names {wanted}, give that text")


def _epochs(recipe: Recipe, corpus: Corpus) -> Finding:
    """Repeating text costs little up to about four times (Muennighoff et al. 2023)."""
    wanted = recipe.run.steps * recipe.run.tokens_per_step
    epochs = wanted / max(1, corpus.train_tokens)
    return _finding(
        "epochs", epochs <= 4, f"at most {wanted} tokens of {corpus.train_tokens}: {epochs:.2f} epochs", "warn"
    )


def _batch(recipe: Recipe, world: int) -> Finding:
    run, longest = recipe.run, max(recipe.run.seq_lens)
    rows = run.tokens_per_step // longest
    good = rows % (world * run.accumulate) == 0
    says = f"{rows} sequences of {longest} for {world} ranks of {run.accumulate} passes"
    return _finding("batch", good, says if good else f"{says} do not divide; mend run.tokens_per_step")


def _memory(recipe: Recipe, device: torch.device, world: int) -> Finding:
    """Weights, gradients, two moments and averages in float32; logits twice; a dozen activations for each layer."""
    run, model = recipe.run, recipe.model
    weights = size.estimate(model, recipe.export).parameters * 4 * (5 + recipe.optim.lawa_keep)
    tokens = run.tokens_per_step // world // run.accumulate
    executed = len(model.order())
    activations = tokens * (model.vocab_size * 10 + executed * model.width * (12 + 4 * model.mlp_ratio) * 2)
    need = weights + activations
    has = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else machine.memory_bytes()
    says = f"about {need / 2**30:.1f} GiB of {has / 2**30:.1f}"
    good = need < 0.9 * has
    return _finding("memory", good, says if good else f"{says}; raise run.accumulate", "warn")


def _pace(recipe: Recipe, device: torch.device, precision: str, world: int) -> Finding:
    first, last = step_seconds(recipe, device, precision, world)
    mean, run = (first + last) / 2, recipe.run
    says = f"about {1000 * first:.0f} ms per step, {1000 * last:.0f} at the end; {run.steps} steps in {run.steps * mean:.0f} s"
    if recipe.expect.step_ms:
        says += f" (the recipe says {recipe.expect.step_ms:.0f} ms)"
    if not run.seconds:
        return _finding("pace", True, says)
    fit = int((run.seconds - run.reserve_seconds) / mean)
    says += f", {fit} fit the {run.seconds:.0f} s"
    good = fit >= min(run.steps, 300)
    return _finding(
        "pace", good, says if good else f"{says}: too few to learn; use a smaller recipe or a faster machine"
    )


def _artifact_fits(recipe: Recipe) -> Finding:
    planned = size.estimate(recipe.model, recipe.export)
    total = planned.total + code_bytes()
    says = f"{planned.parameters} parameters, about {planned.total} bytes, with code {total} of {CAP_BYTES}"
    good = total <= CAP_BYTES
    return _finding("artifact", good, says if good else f"{says}; lower model sizes or raise export.matrix_k")


def _code() -> Finding:
    return _finding("code", code_bytes() < 200_000, f"{code_bytes()} source bytes load and run an artifact", "warn")


def _real_size(artifact: int) -> Finding:
    total = artifact + code_bytes()
    says = f"{artifact} bytes, with code {total} of {CAP_BYTES}"
    return _finding("artifact", total <= CAP_BYTES, says)


def _bpb(check: str, bpb: float, recipe: Recipe) -> Finding:
    """0.3 is below every compressor of text (a leak or a wrong byte count), 8 is raw bytes."""
    low, high = recipe.expect.bpb
    if not (math.isfinite(bpb) and 0.3 < bpb < 8):
        return _finding(check, False, f"{bpb:.4f} lies outside 0.3..8; look for a leak or a wrong byte count")
    if high and not low <= bpb <= high:
        return _finding(check, False, f"{bpb:.4f}, the recipe expects {low}..{high}", "warn")
    return _finding(check, True, f"{bpb:.4f}" + (f", the recipe expects {low}..{high}" if high else ""))


def _gap(gap: float) -> Finding:
    return _finding("quantisation", gap < 0.05, f"{gap:+.4f} BPB", "warn")


def _clock(recipe: Recipe, seconds: float) -> Finding:
    budget = recipe.run.seconds
    return _finding(
        "clock",
        not budget or seconds <= budget,
        f"{seconds:.0f} s of training" + (f" of {budget:.0f}" if budget else ""),
    )
