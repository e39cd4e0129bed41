"""Ledgers: every target booked once, in order, and its bytes the bytes of the text."""

from __future__ import annotations

import numpy as np

from evalkit.legality.probes.lab import Lab
from evalkit.legality.probes.probe import Outcome, Probe, pack
from evalkit.legality.probes.tolerance import moves
from evalkit.legality.scorer import Box, Int64, ScorerFault

TEXTS = (
    "The cat sat on the mat, and the cat sat on the mat again.",
    "  two spaces lead, and  two   spaces follow ",
    "Caf\u00e9 na\u00efve \u00c9cole \u2014 \u201cquoted\u201d \u4f60\u597d \U0001f600\U0001f680 end",
    "CAPITALS and camelCase: HTTPServer, McDonald, I.B.M.",
    "line one\nline two\ttabbed\r\nline three",
    "a",
    "\ufb01ne \u2460 \uff21\uff22 \u00bd x\u00b2",
)


def coverage_outcomes(box: Box, tokens: Int64) -> dict[str, Outcome]:
    """Outcomes by law for one stream's bookings: missing, duplicate, out of range, out of order, unlike score()."""
    index, logp = _ledger(box, tokens)
    within = (index >= 0) & (index < len(tokens))
    inside, last = index[within], np.full(len(tokens), np.nan)
    last[inside] = logp[within]
    times = np.bincount(inside, minlength=len(tokens))
    missing = np.flatnonzero(times[1:] == 0) + 1
    tail = len(missing) < box.facts.seq_len and len(missing) > 0 and missing[0] == len(tokens) - len(missing)
    strays, twice = len(index) - len(inside), int((times > 1).sum())
    backward = 0 if "order" in box.facts.faces else int((np.diff(index) < 0).sum())
    booked = ~np.isnan(last)
    unlike = moves(last[booked], box.score(tokens)[booked]).max(initial=0.0)
    n = len(tokens) - 1
    return {
        "coverage": Outcome(
            value=float(strays + (0 if tail else len(missing))),
            limit=0.0,
            unit="targets",
            sentence=f"{len(missing)} of {n} targets are never booked and {strays} bookings lie outside the stream"
            + (" (a tail shorter than seq_len: tolerated)" if tail else ""),
        ),
        "single-pass": Outcome(
            value=float(twice + backward),
            limit=0.0,
            unit="targets",
            sentence=f"{twice} of {n} targets are booked more than once ({len(index)} bookings), {backward} steps go back",
        ),
        "steady": Outcome(
            value=float(unlike), limit=1e-4, unit="nats", sentence="the ledger's last booking differs from score()"
        ),
    }


def _ledger(box: Box, tokens: Int64) -> tuple[Int64, np.ndarray]:
    answer = box.ask("ledger", tokens)
    if not (isinstance(answer, tuple) and len(answer) == 2 and len(answer[0]) == len(answer[1])):
        raise ScorerFault("shape", "ledger() must return two arrays of one length: stream index and log-probability")
    index = np.asarray(answer[0])
    if index.dtype.kind not in "iu":
        raise ScorerFault("shape", f"ledger() returned indices of dtype {index.dtype}, not integers")
    return index.astype(np.int64), np.asarray(answer[1], dtype=np.float64)


def check_coverage(lab: Lab, streams: list[Int64]) -> int:
    """Ask for the bookings of some streams; findings under "coverage" and "single-pass".  Returns targets checked."""
    if "ledger" not in lab.box.facts.faces:
        return 0
    for tokens in streams:
        for law, outcome in coverage_outcomes(lab.box, tokens).items():
            if law == "steady" and outcome.violated:
                raise ScorerFault("unsteady", f"{outcome.sentence} by {outcome.value:.3g} nats")
            if outcome.violated and not lab.found(law):
                lab.add(law, Probe(test="ledger", tokens=pack(tokens)), outcome)
    return sum(len(s) - 1 for s in streams)


def bytes_outcome(box: Box, tokens: Int64, text: str | None) -> Outcome:
    """|claimed bytes - true bytes| of a text (or of what the tokens decode to when there is no text)."""
    if text is not None:
        tokens = np.asarray(box.ask("encode", text.encode()), dtype=np.int64)
        truth = text.encode()
        if "decode" in box.facts.faces and (decoded := bytes(box.ask("decode", tokens))) != truth:
            return _lossy(truth, decoded)
    else:
        truth = bytes(box.ask("decode", tokens))
    counted = int(np.asarray(box.ask("byte_counts", tokens)).sum())
    what = f"{len(tokens)} tokens are counted as {counted} bytes; their text has {len(truth)}"
    return Outcome(value=float(abs(counted - len(truth))), limit=0.0, unit="bytes", sentence=what)


def _lossy(truth: bytes, decoded: bytes) -> Outcome:
    n = next((i for i, (a, b) in enumerate(zip(truth, decoded, strict=False)) if a != b), min(len(truth), len(decoded)))
    what = (
        f"the tokens decode to another text: byte {n} is {decoded[n : n + 8]!r}, the original has {truth[n : n + 8]!r}"
    )
    return Outcome(value=float(max(1, abs(len(truth) - len(decoded)))), limit=0.0, unit="bytes", sentence=what)


def bpb_outcome(box: Box, text: str) -> Outcome:
    """Relative gap between the claimed figure and nats / ln 2 / true bytes."""
    tokens = np.asarray(box.ask("encode", text.encode()), dtype=np.int64)
    nats, size = -float(box.score(tokens)[1:].sum()), len(text.encode())
    claimed, true = float(box.ask("bpb", tokens)), nats / np.log(2) / size
    implied = nats / np.log(2) / claimed if claimed > 0 else float("inf")
    what = f"claims {claimed:.6f} bits per byte; {nats:.3f} nats over {size} bytes are {true:.6f} (implied bytes {implied:.1f})"
    return Outcome(value=abs(claimed / true - 1), limit=1e-6, unit="relative", sentence=what)


def check_bytes(lab: Lab) -> int:
    """Count the bytes of hard texts and of random tokens; findings under "bytes".  Returns bytes checked."""
    faces, size = lab.box.facts.faces, 0
    if {"byte_counts", "encode"} <= faces:
        for text in TEXTS:
            _try_bytes(lab, np.zeros(1, dtype=np.int64), text)
            size += len(text.encode())
    if {"byte_counts", "decode"} <= faces:
        for tokens in _streams(lab):
            _try_bytes(lab, tokens, None)
            size += len(tokens)
    if {"bpb", "encode"} <= faces and not lab.found("bytes"):
        for text in TEXTS[:3]:
            outcome = bpb_outcome(lab.box, text)
            if outcome.violated and not lab.found("bytes"):
                lab.add("bytes", Probe(test="bpb", tokens=[0], text=text), outcome)
    return size


def _try_bytes(lab: Lab, tokens: Int64, text: str | None) -> None:
    if lab.found("bytes"):
        return
    outcome = bytes_outcome(lab.box, tokens, text)
    if outcome.violated:
        lab.add("bytes", Probe(test="bytes", tokens=pack(tokens), text=text), outcome)


def _streams(lab: Lab) -> list[Int64]:
    """Token streams whose bytes are worth counting.

    With an encoder: its own texts with control pieces put between the tokens, since boundary rules differ there.
    (Random tokens would be unfair to a lossless transform, whose encoder never writes them.)  Without: random tokens.
    """
    if "encode" not in lab.box.facts.faces:
        return [lab.rng.integers(0, lab.vocab_size, 64) for _ in range(8)]
    low = range(min(64, lab.vocab_size))
    control = [i for i in low if not bytes(lab.box.ask("decode", np.array([i])))]
    texts = [np.asarray(lab.box.ask("encode", text.encode()), dtype=np.int64) for text in TEXTS[:3]]
    return [_interleaved(lab, text, c) for c in control[:8] for text in texts]


def _interleaved(lab: Lab, tokens: Int64, control: int) -> Int64:
    """``control`` put before some of the tokens."""
    before = np.flatnonzero(lab.rng.random(len(tokens)) < 0.3)
    return np.insert(tokens, before, control)
