"""Which tokens do the benches of tables count?  Any text, the shared training text, or a synthetic stream that says so."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

SHARED = Path(os.environ.get("EVALKIT_SHARED") or Path(__file__).resolve().parents[2] / "shared") / "data"
SYNTHETIC_WORDS = 200_000


def tokens_of(vocab: int, wanted: int, text: list[str], tokenizer: str | None) -> tuple[np.ndarray, str, np.ndarray]:
    """(int32 tokens, at most ``wanted``; where they are from; uint8 [vocab]: 1 starts a word, 2 control, else 0).

    ``text``: files of evalkit; without them the training text beside the checkout, or else ``synthetic``.  White space
    may be folded by the tokenizer: these tokens are counted, not scored.
    """
    model = Path(tokenizer) if tokenizer else SHARED / f"tokenizers/fineweb_{vocab}_bpe.model"
    files = text or [str(SHARED / "train.jsonl.xz")]
    if not model.is_file() or not all(Path(f).is_file() for f in files):
        if text or tokenizer:
            missing = [str(f) for f in (model, *files) if not Path(f).is_file()]
            raise SystemExit(f"no such file: {missing[0]}; give --text FILE... and --tokenizer FILE.model")
        return synthetic(vocab, wanted), f"synthetic: {SYNTHETIC_WORDS} random words drawn by Zipf's law", _half(vocab)
    import sentencepiece

    spm = sentencepiece.SentencePieceProcessor(model_file=str(model))
    parts, have = [], 0
    for document in _documents(files):
        parts.append(np.array([1, *spm.encode(document)], np.int32))
        have += len(parts[-1])
        if have >= wanted:
            break
    source = f"{', '.join(Path(f).name for f in files)} by {model.name}"
    return np.concatenate(parts)[:wanted], source, _roles(spm)


def _documents(files: list[str]) -> Iterator[str]:
    from evalkit.stream.text import kind_of, read_documents

    for file in files:
        for document in read_documents(file, kind_of(file)):
            yield document.text


def _roles(spm: Any) -> np.ndarray:
    starts = np.array([spm.id_to_piece(i).startswith("\u2581") for i in range(len(spm))])
    control = np.array([spm.is_control(i) for i in range(len(spm))])
    return np.where(control, 2, starts).astype(np.uint8)


def _half(vocab: int) -> np.ndarray:
    roles = (np.arange(vocab) >= vocab // 2).astype(np.uint8)
    roles[1] = 2
    return roles


def synthetic(vocab: int, wanted: int, seed: int = 0) -> np.ndarray:
    """Words of 1 to 5 tokens, the first of the upper half of the ids, drawn with probability 1 / rank, BOS at times.

    New n-grams never run out, as in text; tiling a short text would make a table's work too easy.
    """
    rng = np.random.default_rng(seed)
    length = rng.integers(1, 6, SYNTHETIC_WORDS)
    words = rng.integers(4, vocab // 2, (SYNTHETIC_WORDS, 5))
    words[:, 0] = rng.integers(vocab // 2, vocab, SYNTHETIC_WORDS)
    weight = 1.0 / np.arange(1, SYNTHETIC_WORDS + 1)
    drawn = rng.choice(SYNTHETIC_WORDS, wanted // 2 + 10, p=weight / weight.sum())
    rows = words[drawn]
    rows[rng.random(len(drawn)) < 1 / 400, 0] = 1
    keep = np.arange(5) < length[drawn, None]
    tokens = rows[keep].astype(np.int32)
    return np.concatenate([np.array([1], np.int32), tokens])[:wanted]
