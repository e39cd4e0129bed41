"""The audit of a recipe: its adapters on a toy model in full, then the setup itself on its own text.

Three worlds: "toy" (the same adapters on a small model, every token of the vocabulary asked), "short" (the real model,
plan and adapters, with windows and chunks cut short so that many edges fit a slice), and "" (the setup as it is).
On real text a whole sum over the vocabulary costs a forward pass per token, so there the rows with the target withheld stand
for it: the engine computes them without the target, and the black box on the toy model checks that claim on sums.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np

from evalkit.legality import effort as efforts
from evalkit.legality.conclude import conclude
from evalkit.legality.effort import Effort
from evalkit.legality.engine.checks import setup_checks, weights_digest
from evalkit.legality.engine.setup import EngineScorer, Setup, fresh
from evalkit.legality.engine.toy import shortened, toy_scorer
from evalkit.legality.probes import declared, sanity, strict, suffix
from evalkit.legality.probes.lab import Lab, Scored
from evalkit.legality.probes.shrink import shrink
from evalkit.legality.probes.streams import Stream as Slice
from evalkit.legality.referee import investigate
from evalkit.legality.rules import ruleset as find_rules
from evalkit.legality.scorer import Box, Int64, LocalBox, ScorerFault
from evalkit.legality.verdict import Check, Verdict
from evalkit.plan import Plan
from evalkit.stream import Stream

SHORT_CHUNK = 256


def short_plan(plan: Plan) -> Plan:
    """The same plan with windows of at most 64 tokens and steps of at most 32 (banded: segments of 256)."""
    most = {"seq_len": 64, "stride": 32, "window": 64, "block": 64, "segment": SHORT_CHUNK}
    fields = {f.name for f in msgspec.structs.fields(type(plan))}
    changes = {k: min(getattr(plan, k), v) if getattr(plan, k) else v for k, v in most.items() if k in fields}
    return msgspec.structs.replace(plan, **changes)


def short_setup(setup: Setup) -> Setup:
    """The real model with a short plan, short chunks and learners that learn often."""
    plan = short_plan(setup.plan)
    chunk = max(plan.step, SHORT_CHUNK // plan.step * plan.step)
    return replace(setup, plan=plan, chunk_tokens=chunk, adapters=tuple(_short(a, plan) for a in setup.adapters))


def _short(adapter: Any, plan: Plan) -> Any:
    """A learner's clock cut to the short plan's step."""
    quick = shortened(adapter)
    fields = {f.name for f in msgspec.structs.fields(type(quick.settings))}
    if quick is adapter or "chunk" not in fields:
        return quick
    chunk = max(plan.step, quick.settings.chunk // plan.step * plan.step)
    return fresh(quick, **{k: v for k, v in {"chunk": chunk, "every": 2 * chunk}.items() if k in fields})


def worlds(setup: Setup) -> dict[str, Box]:
    """The boxes that a probe of this recipe may name."""
    quick = short_setup(setup)
    found: dict[str, Box] = {"": LocalBox(lambda: EngineScorer(setup)), "short": LocalBox(lambda: EngineScorer(quick))}
    if setup.adapters:
        found["toy"] = LocalBox(lambda: toy_scorer(setup.adapters))
    return found


def slices(tokens: Int64, length: int, count: int, rng: np.random.Generator) -> list[Slice]:
    """``count`` slices of ``length`` tokens: the beginning of the text, then random places."""
    last = max(0, len(tokens) - length)
    starts = [0, *rng.integers(0, last + 1, max(0, count - 1)).tolist()][:count]
    return [_plain(tokens[s : s + length], f"text at {s}") for s in dict.fromkeys(starts)]


def heads(tokens: Int64, bos: int, length: int, count: int, rng: np.random.Generator) -> list[Slice]:
    """``count`` streams of ``length`` tokens from the beginnings of documents, 16 to 128 tokens of each, one behind another.

    Short documents are for learners that begin afresh in each: a chunk holds many.
    """
    starts = np.union1d([0], np.flatnonzero(tokens == bos))
    found = []
    for i in range(count):
        parts: list[Int64] = []
        while sum(len(p) for p in parts) < length:
            start = int(rng.choice(starts))
            following = starts[starts > start]
            end = int(following[0]) if len(following) else len(tokens)
            parts.append(tokens[start : min(end, start + int(rng.integers(16, 129)))])
        found.append(_plain(np.concatenate(parts)[:length], f"beginnings {i}"))
    return found


def _plain(tokens: Int64, name: str) -> Slice:
    """A stream that copies nothing on purpose: the latest earlier place with the same two tokens counts as its source."""
    copied, seen = np.full(len(tokens), -1), dict[tuple[int, int], int]()
    for t in range(2, len(tokens)):
        pair = (int(tokens[t - 2]), int(tokens[t - 1]))
        copied[t] = seen.get(pair, -1)
        seen[pair] = t
    return Slice(name, tokens, copied, np.zeros(0, dtype=np.int64))


def probe_text(lab: Lab, streams: list[Slice], cuts: int, deadline: float) -> str:
    """Strict replays and suffix replays of real slices until ``deadline`` of ``lab.clock``; "" or why it ended early."""
    lab.deadline, reason = deadline, ""
    try:
        sanity.handshake(lab, streams[0].tokens[:64])
        lab.first_target = 1
        strict.check(lab, [s.tokens for s in streams])
        declared.check_isolation(lab)
        for i, stream in enumerate(streams):
            if lab.late() or lab.found("causal", "suffix"):
                break
            scored = Scored(stream, lab.box.score(stream.tokens))
            suffix.sweep(lab, scored, cuts // len(streams) + (i < cuts % len(streams)))
    except ScorerFault as fault:
        reason = f"{fault.kind}: {fault}"
    lab.deadline = lab.clock() + max(5.0, deadline - lab.clock())
    lab.findings = [shrink(lab, f) for f in lab.findings]
    return reason


def audit_setup(
    setup: Setup,
    stream: Stream,
    *,
    target: str,
    ruleset: str = "strict",
    seconds: float = efforts.DEFAULT_SECONDS,
    probes: float | None = None,
    seed: int = 0,
    checks: list[Check] | None = None,
) -> Verdict:
    """Audit a model with adapters and plan on its text.  ``checks``: what a caller has already looked at.

    seconds, probes: as in :func:`evalkit.legality.referee.audit`.
    """
    rules, start = find_rules(ruleset), time.monotonic()
    boxes, rng = worlds(setup), np.random.default_rng(seed)
    clock = time.monotonic if probes is None else efforts.probe_clock(list(boxes.values()))
    budget, began = probes or seconds, clock()
    before = weights_digest(setup.model)
    lab = Lab(boxes[""], rng, efforts.QUICK, withheld=True)
    lab.unit = "seconds" if probes is None else "probes"
    verdict = Verdict(target=target, ruleset=ruleset, vocab_size=setup.model.vocab_size, seed=seed)
    verdict.track = {"name": "A", "memory_tokens": setup.plan.context, "stream_tokens": stream.n_targets + 1}
    tokens = np.asarray(stream.tokens[: 1 << 20], dtype=np.int64)
    if "toy" in boxes:
        toy = Lab(boxes["toy"], rng, efforts.QUICK, clock=clock)
        verdict.reason = investigate(toy, None, 0.45 * budget)
        verdict.track = toy.track
        lab.absorb(toy, "toy")
    short = Lab(boxes["short"], rng, Effort(), clock=clock)
    until = clock() + 0.3 * budget
    texts = slices(tokens, 640, 4, rng)
    if setup.lanes:
        texts = [*texts[:2], *heads(tokens, setup.tokenizer.bos_id, 640, 2, rng)]
    verdict.reason = verdict.reason or probe_text(short, texts, 32, until)
    lab.absorb(short, "short")
    length = min(len(tokens), setup.chunked() + setup.plan.context + 1)
    full = Lab(boxes[""], rng, Effort(), clock=clock)
    verdict.reason = verdict.reason or probe_text(full, slices(tokens, length, 1, rng), 4, began + budget)
    lab.absorb(full, "")
    verdict.checks = [*setup_checks(setup, stream), *(checks or [])]
    verdict.checks.append(_put_back(before, weights_digest(setup.model)))
    conclude(lab, rules, verdict)
    verdict.calls = sum(box.meter.calls for box in boxes.values())
    verdict.replayed_tokens = sum(box.meter.tokens for box in boxes.values())
    verdict.seconds = round(time.monotonic() - start, 3)
    return verdict


def _put_back(before: str, after: str) -> Check:
    same = before == after
    detail = "the model's weights are as they were before the replays" if same else "a replay left other weights behind"
    return Check(test="T6", name="weights put back", status="ok" if same else "warning", detail=detail)
