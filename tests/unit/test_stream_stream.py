"""Is a stream what its files say: documents, true bytes, targets, limits, and refusals with both numbers?"""

from __future__ import annotations

import lzma
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from evalkit.adapters.info import stream_info
from evalkit.errors import ByteCountError, InputError
from evalkit.stream.stream import Stream, open_stream, read_shard, write_shard
from evalkit.stream.tokenizer import ByteTokenizer, SentencePieceTokenizer

Miniature = Callable[[str], bytes]
BYTE = ByteTokenizer()


def put(folder: Path, name: str, *texts: str) -> Path:
    path = folder / name
    if name.endswith(".txt"):
        path.write_bytes(texts[0].encode())
    else:
        path.write_bytes(b"\n".join(msgspec.json.encode({"text": t}) for t in texts))
    return path


def put_shard(folder: Path, *tokens: int, name: str = "s.bin") -> Path:
    write_shard(folder / name, np.array(tokens))
    return folder / name


def test_documents_targets_and_bytes_of_a_small_text(tmp_path: Path):
    stream = open_stream([put(tmp_path, "d.jsonl", "ab", "", "c\u00e9")], BYTE)
    assert stream.tokens.tolist() == [1, *b"\x65\x66", 1, 1, 4 + ord("c"), 4 + 0xC3, 4 + 0xA9]
    assert stream.tokens.dtype == np.uint16
    assert stream.n_targets == 7
    assert stream.doc_start.tolist() == [0, 3, 4]
    assert stream.doc_bytes.tolist() == [2, 0, 3]
    assert stream.total_bytes == 5
    assert stream.doc_names == ("d.jsonl:1", "d.jsonl:2", "d.jsonl:3")
    assert stream.target_bytes(1, 8).tolist() == [1, 1, 0, 0, 1, 1, 1]
    assert stream.doc_of_target(1, 8).tolist() == [0, 0, 0, 1, 2, 2, 2]
    assert stream.target_bytes(3, 3).tolist() == []
    assert stream.bytes_from == "text"


@pytest.mark.parametrize("bounds", [(0, 3), (3, 2), (1, 9)])
def test_targets_outside_the_stream_are_a_fault(tmp_path: Path, bounds: tuple[int, int]):
    stream = open_stream([put(tmp_path, "d.jsonl", "ab", "", "c\u00e9")], BYTE)
    with pytest.raises(ValueError, match=r"not within 1\.\.7"):
        stream.target_bytes(*bounds)
    with pytest.raises(ValueError, match=r"not within 1\.\.7"):
        stream.doc_of_target(*bounds)


def test_a_bos_at_the_very_end_owns_no_target(tmp_path: Path):
    text = open_stream([put(tmp_path, "d.jsonl", "ab", "")], BYTE)
    shard = open_stream([put_shard(tmp_path, 1, 101, 102, 1)], BYTE)
    for stream in (text, shard):
        assert stream.tokens.tolist() == [1, 101, 102, 1]
        assert (stream.doc_start.tolist(), stream.doc_bytes.tolist()) == ([0], [2])
        assert len(stream.doc_names) == 1
    assert text.fingerprint == shard.fingerprint


def test_head_cuts_a_document_and_counts_its_bytes_by_the_table(tmp_path: Path):
    stream = open_stream([put(tmp_path, "d.jsonl", "ab", "c\u00e9d")], BYTE)
    assert stream.head(5).doc_bytes.tolist() == [2, 2]
    assert stream.head(3).doc_bytes.tolist() == [2]
    assert stream.head(1).doc_bytes.tolist() == [1]
    assert stream.head(99) is stream
    assert len({stream.head(n).fingerprint for n in range(1, 8)}) == 7
    with pytest.raises(InputError, match="at least 1 target, not 0"):
        stream.head(0)
    with pytest.raises(InputError, match="at least 1, not -3"):
        open_stream([tmp_path / "d.jsonl"], BYTE, limit_targets=-3)


def test_files_concatenate_in_the_order_given(tmp_path: Path):
    a, b = put(tmp_path, "a.txt", "one"), put(tmp_path, "b.jsonl", "two", "three")
    one_way, other = open_stream([a, b], BYTE), open_stream([b, a], BYTE)
    assert one_way.doc_names == ("a.txt", "b.jsonl:1", "b.jsonl:2")
    assert other.doc_names == ("b.jsonl:1", "b.jsonl:2", "a.txt")
    assert one_way.sources == (str(a), str(b))
    assert one_way.fingerprint != other.fingerprint
    assert BYTE.decode_bytes(one_way.tokens) == b"onetwothree"


def test_text_and_shard_mixed_say_where_the_bytes_are_from(tmp_path: Path):
    text, shard = put(tmp_path, "a.txt", "one"), put_shard(tmp_path, 1, 101, 102, 1, 103)
    assert open_stream([shard], BYTE).bytes_from == "tokenizer"
    mixed = open_stream([text, shard, text], BYTE)
    assert mixed.bytes_from == "text+tokenizer"
    assert mixed.doc_bytes.tolist() == [3, 2, 1, 3]
    assert mixed.doc_names == ("a.txt", "s.bin#0", "s.bin#1", "a.txt")


def test_a_plain_shard_stays_on_disk_and_a_limit_cuts_it(tmp_path: Path):
    shard = put_shard(tmp_path, 1, 101, 102, 1, 103)
    stream = open_stream([shard], BYTE, limit_targets=3)
    assert isinstance(stream.tokens, np.memmap)
    assert stream.tokens.tolist() == [1, 101, 102, 1]
    assert np.array_equal(read_shard(shard)[:4], stream.tokens)


def test_a_shard_that_begins_in_a_document_continues_only_a_shard(tmp_path: Path):
    first, second = put_shard(tmp_path, 1, 101), put_shard(tmp_path, 102, 1, 103, name="t.bin")
    stream = open_stream([first, second], BYTE)
    assert stream.doc_start.tolist() == [0, 3]
    assert stream.doc_bytes.tolist() == [2, 1]
    for paths in ([second], [put(tmp_path, "a.txt", "one"), second]):
        with pytest.raises(InputError, match=r"t\.bin: token 0 is id 102, not BOS \(1\)"):
            open_stream(paths, BYTE)


def test_a_token_beyond_the_vocabulary_is_named_with_its_position(tmp_path: Path):
    path = put_shard(tmp_path, 1, 101, 102, 260, 9999)
    with pytest.raises(InputError, match=r"token 3 is id 260, but byte260 has only 260 ids"):
        open_stream([path], BYTE)
    assert open_stream([path], BYTE, limit_targets=2).n_targets == 2


def test_unknown_tokens_in_a_shard_are_refused_because_their_text_is_lost(tmp_path: Path):
    with pytest.raises(InputError, match=r"token 2 is <unk> \(id 3\)"):
        open_stream([put_shard(tmp_path, 1, 101, 3)], BYTE)


def test_the_smallest_streams(tmp_path: Path):
    assert open_stream([put(tmp_path, "a.txt", "x")], BYTE).n_targets == 1
    with pytest.raises(InputError, match="1 token is context only; a stream needs at least 1 target"):
        open_stream([put_shard(tmp_path, 1)], BYTE)
    with pytest.raises(InputError, match="no text to score"):
        open_stream([], BYTE)


def test_a_missing_file_is_found_before_the_limit_is_reached(tmp_path: Path):
    with pytest.raises(InputError, match="no such file"):
        open_stream([put(tmp_path, "a.txt", "text"), tmp_path / "absent.txt"], BYTE, limit_targets=1)


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("field", "the dog\n\nthe fox", r"16 bytes and its tokens 15; they part at byte 7 .*folds white space"),
        ("field", " the dog", r"8 bytes and its tokens 7; they part at byte 0 .*folds white space"),
        ("field", "the \ufb01sh", r"they part at byte 4 \('\ufb01sh' became 'fish'\): .*rewrites characters"),
        ("field", "a\r\nb", "they part at byte 1"),
        ("dummy_prefix", "the \u2581 dog", "the text holds U\\+2581"),
        ("no_fallback", "the \U0001f600", r"has no byte fallback: characters that it has no piece for became <unk>"),
    ],
)
def test_a_lossy_document_is_named_with_position_numbers_and_reason(
    tmp_path: Path, miniature: Miniature, name: str, text: str, match: str
):
    tokenizer = SentencePieceTokenizer.from_bytes(miniature(name))
    path = put(tmp_path, "d.jsonl", "the dog", text)
    with pytest.raises(ByteCountError, match=r"d\.jsonl, document 1 \('d\.jsonl:2'\): .*" + match):
        open_stream([path], tokenizer)
    assert open_stream([path], BYTE).bytes_from == "text"


def test_a_vocabulary_without_a_lone_space_is_refused_with_the_reason(tmp_path: Path, miniature: Miniature):
    model = miniature("field").replace(b"\x0a\x03\xe2\x96\x81", b"\x0a\x03\xee\x80\x80")
    tokenizer = SentencePieceTokenizer.from_bytes(model)
    with pytest.raises(ByteCountError, match="no piece for a lone space"):
        open_stream([put(tmp_path, "a.txt", "z 5")], tokenizer)


def test_a_literal_space_mark_is_spelt_in_bytes_by_a_lossless_tokenizer(tmp_path: Path, miniature: Miniature):
    tokenizer = SentencePieceTokenizer.from_bytes(miniature("lossless"))
    stream = open_stream([put(tmp_path, "a.txt", " \u2581 the\u2581dog")], tokenizer)
    assert stream.total_bytes == 14
    assert tokenizer.decode_bytes(stream.tokens).decode() == " \u2581 the\u2581dog"


def test_packed_text_gives_the_same_stream(tmp_path: Path):
    plain = put(tmp_path, "d.jsonl", "one", "two")
    packed = tmp_path / "packed"
    packed.write_bytes(lzma.compress(plain.read_bytes()))
    assert open_stream([plain], BYTE).fingerprint == open_stream([packed], BYTE).fingerprint


def test_batches_and_slabs_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, miniature: Miniature):
    from evalkit.stream import pieces, read
    from evalkit.stream import stream as module

    tokenizer = SentencePieceTokenizer.from_bytes(miniature("lossless"))
    path = put(tmp_path, "d.jsonl", *(f"the dog {i}\n" * (i % 5) for i in range(60)))
    whole = open_stream([path], tokenizer)
    write_shard(tmp_path / "w.bin", whole)
    for name in (pieces, read, module):
        monkeypatch.setattr(name, "SLAB", 7)
    monkeypatch.setattr(read, "BATCH_BYTES", 50)
    for other in (open_stream([path], tokenizer), open_stream([tmp_path / "w.bin"], tokenizer)):
        assert other.fingerprint == whole.fingerprint
        assert other.doc_bytes.tolist() == whole.doc_bytes.tolist()


def test_the_fingerprint_covers_tokens_documents_bytes_and_tokenizer(miniature: Miniature):
    def stream(tokens=(1, 5, 1, 6), starts=(0, 2), sizes=(1, 1), tokenizer=BYTE) -> str:
        arrays = np.array(tokens), np.array(starts), np.array(sizes)
        return Stream(arrays[0], tokenizer, arrays[1], arrays[2], ("a", "b"), "text", ("f",)).fingerprint

    other = SentencePieceTokenizer.from_bytes(miniature("lossless"))
    changed = [stream(tokens=(1, 5, 1, 7)), stream(starts=(0, 1)), stream(sizes=(1, 2)), stream(tokenizer=other)]
    assert len({stream(), *changed}) == 5
    assert stream(tokens=np.array((1, 5, 1, 6), np.uint16)) == stream()


def test_stream_info_tells_constants_of_the_tokenizer_only(tmp_path: Path, miniature: Miniature):
    stream = open_stream([put(tmp_path, "a.txt", "the dog")], SentencePieceTokenizer.from_bytes(miniature("lossless")))
    info = stream_info(stream, seed=3)
    assert (info.vocab_size, info.bos_id, info.first_token, info.seed) == (stream.tokenizer.vocab_size, 1, 1, 3)
    assert {"word_start", "control"} <= info.groups.keys()
    assert len(info.piece_bytes) == info.vocab_size
    assert info.piece_bytes[1] == b""
    assert len(stream_info(stream, vocab_size=512).groups["control"]) == 512
    with pytest.raises(InputError, match="only 100 rows"):
        stream_info(stream, vocab_size=100)
