"""Tokenizers for training: ids that lose no byte (``python -m evalkit.train.tokenizer --data FILES --out FILE.model``).

SentencePiece BPE with identity normalisation, no dummy prefix, byte fallback and split digits: decoding gives the
text back, byte for byte (evalkit's tokenizer spells a literal U+2581 with its byte pieces).
Ids: pad 0, bos 1, eos 2, unk 3 (the field's convention).
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from evalkit.errors import InputError
from evalkit.stream.files import write_atomic
from evalkit.stream.pieces import SPACE_MARK
from evalkit.stream.tokenizer import SentencePieceTokenizer
from evalkit.train.text import documents, is_held_out

BOS = 1
LINE_CHARS = 2000  # SentencePiece drops training sentences beyond 4192 bytes
CHARS_PER_PIECE = 50
"""Less text than this per wanted piece makes a vocabulary of rare strings; sp8192 from 5 M documents is the field's."""


def load(model: bytes) -> SentencePieceTokenizer:
    """Open the serialised model; raises InputError when it is not one."""
    return SentencePieceTokenizer.from_bytes(model, "the tokenizer")


def encode(tokenizer: SentencePieceTokenizer, text: str) -> list[int]:
    """Text -> ids without BOS; exact for any text that UTF-8 can carry, a literal U+2581 included."""
    return tokenizer.encode(text).tolist()


def decode(tokenizer: SentencePieceTokenizer, ids: list[int]) -> str:
    """Ids -> text; the inverse of :func:`encode`.  Control ids give nothing."""
    return tokenizer.decode_bytes(ids).decode("utf-8", "replace")


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


def train_exactly(texts: Iterable[str], vocab_size: int) -> bytes:
    """:func:`train`, but InputError when the text is too little for a vocabulary of this size."""
    kept = list(texts)
    size = sum(map(len, kept))
    if size < CHARS_PER_PIECE * vocab_size:
        raise InputError(
            f"{size:,} characters of text are too little for {vocab_size:,} pieces, {CHARS_PER_PIECE} for each are the "
            "least; give more text or a smaller --vocab"
        )
    model = train(kept, vocab_size)
    if (found := len(vocabulary(model))) != vocab_size:
        raise InputError(
            f"this text gives only {found:,} of {vocab_size:,} pieces; give more text or a smaller --vocab"
        )
    return model


def vocabulary(model: bytes) -> list[str]:
    """Pieces by id."""
    return [piece.decode("utf-8") for piece in load(model).spec.pieces]


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m evalkit.train.tokenizer", description="Train a lossless SentencePiece BPE.",
        epilog="example: python -m evalkit.train.tokenizer --data train.jsonl.xz --vocab 1024 8192 --out sp{vocab}.model",
    )  # fmt: skip
    p.add_argument("--data", nargs="+", required=True, type=Path, help="training text: .txt or .jsonl, plain or packed")
    p.add_argument("--out", required=True, help="the .model file to write; {vocab} stands for the size")
    p.add_argument("--vocab", nargs="+", type=int, default=[2048], help="number of pieces, one or several (2048)")
    p.add_argument("--held-out", type=int, default=4, help="documents of 1000 kept out (default 4, as the recipes do)")
    return p


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        if len(args.vocab) > 1 and "{vocab}" not in args.out:
            raise InputError(
                f"{len(args.vocab)} sizes but one --out; write {{vocab}} in its name, as in sp{{vocab}}.model"
            )
        texts = [doc for path in args.data for doc in documents(path) if not is_held_out(doc, args.held_out)]
        for size in args.vocab:
            out = Path(args.out.replace("{vocab}", str(size)))
            model = train_exactly(texts, size)
            out.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(out, model)
            print(f"{out}: {size} pieces, {len(model)} bytes")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: cannot write {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
