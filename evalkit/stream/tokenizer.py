"""Tokenizers: text into token ids, and ids into the exact bytes of the text again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from evalkit.errors import InputError
from evalkit.machine import usable_cpus
from evalkit.stream.files import read_small
from evalkit.stream.pieces import MODEL_LIMIT, SPACE_MARK, PieceTable, decode_document, table_of, utf8
from evalkit.stream.spmodel import ModelSpec, PieceKind, read_spec

Int32 = npt.NDArray[np.int32]

BYTE_NAMES = ("byte", "byte260")
RAW_BYTES = "bytes:separator="


@runtime_checkable
class Tokenizer(Protocol):
    """Text to ids and back.

    ``model_bytes`` is what :func:`open_tokenizer` reads again, ``fingerprint`` its sha256 in hex.
    """

    name: str
    vocab_size: int
    bos_id: int
    fingerprint: str
    model_bytes: bytes
    pieces: PieceTable

    def encode(self, text: str) -> Int32:
        """Ids of one document, int32 [n], without BOS."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[Int32]:
        """The same for many documents at once."""
        ...

    def decode_bytes(self, ids: npt.ArrayLike) -> bytes:
        """The exact bytes of a document's ids [n] by the byte rule, from the piece table; BOS is not among them."""
        ...

    def given_back(self, ids: npt.ArrayLike) -> bytes:
        """The text of a document's ids [n] in UTF-8 by the tokenizer library's own decoder, which shares nothing with the
        piece table; where the tokenizer puts a space in front of a text, without it."""
        ...

    def losses(self, text: str, ids: Int32) -> str:
        """Why this text does not come back from its ids, as a clause for an error sentence; "" when unknown."""
        ...


def open_tokenizer(spec: str | Path | bytes | None) -> Tokenizer:
    """Open "byte", "bytes:separator=B", a SentencePiece ``.model``, a ``tokenizer.json``, or the ``model_bytes`` of any.

    Raises InputError when there is none, it is missing, or it cannot carry text (see SentencePieceTokenizer).
    """
    from evalkit.stream.hf_tokenizer import HuggingFaceTokenizer

    if spec is None:
        raise InputError(
            "the checkpoint carries no tokenizer; give one with --tokenizer FILE.model or --tokenizer byte"
        )
    if isinstance(spec, bytes) and spec[:1] == b"{":
        return HuggingFaceTokenizer.from_bytes(spec)
    if isinstance(spec, bytes) and spec.startswith(RAW_BYTES.encode()):
        spec = spec.decode("utf-8", "replace")
    if isinstance(spec, bytes):
        return ByteTokenizer() if spec == ByteTokenizer.model_bytes else SentencePieceTokenizer.from_bytes(spec)
    if str(spec) in BYTE_NAMES:
        return ByteTokenizer()
    if str(spec).startswith(RAW_BYTES):
        return RawByteTokenizer.from_name(str(spec))
    if Path(spec).suffix == ".json":
        return HuggingFaceTokenizer.from_file(spec)
    return SentencePieceTokenizer.from_file(spec)


class _Bytes:
    """One token per byte of UTF-8; byte b is id ``first + b``."""

    first: ClassVar[int] = 0
    name: str
    bos_id: int
    pieces: PieceTable

    def encode(self, text: str) -> Int32:
        """int32 [n]."""
        return np.frombuffer(utf8(text), np.uint8).astype(np.int32) + self.first

    def encode_batch(self, texts: Sequence[str]) -> list[Int32]:
        return [self.encode(text) for text in texts]

    def decode_bytes(self, ids: npt.ArrayLike) -> bytes:
        return decode_document(self.pieces, ids, self.bos_id, self.name)

    def given_back(self, ids: npt.ArrayLike) -> bytes:
        return (np.asarray(ids, np.int64) - self.first).astype(np.uint8).tobytes()

    def losses(self, text: str, ids: Int32) -> str:
        return ""


class ByteTokenizer(_Bytes):
    """byte260: pad 0, bos 1, eos 2, unk 3, byte b is 4 + b.  Any text, one token per byte."""

    first = 4
    name = "byte260"
    vocab_size = 260
    bos_id = 1
    model_bytes = b"byte260"
    fingerprint = hashlib.sha256(model_bytes).hexdigest()

    def __init__(self) -> None:
        kinds = [PieceKind.CONTROL] * 3 + [PieceKind.UNKNOWN] + [PieceKind.BYTE] * 256
        texts = [b""] * 4 + [bytes([b]) for b in range(256)]
        self.pieces = PieceTable.build(texts, kinds, leading_space_is_free=False)


class RawByteTokenizer(_Bytes):
    """Id b is byte b: 256 ids, for models that were made so.  One byte separates documents, and no document may hold it.

    0xC0, 0xC1 and 0xF5 to 0xFF never occur in UTF-8; 0 hardly does.
    """

    vocab_size = 256

    def __init__(self, separator: int = 0) -> None:
        """InputError when ``separator`` is no byte."""
        if not 0 <= separator <= 255:
            raise InputError(f"tokenizer {RAW_BYTES}{separator}: the separator is a byte, 0 to 255")
        self.name, self.bos_id = f"{RAW_BYTES}{separator}", separator
        self.model_bytes = self.name.encode()
        self.fingerprint = hashlib.sha256(self.model_bytes).hexdigest()
        kinds = [PieceKind.CONTROL if b == separator else PieceKind.BYTE for b in range(256)]
        texts = [b"" if b == separator else bytes([b]) for b in range(256)]
        self.pieces = PieceTable.build(texts, kinds, leading_space_is_free=False)

    @classmethod
    def from_name(cls, name: str) -> RawByteTokenizer:
        """``bytes:separator=B``; InputError when B is no number."""
        digits = name.removeprefix(RAW_BYTES)
        if not (digits.isascii() and digits.isdigit() and len(digits) <= 3):
            raise InputError(f"tokenizer {name[:80]}: the separator is a byte, 0 to 255, for example {RAW_BYTES}0")
        return cls(int(digits))


class SentencePieceTokenizer:
    """A SentencePiece model.  Refused at the door: no BOS control piece, white space kept at the end of pieces."""

    def __init__(self, model: bytes, name: str, where: str) -> None:
        import sentencepiece

        self.spec: ModelSpec = read_spec(model, where)
        self._processor: Any = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
        except (RuntimeError, TypeError, ValueError) as fault:
            raise InputError(f"{where}: SentencePiece cannot load this model ({_first_line(fault)})") from None
        self.name = name
        self.model_bytes = model
        self.vocab_size: int = self._processor.get_piece_size()
        self.bos_id: int = self._processor.bos_id()
        self.fingerprint = hashlib.sha256(model).hexdigest()
        self._check(where)
        self.pieces: PieceTable = table_of(self.spec)

    @classmethod
    def from_file(cls, path: str | Path) -> SentencePieceTokenizer:
        """Open a ``.model`` file; raises InputError."""
        return cls(read_small(path, MODEL_LIMIT, "a tokenizer model"), Path(path).name, str(path))

    @classmethod
    def from_bytes(cls, model_bytes: bytes, name: str = "the checkpoint's tokenizer") -> SentencePieceTokenizer:
        """Open a serialised model, for example the one inside a checkpoint; raises InputError."""
        return cls(model_bytes, name, name)

    def encode(self, text: str) -> Int32:
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[Int32]:
        """Encode on all cores; the ids do not depend on how many."""
        for text in texts:
            utf8(text)
        if self._spells_mark:
            return [self._encode_around_marks(t) if SPACE_MARK in t else i for t, i in self._pairs(texts)]
        return [ids for _, ids in self._pairs(texts)]

    def decode_bytes(self, ids: npt.ArrayLike) -> bytes:
        return decode_document(self.pieces, ids, self.bos_id, self.name)

    def given_back(self, ids: npt.ArrayLike) -> bytes:
        return self._processor.decode(np.asarray(ids).tolist()).encode("utf-8")

    def losses(self, text: str, ids: Int32) -> str:
        """Look for the known ways to lose text, the most telling first."""
        if self.pieces.groups["unknown"][ids].any():
            return "the tokenizer has no byte fallback: characters that it has no piece for became <unk>"
        if self.spec.space not in self.spec.pieces:
            return "the vocabulary has no piece for a lone space (U+2581), so a space becomes 3 byte pieces"
        if SPACE_MARK in text:
            return "the text holds U+2581, which this tokenizer reads as a space"
        if text.split() == self.decode_bytes(ids).decode("utf-8", "replace").split():
            return f"the tokenizer's normaliser ({self.spec.normalizer}) folds white space"
        return f"the tokenizer's normaliser ({self.spec.normalizer}) rewrites characters"

    @cached_property
    def _spells_mark(self) -> bool:
        """U+2581 in the text can be spelt with byte pieces: only where cutting the text there changes nothing else."""
        spec = self.spec
        exact = not (spec.has_charsmap or spec.leading_space_is_free)
        return exact and spec.has_byte_fallback and spec.escape_whitespaces

    def _pairs(self, texts: Sequence[str]) -> list[tuple[str, Int32]]:
        ids = self._processor.encode(list(texts), out_type=int, num_threads=usable_cpus())
        return [(text, np.array(i, np.int32)) for text, i in zip(texts, ids, strict=True)]

    def _encode_around_marks(self, text: str) -> Int32:
        mark = [self._processor.piece_to_id(f"<0x{b:02X}>") for b in SPACE_MARK.encode()]
        ids = list[int]()
        for i, part in enumerate(text.split(SPACE_MARK)):
            ids += (mark if i else []) + self._processor.encode(part, out_type=int)
        return np.array(ids, np.int32)

    def _check(self, where: str) -> None:
        if len(self.spec.pieces) != self.vocab_size:
            raise InputError(
                f"{where}: the file lists {len(self.spec.pieces):,} pieces and SentencePiece {self.vocab_size:,}"
            )
        if self.spec.whitespace_suffix:
            raise InputError(
                f"{where}: this tokenizer keeps white space at the end of pieces (treat_whitespace_as_suffix), "
                f"which the byte rule does not cover; train one with the default"
            )
        if self.bos_id < 0 or self.spec.kinds[self.bos_id] is not PieceKind.CONTROL:
            raise InputError(
                f"{where}: this tokenizer has no BOS control piece (bos id {self.bos_id}), but documents are "
                f"separated by BOS; train one with bos_id=1"
            )


def _first_line(fault: BaseException) -> str:
    return (str(fault).strip() or type(fault).__name__).splitlines()[0]
