"""What there is to train on: text tokenised into a cache once, or a folder of finished shards."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evalkit.errors import InputError
from evalkit.stream.files import read_small, write_atomic
from evalkit.stream.pieces import MODEL_LIMIT
from evalkit.stream.shard import UInt16 as Tokens
from evalkit.stream.shard import read_shard
from evalkit.stream.text import Document
from evalkit.stream.tokenizer import open_tokenizer
from evalkit.train import tokenizer
from evalkit.train.data.write import write_shards
from evalkit.train.text import is_held_out_bytes, read

FORMAT = 1


@dataclass(frozen=True)
class Corpus:
    """Tokenised text.  ``val_bytes`` are the true UTF-8 bytes of the held-out documents of the *training* text."""

    shards: tuple[Tokens, ...]
    val: Tokens
    val_bytes: int
    tokenizer_model: bytes
    fingerprint: str

    @property
    def train(self) -> Tokens:
        """The only shard; raises InputError when there are several."""
        if len(self.shards) != 1:
            raise InputError(
                f"the training text is {len(self.shards)} shards, which the loader 'blocks' does not read; "
                "set data.loader to coprime"
            )
        return self.shards[0]

    @property
    def train_tokens(self) -> int:
        return sum(len(shard) for shard in self.shards)


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
        shards=(read_shard(folder / "train_000000.bin"),),
        val=read_shard(folder / "val_000000.bin"),
        val_bytes=manifest["val_bytes"],
        tokenizer_model=(folder / "tokenizer.model").read_bytes(),
        fingerprint=key,
    )


def open_corpus(folder: Path, model: Path | None = None, sample: int = 1 << 18) -> Corpus:
    """Open the shards ``*train_*.bin`` and ``*val_*.bin`` of a folder and the one ``.model`` in it (or ``model``).

    Refuses to start (InputError) when validation text stands in the training shards: all documents where both sides
    have manifests, and the token sequences of the first ``sample`` tokens of each training shard in any case.
    """
    from evalkit.train.data.overlap import refuse_shards

    train, val = shard_paths(folder, "train"), shard_paths(folder, "val")
    opened = open_tokenizer(read_small(model or only_model(folder), MODEL_LIMIT, "a tokenizer model"))
    shards, held = tuple(read_shard(p) for p in train), [read_shard(p) for p in val]
    _check_ids([*zip(train, shards, strict=True), *zip(val, held, strict=True)], opened.vocab_size, opened.bos_id)
    refuse_shards(train, val, sample, opened.bos_id)
    tokens = held[0] if len(held) == 1 else np.concatenate(held)
    before = np.concatenate(([opened.bos_id], tokens[:-1])).astype(np.int64)
    size = int(opened.pieces.target_bytes(before, tokens).sum())
    return Corpus(shards, tokens, size, opened.model_bytes, _fingerprint([*train, *val], opened.fingerprint))


def shard_paths(folder: Path, part: str) -> list[Path]:
    """The shards of one part ("train" or "val"), byte sidecars left out; raises InputError when there is none."""
    found = sorted(p for p in Path(folder).glob(f"*{part}_*.bin") if "_bytes_" not in p.name)
    if not found:
        raise InputError(
            f"{folder}: no shard *{part}_*.bin there; make them with python -m evalkit.train.data tokenise, or fetch them with "
            "python -m evalkit.train.data fineweb"
        )
    return found


def only_model(folder: Path) -> Path:
    found = sorted(Path(folder).glob("*.model"))
    if len(found) != 1:
        raise InputError(f"{folder}: {len(found)} tokenizers (*.model) there, expected 1; name one with --tokenizer")
    return found[0]


def _check_ids(shards: Sequence[tuple[Path, Tokens]], vocab_size: int, bos_id: int) -> None:
    """The first million tokens of each shard: ids within the vocabulary, and a BOS among them."""
    for path, tokens in shards:
        head = tokens[: 1 << 20]
        if int(head.max()) >= vocab_size:
            raise InputError(
                f"{path}: token id {int(head.max())} is outside the tokenizer's {vocab_size}; give the tokenizer that "
                "made the shards"
            )
        if not (head == bos_id).any():
            raise InputError(
                f"{path}: no BOS (id {bos_id}) in the first {len(head)} tokens, so documents have no borders; tokenise "
                "the text again"
            )


def _fingerprint(paths: Sequence[Path], tokenizer_fingerprint: str) -> str:
    """By name, size and the first and last MiB of each shard: a folder of 16 GB is not read whole at every start."""
    digest = hashlib.sha256(tokenizer_fingerprint.encode())
    for path in paths:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(1 << 20))
            file.seek(max(0, size - (1 << 20)))
            digest.update(file.read(1 << 20))
    return digest.hexdigest()


def _key(files: list[Path], vocab_size: int, permille: int, model: bytes | None) -> str:
    digest = hashlib.sha256(json.dumps([FORMAT, vocab_size, permille]).encode())
    digest.update(model or b"")
    for path in files:
        if not path.is_file():
            raise InputError(f"training text {path} is not a file; give existing .txt or .jsonl files to --data")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def split(files: Sequence[Path], permille: int) -> tuple[list[Document], list[Document]]:
    """(to train on, held out) by each document's own hash; raises InputError when one side is empty."""
    parts: dict[bool, list[Document]] = {False: [], True: []}
    for path in files:
        for document in read(path):
            parts[is_held_out_bytes(document.data, permille)].append(document)
    if not parts[False] or not parts[True]:
        raise InputError(
            f"{len(parts[False])} documents to train on and {len(parts[True])} held out; at {permille} of 1000 held out "
            "both need at least one: give more documents or raise data.held_out_permille"
        )
    return parts[False], parts[True]


def _tokenise(files: list[Path], folder: Path, vocab_size: int, permille: int, model: bytes | None) -> None:
    kept, held = split(files, permille)
    model = model or tokenizer.train(_texts(kept), vocab_size)
    opened = tokenizer.load(model)
    train = write_shards(iter(kept), opened, folder, "train")[0]
    val = write_shards(iter(held), opened, folder, "val")[0]
    write_atomic(folder / "tokenizer.model", model)
    counts = {name: [len(m.documents.start), m.bytes] for name, m in (("train", train), ("val", val))}
    manifest = {"documents_bytes": counts, "val_bytes": val.bytes, "vocab_size": vocab_size}
    write_atomic(folder / "manifest.json", json.dumps(manifest, indent=1).encode())


def _texts(documents: Sequence[Document]) -> Iterator[str]:
    for document in documents:
        yield document.text
