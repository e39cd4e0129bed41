"""A probe: a question small enough to print, that gives the same answer when it is asked again."""

from __future__ import annotations

import base64
import json
import shlex
import zlib

import msgspec
import numpy as np

from evalkit.errors import InputError
from evalkit.legality.probes.tolerance import Tolerance, moves
from evalkit.legality.scorer import Box, Float64, Int64

INLINE = 64
MAX_TOKENS = 1 << 24


class Probe(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One question about one position.

    test: one of
    "suffix"    ``other`` shares all that is booked up to ``position``; the score there must be equal
    "mass"      the probabilities of ``subset`` at ``position`` must not sum to more than 1
    "document"  ``other`` has another document before the BOS at ``position``
    "build"     the artifacts built from ``tokens`` and from ``other`` must be equal
    "strict"    at ``position`` an engine scorer must book what its row with the target withheld says
    "recall"    ``count`` tokens from ``position`` on must not be known beforehand
    "ledger", "bytes", "bpb"  bookings, byte counts, the claimed figure
    "memory"    a second call of a new stream must not be cheaper than the first
    "call"      does score() answer at all?
    """

    test: str
    tokens: list[int] | str
    position: int = 0
    other: list[int] | str | None = None
    subset: list[int] | None = None
    text: str | None = None
    """UTF-8 text of a byte probe."""
    count: int = 0
    """Positions a recall probe spans."""
    world: str = ""
    """Of an engine target: "" the setup itself, "short" with short windows and chunks, "toy" on the toy model."""
    order: bool = False
    """A suffix probe in the declared processing order."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The answer: ``value`` against ``limit``, in ``unit``."""

    value: float
    limit: float
    unit: str
    sentence: str

    @property
    def violated(self) -> bool:
        return self.value > self.limit


def pack(tokens: Int64) -> list[int] | str:
    """Tokens as JSON: a list when short, else base64 of zlib of uint32."""
    if len(tokens) <= INLINE:
        return tokens.tolist()
    return "z:" + base64.b64encode(zlib.compress(tokens.astype("<u4").tobytes(), 9)).decode()


def unpack(packed: list[int] | str, vocab_size: int) -> Int64:
    """The inverse; InputError for anything that is not a stream over this vocabulary."""
    if isinstance(packed, str):
        try:
            plain = zlib.decompressobj()
            raw = plain.decompress(base64.b64decode(packed.removeprefix("z:"), validate=True), 4 * MAX_TOKENS)
            tokens = np.frombuffer(raw, "<u4").astype(np.int64)
        except (ValueError, zlib.error) as fault:
            raise InputError(f"the tokens of the probe cannot be read ({fault}); copy the whole command") from None
    else:
        tokens = np.array(packed, dtype=np.int64)
    if tokens.size == 0 or tokens.min() < 0 or tokens.max() >= vocab_size:
        raise InputError(
            f"the probe's tokens must be 1 or more ids of 0..{vocab_size - 1}; it has {tokens.size}"
            + (f" from {tokens.min()} to {tokens.max()}" if tokens.size else "")
        )
    return tokens


def size(packed: list[int] | str) -> int:
    """Number of tokens of a packed stream."""
    if isinstance(packed, list):
        return len(packed)
    return len(zlib.decompress(base64.b64decode(packed.removeprefix("z:")))) // 4


def to_json(probe: Probe) -> str:
    """One line, as ``--reproduce`` takes it."""
    return json.dumps(msgspec.to_builtins(probe), separators=(",", ":"))


def from_json(text: str) -> Probe:
    """Parse a probe; InputError with the field at fault."""
    try:
        return msgspec.json.decode(text, type=Probe)
    except msgspec.MsgspecError as fault:
        raise InputError(f"--reproduce: not a probe ({fault}); copy the command from the verdict's evidence") from None


def command(target: str, probe: Probe) -> str:
    """The shell command that asks this one question again."""
    return f"evalkit audit {shlex.quote(target)} --reproduce {shlex.quote(to_json(probe))}"


def mass_of(box: Box, tokens: Int64, position: int, subset: Int64) -> Float64:
    """Probability booked at ``position`` when the token there is each of ``subset``; float64 [|subset|].

    The rest of ``tokens`` stays as it is.
    """
    replays = np.repeat(tokens[None, :], len(subset), axis=0)
    replays[:, position] = subset
    return np.exp(replay(box, replays)[:, position])


def replay(box: Box, streams: Int64) -> Float64:
    """Scores of streams [B, T] of one length, float64 [B, T]; in blocks where the scorer can."""
    if "score_batch" not in box.facts.faces or len(streams) == 1:
        return np.array([box.score(stream) for stream in streams])
    blocks = []
    for lo in range(0, len(streams), 64):
        block = streams[lo : lo + 64]
        scores = box.ask("score_batch", block)
        blocks.append(scores)
    return np.concatenate(blocks)


def suffix_outcome(box: Box, tokens: Int64, other: Int64, position: int, tolerance: Tolerance) -> Outcome:
    """|L_t(tokens) - L_t(other)| in nats at ``position``."""
    a, b = (float(box.score(stream)[position]) for stream in (tokens, other))
    return moved(tokens, other, position, a, b, tolerance)


def moved(tokens: Int64, other: Int64, position: int, a: float, b: float, tolerance: Tolerance) -> Outcome:
    """The verdict on one suffix: nats ``a`` booked in the one stream and ``b`` in the other."""
    value, scale = float(moves(np.array(a), np.array(b))), min(abs(a), abs(b))
    limit = tolerance.same(scale) if len(tokens) == len(other) else tolerance.length(scale)
    first = first_difference(tokens, other)
    what = f"the score of token {position} moves by {value:.3g} nats when tokens from {first} on change"
    return Outcome(value=value, limit=limit, unit="nats", sentence=what)


def mass_outcome(box: Box, tokens: Int64, position: int, subset: Int64, tolerance: Tolerance) -> Outcome:
    """Z over ``subset`` at ``position``."""
    return summed(mass_of(box, tokens, position, subset), position, len(tokens), tolerance)


def summed(masses: Float64, position: int, length: int, tolerance: Tolerance) -> Outcome:
    """The verdict on probabilities of tokens that exclude each other at one position of a stream of ``length``."""
    total = float(masses.sum())
    what = f"{len(masses)} tokens that exclude each other at position {position} are given {total:.6f} in sum"
    return Outcome(value=total, limit=1.0 + tolerance.mass(length), unit="probability", sentence=what)


def first_difference(a: Int64, b: Int64) -> int:
    """First index where two streams part (the shorter length when one begins the other)."""
    n = min(len(a), len(b))
    differing = np.flatnonzero(a[:n] != b[:n])
    return int(differing[0]) if len(differing) else n
