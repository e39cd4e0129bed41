"""Do the published numbers come out on the field's own text, shards and tokenizers?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evalkit.errors import ByteCountError
from evalkit.stream.stream import open_stream
from evalkit.stream.tokenizer import ByteTokenizer, SentencePieceTokenizer, open_tokenizer
from tests.twins.byte_counts import target_bytes_naive

HELD_OUT = {
    "val_mix": (691, 4_051_072),
    "val_fineweb_head": (901, 2_504_310),
    "val_fineweb_tail": (810, 2_334_914),
    "val_wiki": (630, 1_734_428),
    "val_tech": (175, 2_502_158),
}


@pytest.fixture(scope="module")
def sp1024(shared_data: Path) -> SentencePieceTokenizer:
    return SentencePieceTokenizer.from_file(shared_data / "tokenizers/fineweb_1024_bpe.model")


@pytest.mark.parametrize(("name", "documents"), [("val_fineweb_head", 901), ("val_fineweb_tail", 810)])
def test_text_tokenised_again_equals_the_official_shard(shared_data: Path, sp1024, name: str, documents: int):
    text = open_stream([shared_data / f"{name}.jsonl.xz"], sp1024)
    shard = open_stream([shared_data / f"{name}_sp1024.bin.xz"], sp1024)
    whole = len(text.tokens)
    assert len(text.doc_start) == documents
    assert np.array_equal(text.tokens, shard.tokens[:whole])
    assert whole == len(shard.tokens) or shard.tokens[whole] == sp1024.bos_id
    assert np.array_equal(text.doc_bytes, shard.doc_bytes[:documents])
    assert (text.bytes_from, shard.bytes_from) == ("text", "tokenizer")


def test_the_official_byte_counts(shared_data: Path, sp1024: SentencePieceTokenizer):
    from sentencepiece import SentencePieceProcessor

    shard = open_stream([shared_data / "val_fineweb_head_sp1024.bin.xz"], sp1024)
    assert (shard.n_targets, shard.total_bytes) == (1_040_297, 2_504_867)
    assert shard.head(65_536).total_bytes == 159_910
    processor = SentencePieceProcessor(model_proto=sp1024.model_bytes)
    naive = target_bytes_naive(processor, shard.tokens[:20_001].tolist(), leading_space_is_free=True)
    assert shard.target_bytes(1, 20_001).tolist() == naive


@pytest.mark.parametrize("name", HELD_OUT)
def test_held_out_files_reconcile_with_a_lossless_tokenizer(shared_data: Path, miniature, name: str):
    for tokenizer in (ByteTokenizer(), SentencePieceTokenizer.from_bytes(miniature("lossless"))):
        stream = open_stream([shared_data / f"{name}.jsonl.xz"], tokenizer)
        assert (len(stream.doc_start), stream.total_bytes) == HELD_OUT[name]
        assert stream.target_bytes(1, stream.n_targets + 1).sum() == stream.total_bytes


def test_the_tokenizer_without_byte_fallback_is_refused_with_the_reason(shared_data: Path):
    tokenizer = open_tokenizer(shared_data / "tokenizers/fineweb_2048_bpe_nofallback.model")
    with pytest.raises(ByteCountError, match=r"document 3 .* 4,093 bytes and its tokens 4,090.*no byte fallback"):
        open_stream([shared_data / "val_fineweb_head.jsonl.xz"], tokenizer)


@pytest.mark.parametrize(
    ("name", "tokens"), [("fineweb_1892_bpe", 894_318), ("fineweb_4096_bpe", 762_795), ("fineweb_8192_bpe", 678_360)]
)
def test_the_fields_other_tokenizers(shared_data: Path, name: str, tokens: int):
    stream = open_stream(
        [shared_data / "val_fineweb_head.jsonl.xz"], open_tokenizer(shared_data / f"tokenizers/{name}.model")
    )
    assert stream.n_targets - 901 + 1 == tokens
    assert stream.total_bytes == 2_504_310


def test_the_bundled_sample_is_held_out_web_text(shared_data: Path):
    from evalkit import stream

    sample = Path(stream.__file__).parents[1] / "assets/sample.jsonl.xz"
    bundled = open_stream([sample], ByteTokenizer())
    source = open_stream([shared_data / "val_fineweb_head.jsonl.xz"], ByteTokenizer(), limit_targets=bundled.n_targets)
    assert (len(bundled.doc_start), bundled.total_bytes) == (97, 260_054)
    assert bundled.fingerprint == source.fingerprint
