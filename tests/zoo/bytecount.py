"""How is the denominator falsified?  Spaces twice, fallback bytes, sentinels, lossy text, constants, unit slips."""

from __future__ import annotations

import re

import numpy as np

from tests.zoo.declare import fix, violation
from tests.zoo.pieces import BOS, BYTES, SPACE, WORDS, Pieces
from tests.zoo.toy import Int64

MARK = "\ue000"
MARK_BYTES = MARK.encode()


@violation("D1", "leading space counted twice", "bytes", sources=(1545, 1576, 1632, 1672, 1687, 1698, 1705, 1734))
class SpaceTwice(Pieces):
    """The leading space is in the table and is credited again when the stream is scored."""

    def base(self, token: int) -> int:
        return len(self.pieces[token])


@violation("D2", "byte-fallback pieces sized three", "bytes", sources=(1143, 1184, 1242, 1271, 1274, 1289, 1734))
class FallbackThree(Pieces):
    """A byte-fallback piece is decoded on its own, becomes U+FFFD, and is counted as three bytes."""

    def base(self, token: int) -> int:
        return len("\ufffd".encode()) if BYTES <= token < BYTES + 256 else super().base(token)


@violation("D3", "no piece for a lone space", "bytes", sources=(755, 897))
class NoSpacePiece(Pieces):
    """The vocabulary has no piece for a lone space, so it becomes the three bytes of U+2581, counted as three."""

    words = WORDS[1:]

    def restore(self, text: bytes) -> bytes:
        return text.replace(SPACE.encode(), b" ").removeprefix(b" ")


@violation("D4", "bytes of sentinels counted", "bytes", sources=(2071,))
class CaseMarks(Pieces):
    """Capitals are folded to a mark and a small letter.  The transform is lossless; the marks' bytes are counted."""

    words = (*WORDS, MARK)
    mark_bytes = len(MARK_BYTES)

    def normalise(self, text: str) -> str:
        return re.sub("[A-Z]", lambda m: MARK + m.group().lower(), text)

    def restore(self, text: bytes) -> bytes:
        return re.sub(MARK_BYTES + b"([a-z])", lambda m: m.group(1).upper(), text)

    def base(self, token: int) -> int:
        return self.mark_bytes if self.pieces[token] == MARK_BYTES else super().base(token)


@fix("D4")
@fix("D6")
class CaseSidecar(CaseMarks):
    """The fix: a mark stands for no byte of the original text."""

    mark_bytes = 0


@violation("D5", "a constant number of bytes a token", "bytes", sources=(875,))
class FixedRatio(Pieces):
    """Bits per byte from a constant of 3.5 bytes a token."""

    def bpb(self, tokens: Int64) -> float:
        return float(-self.score(tokens)[1:].mean() / (np.log(2) * 3.5))


@violation("D6", "lossy text: case folded away", "bytes", sources=(1578, 1585, 1604, 1670))
class Casefolded(Pieces):
    """The text is folded to small letters first; an easier text is scored, and its own bytes are counted."""

    def normalise(self, text: str) -> str:
        return text.casefold()


@violation("D7", "boundary rule without unused ids", "bytes", sources=(1804,))
class NarrowBoundary(Pieces):
    """The boundary predicate of the counter forgets unused ids, so the space after one is credited."""

    def byte_counts(self, tokens: Int64) -> Int64:
        before = [BOS, *tokens.tolist()]
        pairs = zip(tokens.tolist(), before, strict=False)
        return np.array([self.base(x) + (self.leads(x) and b != BOS) for x, b in pairs], dtype=np.int64)


@violation("D11", "unit slip: ln 2 twice", "bytes", sources=(892,))
class BitsOfBits(Pieces):
    """The sum is divided by ln 2 twice."""

    def bpb(self, tokens: Int64) -> float:
        return super().bpb(tokens) / np.log(2)


fix("D1")(Pieces)
fix("D2")(Pieces)
fix("D3")(Pieces)
fix("D5")(Pieces)
fix("D7")(Pieces)
fix("D11")(Pieces)
