"""What does the byte rule say when it is written out token by token?  (The slow twin of ``pieces.py``.)

It asks SentencePiece about each piece by its own methods and shares no code with the tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

MARK = "\u2581"


def piece_bytes_naive(processor: Any, token: int, before: int, *, leading_space_is_free: bool) -> bytes:
    """The bytes of one token after the token ``before``; ``processor`` is a SentencePieceProcessor."""
    if processor.is_control(token) or processor.is_unknown(token) or processor.is_unused(token):
        return b""
    piece = processor.id_to_piece(token)
    if processor.is_byte(token):
        return bytes([int(piece.removeprefix("<0x").removesuffix(">"), 16)])
    boundary = processor.is_control(before) or processor.is_unknown(before) or processor.is_unused(before)
    if piece.startswith(MARK) and boundary and leading_space_is_free:
        piece = piece[1:]
    return piece.replace(MARK, " ").encode("utf-8")


def target_bytes_naive(processor: Any, tokens: Sequence[int], *, leading_space_is_free: bool) -> list[int]:
    """Bytes of targets 1..len(tokens)-1, each given its predecessor."""
    free = leading_space_is_free
    return [len(piece_bytes_naive(processor, int(y), int(x), leading_space_is_free=free)) for x, y in pairwise(tokens)]


def decode_naive(processor: Any, ids: Sequence[int], *, leading_space_is_free: bool) -> bytes:
    """The bytes of a document's tokens (its BOS not among them)."""
    out, before = b"", processor.bos_id()
    for token in ids:
        out += piece_bytes_naive(processor, int(token), before, leading_space_is_free=leading_space_is_free)
        before = int(token)
    return out
