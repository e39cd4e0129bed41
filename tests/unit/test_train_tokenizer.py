"""Does any text come back from its ids, and does a step's batch depend on nothing but the step?"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalkit.errors import InputError
from evalkit.models.ek.container import read_artifact
from evalkit.stream.shard import MAGIC, read_shard, write_shard
from evalkit.train import data, tokenizer
from evalkit.train.text import documents, is_held_out
from tests.kit import examples

TINY = Path(__file__).parents[2] / "evalkit" / "assets" / "tiny.ek"
TEXTS = [
    f"The {a} of {b} is 12{i}.\n\n  Two  spaces, a tab\tand caf\u00e9."
    for i, (a, b) in enumerate(
        (a, b) for a in ("colour", "weight", "price", "shape") for b in ("stone", "water", "iron", "the sea")
    )
]


@pytest.fixture(scope="module")
def model() -> bytes:
    return tokenizer.train(TEXTS * 3, 300, threads=1)


@pytest.fixture(scope="module")
def processor(model: bytes) -> object:
    return tokenizer.load(model)


@given(text=st.text(alphabet=st.characters(codec="utf-8"), max_size=60))
@settings(max_examples=examples(60), deadline=None)
def test_any_text_comes_back(processor: object, text: str) -> None:
    assert tokenizer.decode(processor, tokenizer.encode(processor, text)) == text


@pytest.mark.parametrize(
    "text", ["", " ", "  a", "a ", "\n", "\r\n", "\t", "\x00", "\u2581", " \u2581\u2581 ", "<s></s><unk>", "<0x41>"]
)
def test_awkward_texts_come_back(processor: object, text: str) -> None:
    ids = tokenizer.encode(processor, text)
    assert tokenizer.decode(processor, ids) == text
    assert not set(ids) & {0, 1, 2, 3}, "text never becomes a control id"


def test_vocabulary_is_the_fields(model: bytes) -> None:
    pieces = tokenizer.vocabulary(model)
    assert pieces[:5] == ["<pad>", "<s>", "</s>", "<unk>", "\n"]
    assert tokenizer.SPACE_MARK in pieces
    assert "<0xFF>" in pieces
    assert tokenizer.train(TEXTS * 3, 300, threads=1) == model


def test_junk_is_not_a_tokenizer() -> None:
    with pytest.raises(InputError, match="SentencePiece"):
        tokenizer.load(b"junk" * 10)


def test_held_out_files_come_back(shared_data: Path) -> None:
    """Every tenth document through the bundled tokenizer (all of them were checked once, without a loss)."""
    processor = tokenizer.load(read_artifact(TINY).tokenizer_model)
    for path in sorted(shared_data.glob("val_*.jsonl.xz")):
        for document in list(documents(path))[::10]:
            assert tokenizer.decode(processor, tokenizer.encode(processor, document)) == document


def test_shards_are_the_fields_format(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_shard(path, np.array([1, 5, 65535], dtype=np.uint16))
    raw = path.read_bytes()
    assert len(raw) == 1024 + 6
    assert raw[:12] == np.array([MAGIC, 1, 3], "<i4").tobytes()
    assert read_shard(path).tolist() == [1, 5, 65535]
    for damaged in (raw[:-1], raw[:100], b"\0" + raw[1:], b""):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"truncated|magic|empty|too few"):
            read_shard(path)


def test_prepare_keeps_documents_apart_and_counts_bytes(tmp_path: Path) -> None:
    rows = [f"{text} {i}" for i in range(6) for text in TEXTS]
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps({"text": r}) for r in rows))
    corpus = data.prepare([tmp_path / "t.jsonl"], tmp_path / "cache", 300, 200)
    held = [r for r in rows if is_held_out(r, 200)]
    assert 0 < len(held) < len(rows)
    assert corpus.val_bytes == sum(len(r.encode()) for r in held)
    processor = tokenizer.load(corpus.tokenizer_model)
    starts = np.flatnonzero(corpus.val == tokenizer.BOS)
    assert [tokenizer.decode(processor, p.tolist()) for p in np.split(corpus.val, starts[1:])] == held
    assert int((corpus.train == tokenizer.BOS).sum()) == len(rows) - len(held)
    again = data.prepare([tmp_path / "t.jsonl"], tmp_path / "cache", 300, 200)
    assert again.fingerprint == corpus.fingerprint
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_text_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("only one document")
    (tmp_path / "bad.jsonl").write_text('{"body": 1}')
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    for name, match in (("none.txt", "not a file"), ("one.txt", "documents to train on"), ("bad.jsonl", "line 1"),
                        ("binary.txt", "UTF-16")):  # fmt: skip
        with pytest.raises(InputError, match=match):
            data.prepare([tmp_path / name], tmp_path / "cache", 300, 100)


@given(seed=st.integers(0, 9), rows=st.sampled_from([4, 8, 16]), first=st.integers(0, 30))
@settings(max_examples=examples(30), deadline=None)
def test_a_batch_is_a_function_of_its_number(seed: int, rows: int, first: int) -> None:
    blocks = data.Blocks(np.arange(400, dtype=np.uint16), 16, seed)
    batch = blocks.batch(first, 3, rows)
    assert batch.shape == (3 * 16 // rows, rows + 1)
    assert (np.diff(batch, axis=1) == 1).all(), "rows are runs of the stream"
    one_by_one = [blocks.batch(first + i, 1, 16)[0, :-1] for i in range(3)]
    assert batch[:, :-1].ravel().tolist() == np.concatenate(one_by_one).tolist()


def test_an_epoch_shows_each_block_once() -> None:
    blocks = data.Blocks(np.arange(400, dtype=np.uint16), 16, 0)
    seen = blocks.batch(0, blocks.per_epoch, 16)[:, :-1].ravel()
    assert len(set(seen.tolist())) == len(seen) == blocks.per_epoch * 16
    assert blocks.batch(blocks.per_epoch, 1, 16).tolist() != blocks.batch(0, 1, 16).tolist()
    with pytest.raises(InputError, match="one block needs"):
        data.Blocks(np.arange(20, dtype=np.uint16), 16, 0)


def test_the_default_loader_and_tokenizer_are_those_of_the_bundled_run(tmp_path: Path) -> None:
    """Golden: another value here means that the recipes train on other batches than the published runs did."""
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps({"text": f"{t} {i}"}) for i in range(9) for t in TEXTS))
    corpus = data.prepare([tmp_path / "t.jsonl"], tmp_path / "c", 2048, 100, read_artifact(TINY).tokenizer_model)
    digests = [hashlib.sha256(part.tobytes()).hexdigest()[:16] for part in (corpus.train, corpus.val)]
    blocks = data.loader(corpus, "blocks", 32, 7)
    digests.append(hashlib.sha256(blocks.batch(150, 40, 16).astype("<i8").tobytes()).hexdigest()[:16])
    assert digests == ["cdd16aeb88f93198", "acd377d088dc9ba6", "ee543d82dcdd933b"]


def test_the_command_trains_several_sizes_and_refuses_too_little_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"{text} number {i} of {i * i}, word{i % 37} and w{i * 7919 % 10007}" for i in range(60) for text in TEXTS]
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps({"text": r}) for r in rows))
    command = ["--data", str(tmp_path / "t.jsonl"), "--out", str(tmp_path / "sp{vocab}.model"), "--vocab", "300", "400"]
    assert tokenizer.main(command) == 0
    first = {n: (tmp_path / f"sp{n}.model").read_bytes() for n in (300, 400)}
    assert [len(tokenizer.vocabulary(m)) for m in first.values()] == [300, 400]
    assert tokenizer.main(command) == 0
    assert {n: (tmp_path / f"sp{n}.model").read_bytes() for n in (300, 400)} == first
    capsys.readouterr()
    for more, says in (
        (["--vocab", "8192"], "characters of text are too little for 8,192 pieces"),
        (["--vocab", "300", "400", "--out", str(tmp_path / "one.model")], "{vocab}"),
        (["--vocab", "300", "--data", str(tmp_path / "none.txt")], "no such file"),
        (["--vocab", "200"], "200"),
    ):
        failed = tokenizer.main([*command, *more])
        error = capsys.readouterr().err
        assert failed == 2, more
        assert error.startswith("error: "), error
        assert len(error.strip().splitlines()) == 1, error
        assert says in error
