"""Audit of a checkpoint: the probe of :mod:`evalkit.models.causality` in its deep form, told as a verdict.

A model alone books nothing, so score-first and single-pass are not tested, and its rows are normalised by the engine.
"""

from __future__ import annotations

import shlex
import time
from typing import Any

from evalkit.legality.verdict import LAWS, Check, Evidence, Result, Verdict
from evalkit.models.causality import probe

NORMALISED = 1e-9
"""Most that the sum of a row's probabilities, in float64, may differ from 1."""


def audit_model(model: Any, target: str, *, deep: bool = True, seed: int = 0) -> Verdict:
    """Verdict on an open model.  ``target``: how ``--checkpoint`` names it."""
    began = time.perf_counter()
    found = probe(model, deep=deep, seed=seed)
    verdict = Verdict(target=target, vocab_size=model.vocab_size, seed=seed, calls=found.calls)
    alone = "a model alone books nothing; 'evalkit audit RECIPE' asks a run"
    verdict.laws = {law: Result(detail=alone) for law in LAWS}
    detail = f"{len(found.places)} places in {found.tokens:,} tokens; passes compared: {', '.join(found.forms)}"
    causal = Result(status="ok", probes=len(found.places), worst=found.worst, unit="logits", detail=detail)
    verdict.laws["causal"] = causal
    verdict.laws["normalised"] = Result(
        status="ok" if found.mass <= NORMALISED else "violated",
        probes=found.tokens,
        worst=found.mass,
        unit="probability",
        detail=f"sums of {found.tokens:,} rows are within {found.mass:.2g} of 1"
        if found.mass <= NORMALISED
        else "some rows hold NaN or infinity",
    )
    for form in dict.fromkeys(found.forms):
        moves = [m for m in found.moves if m.form == form]
        verdict.checks.append(
            Check(
                test="model",
                name=form,
                status="violated" if moves else "ok",
                detail=moves[0].sentence if moves else "agrees",
                ledger="",
            )
        )
    command = f"evalkit audit --checkpoint {shlex.quote(target)} --seed {seed}"
    verdict.evidence = [
        Evidence(
            law="causal",
            test=f"model/{m.form}",
            position=m.row + 1,
            stream_tokens=found.tokens,
            value=m.moved,
            limit=m.limit,
            unit="logits",
            sentence=m.sentence,
            reproduce=command,
            probe={"seed": seed, "row": m.row, "changed": m.changed, "alone": m.alone},
        )
        for m in found.moves
    ]
    if found.moves:
        causal.status, causal.worst, causal.detail = "violated", found.moves[0].moved, found.moves[0].sentence
    broken = verdict.violated()
    verdict.verdict = "violation" if broken else "legal"
    verdict.reason = verdict.laws[sorted(broken)[0]].detail if broken else ""
    verdict.notes = ["of the model alone, on random ids: a recipe's audit asks adapters, plan and ledgers, too"]
    verdict.seconds = time.perf_counter() - began
    return verdict
