"""How does a Hugging Face ``tokenizer.json`` become a tokenizer whose pieces carry exact bytes?

Byte-level BPE only (GPT-2's scheme: Llama 3, Qwen, Pythia, OLMo, ...): each byte is written as one printable character,
so a piece is its bytes by table look-up.  What would change the text is switched off before loading: truncation,
padding, merge dropout, templates, and the reading of "<|endoftext|>" in a text as the special token.  What cannot be
switched off (a normaliser) is caught when the tokens of every document are reconciled with its text.
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
from evalkit.stream.pieces import PieceTable
from evalkit.stream.spmodel import PieceKind
from evalkit.stream.tokenizer import MODEL_LIMIT, decode_document, utf8

Int32 = npt.NDArray[np.int32]

PRINTABLE = (*range(33, 127), *range(161, 173), *range(174, 256))


def byte_alphabet() -> dict[str, int]:
    """Character -> byte: printable Latin-1 stands for itself, the other 68 bytes are U+0100 and up, in order.

    Source: openai/gpt-2, encoder.py, ``bytes_to_unicode``.
    """
    rest = [b for b in range(256) if b not in PRINTABLE]
    return {chr(b): b for b in PRINTABLE} | {chr(256 + i): b for i, b in enumerate(rest)}


class ByteLevelTokenizer:
    """A byte-level BPE.  ``model_bytes`` is JSON: {"bos_id": int, "tokenizer": the content of tokenizer.json}."""

    def __init__(self, spec: dict[str, Any], bos_id: int, name: str) -> None:
        """``spec``: parsed tokenizer.json.  InputError when it is not byte-level BPE or ``bos_id`` carries text."""
        fault = why_not_byte_level(spec)
        if fault:
            raise InputError(f"{name}: {fault}; give a SentencePiece model with --tokenizer FILE.model")
        self.name, self.bos_id = name, bos_id
        self.normalizer: str = str((spec.get("normalizer") or {}).get("type", ""))
        self.adds_space = any(p.get("add_prefix_space") for p in _pre_tokenizers(spec) if p.get("type") == "ByteLevel")
        self.model_bytes = json.dumps({"bos_id": bos_id, "tokenizer": spec}, separators=(",", ":")).encode()
        self.fingerprint = hashlib.sha256(self.model_bytes).hexdigest()
        self._tokenizer = _load(spec, name)
        self.pieces = _table(spec, self.adds_space, name)
        self.vocab_size = self.pieces.vocab_size
        if not 0 <= bos_id < self.vocab_size or not self.pieces.groups["control"][bos_id]:
            raise InputError(
                f"{name}: id {bos_id} cannot separate documents, it is not a special token (ids go to "
                f"{self.vocab_size - 1}); name one with bos_id=N, for example {self._some_special()}"
            )

    @classmethod
    def from_bytes(cls, model_bytes: bytes, name: str = "the checkpoint's tokenizer") -> ByteLevelTokenizer:
        """Open what ``model_bytes`` of another holds; raises InputError."""
        content = parse_json(model_bytes, name)
        spec, bos_id = content.get("tokenizer"), content.get("bos_id")
        if not isinstance(spec, dict) or not isinstance(bos_id, int):
            raise InputError(f'{name}: expected {{"bos_id": ..., "tokenizer": ...}}, found {", ".join(content)[:80]}')
        return cls(spec, bos_id, name)

    @classmethod
    def from_file(cls, path: str | Path, bos_id: int | None = None) -> ByteLevelTokenizer:
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
        return decode_document(self, ids)

    def losses(self, text: str, ids: Int32) -> str:
        """The known ways to lose text."""
        if self.normalizer:
            return f"the tokenizer's normaliser ({self.normalizer}) rewrites characters"
        if self.adds_space and text.startswith(" "):
            return "the tokenizer adds a space in front, so a text that begins with one cannot be told from one without"
        missing = {bytes([b]) for b in range(256)} - set(self.pieces.piece_bytes)
        return f"the vocabulary has no piece for {len(missing)} of the 256 bytes" if missing else ""

    def _some_special(self) -> str:
        found = np.flatnonzero(self.pieces.groups["control"])
        return ", ".join(str(i) for i in found[:3]) or "none: the vocabulary has no special token"


def why_not_byte_level(spec: dict[str, Any]) -> str:
    """A clause for an error sentence, or "" when the file is a byte-level BPE."""
    model = spec.get("model")
    kind = model.get("type") if isinstance(model, dict) else None
    if kind != "BPE":
        return f"its model is {kind or 'not named'}, only byte-level BPE gives exact bytes"
    if not any(p.get("type") == "ByteLevel" for p in _pre_tokenizers(spec)):
        return "its BPE does not work on bytes (no ByteLevel pre-tokenizer)"
    return ""


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


def _pre_tokenizers(spec: dict[str, Any]) -> list[dict[str, Any]]:
    top = spec.get("pre_tokenizer")
    steps = top.get("pretokenizers") if isinstance(top, dict) and top.get("type") == "Sequence" else [top]
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
    return tokenizer


def _table(spec: dict[str, Any], adds_space: bool, name: str) -> PieceTable:
    """Bytes of each id; ids with no piece, and pieces outside the byte alphabet, carry none."""
    vocab, added = spec["model"].get("vocab"), spec.get("added_tokens") or []
    if not isinstance(vocab, dict) or not all(isinstance(i, int) for i in vocab.values()):
        raise InputError(f"{name}: its vocabulary is not a map of pieces to ids")
    ids = [*vocab.values(), *(t["id"] for t in added)]
    if not ids or min(ids) < 0 or max(ids) >= 2 * len(ids) + 1024:
        raise InputError(f"{name}: {len(ids):,} pieces with ids up to {max(ids, default=-1):,}; the file is damaged")
    texts, kinds = [b""] * (max(ids) + 1), [PieceKind.UNUSED] * (max(ids) + 1)
    alphabet = byte_alphabet()
    for piece, i in vocab.items():
        if all(ch in alphabet for ch in piece):
            texts[i] = bytes(alphabet[ch] for ch in piece)
            kinds[i] = _kind(texts[i])
    for token in added:
        special = bool(token.get("special"))
        texts[token["id"]] = b"" if special else utf8(token["content"])
        kinds[token["id"]] = PieceKind.CONTROL if special else PieceKind.USER_DEFINED
    return PieceTable.build(texts, kinds, leading_space_is_free=adds_space)


def _kind(data: bytes) -> PieceKind:
    """BYTE for a fragment of a character; a leading space stays visible to the table."""
    if data[:1] == b" ":
        return PieceKind.NORMAL
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return PieceKind.BYTE
    return PieceKind.NORMAL
