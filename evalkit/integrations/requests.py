"""The cost of each text of a list: another harness asks in requests; the engine scores streams.

A list of texts becomes one stream, documents in the order given, and each text gets the nats of its own tokens.  The BOS
that ends a document belongs to the stream, not to a text: other harnesses do not count it, so it is left out here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec
import numpy as np

from evalkit.adapters.base import Float64, Int32, Needs, Receipt, Side, StreamInfo, TokenChunk
from evalkit.adapters.registry import make_adapter
from evalkit.errors import InputError
from evalkit.plan import Document, Plan
from evalkit.scoring.score import ScoreOptions, score
from evalkit.stream import Stream, open_texts, stream_of_tokens

LONGEST_WINDOW = 2048
"""Tokens of a window for models that state no limit."""
TOGETHER = 256
"""Pairs scored in one stream when nothing is learned from one to the next."""


class WatchSettings(msgspec.Struct, frozen=True):
    greedy: bool = False
    """Whether the target was the most probable token is wanted too; that takes whole rows."""


class Watch:
    """The last stage of a stack: changes nothing, and keeps what each target got."""

    name: ClassVar[str] = "watch"

    def __init__(self, settings: WatchSettings) -> None:
        self.settings = settings
        self.nats: list[Float64] = []
        self.hits: list[np.ndarray] = []

    def begin(self, info: StreamInfo) -> None:
        self.nats, self.hits = [], []

    @property
    def needs(self) -> Needs:
        return Needs(rows=self.settings.greedy)

    def score(self, chunk: TokenChunk, p: Float64) -> Float64:
        own = np.arange(len(p)), chunk.tokens if chunk.cands is None else 0
        self.nats.append(-np.log(p[own]))
        if self.settings.greedy:
            self.hits.append(p.argmax(axis=1) == chunk.tokens)
        return p

    def row(self, p: Float64, side: Side, history: tuple[Float64, ...] = ()) -> Float64:
        return p

    def observe(self, receipt: Receipt) -> None:
        pass

    def snapshot(self) -> bytes:
        return b""

    def restore(self, state: bytes, tokens: Int32) -> None:
        pass

    def state_bytes(self) -> int:
        return sum(a.nbytes for a in self.nats)


@dataclass
class Requests:
    """A model with adapters that answers requests.  ``adapters``: (name, raw settings), made anew for every stream."""

    model: Any
    tokenizer: Any
    adapters: list[tuple[str, dict[str, Any]]]
    plan: Plan | None = None
    """None: see :func:`default_plan`."""
    seed: int = 0
    lossy: bool = False
    """Score texts that the tokenizer changes as it gives them back."""

    def __post_init__(self) -> None:
        for name, raw in self.adapters:
            make_adapter(name, raw)

    def texts(self, texts: Sequence[str], *, alone: bool = False) -> list[float]:
        """Nats of each text, in order.  ``alone``: adapters forget between texts; else they learn from text to text."""
        found = [(i, text) for i, text in enumerate(texts) if text]
        answers = [0.0] * len(texts)
        for group in [[one] for one in found] if alone and self.adapters else [found] if found else []:
            stream = open_texts([text for _, text in group], self.tokenizer, lossy=self.lossy)
            nats, _ = self._score(stream, greedy=False)
            for (i, _), (lo, hi) in zip(group, _own_targets(stream, len(group)), strict=True):
                answers[i] = math.fsum(nats[lo - 1 : hi - 1])
        return answers

    def pairs(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[tuple[float, bool]]:
        """(nats of the continuation, every token of it the most probable one) of each (context ids, continuation ids).

        A pair never learns from another.  InputError for an empty continuation.
        """
        bos = self.tokenizer.bos_id
        size = 1 if self.adapters else TOGETHER
        answers: list[tuple[float, bool]] = []
        for at in range(0, len(pairs), size):
            rows = [([*context[context[:1] == [bos] :]], list(after)) for context, after in pairs[at : at + size]]
            answers += self._pairs([([bos, *context], after) for context, after in rows])
        return answers

    def _pairs(self, pairs: list[tuple[list[int], list[int]]]) -> Iterator[tuple[float, bool]]:
        if not all(after for _, after in pairs):
            raise InputError("a continuation is empty after tokenising; there is nothing to score")
        tokens = np.array([t for context, after in pairs for t in (*context, *after)], dtype=np.int32)
        nats, hits = self._score(stream_of_tokens(tokens, self.tokenizer, "requests"), greedy=True)
        hi = 0
        for context, after in pairs:
            lo, hi = hi + len(context), hi + len(context) + len(after)
            yield math.fsum(nats[lo - 1 : hi - 1]), bool(hits[lo - 1 : hi - 1].all())

    def _score(self, stream: Stream, *, greedy: bool) -> tuple[Float64, np.ndarray]:
        """Nats [n] and hits [n] of targets 1..n after the whole stack."""
        watch = Watch(WatchSettings(greedy))
        adapters = [*(make_adapter(name, raw) for name, raw in self.adapters), watch]
        plan, chunk = self.plan or default_plan(self.model), 2048 if greedy else 8192
        options = ScoreOptions(chunk_tokens=max(chunk, plan.step), seed=self.seed, sentinel=False, base_pass=False)
        score(self.model, stream, adapters, plan, options=options)
        return np.concatenate(watch.nats), np.concatenate(watch.hits) if greedy else np.empty(0, bool)


def default_plan(model: Any) -> Plan:
    """Windows of the model's length, side by side within each text, as other harnesses cut them."""
    longest = min(model.max_seq_len or LONGEST_WINDOW, LONGEST_WINDOW)
    return Document(seq_len=longest, stride=longest)


def _own_targets(stream: Stream, count: int) -> list[tuple[int, int]]:
    """Targets [lo, hi) of each document without the BOS that ends it."""
    starts = stream.doc_start.tolist()
    assert len(starts) == count, (len(starts), count)
    ends = [*starts[1:], len(stream.tokens)]
    return [(start + 1, end) for start, end in zip(starts, ends, strict=True)]
