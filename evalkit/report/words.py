"""The text itself: documents that gained and lost most, each word coloured by the bits that an adapter won or lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt

from evalkit.adapters.base import Float64
from evalkit.report.elements import cut, details, note
from evalkit.units import LN2

EACH = 3
"""Documents shown that gained, and that lost."""
WORDS = 300
"""Words shown of a document at most: the stretch that gained (or lost) most."""
DOCUMENT_BYTES = 60_000
"""Bytes of the page that one document may take; long stacks show fewer words."""
LONGEST_WORD = 24
"""Bytes after which a run without white space is broken between two characters."""
STEPS = (0.25, 1.0, 3.0, 8.0)
"""Bits from which a word has the next darker colour."""
WHITE = b" \t\r\n"


@dataclass(frozen=True)
class Columns:
    """Nats of single targets, of one run or of two beside each other: ``scores`` [targets, stages] each.

    ``names``: one for each column of all of them.  Words are coloured by ``after`` minus ``before``, two of the columns.
    """

    names: tuple[str, ...]
    scores: tuple[Float64, ...]
    before: int
    after: int

    def rows(self, lo: int, hi: int) -> Float64:
        """float64 [hi - lo, K]."""
        return np.concatenate([np.asarray(part[lo:hi]) for part in self.scores], axis=1)


@dataclass(frozen=True)
class Words:
    """Words of a document: bytes, and nats float64 [W, K]."""

    text: tuple[bytes, ...]
    nats: Float64


def extremes(delta: npt.NDArray[Any]) -> list[int]:
    """Indices of the rows that fell most, then of those that rose most."""
    order = np.argsort(delta, kind="stable").tolist()
    return [i for i in order[:EACH] if delta[i] < 0] + [i for i in order[::-1][:EACH] if delta[i] > 0]


def looked_at(stream: Any, columns: Columns, docs: Sequence[int], titles: Sequence[str]) -> str:
    """One folded block for each of ``docs`` (numbers in the stream), the first one open."""
    shown = [_document(stream, columns, doc, title) for doc, title in zip(docs, titles, strict=True)]
    if not shown:
        return ""
    before, after = columns.names[columns.before], columns.names[columns.after]
    told = f"Bits of {after} against {before}; hover over a word for its probability at each stage."
    return _legend() + note(told) + shown[0].replace("<details>", "<details open>", 1) + "".join(shown[1:])


def words_of(stream: Any, columns: Columns, doc: int) -> Words:
    """The words of document ``doc``, as far as it is scored; white space belongs to the word behind it."""
    ends = [*stream.doc_start.tolist()[1:], stream.n_targets]
    lo, hi = int(stream.doc_start[doc]), min(ends[doc], *(len(part) for part in columns.scores))
    if hi <= lo:
        return Words((), np.zeros((0, len(columns.names))))
    before, ids = stream.tokens[lo:hi], stream.tokens[lo + 1 : hi + 1]
    end = np.cumsum(stream.target_bytes(lo + 1, hi + 1)).tolist()
    data = stream.tokenizer.pieces.decode(before, ids)
    pieces = [data[a:b] for a, b in zip([0, *end], end, strict=False)]
    starts = _starts(pieces)
    text = tuple(b"".join(pieces[a:b]) for a, b in zip(starts, [*starts[1:], len(pieces)], strict=True))
    return Words(text, np.add.reduceat(columns.rows(lo, hi), starts, axis=0))


def _starts(pieces: Sequence[bytes]) -> list[int]:
    """Indices of the pieces that begin a word."""
    starts, size = [0], len(pieces[0])
    for i, piece in enumerate(pieces[1:], start=1):
        begins = piece[:1] in (b" ", b"\t", b"\r", b"\n") and bool(pieces[i - 1].strip(WHITE))
        long = size >= LONGEST_WORD and piece[:1] != b"" and not 0x80 <= piece[0] < 0xC0
        if begins or long or not piece:
            starts.append(i)
            size = 0
        size += len(piece)
    return starts


def _document(stream: Any, columns: Columns, doc: int, title: str) -> str:
    words = words_of(stream, columns, doc)
    bits = (words.nats[:, columns.after] - words.nats[:, columns.before]) / LN2
    most = max(1, min(WORDS, DOCUMENT_BYTES // (120 + sum(len(escape(n)) + 10 for n in columns.names))))
    lo, hi = stretch(bits, most)
    spans = "".join(_word(words.text[i], words.nats[i], float(bits[i]), columns.names) for i in range(lo, hi))
    some = note(f"Words {lo + 1:,} to {hi:,} of {len(bits):,}.") if hi - lo < len(bits) else ""
    return details(title, f'{some}<p class="words">{spans}</p>')


def stretch(bits: npt.NDArray[Any], most: int) -> tuple[int, int]:
    """The ``most`` neighbouring words whose sum has the sign of the whole and is largest."""
    if len(bits) <= most:
        return 0, len(bits)
    sums = np.concatenate([[0.0], np.cumsum(bits)])
    windows = (sums[most:] - sums[:-most]) * (1 if sums[-1] > 0 else -1)
    lo = int(np.argmax(windows))
    return lo, lo + most


def _word(text: bytes, nats: Float64, bits: float, names: Sequence[str]) -> str:
    shown = cut(
        "".join(ch if ch.isprintable() or ch in " \n" else "\N{MIDDLE DOT}" for ch in text.decode(errors="replace"))
    )
    stages = ", ".join(f"{name} {np.exp(-value):.3g}" for name, value in zip(names, nats.tolist(), strict=True))
    told = escape(f"{bits:+.2f} bits; p: {stages}")
    return f'<span{_colour(bits)} title="{told}">{shown or "&para;"}</span>'


def _colour(bits: float) -> str:
    step = sum(abs(bits) >= least for least in STEPS)
    return f' class="{"w" if bits < 0 else "l"}{step}"' if step else ""


def _legend() -> str:
    won = " ".join(f'<span class="w{i}">{least:g}</span>' for i, least in reversed([*enumerate(STEPS, 1)]))
    lost = " ".join(f'<span class="l{i}">{least:g}</span>' for i, least in enumerate(STEPS, 1))
    return f'<p class="dim words">bits won, at least {won} &nbsp; lost, at least {lost}</p>'
