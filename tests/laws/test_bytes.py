"""Do the bytes reconcile?  For any text, any tokenizer that is lossless, any cut of the stream."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.errors import ByteCountError
from evalkit.stream.reconcile import first_difference, reconcile
from evalkit.stream.stream import Stream, open_stream, write_shard
from evalkit.stream.text import Document
from evalkit.stream.tokenizer import ByteTokenizer, SentencePieceTokenizer, Tokenizer
from tests.twins.byte_counts import decode_naive, target_bytes_naive

EXACT = ["lossless", "unigram", "inner_space"]
"""Tokenizers that carry any text."""

words = st.sampled_from(
    [
        "the",
        "quick",
        "Stra\u00dfe",
        "\u65e5\u672c\u8a9e",
        "1984",
        "\u2581",
        "\ufb01",
        "<s>",
        "<0x41>",
        "<extra>",
        "\U0001f600",
    ]
)
glue = st.sampled_from(["", " ", "  ", "\n", "\r\n", "\t", "\u00a0", " \n ", "\x00", "\ufeff"])
texts = st.one_of(
    st.text(max_size=60),
    st.lists(st.tuples(glue, words), max_size=12).map(lambda pairs: "".join(a + b for a, b in pairs)),
    st.tuples(glue, words, glue).map("".join),
)


def open_model(model: bytes) -> tuple[SentencePieceTokenizer, object]:
    from sentencepiece import SentencePieceProcessor

    return SentencePieceTokenizer.from_bytes(model), SentencePieceProcessor(model_proto=model)


def documents_of(texts: list[str]) -> list[Document]:
    return [Document("memory", i, f"d{i}", text.encode("utf-8")) for i, text in enumerate(texts)]


@pytest.mark.parametrize("name", EXACT)
@given(st.lists(texts, min_size=1, max_size=5))
def test_any_text_comes_back_from_a_lossless_tokenizer(miniature: Callable[[str], bytes], name: str, batch: list[str]):
    tokenizer, processor = open_model(miniature(name))
    ids = tokenizer.encode_batch(batch)
    tokens = reconcile(tokenizer, documents_of(batch), ids)
    counts = target_bytes_naive(processor, [*tokens, tokenizer.bos_id], leading_space_is_free=False)
    assert sum(counts) == sum(len(t.encode()) for t in batch)
    for text, one in zip(batch, ids, strict=True):
        assert tokenizer.decode_bytes(one) == text.encode() == decode_naive(processor, one, leading_space_is_free=False)


@given(st.lists(texts, min_size=1, max_size=5))
def test_any_text_comes_back_from_bytes(batch: list[str]):
    tokenizer = ByteTokenizer()
    tokens = reconcile(tokenizer, documents_of(batch), tokenizer.encode_batch(batch))
    assert len(tokens) == sum(len(t.encode()) + 1 for t in batch)


@pytest.mark.parametrize("name", ["dummy_prefix", "field"])
@given(texts)
def test_a_document_passes_exactly_when_sentencepiece_gives_it_back(
    miniature: Callable[[str], bytes], name: str, text: str
):
    tokenizer, processor = open_model(miniature(name))
    ids = tokenizer.encode(text)
    assert tokenizer.decode_bytes(ids) == decode_naive(processor, ids, leading_space_is_free=True)
    if tokenizer.decode_bytes(ids) == text.encode():
        reconcile(tokenizer, documents_of([text]), [ids])
    else:
        with pytest.raises(ByteCountError, match="document 0"):
            reconcile(tokenizer, documents_of([text]), [ids])


@given(st.text(alphabet="aQ .,\n\t", max_size=40))
def test_the_dummy_prefix_is_free_and_the_texts_own_space_is_not(miniature: Callable[[str], bytes], text: str):
    tokenizer, _ = open_model(miniature("dummy_prefix"))
    for variant in (text, " " + text, "  " + text):
        reconcile(tokenizer, documents_of([variant]), [tokenizer.encode(variant)])


@pytest.mark.parametrize("name", ["lossless", "inner_space", "dummy_prefix", "field", "no_fallback"])
@given(st.data())
def test_the_table_agrees_with_the_rule_token_by_token(
    miniature: Callable[[str], bytes], name: str, data: st.DataObject
):
    tokenizer, processor = open_model(miniature(name))
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), min_size=2, max_size=80))
    free = tokenizer.spec.leading_space_is_free
    fast = tokenizer.pieces.target_bytes(np.array(ids[:-1]), np.array(ids[1:]))
    assert fast.tolist() == target_bytes_naive(processor, ids, leading_space_is_free=free)
    assert tokenizer.decode_bytes(ids) == decode_naive(processor, ids, leading_space_is_free=free)


def same_documents(a: Stream, b: Stream) -> bool:
    fields = ("tokens", "doc_start", "doc_bytes")
    return all(np.array_equal(getattr(a, f), getattr(b, f)) for f in fields) and a.fingerprint == b.fingerprint


@given(batch=st.lists(texts, min_size=1, max_size=6).filter(lambda b: any(b)), cut=st.integers(1, 200))
def test_text_shard_and_every_head_tell_the_same(tmp_path, miniature, batch: list[str], cut: int):
    import msgspec

    tokenizer: Tokenizer = SentencePieceTokenizer.from_bytes(miniature("lossless"))
    text, shard = tmp_path / "t.jsonl", tmp_path / "t.bin"
    text.write_bytes(b"\n".join(msgspec.json.encode({"text": t}) for t in batch))
    stream = open_stream([text], tokenizer)
    write_shard(shard, stream)
    assert same_documents(stream, open_stream([shard], tokenizer))
    assert (
        stream.total_bytes == stream.target_bytes(1, stream.n_targets + 1).sum() == sum(len(t.encode()) for t in batch)
    )
    head = stream.head(cut)
    owners = head.doc_of_target(1, head.n_targets + 1)
    per_document = np.bincount(owners, head.target_bytes(1, head.n_targets + 1), len(head.doc_start))
    assert per_document.astype(int).tolist() == head.doc_bytes.tolist()
    assert len(head.doc_names) == len(head.doc_start)
    assert set(owners) == set(range(len(head.doc_start)))
    assert same_documents(head, open_stream([text], tokenizer, limit_targets=cut))
    assert same_documents(head, open_stream([shard], tokenizer, limit_targets=cut))


@given(st.binary(max_size=30), st.binary(max_size=30))
def test_first_difference_is_the_length_of_the_common_beginning(a: bytes, b: bytes):
    at = first_difference(a, b)
    assert a[:at] == b[:at]
    assert a[at : at + 1] != b[at : at + 1] or a == b
