"""What do adapters cost and bring on the device?  Forecast against run, learners, the sequencer beside the forward, the table."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benches.card.sheet import Absent, Card, Sheet
from benches.card.speed import board
from benches.card.subjects import loaded, random_model, subject, text_of
from benches.card.training import artifact_of
from benches.learners import BY_DOCUMENT, LANES, PLAN, STACKS, Base, row, run_stack
from evalkit.adapters.base import Needs
from evalkit.adapters.registry import parse_adapter
from evalkit.budget import profile
from evalkit.budget.calibrate import calibrate
from evalkit.budget.hardware import parse_target
from evalkit.budget.work import count_work, input_tokens, shape_of
from evalkit.harness.job import Job
from evalkit.harness.lead import Lead
from evalkit.machine import usable_cpus
from evalkit.models.ek.container import read_artifact
from evalkit.models.forward import WindowForward
from evalkit.plan import parse_plan
from evalkit.scoring.run import ScoreOptions, families, settled
from evalkit.scoring.score import score

EXPERTS = {
    "ppm": ["ppm"],
    "ppm, continuations": ["ppm:counts=continuations,fast=0.5"],
    "match": ["match"],
    "best_agree": ["best_agree"],
    "tilt": ["tilt"],
    "backoff": ["backoff"],
    "hedge": ["hedge"],
    "log_bias": ["log_bias"],
    "temperature": ["temperature"],
}
DEFAULT = ["ppm"]


def options_of(card: Card) -> ScoreOptions:
    return ScoreOptions(chunk_tokens=card.size(8192, 64), batch_tokens=card.size(32768, 256))


def small(card: Card, specs: Sequence[str]) -> list[str]:
    """A smoke run's learners learn every 64 targets; experts are as they are."""
    if not card.smoke:
        return list(specs)
    names = {"muon_ttt", "full_ttt", "lora_ttt", "phased_ttt"}
    found = []
    for spec in specs:
        name = spec.split(":")[0]
        found.append(f"{name}:chunk=64,seq_len=32,batch=0" if name in names else spec)
    return [
        "slot:chunk=64" if s.startswith("slot") else "lora_lanes:lanes=4,chunk=16" if s.startswith("lora_lanes") else s
        for s in found
    ]


def plan_of(card: Card, plan: str) -> str:
    if not card.smoke:
        return plan
    return "document:seq_len=32,stride=16" if plan.startswith("document") else "banded:window=32,block=32,segment=0"


# -- forecast -----------------------------------------------------------------------------------------------------------------


def forecast(card: Card, sheet: Sheet) -> None:
    sheet.note = (
        "seconds of the scoring loop: forecast on this machine's CPU by evalkit profile --target, and run on the device"
    )
    for name, specs in {"no adapter": [], "ppm": DEFAULT, "muon_ttt": ["muon_ttt"]}.items():
        for plan in (PLAN, "sliding:seq_len=512,stride=64"):
            if card.smoke and plan != PLAN:
                continue
            sheet.row(f"{name}, {plan}", lambda s=specs, p=plan: foretold(card, small(card, s), plan_of(card, p)))


def foretold(card: Card, specs: list[str], plan_text: str) -> dict[str, Any]:
    """One recipe of one GPU: what the CPU's calibration says of it, and what it took."""
    gpu = board(card)
    if gpu is None and not card.smoke:
        raise Absent("this board is not in the list of data sheets, so there is no forecast for it")
    target = parse_target(f"1x{gpu.name if gpu else 'H100'}")
    model = subject(card, "cpu")
    stream = text_of(card, model, card.size(40_000, 192))
    adapters = [parse_adapter(s) for s in specs]
    options, plan = settled(model, parse_plan(plan_text), adapters, options_of(card))
    made = calibrate(
        model, stream, lambda: [parse_adapter(s) for s in specs], plan, options, targets=card.size(8192, 64),
        at_most_seconds=20.0,
    )  # fmt: skip
    shape = shape_of(plan, stream, families(adapters)[0], options.chunk_tokens, options.batch_tokens)
    tokens = input_tokens(plan, stream)
    subject_ = profile.Subject(made, shape, tokens, torch.get_num_threads(), usable_cpus(), "cpu", None)
    work = count_work(
        WindowForward(model, plan, stream, Needs(), {}, options.batch_tokens), stream, options.chunk_tokens
    )
    said = profile.on_target(subject_, target, work)
    there = subject(card, card.device)
    run_of(card, there, stream.head(card.size(8192, 64)), specs, plan_text)  # the first run pays for what is made once
    wall, spans, _ = run_of(card, there, stream, specs, plan_text)
    return {
        "target": target.name,
        "targets": stream.n_targets,
        "forecast": said.total,
        "low": said.low,
        "high": said.high,
        "measured": wall,
        "spans": spans,
        "inside": said.low <= wall <= said.high,
        "error": said.total / wall - 1.0,
        "assumption": said.assumption,
    }


def run_of(
    card: Card, model: Any, stream: Any, specs: Sequence[str], plan: str, forwards: Any = None
) -> tuple[float, dict[str, float], Any]:
    """(wall seconds of the loop, seconds by verb, result)."""
    made = [parse_adapter(s) for s in specs]
    result = score(model, stream, made, parse_plan(plan), options=options_of(card), forwards=forwards)
    return result.record.seconds["wall"], result.record.seconds, result


# -- learners -----------------------------------------------------------------------------------------------------------------


def learners(card: Card, sheet: Sheet) -> None:
    sheet.note = (
        "microseconds per target by verb; 'class' has the shape of the 16 MB class and random weights: seconds alone"
    )
    named = {n: s for n, s in STACKS.items() if "_ttt" in n or n.startswith("slot")} | {"lora_ttt, lanes": [LANES]}
    named |= {"lora_ttt, lanes, batched": [f"{LANES},batched=true"]}
    wide = {"muon_ttt, chunks of 32,768": ["muon_ttt:chunk=32768,seq_len=1024,batch=16,micro_tokens=32768"]}
    for subject_name, make in (("bundled", subject), ("class", random_model))[: card.size(2, 1)]:
        for name, specs in (named | ({} if card.smoke else wide)).items():
            sheet.row(f"{subject_name}: {name}", lambda m=make, n=name, s=specs: learn(card, m, n, s))


def learn(card: Card, make: Callable[..., Any], name: str, specs: list[str]) -> dict[str, Any]:
    model = make(card, card.device)
    stream = text_of(card, model, card.size(32_768, 128))
    plan = plan_of(card, BY_DOCUMENT_PLAN if "lanes" in name else PLAN)
    wall, spans, result = run_of(card, model, stream, small(card, specs), plan)
    n, stages = stream.n_targets, result.record.stages
    return {
        "adapters": specs,
        "targets": n,
        "microseconds_a_target": 1e6 * wall / n,
        "by_verb": {verb: 1e6 * seconds / n for verb, seconds in spans.items() if verb != "wall"},
        "bpb": result.record.totals.bpb,
        "gain": [stage.delta_bpb for stage in stages],
        "device_peak_bytes": result.record.environment["device_peak_bytes"],
    }


BY_DOCUMENT_PLAN = "document:seq_len=512,stride=256"


# -- overlap ------------------------------------------------------------------------------------------------------------------


def overlap(card: Card, sheet: Sheet) -> None:
    sheet.note = "'alone': no experts; 'after': experts between forward calls; 'beside': in the harness, one rank"
    for name, make in (("bundled", subject), ("class", random_model)):
        for stack in (DEFAULT, STACKS["experts"]):
            key = f"{name}: {' + '.join(s.split(':')[0] for s in stack)}"
            sheet.row(key, lambda m=make, s=stack: beside(card, m, s))


def beside(card: Card, make: Callable[..., Any], stack: list[str]) -> dict[str, Any]:
    """Three arms in turn, medians."""
    model = make(card, card.device)
    stream = text_of(card, model, card.size(65_536, 192))
    window = min(512, model.max_seq_len)
    plan = f"sliding:seq_len={window},stride={window // 2}"
    walls: dict[str, list[float]] = {"alone": [], "after": [], "beside": []}
    bits = dict[str, float | None]()
    for _ in range(card.size(4, 1)):
        for arm in walls:
            specs, forwards, lead = ([] if arm == "alone" else stack), None, None
            if arm == "beside":
                lead = Lead(Job(card.device, torch.get_num_threads()), lambda: False)
                forwards = lead.forwards
            try:
                wall, _, result = run_of(card, model, stream, specs, plan, forwards)
            finally:
                if lead is not None:
                    lead.close()
                    lead.job.close()
            walls[arm].append(wall)
            bits[arm] = result.record.totals.bpb
    alone, after, side = (statistics.median(w[1:] or w) for w in walls.values())
    return {
        "targets": stream.n_targets,
        "alone_seconds": alone,
        "after_seconds": after,
        "beside_seconds": side,
        "hidden": (after - side) / (after - alone) if after > 1.02 * alone else None,
        "walls": walls,
        "status": "ok" if bits["after"] == bits["beside"] else "violated",
    }


# -- table --------------------------------------------------------------------------------------------------------------------


def table(card: Card, sheet: Sheet) -> None:
    """Every expert, every learner, and stacks, on the model that training left; on the bundled one where it left none."""
    path = artifact_of(card)
    sheet.note = f"model: {'trained here' if path else 'bundled (training left none)'}"
    model = loaded(read_artifact(path), card.device) if path else subject(card, card.device)
    sheet.about(f"model {model.fingerprint}")
    stream = text_of(card, model, card.size(200_000, 192))
    by_plan = {PLAN: STACKS | EXPERTS, BY_DOCUMENT_PLAN: BY_DOCUMENT}
    bases = dict[str, Base]()
    for plan, stacks in by_plan.items():
        ordered = {n: s for n, s in stacks.items() if n == "base"} | stacks
        for name, specs in ordered.items():
            key = f"{name}, {plan.partition(':')[0]}"
            sheet.row(key, lambda n=name, s=specs, p=plan: scored(card, (model, stream), n, s, p, bases))


def scored(
    card: Card, parts: tuple[Any, Any], name: str, specs: list[str], plan: str, bases: dict[str, Base]
) -> dict[str, Any]:
    """One row of the table; the base of a plan is scored once and kept beside the sheets."""
    kept = card.out / f"base-{plan.partition(':')[0]}-{parts[0].fingerprint[:8].replace(' ', '-')}.npz"
    if plan not in bases and kept.exists() and name != "base":
        bases[plan] = Base.load(kept)
    began = time.process_time()
    result = run_stack(parts, small(card, specs), plan_of(card, plan), card.size(8192, 64))
    if name == "base":
        bases[plan] = Base.of(result)
        bases[plan].save(kept)
    if plan not in bases:
        raise Absent("the base of this plan was not scored")
    found = row(name, small(card, specs), result, bases[plan], time.process_time() - began)
    return {k: v for k, v in found.items() if k not in ("state_bytes", "peak_memory_bytes")}
