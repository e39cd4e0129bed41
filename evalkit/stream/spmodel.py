"""The settings of a SentencePiece model that decide how its tokens turn back into bytes.

The model file is a protocol buffer (sentencepiece_model.proto).  Only the few fields that matter are read here, with
every length checked, because the Python package does not tell them: ModelProto.pieces = 1, trainer_spec = 2,
normalizer_spec = 3; SentencePiece.piece = 1, type = 3; TrainerSpec.treat_whitespace_as_suffix = 24;
NormalizerSpec.name = 1, precompiled_charsmap = 2, add_dummy_prefix = 3, remove_extra_whitespaces = 4,
escape_whitespaces = 5.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from evalkit.errors import InputError

MARK = "\u2581".encode()
"""How SentencePiece writes a space inside a piece."""


class PieceKind(IntEnum):
    """SentencePiece.Type of the proto."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class ModelSpec:
    """Pieces by id, and the normaliser's switches (proto defaults filled in)."""

    pieces: tuple[bytes, ...]
    kinds: tuple[PieceKind, ...]
    normalizer: str
    has_charsmap: bool
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    escape_whitespaces: bool
    whitespace_suffix: bool

    @property
    def space(self) -> bytes:
        """How a space is written inside a piece."""
        return MARK if self.escape_whitespaces else b" "

    @property
    def has_byte_fallback(self) -> bool:
        return PieceKind.BYTE in self.kinds

    @property
    def leading_space_is_free(self) -> bool:
        """A space piece at the start of a document is the tokenizer's own, not the text's.

        So it is when a dummy prefix is added, or when leading space is stripped (then no text brings one): the same
        condition as in SentencePiece's own decoder.
        """
        return self.add_dummy_prefix or self.remove_extra_whitespaces


def read_spec(model: bytes, where: str) -> ModelSpec:
    """Read the settings of a serialised model; raises InputError when it is not one."""
    pieces, kinds = list[bytes](), list[PieceKind]()
    trainer, normalizer = dict[int, int | bytes](), dict[int, int | bytes]()
    for number, value in _fields(model, where):
        if number in (1, 2, 3) and not isinstance(value, bytes):
            raise _not_a_model(where, f"field {number} is not a message")
        if number == 1:
            piece = dict(_fields(bytes(value), where))
            pieces.append(_text(piece.get(1, b""), where))
            kinds.append(_kind(piece.get(3, 1), len(kinds), where))
        elif number == 2:
            trainer.update(_fields(bytes(value), where))
        elif number == 3:
            normalizer.update(_fields(bytes(value), where))
    if not pieces:
        raise _not_a_model(where, "it holds no pieces")
    return ModelSpec(
        pieces=tuple(pieces),
        kinds=tuple(kinds),
        normalizer=_text(normalizer.get(1, b""), where).decode("utf-8", "replace") or "unnamed",
        has_charsmap=bool(normalizer.get(2, b"")),
        add_dummy_prefix=bool(normalizer.get(3, 1)),
        remove_extra_whitespaces=bool(normalizer.get(4, 1)),
        escape_whitespaces=bool(normalizer.get(5, 1)),
        whitespace_suffix=bool(trainer.get(24, 0)),
    )


def _not_a_model(where: str, fault: str) -> InputError:
    return InputError(f"{where}: not a SentencePiece model ({fault}); give the .model file that made the tokens")


def _text(value: int | bytes, where: str) -> bytes:
    if not isinstance(value, bytes):
        raise _not_a_model(where, "a string field holds a number")
    return value


def _kind(value: int | bytes, index: int, where: str) -> PieceKind:
    try:
        return PieceKind(value)
    except ValueError:
        raise _not_a_model(where, f"piece {index} has the unknown type {value!r}") from None


def _fields(data: bytes, where: str) -> Iterator[tuple[int, int | bytes]]:
    """Yield (field number, value) of one protobuf message; numbers as int, everything else as bytes."""
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at, where)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at, where)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(data, at, where)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise _not_a_model(where, f"wire type {wire} at byte {at}")
        if size > end - at:
            raise _not_a_model(where, f"a field claims {size} bytes where {end - at} are left")
        yield number, data[at : at + size]
        at += size


def _varint(data: bytes, at: int, where: str) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise _not_a_model(where, f"a number breaks off at byte {at}")
