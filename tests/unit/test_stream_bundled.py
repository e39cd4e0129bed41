"""Do the bundled sample and the bundled tokenizer fit each other, to the byte?"""

from __future__ import annotations

from pathlib import Path

import pytest

import evalkit.stream
from evalkit.stream.stream import open_stream
from evalkit.stream.tokenizer import ByteTokenizer, SentencePieceTokenizer, Tokenizer

ASSETS = Path(evalkit.stream.__file__).parents[1] / "assets"
SAMPLE = (97, 260_054)
HELD_OUT = {
    "val_mix": (691, 4_051_072),
    "val_fineweb_head": (901, 2_504_310),
    "val_fineweb_tail": (810, 2_334_914),
    "val_wiki": (630, 1_734_428),
    "val_tech": (175, 2_502_158),
}


@pytest.fixture(scope="module")
def bundled() -> Tokenizer:
    artifact = pytest.importorskip("evalkit.models.ek.container")
    path = ASSETS / "tiny.ek"
    if not path.is_file():
        pytest.skip("no bundled artifact in this checkout")
    return SentencePieceTokenizer.from_bytes(artifact.read_artifact(path).tokenizer_model)


def test_the_sample_is_what_its_licence_note_says():
    import hashlib

    stream = open_stream([ASSETS / "sample.jsonl.xz"], ByteTokenizer())
    assert (len(stream.doc_start), stream.total_bytes) == SAMPLE
    note = (ASSETS / "SAMPLE_LICENCE.md").read_text()
    assert hashlib.sha256((ASSETS / "sample.jsonl.xz").read_bytes()).hexdigest() in note
    assert "ODC-By 1.0" in note
    assert "Common Crawl terms of use" in note


def test_the_bundled_tokenizer_carries_the_sample_and_any_character(bundled: SentencePieceTokenizer):
    stream = open_stream([ASSETS / "sample.jsonl.xz"], bundled)
    assert (len(stream.doc_start), stream.total_bytes) == SAMPLE
    text = "".join(map(chr, [*range(0x3000), *range(0xFE00, 0x10000), 0x1F600])) + " \u2581 \r\n  end "
    assert bundled.decode_bytes(bundled.encode(text)) == text.encode()


def test_train_and_stream_encode_alike(bundled: SentencePieceTokenizer):
    train = pytest.importorskip("evalkit.train.tokenizer")
    processor = train.load(bundled.model_bytes)
    for text in ("The dog.\n\n  1984 caf\u00e9", "\u2581", "a\u2581b \u2581 c", ""):
        assert bundled.encode(text).tolist() == train.encode(processor, text)


@pytest.mark.parametrize("name", HELD_OUT)
def test_held_out_files_reconcile_with_the_bundled_tokenizer(
    shared_data: Path, bundled: SentencePieceTokenizer, name: str
):
    stream = open_stream([shared_data / f"{name}.jsonl.xz"], bundled)
    assert (len(stream.doc_start), stream.total_bytes) == HELD_OUT[name]
    assert stream.target_bytes(1, stream.n_targets + 1).sum() == stream.total_bytes
