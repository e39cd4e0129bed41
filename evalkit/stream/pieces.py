"""Pieces: how many bytes of text a token is, and which.

The field's rule (openai/parameter-golf, ``build_sentencepiece_luts``), by piece type::

    control, unknown, unused   0 bytes, and a boundary
    byte piece <0xAB>          1 byte
    any other piece            its UTF-8 length without the leading space mark; ``lead`` when it has one
    bytes(y | x) = base[y] + (lead[y] and not boundary[x])

Two refinements keep it exact where the rule's own tokenizers cannot tell.  Space marks inside a piece are one byte (the
rule's three would be wrong; its tokenizers have none).  And a leading space after BOS is free only where the
tokenizer put it there or strips it (``ModelSpec.leading_space_is_free``); for a tokenizer that keeps the text's own
leading space nothing is a boundary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from evalkit.errors import InputError
from evalkit.stream.spmodel import ModelSpec, PieceKind

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

MODEL_LIMIT = 64 << 20
"""Bytes of the largest tokenizer model that is read; the field's are below 0.5 MB."""
SPACE_MARK = "\u2581"
SLAB = 1 << 20
"""Tokens turned to bytes at a time: bounds the index arrays to some tens of megabytes."""
NOTHING = (PieceKind.CONTROL, PieceKind.UNKNOWN, PieceKind.UNUSED)
"""Kinds that carry no text."""
WHITE = b" \t\n\r\v\f"
BYTE_PIECES = {b"<0x%02X>" % value: value for value in range(256)}


@dataclass(frozen=True, eq=False)
class PieceTable:
    """Per token id (V of them): ``base`` int32 bytes without the leading space, ``lead`` bool, ``boundary`` bool,
    ``piece_bytes`` the bytes with the leading space (``base[v] + lead[v]`` of them), ``groups`` named bool masks.

    Groups: "control" (control, unknown, unused), "unknown", "byte" (byte pieces), "word_start" (first byte is white
    space), "newline" (holds a line feed).
    """

    base: Int32
    lead: Bool
    boundary: Bool
    piece_bytes: tuple[bytes, ...]
    groups: dict[str, Bool]
    kinds: tuple[PieceKind, ...]
    leading_space_is_free: bool

    @classmethod
    def build(
        cls, piece_bytes: Sequence[bytes], kinds: Sequence[PieceKind], *, leading_space_is_free: bool
    ) -> PieceTable:
        """Derive the table from the bytes of each piece; a leading b" " makes a ``lead`` unless it is a byte piece."""
        size = np.array([len(b) for b in piece_bytes], np.int32)
        byte = np.array([k is PieceKind.BYTE for k in kinds], np.bool_)
        control = np.array([k in NOTHING for k in kinds], np.bool_)
        lead = np.array([b[:1] == b" " for b in piece_bytes], np.bool_) & ~byte
        groups = {
            "control": control,
            "unknown": np.array([k is PieceKind.UNKNOWN for k in kinds], np.bool_),
            "byte": byte,
            "word_start": np.array([b[:1] != b"" and b[0] in WHITE for b in piece_bytes], np.bool_),
            "newline": np.array([b"\n" in b for b in piece_bytes], np.bool_),
        }
        boundary = control if leading_space_is_free else np.zeros_like(control)
        return cls(size - lead, lead, boundary, tuple(piece_bytes), groups, tuple(kinds), leading_space_is_free)

    @property
    def vocab_size(self) -> int:
        return len(self.piece_bytes)

    def target_bytes(self, before: npt.NDArray[np.integer], ids: npt.NDArray[np.integer]) -> Int64:
        """Bytes of each token of ``ids`` [n] given the token ``before`` [n] it: int64 [n]."""
        return self.base[ids].astype(np.int64) + (self.lead[ids] & ~self.boundary[before])

    def decode(self, before: npt.NDArray[np.integer], ids: npt.NDArray[np.integer]) -> bytes:
        """The bytes that :meth:`target_bytes` counts, in order."""
        return b"".join(
            self._gather(before[lo : lo + SLAB], ids[lo : lo + SLAB]).tobytes() for lo in range(0, len(ids), SLAB)
        )

    def resized(self, vocab_size: int, who: str = "the model") -> PieceTable:
        """The table for a model with ``vocab_size`` rows: more rows than pieces are unused ids, fewer is an error."""
        extra = vocab_size - self.vocab_size
        if extra < 0:
            raise InputError(
                f"the tokenizer has {self.vocab_size:,} pieces and {who} only {vocab_size:,} rows; give the tokenizer "
                f"that belongs to the checkpoint"
            )
        if extra == 0:
            return self
        kinds = (*self.kinds, *[PieceKind.UNUSED] * extra)
        texts = (*self.piece_bytes, *[b""] * extra)
        return PieceTable.build(texts, kinds, leading_space_is_free=self.leading_space_is_free)

    @cached_property
    def _flat(self) -> tuple[npt.NDArray[np.uint8], Int64]:
        """All pieces end to end, and where each begins: uint8 [total], int64 [V+1]."""
        offset = np.zeros(self.vocab_size + 1, np.int64)
        np.cumsum([len(b) for b in self.piece_bytes], out=offset[1:])
        return np.frombuffer(b"".join(self.piece_bytes), np.uint8), offset

    def _gather(self, before: npt.NDArray[np.integer], ids: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
        flat, offset = self._flat
        size = self.target_bytes(before, ids)
        start = offset[np.asarray(ids, np.int64) + 1] - size
        at = np.cumsum(size) - size
        return flat[np.arange(int(size.sum())) + np.repeat(start - at, size)]


def table_of(spec: ModelSpec) -> PieceTable:
    """The table of a SentencePiece model; raises InputError for a malformed byte piece."""
    texts = [_bytes_of(p, k, spec.space) for p, k in zip(spec.pieces, spec.kinds, strict=True)]
    return PieceTable.build(texts, spec.kinds, leading_space_is_free=spec.leading_space_is_free)


def _bytes_of(piece: bytes, kind: PieceKind, space: bytes) -> bytes:
    if kind in NOTHING:
        return b""
    if kind is PieceKind.BYTE:
        if piece not in BYTE_PIECES:
            raise InputError(f"the tokenizer calls {piece!r} a byte piece, but byte pieces read <0x00> to <0xFF>")
        return bytes([BYTE_PIECES[piece]])
    return piece.replace(space, b" ")


def decode_document(pieces: PieceTable, ids: npt.ArrayLike, bos_id: int, name: str) -> bytes:
    """The bytes of ids [n] after a BOS; raises InputError for an id outside the vocabulary of tokenizer ``name``."""
    ids = np.asarray(ids, np.int64)
    wrong = (ids < 0) | (ids >= pieces.vocab_size)
    if wrong.any():
        at = int(wrong.argmax())
        raise InputError(f"token {at} is id {ids[at]}, but {name} has only {pieces.vocab_size:,} ids")
    return pieces.decode(np.concatenate(([bos_id], ids[:-1])), ids)


def utf8(text: str) -> bytes:
    """Encode as UTF-8; raises InputError for a lone surrogate, which no UTF-8 text can hold."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as fault:
        code = ord(text[fault.start])
        raise InputError(
            f"character {fault.start} of the text is the lone surrogate U+{code:04X}, which UTF-8 cannot carry; "
            f"mend the text"
        ) from None
