"""A finished run becomes an artifact: choose weights, quantise, write, read back, measure what was lost."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from evalkit.machine import peak_memory_bytes
from evalkit.models.ek import container as artifact
from evalkit.models.ek.door import ArtifactDoor
from evalkit.stream.corpus import sample_corpus
from evalkit.stream.tokenizer import open_tokenizer
from evalkit.train import measure
from evalkit.train.loop import Trainer, write_facts
from evalkit.train.quant import target
from evalkit.train.quant.calibrate import hessians
from evalkit.train.quant.plan import Hessians, quantise
from evalkit.train.recipe import Export

NAME = "model.ek"


def finish(trainer: Trainer, recipe_name: str) -> Path:
    """Write DIR/model.ek and DIR/run.json; returns the artifact's path.  Scores use all held-out training text."""
    chosen = trainer.choose_weights()
    float_bpb = held_out_bpb(trainer, trainer.model)
    path = trainer.out / NAME
    size, bpb = write_and_measure(trainer, path, trainer.recipe.export, calibration(trainer), recipe_name, float_bpb)
    trainer.log.say(
        f"artifact: {size} bytes of {artifact.CAP_BYTES}, val_bpb {float_bpb:.4f} before quantisation, {bpb:.4f} after"
    )
    totals = {"val_bpb_float": float_bpb, "val_bpb_artifact": bpb, "artifact_bytes": size, "weights": chosen}
    if trainer.recipe.export.corpus_bytes:
        totals["artifact_bytes"] = with_corpus(trainer, path)
    write_facts(trainer.out, facts(trainer, recipe_name, totals, artifact.read_artifact(path).digest))
    return path


def with_corpus(trainer: Trainer, path: Path) -> int:
    """Put a sample of the training documents into the artifact; the held-out ones stay out.  Returns its size."""
    tokenizer = open_tokenizer(trainer.corpus.tokenizer_model)
    beside = path.with_suffix(".ekc")
    done = sample_corpus(beside, np.concatenate(trainer.corpus.shards), tokenizer, trainer.recipe.export.corpus_bytes)
    size = artifact.add_corpus(path, beside.read_bytes(), path)
    trainer.log.say(
        f"corpus: {done.kept_documents} of {done.documents} training documents, {done.kept_tokens} tokens, {done.size} "
        f"bytes; artifact {size} bytes of {artifact.CAP_BYTES}"
    )
    return size


def calibration(trainer: Trainer) -> Hessians | None:
    """Hessians from the first training blocks, whole blocks, or None when the recipe rounds to nearest."""
    export = trainer.recipe.export
    if not export.gptq:
        return None
    seq_len, rows = trainer.blocks.block_len, 8
    count = max(1, min(export.calibration_tokens // seq_len, trainer.blocks.per_epoch))
    batches = [
        torch.from_numpy(trainer.blocks.batch(at, min(rows, count - at), seq_len)[:, :-1]).to(trainer.device)
        for at in range(0, count, rows)
    ]
    return hessians(trainer.model, batches)


def write_and_measure(
    trainer: Trainer, path: Path, export: Export, inputs: Hessians | None, recipe_name: str, float_bpb: float
) -> tuple[int, float]:
    """Quantise with ``export``, write, load through the public door, score: (bytes, BPB)."""
    notes: dict[str, str | int | float] = {
        "recipe": recipe_name,
        "steps": trainer.step,
        "tokens": trainer.step * trainer.recipe.run.tokens_per_step,
        "seed": trainer.recipe.run.seed,
        "text_sha256": trainer.corpus.fingerprint,
        "val_bpb_float": round(float_bpb, 6),
    }

    def write(choice: Export) -> int:
        coded = quantise(trainer.model, choice, inputs)
        return artifact.write_artifact(path, trainer.recipe.model, coded, trainer.corpus.tokenizer_model, notes)

    size = _fit(trainer, export, write) if export.target_bytes else write(export)
    return size, held_out_bpb(trainer, ArtifactDoor.load(path, device=trainer.device).module)


def _fit(trainer: Trainer, export: Export, write: Callable[[Export], int]) -> int:
    """Write with both k scaled until the artifact has ``export.target_bytes``; returns its size."""
    weights = {n: p.detach().cpu().float().numpy() for n, p in trainer.model.named_parameters()}
    fitted, size = target.fit(weights, export, export.target_bytes, write)
    trainer.log.say(f"k {fitted.matrix_k:.2f} and {fitted.embed_k:.2f} fill {size} of {export.target_bytes} bytes")
    return size


def held_out_bpb(trainer: Trainer, model: torch.nn.Module) -> float:
    """All held-out training text, disjoint windows of the longest sequence."""
    return measure.val_bpb(model, trainer.corpus, 0, trainer.blocks.block_len, trainer.device)


def facts(trainer: Trainer, recipe_name: str, totals: dict[str, Any], digest: str) -> dict[str, Any]:
    """The contents of run.json."""
    run = trainer.recipe.run
    return {
        "schema": 1,
        "kind": "train",
        "recipe": recipe_name,
        "settings": msgspec.to_builtins(trainer.recipe),
        "fingerprint": {"model": digest, "text": trainer.corpus.fingerprint},
        "world_size": trainer.world_size,
        "complete": trainer.f >= 1,
        "totals": totals
        | {
            "parameters": sum(p.numel() for p in trainer.model.parameters()),
            "steps": trainer.step,
            "tokens": trainer.step * run.tokens_per_step,
            "train_tokens": trainer.corpus.train_tokens,
            "val_bytes": trainer.corpus.val_bytes,
        },
        "history": trainer.history,
        "seconds": {"train": trainer.elapsed},
        "peak_memory_bytes": peak_memory_bytes(),
        "environment": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "device": trainer.device.type,
            "threads": trainer.threads,
            "precision": trainer.precision,
        },
    }
