"""Hugging Face ``tokenizer.json`` as a tokenizer whose pieces carry exact bytes.

Two schemes.  Byte-level BPE (GPT-2's: Llama 3, Qwen, Pythia, OLMo, ...): each byte is written as one printable character,
so a piece is its bytes by table look-up.  SentencePiece's, as BPE or Unigram (Llama 2, Mistral, Gemma, T5, XLM-R, ...): a
piece is text with U+2581 for a space, and what has no piece is spelt in byte pieces ``<0x00>`` to ``<0xFF>`` or is ``<unk>``.

What would change the text is switched off before loading: truncation, padding, merge dropout, templates, and the reading
of "<|endoftext|>" in a text as the special token.  What cannot be switched off (a normaliser) is caught when the tokens of
every document are reconciled with its text.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from evalkit.errors import InputError
from evalkit.stream.files import read_small
from evalkit.stream.pieces import BYTE_PIECES, MODEL_LIMIT, SPACE_MARK, PieceTable, decode_document, utf8
from evalkit.stream.spmodel import PieceKind

Int32 = npt.NDArray[np.int32]

PRINTABLE = (*range(33, 127), *range(161, 173), *range(174, 256))


def byte_alphabet() -> dict[str, int]:
    """Character -> byte: printable Latin-1 stands for itself, the other 68 bytes are U+0100 and up, in order.

    Source: openai/gpt-2, encoder.py, ``bytes_to_unicode``.
    """
    rest = [b for b in range(256) if b not in PRINTABLE]
    return {chr(b): b for b in PRINTABLE} | {chr(256 + i): b for i, b in enumerate(rest)}


class HuggingFaceTokenizer:
    """A tokenizer.json.  ``model_bytes`` is JSON: {"bos_id": int, "tokenizer": the content of tokenizer.json}."""

    def __init__(self, spec: dict[str, Any], bos_id: int, name: str) -> None:
        """``spec``: parsed tokenizer.json.  InputError when its pieces do not show their bytes or ``bos_id`` carries text."""
        fault = why_not_exact(spec)
        if fault:
            raise InputError(f"{name}: {fault}; give a SentencePiece model with --tokenizer FILE.model")
        self.name, self.bos_id = name, bos_id
        self.byte_level = _is_byte_level(spec)
        self.normalizer: str = ", ".join(_rewriters(spec))
        self.adds_space = _adds_space(spec)
        self.model_bytes = json.dumps({"bos_id": bos_id, "tokenizer": spec}, separators=(",", ":")).encode()
        self.fingerprint = hashlib.sha256(self.model_bytes).hexdigest()
        self._tokenizer = _load(spec, name)
        # the decoders of some files drop the space that their tokenizer puts in front, those of others do not
        self._keeps_added_space = self.adds_space and self._decode(self.encode("a").tolist()) == b" a"
        self.pieces = _table(spec, self.adds_space, self.byte_level, name)
        self.vocab_size = self.pieces.vocab_size
        if not 0 <= bos_id < self.vocab_size or not self.pieces.groups["control"][bos_id]:
            raise InputError(
                f"{name}: id {bos_id} cannot separate documents, it is not a special token (ids go to "
                f"{self.vocab_size - 1}); name one with bos_id=N, for example {self._some_special()}"
            )

    @classmethod
    def from_bytes(cls, model_bytes: bytes, name: str = "the checkpoint's tokenizer") -> HuggingFaceTokenizer:
        """Open what ``model_bytes`` of another holds; raises InputError."""
        content = parse_json(model_bytes, name)
        spec, bos_id = content.get("tokenizer"), content.get("bos_id")
        if not isinstance(spec, dict) or not isinstance(bos_id, int):
            raise InputError(f'{name}: expected {{"bos_id": ..., "tokenizer": ...}}, found {", ".join(content)[:80]}')
        return cls(spec, bos_id, name)

    @classmethod
    def from_file(cls, path: str | Path, bos_id: int | None = None) -> HuggingFaceTokenizer:
        """Open a ``tokenizer.json``; BOS is ``bos_id`` or what the files beside it say (:func:`find_bos`)."""
        path = Path(path)
        spec = parse_json(read_small(path, MODEL_LIMIT, "a tokenizer"), str(path))
        return cls(spec, find_bos(path.parent, spec) if bos_id is None else bos_id, path.name)

    def encode(self, text: str) -> Int32:
        """Ids of one document, int32 [n], without BOS."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[Int32]:
        for text in texts:
            utf8(text)
        found = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, np.int32) for encoding in found]

    def decode_bytes(self, ids: npt.ArrayLike) -> bytes:
        return decode_document(self.pieces, ids, self.bos_id, self.name)

    def given_back(self, ids: npt.ArrayLike) -> bytes:
        found = self._decode(np.asarray(ids).tolist())
        return found.removeprefix(b" ") if self._keeps_added_space else found

    def _decode(self, ids: list[int]) -> bytes:
        return self._tokenizer.decode(ids, skip_special_tokens=False).encode("utf-8")

    def losses(self, text: str, ids: Int32) -> str:
        """The known ways to lose text, the most telling first."""
        if self.pieces.groups["unknown"][ids].any():
            return "the tokenizer has no byte fallback: characters that it has no piece for became <unk>"
        if not self.byte_level and SPACE_MARK in text:
            return "the text holds U+2581, which this tokenizer reads as a space"
        if self.adds_space and text.startswith(" "):
            return "the tokenizer adds a space in front, so a text that begins with one cannot be told from one without"
        if self.normalizer:
            return f"the tokenizer's normaliser ({self.normalizer}) rewrites characters"
        missing = {bytes([b]) for b in range(256)} - set(self.pieces.piece_bytes) if self.byte_level else set()
        return f"the vocabulary has no piece for {len(missing)} of the 256 bytes" if missing else ""

    def _some_special(self) -> str:
        found = np.flatnonzero(self.pieces.groups["control"])
        return ", ".join(str(i) for i in found[:3]) or "none: the vocabulary has no special token"


def why_not_exact(spec: dict[str, Any]) -> str:
    """A clause for an error sentence, or "" when each piece of the file shows the bytes that it stands for."""
    model = spec.get("model")
    kind = model.get("type") if isinstance(model, dict) else None
    if kind == "BPE" and _is_byte_level(spec):
        return ""
    if kind not in ("BPE", "Unigram"):
        return f"its model is {kind or 'not named'}, whose pieces do not show their bytes (BPE and Unigram do)"
    if not _marks_spaces(spec):
        return "its pieces show neither bytes (no ByteLevel pre-tokenizer) nor spaces (no Metaspace, no U+2581)"
    return ""


def _is_byte_level(spec: dict[str, Any]) -> bool:
    return any(p.get("type") == "ByteLevel" for p in _steps(spec, "pre_tokenizer"))


def _marks_spaces(spec: dict[str, Any]) -> bool:
    """U+2581 for a space: by a Metaspace pre-tokenizer or by a normaliser's Replace."""
    metaspace = (p for p in _steps(spec, "pre_tokenizer") if p.get("type") == "Metaspace")
    return any(p.get("replacement") == SPACE_MARK for p in metaspace) or any(
        n.get("type") == "Replace" and n.get("pattern") == {"String": " "} and n.get("content") == SPACE_MARK
        for n in _steps(spec, "normalizer")
    )


def _adds_space(spec: dict[str, Any]) -> bool:
    """A space before the text that is the tokenizer's own."""
    for step in _steps(spec, "pre_tokenizer"):
        if step.get("type") == "ByteLevel" and step.get("add_prefix_space"):
            return True
        if step.get("type") == "Metaspace" and step.get("prepend_scheme", "always") != "never":
            return bool(step.get("add_prefix_space", True))
    return any(n.get("type") == "Prepend" and n.get("prepend") == SPACE_MARK for n in _steps(spec, "normalizer"))


def _rewriters(spec: dict[str, Any]) -> list[str]:
    """Names of the normalisers that may change a text; marking spaces does not."""
    return [
        str(n.get("type"))
        for n in _steps(spec, "normalizer")
        if not (n.get("type") == "Prepend" and n.get("prepend") == SPACE_MARK)
        and not (n.get("type") == "Replace" and n.get("content") == SPACE_MARK and n.get("pattern") == {"String": " "})
    ]


def find_bos(folder: Path, spec: dict[str, Any]) -> int:
    """Which id separates documents: config.json's bos_token_id, tokenizer_config.json's bos_token, else the EOS of
    config.json (models that were trained with one separator name it so).  InputError when none is named."""
    config, words = _json_beside(folder, "config.json"), _json_beside(folder, "tokenizer_config.json")
    named = words.get("bos_token")
    content = named.get("content") if isinstance(named, dict) else named
    ids = {t.get("content"): t.get("id") for t in spec.get("added_tokens") or []}
    eos = config.get("eos_token_id")
    for found in (config.get("bos_token_id"), ids.get(content), eos[0] if isinstance(eos, list) and eos else eos):
        if isinstance(found, int):
            return found
    raise InputError(f"{folder}: neither config.json nor tokenizer_config.json names a BOS; give one with bos_id=N")


def parse_json(data: bytes, where: str) -> dict[str, Any]:
    """A JSON object from bytes; raises InputError."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as fault:
        raise InputError(f"{where}: not readable JSON ({str(fault)[:120]}); fetch the file again") from None
    if not isinstance(found, dict):
        raise InputError(f"{where}: a JSON {type(found).__name__}, expected an object")
    return found


def _json_beside(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    return parse_json(read_small(path, MODEL_LIMIT, "a description"), str(path)) if path.is_file() else {}


def _steps(spec: dict[str, Any], part: str) -> list[dict[str, Any]]:
    """The steps of "pre_tokenizer" or "normalizer", a Sequence unrolled."""
    top = spec.get(part)
    inner = {"pre_tokenizer": "pretokenizers", "normalizer": "normalizers"}[part]
    steps = top.get(inner) if isinstance(top, dict) and top.get("type") == "Sequence" else [top]
    return [step for step in steps or [] if isinstance(step, dict)]


def _load(spec: dict[str, Any], name: str) -> Any:
    try:
        tokenizers = importlib.import_module("tokenizers")
    except ImportError:
        raise InputError(
            f"{name}: the package tokenizers is not installed; install it with: pip install 'evalkit[hf]'"
        ) from None
    plain = {**spec, "truncation": None, "padding": None, "post_processor": None}
    plain["model"] = {**spec["model"], "dropout": None}
    try:
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(plain))
    except Exception as fault:  # the package raises bare Exception for every fault of the file
        raise InputError(f"{name}: the tokenizers package cannot load it ({str(fault)[:160]})") from None
    tokenizer.encode_special_tokens = True
    if spec.get("decoder") is None:
        parts = tokenizers.decoders
        marks = [parts.Replace(SPACE_MARK, " "), parts.ByteFallback(), parts.Fuse()]
        tokenizer.decoder = parts.ByteLevel() if _is_byte_level(spec) else parts.Sequence(marks)
    return tokenizer


def _vocabulary(model: dict[str, Any], name: str) -> dict[str, int]:
    """Piece -> id: BPE has a map, Unigram a list of pieces with scores."""
    vocab = model.get("vocab")
    if isinstance(vocab, list) and all(isinstance(v, list) and v and isinstance(v[0], str) for v in vocab):
        return {v[0]: i for i, v in enumerate(vocab)}
    if not isinstance(vocab, dict) or not all(isinstance(i, int) for i in vocab.values()):
        raise InputError(f"{name}: its vocabulary is neither a map of pieces to ids nor a list of pieces")
    return vocab


def _table(spec: dict[str, Any], adds_space: bool, byte_level: bool, name: str) -> PieceTable:
    """Bytes of each id; ids with no piece, and pieces outside a byte-level alphabet, carry none."""
    model, added = spec["model"], spec.get("added_tokens") or []
    vocab = _vocabulary(model, name)
    ids = [*vocab.values(), *(t["id"] for t in added)]
    if not ids or min(ids) < 0 or max(ids) >= 2 * len(ids) + 1024:
        raise InputError(f"{name}: {len(ids):,} pieces with ids up to {max(ids, default=-1):,}; the file is damaged")
    texts, kinds = [b""] * (max(ids) + 1), [PieceKind.UNUSED] * (max(ids) + 1)
    alphabet, fallback = byte_alphabet(), bool(model.get("byte_fallback"))
    for piece, i in vocab.items():
        if not byte_level:
            texts[i], kinds[i] = _marked(piece, fallback)
        elif all(ch in alphabet for ch in piece):
            texts[i] = bytes(alphabet[ch] for ch in piece)
            kinds[i] = _kind(texts[i])
    for token in added:
        special = bool(token.get("special"))
        texts[token["id"]] = b"" if special else _added(token["content"], byte_level, fallback)
        kinds[token["id"]] = PieceKind.CONTROL if special else PieceKind.USER_DEFINED
    unknown = None if byte_level else _unknown(model, vocab)
    if unknown is not None:
        texts[unknown], kinds[unknown] = b"", PieceKind.UNKNOWN
    return PieceTable.build(texts, kinds, leading_space_is_free=adds_space)


def _marked(piece: str, fallback: bool) -> tuple[bytes, PieceKind]:
    """A SentencePiece piece -> its bytes and kind."""
    data = utf8(piece)
    if fallback and data in BYTE_PIECES:
        return bytes([BYTE_PIECES[data]]), PieceKind.BYTE
    return data.replace(SPACE_MARK.encode(), b" "), PieceKind.NORMAL


def _added(content: str, byte_level: bool, fallback: bool) -> bytes:
    """An added token that is text; U+2581 in it was a space of the text where spaces are marked."""
    return utf8(content) if byte_level else _marked(content, fallback)[0]


def _unknown(model: dict[str, Any], vocab: dict[str, int]) -> int | None:
    """The id that stands for any text."""
    named = model.get("unk_id") if model.get("type") == "Unigram" else vocab.get(str(model.get("unk_token")))
    return named if isinstance(named, int) and 0 <= named < len(vocab) else None


def _kind(data: bytes) -> PieceKind:
    """BYTE for a fragment of a character; a leading space stays visible to the table."""
    if data[:1] == b" ":
        return PieceKind.NORMAL
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return PieceKind.BYTE
    return PieceKind.NORMAL
