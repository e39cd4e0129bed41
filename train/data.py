"""Which tokens does a training step see?  Text is tokenised once, then read in shuffled blocks that a step number decides."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from evalkit.errors import InputError
from train import tokenizer
from train.shards import Tokens, read_shard, write_durably, write_shard
from train.text import documents, is_held_out

FORMAT = 1


@dataclass(frozen=True)
class Corpus:
    """Tokenised text.  ``val_bytes`` are the true UTF-8 bytes of the held-out documents of the *training* text."""

    train: Tokens
    val: Tokens
    val_bytes: int
    tokenizer_model: bytes
    fingerprint: str


def prepare(files: list[Path], cache: Path, vocab_size: int, permille: int, model: bytes | None = None) -> Corpus:
    """Tokenise ``files`` into ``cache`` unless the same content lies there already.

    files: training text.  permille: documents of 1000 held out by their hash.  model: SentencePiece model; None
    trains one of ``vocab_size`` pieces on the training part.  Raises InputError when the text is too small.
    """
    key = _key(files, vocab_size, permille, model)
    folder = cache / key[:16]
    if not (folder / "manifest.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        _tokenise(files, folder, vocab_size, permille, model)
    manifest = json.loads((folder / "manifest.json").read_text())
    return Corpus(
        train=read_shard(folder / "train_000000.bin"),
        val=read_shard(folder / "val_000000.bin"),
        val_bytes=manifest["val_bytes"],
        tokenizer_model=(folder / "tokenizer.model").read_bytes(),
        fingerprint=key,
    )


def _key(files: list[Path], vocab_size: int, permille: int, model: bytes | None) -> str:
    digest = hashlib.sha256(json.dumps([FORMAT, vocab_size, permille]).encode())
    digest.update(model or b"")
    for path in files:
        if not path.is_file():
            raise InputError(f"training text {path} is not a file; give existing .txt or .jsonl files to --data")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _tokenise(files: list[Path], folder: Path, vocab_size: int, permille: int, model: bytes | None) -> None:
    parts: dict[bool, list[str]] = {False: [], True: []}
    for path in files:
        for document in documents(path):
            parts[is_held_out(document, permille)].append(document)
    if not parts[False] or not parts[True]:
        raise InputError(
            f"{len(parts[False])} documents to train on and {len(parts[True])} held out; at {permille} of 1000 held out "
            "both need at least one: give more documents or raise data.held_out_permille"
        )
    model = model or tokenizer.train(parts[False], vocab_size)
    for name, held_out in (("train", False), ("val", True)):
        write_shard(folder / f"{name}_000000.bin", _encode(parts[held_out], model))
    write_durably(folder / "tokenizer.model", model)
    counts = {
        name: [len(parts[h]), sum(len(d.encode()) for d in parts[h])] for name, h in (("train", False), ("val", True))
    }
    manifest = {"documents_bytes": counts, "val_bytes": counts["val"][1], "vocab_size": vocab_size}
    write_durably(folder / "manifest.json", json.dumps(manifest, indent=1).encode())


def _encode(texts: list[str], model: bytes) -> Tokens:
    """BOS before each document, no EOS; uint16."""
    processor = tokenizer.load(model)
    ids: list[npt.NDArray[np.uint16]] = []
    for text in texts:
        ids.append(np.array([tokenizer.BOS, *tokenizer.encode(processor, text)], dtype=np.uint16))
    return np.concatenate(ids)


@dataclass(frozen=True)
class Blocks:
    """Shuffled blocks of ``block_len`` tokens, each with the one target beyond it; a new phase and order per epoch.

    A batch is a function of the block number alone, so resuming needs no loader state; blocks are cut into rows of
    the current sequence length, so a length change in mid-run repeats no text.
    """

    tokens: Tokens
    block_len: int
    seed: int

    def __post_init__(self) -> None:
        if self.per_epoch < 1:
            raise InputError(
                f"the training text has {len(self.tokens)} tokens, one block needs {2 * self.block_len}; "
                "give more text or lower run.seq_lens"
            )

    @property
    def per_epoch(self) -> int:
        """Blocks in an epoch; one is given up to the random phase."""
        return (len(self.tokens) - 1) // self.block_len - 1

    def batch(self, first: int, count: int, seq_len: int) -> npt.NDArray[np.int64]:
        """Blocks first..first+count-1 of the endless sequence -> int64 [rows, seq_len + 1]."""
        rows = []
        for number in range(first, first + count):
            epoch, index = divmod(number, self.per_epoch)
            phase, order = epoch_order(self.seed, epoch, self.per_epoch, self.block_len)
            at = phase + int(order[index]) * self.block_len
            block = self.tokens[at : at + self.block_len + 1].astype(np.int64)
            rows += [block[i : i + seq_len + 1] for i in range(0, self.block_len, seq_len)]
        return np.stack(rows)


@lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, blocks: int, block_len: int) -> tuple[int, npt.NDArray[np.int64]]:
    """(phase, permutation [blocks]) of one epoch."""
    rng = np.random.default_rng((seed, epoch))
    return int(rng.integers(block_len)), rng.permutation(blocks)
