"""Does the device score what the CPU scores?  Rows, every plan, the experts, every learner; tolerances beside each.

The CPU is the referee.  Both run in float32 without TF32.  What may differ is rounding: other kernels add in another order.
A learner feeds rounding back into its weights, and an expert may follow another argmax, so their single targets may move
further; their rate may not.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benches.card.sheet import Card, Sheet
from benches.card.subjects import furthest, random_gpt, shapes, subject, text_of
from benches.learners import LANES
from evalkit.adapters.registry import parse_adapter
from evalkit.models.causality import probe
from evalkit.plan import parse_plan
from evalkit.scoring.score import ScoreOptions, score
from evalkit.scoring.scores import read_scores

LOGITS = 2e-3
"""Largest |difference| of a logit (softcap 30)."""
PLAN, EXPERTS, LEARNER = (1e-3, 1e-5), (5e-3, 2e-5), (1e-2, 1e-4)
"""(nats of a single target, BPB of the run).  Weights that differ by one part in a million move a target of the bundled model
by at most 2e-5 nats and its rate by 1e-7 BPB, with experts and with learners (up to 1e-4); TF32 products move a thousand
times as much."""

STACK = "ppm + match + best_agree + tilt + backoff + hedge + log_bias + temperature"
LEARNERS = (
    "slot",
    "full_ttt",
    "full_ttt:optimiser=adamw,lr=0.0002",
    "muon_ttt",
    "lora_ttt",
    "lora_ttt:reset=document",
    "phased_ttt:every=2048",
    "slot:form=steps,scope=[document],delta=0.01,bias=0.03,context=2048",
)


def plans(card: Card) -> dict[str, str]:
    window = card.size(512, 32)
    half, step = window // 2, window // 8
    return {
        "banded": f"banded:window={window},block={half},segment={2 * window}",
        "banded, one pass": f"banded:window={window},block={half},segment=0",
        "disjoint": f"disjoint:seq_len={window}",
        "sliding": f"sliding:seq_len={window},stride={step}",
        "document": f"document:seq_len={window},stride={half}",
    }


def run(card: Card, sheet: Sheet) -> None:
    sheet.note = "largest differences to the CPU; tolerances: nats of a single target, BPB of the run"
    for name, config in shapes(card).items():
        for length in (card.size(1024, 32),):
            sheet.row(f"logits of {name}", lambda c=config, n=length: logits(card, c, n))
    sheet.row("causal on the device", lambda: causal(card))
    few, many = card.size(4096, 256), card.size(6144, 256)
    for name, plan in plans(card).items():
        sheet.row(f"plan {name}", lambda p=plan: compare(card, "", p, few, PLAN))
    banded, apart = plans(card)["banded, one pass"], plans(card)["document"]
    sheet.row("experts", lambda: compare(card, STACK, banded, many, EXPERTS))
    sheet.row("experts by document", lambda: compare(card, STACK, apart, few, EXPERTS))
    for spec in LEARNERS:
        sheet.row(f"learner {spec}", lambda s=spec: compare(card, sized(card, s), banded, many, LEARNER))
    for more in ("", ",batched=true"):
        spec = LANES + more if not card.smoke else f"lora_lanes:lanes=4,targets=[q,v],chunk=16{more}"
        sheet.row(f"learner {LANES}{more}", lambda s=spec: compare(card, s, apart, many, LEARNER))
    sheet.row("learner and experts", lambda: compare(card, f"{sized(card, 'muon_ttt')} + ppm", banded, many, LEARNER))
    for spec in ("", STACK, "muon_ttt", "slot"):
        sheet.row(
            f"twice the same bits: {spec or 'the model'}", lambda s=spec: twice(card, sized(card, s), banded, few)
        )


def sized(card: Card, spec: str) -> str:
    """A smoke run's learners learn every 64 targets."""
    name, _, settings = spec.partition(":")
    if not card.smoke or not spec or " + " in spec:
        return spec
    small = "chunk=64" if name == "slot" else "chunk=64,seq_len=32,batch=0"
    kept = [
        part for part in settings.split(",") if part and not part.startswith(("every", "context", "scope", "delta"))
    ]
    more = [settings[settings.index("scope") :]] if "scope" in settings else []
    return f"{name}:{','.join([small, *(['every=128'] if 'every' in settings else []), *kept[:1], *more])}"


def logits(card: Card, config: Any, length: int) -> dict[str, Any]:
    """Both forms of the forward, windows and band, of one random model."""
    host = random_gpt(config, "cpu")
    there = random_gpt(config, card.device)
    ids = torch.randint(2, config.vocab_size, (4, length), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        windows = furthest(host(ids), there(ids.to(card.device)))
        band = [m.banded(ids[0].to(d), None, length // 4)[0] for m, d in ((host, "cpu"), (there, card.device))]
    found = {"windows": windows, "banded": furthest(*band), "tolerance": LOGITS}
    return {**found, "status": "ok" if max(windows, found["banded"]) <= LOGITS else "violated"}


def causal(card: Card) -> dict[str, Any]:
    """What every checkpoint is asked when it is opened, asked on the device."""
    found = probe(subject(card, card.device))
    said = {
        "calls": found.calls,
        "noise": found.noise,
        "worst": found.worst,
        "mass": found.mass,
        "tokens": found.tokens,
    }
    moved = [move.sentence for move in found.moves]
    return {**said, "moves": moved, "status": "ok" if found.causal else "violated"}


def scores(card: Card, device: str, spec: str, plan: str, targets: int) -> tuple[np.ndarray, Any]:
    """(nats float64 [n, stages], the run's record)."""
    model = subject(card, device)
    stream = text_of(card, model, targets)
    adapters = [parse_adapter(part) for part in spec.split(" + ")] if spec else []
    options = ScoreOptions(chunk_tokens=card.size(1024, 64), batch_tokens=card.size(8192, 256))
    with tempfile.TemporaryDirectory(prefix="evalkit-card-") as folder:
        result = score(model, stream, adapters, parse_plan(plan), out=Path(folder), options=options)
        return np.array(read_scores(Path(folder) / "scores.f64", len(result.stage_names))), result.record


def compare(card: Card, spec: str, plan: str, targets: int, tolerance: tuple[float, float]) -> dict[str, Any]:
    host, said = scores(card, "cpu", spec, plan, targets)
    there, heard = scores(card, card.device, spec, plan, targets)
    gap = np.abs(host[:, -1] - there[:, -1])
    a, b = said.totals.bpb, heard.totals.bpb
    assert a is not None, "a text without bytes"
    assert b is not None
    good = host.shape == there.shape and gap.max() <= tolerance[0] and abs(a - b) <= tolerance[1]
    return {
        "plan": plan,
        "adapters": spec,
        "targets": len(host),
        "worst_nats": float(gap.max()),
        "mean_nats": float(gap.mean()),
        "bpb_cpu": a,
        "bpb_device": b,
        "gain_cpu": a - (said.totals.base_bpb or a),
        "tolerance_nats": tolerance[0],
        "tolerance_bpb": tolerance[1],
        "seconds_cpu": said.seconds["wall"],
        "seconds_device": heard.seconds["wall"],
        "status": "ok" if good else "violated",
    }


def twice(card: Card, spec: str, plan: str, targets: int) -> dict[str, Any]:
    """A resumed run books the same bits only where two runs do.  Not a parity: it is told, and fails nothing."""
    first, second = (scores(card, card.device, spec, plan, targets)[0] for _ in range(2))
    return {"same_bits": bool(np.array_equal(first, second)), "worst_nats": float(np.abs(first - second).max())}
