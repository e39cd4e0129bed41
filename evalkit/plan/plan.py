"""Plans: which tokens are scored in which forward pass; every target exactly once, the tail included.

A target is a position t >= 1 of the stream; it is predicted from tokens [.., t).  A window feeds tokens
``[start, hi - 1)`` and books targets ``[lo, hi)``, ``start < lo < hi``:

    tokens    start ........ lo-1   lo ...... hi-1
    inputs    [------------------------------)          token hi-1 is a target only, never an input
    booked                          [========)          row j of the forward is the distribution of token start+j+1

Edges lie on a grid that never looks at where the stream ends, except that the last window is cut short.  (The rule
the field began with moved the last windows back to the end and booked the final targets up to 32 times; see #1394.)
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import msgspec
import numpy as np
import numpy.typing as npt

from evalkit.errors import InputError


@dataclass(frozen=True, slots=True)
class Window:
    """One forward pass: inputs tokens[start:hi-1], books targets lo..hi-1."""

    start: int
    lo: int
    hi: int

    @property
    def length(self) -> int:
        """Input tokens."""
        return self.hi - 1 - self.start

    @property
    def skip(self) -> int:
        """Rows at the front of the forward that are context only."""
        return self.lo - 1 - self.start


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive windows whose targets are [lo, hi): the unit of synchrony, journal and learning."""

    index: int
    lo: int
    hi: int
    windows: tuple[Window, ...]

    def batches(self, tokens: int) -> Iterator[tuple[Window, ...]]:
        """Windows of one length together, at most ``tokens`` input tokens a batch (at least one window).

        The composition depends on the plan alone, never on ranks: the same batch gives the same bits everywhere.
        """
        batch: list[Window] = []
        for window in self.windows:
            full = batch and (window.length != batch[0].length or (len(batch) + 1) * window.length > tokens)
            if full:
                yield tuple(batch)
                batch = []
            batch.append(window)
        if batch:
            yield tuple(batch)


def owners(starts: npt.NDArray[np.int64], lo: int, hi: int) -> npt.NDArray[np.int64]:
    """Int64 [hi - lo]: for positions lo..hi-1 the last of ``starts`` (increasing) at or before it; -1 where none is."""
    found = np.searchsorted(starts, np.arange(lo, hi), side="right")
    return np.where(found > 0, starts[np.maximum(found, 1) - 1], -1) if len(starts) else np.full(hi - lo, -1)


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of the plans.  ``windows`` is the only thing a plan decides."""

    name: ClassVar[str] = ""
    carries: ClassVar[bool] = False
    """True when a window without skipped rows continues the state that the window before it left (keys and values)."""

    step_option: ClassVar[str] = "stride"
    """The setting that makes :attr:`step` shorter."""

    @property
    def carries_on(self) -> bool:
        """True when that state outlives a chunk."""
        return False

    @property
    def context(self) -> int:
        """Longest input of a window, in tokens."""
        raise AssertionError("a plan defines its context")

    @property
    def step(self) -> int:
        """Targets of a full window after the first: the grid that chunk sizes are a multiple of."""
        raise AssertionError("a plan defines its step")

    def windows(self, n_tokens: int, doc_start: npt.NDArray[np.int64]) -> Iterator[Window]:
        """Windows over a stream of ``n_tokens`` tokens (targets 1..n_tokens-1), in target order."""
        raise AssertionError("a plan defines its windows")

    def chunks(self, n_tokens: int, doc_start: npt.NDArray[np.int64], chunk_tokens: int) -> Iterator[Chunk]:
        """Group whole windows into chunks of at most ``chunk_tokens`` targets (one group of windows may exceed it)."""
        if chunk_tokens < 1:
            raise InputError(f"chunk_tokens must be at least 1 target, got {chunk_tokens}")
        index, held = 0, list[Window]()
        for group in self.together(self.windows(n_tokens, doc_start)):
            if held and group[-1].hi - held[0].lo > chunk_tokens:
                yield Chunk(index, held[0].lo, held[-1].hi, tuple(held))
                index, held = index + 1, []
            held.extend(group)
        if held:
            yield Chunk(index, held[0].lo, held[-1].hi, tuple(held))

    def together(self, windows: Iterable[Window]) -> Iterator[tuple[Window, ...]]:
        """Windows that no chunk may tear apart, because the later ones continue the state of the first."""
        return ((window,) for window in windows)

    def units(self, chunk: Chunk, batch_tokens: int) -> Iterator[tuple[Window, ...]]:
        """Pieces of the chunk's forward pass that need nothing of each other: what ranks share.

        Like :meth:`Chunk.batches` it depends on the plan alone, never on ranks.
        """
        return self.together(chunk.windows) if self.carries else chunk.batches(batch_tokens)


def _at_least(plan: str, field: str, value: int, least: int) -> None:
    if value < least:
        raise InputError(f"plan {plan}: {field} must be at least {least} tokens, got {value}")


def _strided(start: int, end: int, seq_len: int, stride: int) -> Iterator[Window]:
    """Windows over tokens [start, end): the first books up to seq_len targets, each later one the next stride."""
    lo = start + 1
    while lo < end:
        hi = start + seq_len + 1 if lo == start + 1 else lo + stride
        yield Window(max(start, hi - 1 - seq_len), lo, min(hi, end))
        lo = hi


class Disjoint(Plan, frozen=True):
    """Windows of seq_len tokens side by side; each target has 0 to seq_len-1 tokens of context before its input."""

    name: ClassVar[str] = "disjoint"
    step_option: ClassVar[str] = "seq_len"
    seq_len: int = 512

    def __post_init__(self) -> None:
        _at_least(self.name, "seq_len", self.seq_len, 1)

    @property
    def context(self) -> int:
        return self.seq_len

    @property
    def step(self) -> int:
        return self.seq_len

    def windows(self, n_tokens: int, doc_start: npt.NDArray[np.int64]) -> Iterator[Window]:
        for start in range(0, n_tokens - 1, self.seq_len):
            yield Window(start, start + 1, min(start + self.seq_len + 1, n_tokens))


class Strided(Plan, frozen=True):
    """Windows of seq_len tokens that start stride apart; after the first, each books its last stride targets."""

    seq_len: int = 512
    stride: int = 64

    def __post_init__(self) -> None:
        _at_least(self.name, "seq_len", self.seq_len, 1)
        _at_least(self.name, "stride", self.stride, 1)
        if self.stride > self.seq_len:
            raise InputError(
                f"plan {self.name}: stride {self.stride} is longer than seq_len {self.seq_len}, so targets would be skipped; "
                f"choose stride <= {self.seq_len}"
            )

    @property
    def context(self) -> int:
        return self.seq_len

    @property
    def step(self) -> int:
        return self.stride


class Sliding(Strided, frozen=True):
    """Over the whole stream."""

    name: ClassVar[str] = "sliding"

    def windows(self, n_tokens: int, doc_start: npt.NDArray[np.int64]) -> Iterator[Window]:
        return _strided(0, n_tokens, self.seq_len, self.stride)


class Document(Strided, frozen=True):
    """Sliding within each document, no context across documents.

    A document owns the targets after its BOS up to and including the next BOS, so the plan books exactly the targets
    that the others book.
    """

    name: ClassVar[str] = "document"

    def windows(self, n_tokens: int, doc_start: npt.NDArray[np.int64]) -> Iterator[Window]:
        for start, following in zip(doc_start, [*doc_start[1:], n_tokens - 1], strict=True):
            yield from _strided(int(start), int(following) + 1, self.seq_len, self.stride)


class Banded(Plan, frozen=True):
    """Attention reaches window-1 tokens back in every layer, keys and values carried over from block to block.

    Each segment starts afresh from ``window`` tokens of warm-up that are not booked, so segments need nothing of each
    other and any number of ranks computes the same bits; 0 carries on for ever, which one process alone can do.
    On a 7x384 baseline at window 512 it scored within 0.0001 nats/token of stride 64.
    """

    name: ClassVar[str] = "banded"
    carries: ClassVar[bool] = True
    step_option: ClassVar[str] = "segment"
    window: int = 512
    block: int = 2048
    """Tokens a forward call; a block is processed in pieces of ``window`` queries."""
    segment: int = 8192
    """Targets between two fresh starts; costs window / segment more work."""

    def __post_init__(self) -> None:
        _at_least(self.name, "window", self.window, 1)
        _at_least(self.name, "block", self.block, 1)
        _at_least(self.name, "segment", self.segment, 0)

    @property
    def context(self) -> int:
        return self.window

    @property
    def step(self) -> int:
        return self.segment or self.block

    def windows(self, n_tokens: int, doc_start: npt.NDArray[np.int64]) -> Iterator[Window]:
        for first in range(0, n_tokens - 1, self.segment or n_tokens):
            end = min(first + (self.segment or n_tokens), n_tokens - 1)
            for start in range(first, end, self.block):
                warm = self.window if start == first else 0
                yield Window(max(0, start - warm), start + 1, min(start + self.block, end) + 1)

    def together(self, windows: Iterable[Window]) -> Iterator[tuple[Window, ...]]:
        if not self.segment:
            yield from super().together(windows)
            return
        for _, group in itertools.groupby(windows, key=lambda w: (w.lo - 1) // self.segment):
            yield tuple(group)

    @property
    def carries_on(self) -> bool:
        """True when the state outlives a chunk, so that one process alone can run it."""
        return self.segment == 0
