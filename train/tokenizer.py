"""How does text become token ids without losing a byte?  (``python -m train.tokenizer --data FILES --out FILE.model``)

SentencePiece BPE with identity normalisation, no dummy prefix, byte fallback and split digits: decoding gives the
text back, byte for byte.  One character needs care: SentencePiece writes a space as U+2581, so a literal U+2581 in
the text would come back as a space.  ``encode`` spells that character with its three byte pieces.
Ids: pad 0, bos 1, eos 2, unk 3 (the field's convention).
"""

from __future__ import annotations

import argparse
import io
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from evalkit.errors import InputError
from train.text import documents, is_held_out

BOS = 1
SPACE_MARK = "\u2581"
LINE_CHARS = 2000  # SentencePiece drops training sentences beyond 4192 bytes


def load(model: bytes) -> Any:
    """Return a SentencePieceProcessor for the serialised model; raises InputError when it is not one."""
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(model)
    except (RuntimeError, TypeError):
        raise InputError(f"these {len(model)} bytes are not a SentencePiece model; give a .model file") from None
    return processor


def encode(processor: Any, text: str) -> list[int]:
    """Text -> ids without BOS; exact for any text that UTF-8 can carry, a literal U+2581 included."""
    if SPACE_MARK not in text:
        return processor.encode(text)
    mark = [processor.piece_to_id(f"<0x{b:02X}>") for b in SPACE_MARK.encode("utf-8")]
    ids: list[int] = []
    for part in re.split(f"({SPACE_MARK})", text):
        ids += mark if part == SPACE_MARK else processor.encode(part)
    return ids


def decode(processor: Any, ids: list[int]) -> str:
    """Ids -> text; the inverse of :func:`encode`.  Control ids give nothing."""
    return processor.decode(ids)


def training_lines(texts: Iterable[str]) -> Iterator[str]:
    """Cut documents into lines that the trainer accepts: a newline is a symbol of its own, never inside a piece."""
    for text in texts:
        for line in text.replace(SPACE_MARK, " ").split("\n"):
            for at in range(0, len(line), LINE_CHARS):
                yield line[at : at + LINE_CHARS]


def train(texts: Iterable[str], vocab_size: int = 2048, threads: int = 2) -> bytes:
    """Return a serialised SentencePiece BPE model.  Deterministic for the same texts in the same order."""
    import sentencepiece

    out = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=training_lines(texts),
            model_writer=out,
            model_type="bpe",
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            character_coverage=0.999,
            byte_fallback=True,
            split_digits=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            user_defined_symbols=["\n"],
            pad_id=0,
            bos_id=BOS,
            eos_id=2,
            unk_id=3,
            num_threads=threads,
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = str(error).split("] ")[-1].strip()
        raise InputError(f"no vocabulary of {vocab_size} pieces from this text: {reason}") from None
    model = out.getvalue()
    if SPACE_MARK not in vocabulary(model):
        raise InputError(f"the trained vocabulary of {vocab_size} lacks the lone space piece; give more text")
    return model


def vocabulary(model: bytes) -> list[str]:
    """Pieces by id."""
    processor = load(model)
    return [processor.id_to_piece(i) for i in range(processor.get_piece_size())]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m train.tokenizer", description="Train a lossless SentencePiece BPE."
    )
    parser.add_argument(
        "--data", nargs="+", required=True, type=Path, help="training text: .txt or .jsonl, plain or .xz"
    )
    parser.add_argument("--out", required=True, type=Path, help="the .model file to write")
    parser.add_argument("--vocab", type=int, default=2048, help="number of pieces (default 2048)")
    parser.add_argument(
        "--held-out", type=int, default=4, help="documents of 1000 kept out (default 4, as the recipes do)"
    )
    args = parser.parse_args(argv)
    try:
        texts = (doc for path in args.data for doc in documents(path) if not is_held_out(doc, args.held_out))
        model = train(texts, args.vocab)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_bytes(model)
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{args.out}: {len(vocabulary(model))} pieces, {len(model)} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
