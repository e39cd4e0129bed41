"""How does a small tokenizer count bytes, rightly?  Pieces, byte fallback, leading spaces and boundaries."""

from __future__ import annotations

from functools import cache

import numpy as np

from tests.zoo.toy import Float64, Int64, softmax

UNUSED, BOS, BYTES = 0, 1, 2
SPACE = "\u2581"
WORDS = (
    SPACE,
    SPACE + "the",
    SPACE + "a",
    SPACE + "of",
    "the",
    "er",
    "ing",
    "s",
    "e",
    "t",
    "a",
    "o",
    ".",
    "é",
    SPACE + "É",
)


class Pieces:
    """A unigram scorer over pieces, with the faces that byte accounting needs.  Vocabulary: 2 control, 256 bytes, words.

    The true bytes of a target: 0 for control pieces, 1 for a byte piece, else the piece without its leading space,
    and 1 more for that space unless the token before it is a boundary (control, unused, or the start).
    """

    words = WORDS
    bos_id = BOS

    def __init__(self) -> None:
        self.pieces = [
            b"",
            b"",
            *(bytes([b]) for b in range(256)),
            *(w.replace(SPACE, " ").encode() for w in self.words),
        ]
        self.vocab_size = len(self.pieces)

    @cache  # noqa: B019  (one small table for each of a handful of instances)
    def row(self) -> Float64:
        """The distribution of every token, float64 [V]."""
        return softmax(np.random.default_rng(5).normal(0.0, 1.0, self.vocab_size))

    def score(self, tokens: Int64) -> Float64:
        return np.log(self.row()[tokens])

    def encode(self, text: bytes) -> Int64:
        """UTF-8 text -> int64 tokens, BOS first, a dummy space before the text, longest match, byte fallback."""
        rest, ids = (" " + self.normalise(text.decode())).replace(" ", SPACE), [BOS]
        ranked = sorted(enumerate(self.words, BYTES + 256), key=lambda item: -len(item[1]))
        while rest:
            found = next(((i, w) for i, w in ranked if rest.startswith(w)), None)
            if found:
                ids.append(found[0])
                rest = rest[len(found[1]) :]
            else:
                ids.extend(BYTES + b for b in rest[0].encode())
                rest = rest[1:]
        return np.array(ids)

    def normalise(self, text: str) -> str:
        return text

    def decode(self, tokens: Int64) -> bytes:
        """Tokens -> UTF-8 text; a leading space after a boundary is the dummy one and is dropped."""
        out = b""
        for x, before in zip(tokens.tolist(), [UNUSED, *tokens.tolist()], strict=False):
            piece = self.pieces[x]
            out += piece[1:] if self.boundary(before) and self.leads(x) else piece
        return self.restore(out)

    def restore(self, text: bytes) -> bytes:
        return text

    def boundary(self, token: int) -> bool:
        return token in (UNUSED, BOS)

    def leads(self, token: int) -> bool:
        return token >= BYTES + 256 and self.pieces[token].startswith(b" ")

    def base(self, token: int) -> int:
        """Bytes of the piece without its leading space."""
        return len(self.pieces[token]) - self.leads(token)

    def byte_counts(self, tokens: Int64) -> Int64:
        """Bytes that each target stands for, int64 [T]."""
        before = [UNUSED, *tokens.tolist()]
        pairs = zip(tokens.tolist(), before, strict=False)
        return np.array([self.base(x) + (self.leads(x) and not self.boundary(b)) for x, b in pairs], dtype=np.int64)

    def bpb(self, tokens: Int64) -> float:
        """The figure that is claimed for the stream, bits per byte."""
        return float(-self.score(tokens)[1:].sum() / np.log(2) / self.byte_counts(tokens)[1:].sum())
