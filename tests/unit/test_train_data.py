"""Do loaders show each block once, the same at every start, and does training refuse its own validation text?"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalkit.errors import InputError
from evalkit.stream.manifest import document_hash, manifest_path, read_manifest
from evalkit.stream.shard import read_shard, write_shard
from evalkit.stream.text import Document
from evalkit.stream.tokenizer import ByteTokenizer
from evalkit.train import data
from evalkit.train.data import overlap
from evalkit.train.data.__main__ import main
from evalkit.train.data.coprime import compiled_gather
from evalkit.train.data.write import write_shards
from tests.kit import examples
from tests.twins.gather import gather as gather_naive

TEXTS = [f"Document {i} says that {i * i} is the square of {i}, and that {i * 7 % 13} is not.\n" * 3 for i in range(60)]


def documents(texts: list[str]) -> list[Document]:
    return [Document("made.jsonl", i, f"made:{i}", text.encode()) for i, text in enumerate(texts)]


def jsonl(path: Path, texts: list[str]) -> Path:
    path.write_text("\n".join(json.dumps({"text": t}) for t in texts), "utf-8")
    return path


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    width=st.integers(0, 12),
    rows=st.integers(0, 9),
    draw=st.randoms(use_true_random=False),
)
@settings(max_examples=examples(150), deadline=None)
def test_the_compiled_gather_is_its_twin(sizes: list[int], width: int, rows: int, draw: object) -> None:
    rng = np.random.default_rng(draw.randrange(1 << 30))  # type: ignore[attr-defined]
    shards = tuple(rng.integers(0, 1 << 16, n, dtype=np.uint16) for n in sizes)
    shard = rng.integers(0, len(sizes), rows)
    start = np.array([rng.integers(0, max(1, sizes[s] - width + 2)) for s in shard], np.int64)
    got, want = np.full((2, rows, width), -7, np.int64)
    results: list[str] = []
    for function, out in ((compiled_gather(), got), (gather_naive, want)):
        try:
            function(shards, shard, start, out)
            results.append("done")
        except IndexError:
            results.append("refused")
    assert results[0] == results[1]
    assert np.array_equal(got, want), "a refused gather has copied nothing"


@pytest.mark.parametrize(("shard", "start"), [(-1, 0), (2, 0), (0, -1), (0, 7), (1, 1 << 62), (1 << 40, 0)])
def test_the_compiled_gather_never_leaves_its_shards(shard: int, start: int) -> None:
    shards = (np.arange(10, dtype=np.uint16), np.arange(4, dtype=np.uint16))
    with pytest.raises(IndexError):
        compiled_gather()(shards, np.array([shard]), np.array([start]), np.empty((1, 4), np.int64))


@given(
    sizes=st.lists(st.integers(3, 400), min_size=1, max_size=12),
    seed=st.integers(0, 5),
    first=st.integers(0, 500),
    count=st.integers(1, 60),
)
@settings(max_examples=examples(80), deadline=None)
def test_coprime_shows_each_block_once_and_answers_by_number(
    sizes: list[int], seed: int, first: int, count: int
) -> None:
    shards = tuple(np.arange(n, dtype=np.uint16) + 1000 * i for i, n in enumerate(sizes))
    try:
        loader = data.Coprime(shards, 4, seed)
    except InputError:
        assert max(sizes) < 9
        return
    epoch = list(zip(*(a.tolist() for a in loader.places(0, loader.per_epoch)), strict=True))
    assert len(set(epoch)) == loader.per_epoch == sum(loader.counts)
    assert all(len({at % 4 for s, at in epoch if s == shard}) <= 1 for shard in range(len(sizes))), "one phase a shard"
    batch = loader.batch(first, count, 2)
    assert batch.shape == (2 * count, 3)
    one_by_one = np.concatenate([data.Coprime(shards, 4, seed).batch(first + i, 1, 2) for i in range(count)])
    assert np.array_equal(batch, one_by_one)
    assert (np.diff(batch, axis=1) == 1).all(), "rows are runs of one shard"


def test_coprime_mixes_shards_and_changes_its_order() -> None:
    shards = tuple(np.full(40 * n + 50, n, np.uint16) for n in (1, 3, 10, 30, 30, 30, 30, 30, 30, 30))
    loader = data.Coprime(shards, 8, 0)
    kinds = loader.places(0, loader.per_epoch)[0]
    assert len(set(kinds[:8].tolist())) == 8, "a round takes distinct shards"
    late = kinds[-len(kinds) // 4 :]
    assert len(set(late.tolist())) >= 7, "no shard is left alone at the end"
    again = loader.places(loader.per_epoch, loader.per_epoch)
    assert not np.array_equal(again[0], kinds)
    assert not np.array_equal(data.Coprime(shards, 8, 1).places(0, 50)[0], kinds[:50])
    with pytest.raises(InputError, match="the longest of 1 training shards has 12 tokens"):
        data.Coprime((np.zeros(12, np.uint16),), 8, 0)


@pytest.mark.parametrize("blocks", [1, 2, 12, 97, 360])
def test_strides_are_coprime(blocks: int) -> None:
    rng = np.random.default_rng(0)
    assert all(math.gcd(data.coprime.coprime_stride(blocks, rng), blocks) == 1 for _ in range(50))  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["blocks", "coprime"])
def test_prefetch_changes_no_bit(kind: str) -> None:
    tokens = np.random.default_rng(1).integers(0, 99, 3000, dtype=np.uint16)
    corpus = data.Corpus((tokens,), tokens, 1, b"", "")
    plain = data.loader(corpus, kind, 16, 3)
    ahead = data.Prefetch(data.loader(corpus, kind, 16, 3))
    requests = [(0, 4, 8), (4, 4, 8), (8, 4, 8), (12, 4, 16), (16, 4, 16), (400, 4, 16), (404, 2, 16), (404, 2, 16)]
    try:
        for request in requests:
            assert np.array_equal(ahead.batch(*request), plain.batch(*request)), request
        assert (ahead.block_len, ahead.per_epoch) == (plain.block_len, plain.per_epoch)
    finally:
        ahead.close()


def test_prefetch_passes_errors_on() -> None:
    class Broken:
        block_len, per_epoch = 4, 10

        def batch(self, first: int, count: int, seq_len: int) -> np.ndarray:
            if first:
                raise InputError("the shard went away")
            return np.zeros((count, seq_len + 1), np.int64)

    ahead = data.Prefetch(Broken())
    ahead.batch(0, 1, 4)
    with pytest.raises(InputError, match="went away"):
        ahead.batch(1, 1, 4)
    ahead.close()


def test_one_loader_for_one_shard() -> None:
    tokens = np.zeros(100, np.uint16)
    corpus = data.Corpus((tokens, tokens), tokens, 1, b"", "")
    with pytest.raises(InputError, match=r"2 shards.*set data.loader to coprime"):
        data.loader(corpus, "blocks", 8, 0)
    with pytest.raises(InputError, match="did you mean 'coprime'"):
        data.loader(corpus, "coprme", 8, 0)
    assert data.loader(corpus, "coprime", 8, 0).per_epoch == 22
    assert corpus.train_tokens == 200


def test_shards_are_cut_at_documents_and_hashed(tmp_path: Path) -> None:
    tokenizer = ByteTokenizer()
    manifests = write_shards(iter(documents(TEXTS)), tokenizer, tmp_path, "train", 3000)
    assert len(manifests) > 3
    back, hashes = b"", list[str]()
    for manifest in manifests:
        tokens = read_shard(tmp_path / manifest.shard)
        again = read_manifest(manifest_path(tmp_path / manifest.shard))
        assert again == manifest
        assert np.flatnonzero(tokens == 1).tolist() == manifest.documents.start
        assert sum(manifest.documents.bytes) == manifest.bytes
        back += tokenizer.decode_bytes(tokens)
        hashes += manifest.documents.blake2b
    assert back == "".join(TEXTS).encode()
    assert hashes == [document_hash(t.encode()) for t in TEXTS]


@pytest.fixture
def shards(tmp_path: Path, miniature: Callable[[str], bytes]) -> Path:
    """A folder made by the command, from documents of which some are held out."""
    (tmp_path / "sp.model").write_bytes(miniature("lossless"))
    jsonl(tmp_path / "t.jsonl", TEXTS)
    command = ["tokenise", "--data", str(tmp_path / "t.jsonl"), "--tokenizer", str(tmp_path / "sp.model")]
    assert main([*command, "--out", str(tmp_path / "s"), "--held-out", "150", "--shard-tokens", "2000"]) == 0
    return tmp_path / "s"


def test_a_folder_of_shards_is_a_corpus(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # The documents resemble each other, as near copies do: only the exact comparison applies to them.
    corpus = data.open_corpus(shards, sample=1)
    assert len(corpus.shards) > 1
    kept = {h for p in shards.glob("train_*.json") for h in read_manifest(p).documents.blake2b}
    held = [d for p in shards.glob("val_*.json") for d in read_manifest(p).documents.bytes]
    assert corpus.val_bytes == sum(held)
    assert len(kept) + len(held) == len(TEXTS)
    assert data.open_corpus(shards, sample=1).fingerprint == corpus.fingerprint
    assert main(["tokenise", "--data", "x", "--tokenizer", str(shards / "tokenizer.model"), "--out", str(shards)]) == 2
    assert "is there already" in capsys.readouterr().err


def test_a_validation_document_in_the_training_shards_stops_the_start(shards: Path) -> None:
    path = next(iter(shards.glob("train_000001.manifest.json")))
    manifest = json.loads(path.read_text())
    val = json.loads((shards / "val_000000.manifest.json").read_text())
    manifest["documents"]["blake2b"][0] = val["documents"]["blake2b"][0]
    path.write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"1 of \d+ validation documents stand in the training shards"):
        data.open_corpus(shards, sample=1)


@pytest.mark.parametrize("changed", [0, 5])
def test_near_copies_are_found_in_shards_without_manifests(tmp_path: Path, changed: int) -> None:
    rng = np.random.default_rng(2)
    held = [rng.integers(4, 300, 200, dtype=np.uint16) for _ in range(4)]
    leaked = held[2].copy()
    leaked[:changed] = 3
    train = np.concatenate([rng.integers(4, 300, 5000, dtype=np.uint16), [1], leaked, [1], rng.integers(4, 300, 50)])
    val = np.concatenate([np.concatenate([[1], d]) for d in held])
    for name, tokens in (("train_000000", train), ("val_000000", val)):
        write_shard(tmp_path / f"{name}.bin", tokens.astype(np.uint16))
    paths = [tmp_path / "train_000000.bin"], [tmp_path / "val_000000.bin"]
    assert overlap.near_documents([read_shard(paths[0][0])], [read_shard(paths[1][0])], 0, 1) == (1, 4)
    with pytest.raises(InputError, match="1 of 4 validation documents share half"):
        overlap.refuse_shards(*paths, 0, 1)
    assert "none of 4" in overlap.refuse_shards(*paths, 5000, 1)[0]


@given(n=st.integers(0, 80), seed=st.integers(0, 9))
@settings(max_examples=examples(40), deadline=None)
def test_span_hashes_depend_on_their_tokens_alone(n: int, seed: int) -> None:
    tokens = np.random.default_rng(seed).integers(0, 3, n, dtype=np.uint16)
    whole = overlap.spans(tokens)
    assert len(whole) == max(0, n - overlap.SPAN + 1)
    for i in range(len(whole)):
        assert overlap.spans(tokens[i : i + overlap.SPAN])[0] == whole[i]


def test_texts_are_compared_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [" ".join(f"w{(i * 31 + j * 7) % 997}" for j in range(60)) for i in range(6)]
    train, val = jsonl(tmp_path / "t.jsonl", words[:4]), jsonl(tmp_path / "v.jsonl", words[4:])
    assert main(["check", "--train", str(train), "--val", str(val)]) == 0
    assert "0 of 2 validation documents" in capsys.readouterr().out
    leak = jsonl(tmp_path / "leak.jsonl", [*words[4:5], words[3] + " and more"])
    assert main(["check", "--train", str(train), "--val", str(leak)]) == 2
    assert "near overlap: 1 of 2" in capsys.readouterr().err
    assert main(["check"]) == 2


def test_wrong_folders_are_one_sentence(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no shard"):
        data.open_corpus(tmp_path)
    write_shard(shards / "train_000000.bin", np.full(2000, 60000, np.uint16))
    with pytest.raises(InputError, match="token id 60000 is outside"):
        data.open_corpus(shards)
    write_shard(shards / "train_000000.bin", np.full(2000, 7, np.uint16))
    with pytest.raises(InputError, match="no BOS"):
        data.open_corpus(shards)
    (shards / "second.model").write_bytes(b"")
    with pytest.raises(InputError, match="2 tokenizers"):
        data.open_corpus(shards)
