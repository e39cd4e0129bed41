"""Do tokenizers open, refuse and count as they say?"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.errors import InputError
from evalkit.stream import open_texts
from evalkit.stream.spmodel import PieceKind, read_spec
from evalkit.stream.tokenizer import ByteTokenizer, SentencePieceTokenizer, Tokenizer, open_tokenizer

Miniature = Callable[[str], bytes]


def with_normalizer(model: bytes, *fields: int) -> bytes:
    """Protobuf merges a repeated message: append a normalizer_spec that overrides single switches."""
    return model + bytes([0x1A, len(fields), *fields])


def test_byte260_has_the_fields_ids():
    tokenizer = ByteTokenizer()
    assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.name) == (260, 1, "byte260")
    assert tokenizer.encode("A\u00e9").tolist() == [4 + 0x41, 4 + 0xC3, 4 + 0xA9]
    assert tokenizer.decode_bytes(range(4, 260)) == bytes(range(256))
    assert tokenizer.decode_bytes([0, 1, 2, 3]) == b""
    assert isinstance(tokenizer, Tokenizer)
    assert tokenizer.fingerprint == hashlib.sha256(tokenizer.model_bytes).hexdigest()


def test_open_tokenizer_takes_a_name_a_path_and_bytes(tmp_path: Path, miniature: Miniature):
    path = tmp_path / "mini.model"
    path.write_bytes(miniature("lossless"))
    by_path, by_bytes = open_tokenizer(path), open_tokenizer(path.read_bytes())
    assert by_path.name == "mini.model"
    assert by_path.fingerprint == by_bytes.fingerprint == hashlib.sha256(path.read_bytes()).hexdigest()
    assert open_tokenizer(open_tokenizer("byte").model_bytes).name == "byte260"
    assert open_tokenizer(by_path.model_bytes).encode("the dog").tolist() == by_path.encode("the dog").tolist()


def test_no_tokenizer_is_an_error_with_the_remedy():
    with pytest.raises(InputError, match=r"--tokenizer FILE\.model or --tokenizer byte"):
        open_tokenizer(None)


@pytest.mark.parametrize("name", ["lossless", "unigram", "inner_space", "dummy_prefix", "field", "no_fallback"])
def test_the_spec_agrees_with_sentencepiece(miniature: Miniature, name: str):
    from sentencepiece import SentencePieceProcessor

    model = miniature(name)
    spec, processor = read_spec(model, name), SentencePieceProcessor(model_proto=model)
    kinds = {
        PieceKind.CONTROL: processor.is_control,
        PieceKind.UNKNOWN: processor.is_unknown,
        PieceKind.UNUSED: processor.is_unused,
        PieceKind.BYTE: processor.is_byte,
    }
    assert len(spec.pieces) == processor.get_piece_size()
    for i, (piece, kind) in enumerate(zip(spec.pieces, spec.kinds, strict=True)):
        assert piece.decode() == processor.id_to_piece(i)
        assert {k for k, ask in kinds.items() if ask(i)} == {kind} - {PieceKind.NORMAL, PieceKind.USER_DEFINED}
    assert spec.has_charsmap == (name in ("field", "no_fallback"))
    assert spec.add_dummy_prefix == (name == "dummy_prefix")
    assert spec.remove_extra_whitespaces == (name in ("field", "no_fallback"))


def test_piece_groups(miniature: Miniature):
    tokenizer = SentencePieceTokenizer.from_bytes(miniature("lossless"))
    table, spec = tokenizer.pieces, tokenizer.spec
    newline, space = spec.pieces.index(b"\n"), spec.pieces.index("\u2581".encode())
    assert table.groups["control"][:4].all()
    assert table.groups["control"].sum() == 4
    assert table.groups["unknown"].nonzero()[0].tolist() == [3]
    assert table.groups["byte"].sum() == 256
    assert table.groups["newline"].nonzero()[0].tolist() == sorted({newline, spec.pieces.index(b"<0x0A>")})
    assert table.groups["word_start"][[newline, space]].all()
    assert not table.groups["word_start"][spec.pieces.index(b"e")]
    assert table.piece_bytes[space] == b" "
    assert (table.base[space], table.lead[space]) == (0, True)
    assert [len(b) for b in table.piece_bytes] == (table.base + table.lead).tolist()


def test_byte_pieces_are_one_byte_and_unused_ids_are_boundaries(miniature: Miniature):
    model = miniature("field")
    marked = bytes(miniature("dummy_prefix"))
    piece = marked.index(b"\x0a\x07<extra>")
    kind = marked.index(b"\x18\x04", piece)
    unused = SentencePieceTokenizer.from_bytes(marked[: kind + 1] + b"\x05" + marked[kind + 2 :])
    at = unused.spec.pieces.index(b"<extra>")
    assert unused.spec.kinds[at] is PieceKind.UNUSED
    assert (unused.pieces.base[at], unused.pieces.boundary[at]) == (0, True)
    field = SentencePieceTokenizer.from_bytes(model)
    assert (field.pieces.base[field.pieces.groups["byte"]] == 1).all()
    assert not field.pieces.boundary[field.pieces.groups["byte"]].any()


def test_the_leading_space_is_free_only_where_the_tokenizer_makes_it(miniature: Miniature):
    for name, boundary, leading in (
        ("lossless", False, b" dog"),
        ("dummy_prefix", True, b" dog"),
        ("field", True, b"dog"),
    ):
        tokenizer = SentencePieceTokenizer.from_bytes(miniature(name))
        assert tokenizer.pieces.boundary[tokenizer.bos_id] == boundary
        assert tokenizer.decode_bytes(tokenizer.encode(" dog")) == leading


def test_a_tokenizer_that_does_not_escape_spaces_is_still_exact(miniature: Miniature):
    tokenizer = SentencePieceTokenizer.from_bytes(with_normalizer(miniature("lossless"), 0x28, 0))
    assert not tokenizer.spec.escape_whitespaces
    text = "the  dog\u2581 "
    assert tokenizer.decode_bytes(tokenizer.encode(text)) == text.encode()


def test_a_larger_model_vocabulary_pads_with_unused_ids_and_a_smaller_one_is_refused():
    table = ByteTokenizer().pieces
    assert table.resized(260) is table
    padded = table.resized(320)
    assert padded.vocab_size == 320
    assert padded.target_bytes(np.array([1, 1]), np.array([4, 319])).tolist() == [1, 0]
    assert padded.groups["control"][260:].all()
    with pytest.raises(InputError, match=r"260 pieces and the model only 256 rows"):
        table.resized(256)


def test_ids_outside_the_vocabulary_are_refused():
    for ids in ([5, 260], [5, -1]):
        with pytest.raises(InputError, match=r"token 1 is id (260|-1), but byte260 has only 260 ids"):
            ByteTokenizer().decode_bytes(ids)


def test_a_lone_surrogate_is_refused(miniature: Miniature):
    for tokenizer in (ByteTokenizer(), SentencePieceTokenizer.from_bytes(miniature("lossless"))):
        with pytest.raises(InputError, match=r"character 1 of the text is the lone surrogate U\+D800"):
            tokenizer.encode("a\ud800")


@pytest.mark.parametrize(
    ("name", "match"),
    [("suffix", "treat_whitespace_as_suffix"), ("no_bos", r"no BOS control piece \(bos id -1\)")],
)
def test_tokenizers_that_cannot_carry_a_stream_are_refused(miniature: Miniature, name: str, match: str):
    with pytest.raises(InputError, match=match):
        open_tokenizer(miniature(name))


@pytest.mark.parametrize(
    "garbage", [b"", b"not a model", b"\x00" * 100, b"\x0a\xff\xff\xff\xff\x0f", bytes(range(256))]
)
def test_garbage_is_not_a_model(tmp_path: Path, garbage: bytes):
    path = tmp_path / "bad.model"
    path.write_bytes(garbage)
    with pytest.raises(InputError, match=r"not a SentencePiece model|is empty"):
        open_tokenizer(path)


def test_a_damaged_model_opens_or_is_refused_and_nothing_else(miniature: Miniature):
    model, rng = miniature("lossless"), random.Random(0)
    refused = 0
    for trial in range(200):
        damaged = bytearray(model[: rng.randrange(len(model))] if trial % 2 else model)
        for _ in range(rng.choice((1, 5, 50)) if trial % 2 == 0 else 0):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        try:
            tokenizer = open_tokenizer(bytes(damaged))
            assert isinstance(tokenizer.decode_bytes(tokenizer.encode("The dog. \u2581")), bytes)
        except InputError:
            refused += 1
    assert refused > 100


def test_a_wrong_byte_piece_is_refused(miniature: Miniature):
    model = miniature("lossless").replace(b"\x0a\x06<0x41>", b"\x0a\x06<0x4g>")
    with pytest.raises(InputError, match=r"byte piece|cannot load"):
        open_tokenizer(model)


def test_switches_that_the_file_leaves_out_have_the_protos_defaults():
    spec = read_spec(b"\x0a\x03\x0a\x01a", "memory")
    assert (spec.pieces, spec.kinds) == ((b"a",), (PieceKind.NORMAL,))
    assert spec.add_dummy_prefix
    assert spec.remove_extra_whitespaces
    assert spec.escape_whitespaces
    assert not spec.whitespace_suffix
    assert not spec.has_charsmap


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (b"\x0a\x05\x0a\x01a", "a field claims 5 bytes where 3 are left"),
        (b"\x0a\x03\x0a\x01a\x80", "a number breaks off at byte 6"),
        (b"\x0a\x03\x08\x01\x18\x09", "not a SentencePiece model"),
        (b"\x0a\x05\x0a\x01a\x18\x09", "piece 0 has the unknown type 9"),
        (b"\x08\x01", "field 1 is not a message"),
        (b"\x0b", "wire type 3 at byte 1"),
        (b"\x0a\x02\x08\x01", "a string field holds a number"),
        (b"\x80" * 11, "a number breaks off at byte 10"),
    ],
)
def test_a_broken_protobuf_is_refused_where_it_breaks(model: bytes, match: str):
    with pytest.raises(InputError, match=match):
        read_spec(model, "memory")


@given(text=st.text(max_size=60), separator=st.sampled_from([0, 10, 255]))
def test_raw_bytes_are_their_own_ids(text: str, separator: int):
    tokenizer = open_tokenizer(f"bytes:separator={separator}")
    ids = tokenizer.encode(text)
    assert ids.tolist() == list(text.encode())
    assert (tokenizer.vocab_size, tokenizer.bos_id) == (256, separator)
    assert open_tokenizer(tokenizer.model_bytes).fingerprint == tokenizer.fingerprint
    if separator not in ids:
        assert tokenizer.decode_bytes(ids) == tokenizer.given_back(ids) == text.encode()
        assert open_texts([text + ".", text], tokenizer).total_bytes == 2 * len(text.encode()) + 1


def test_raw_bytes_need_a_separator_that_no_document_holds():
    with pytest.raises(InputError, match=r"BOS \(id 10\) at token 1, which separates documents; choose a separator"):
        open_texts(["a\nb"], open_tokenizer("bytes:separator=10"))
    for wrong in ("bytes:separator=256", "bytes:separator=x", b"bytes:separator=-1", "bytes:separator="):
        with pytest.raises(InputError, match="a byte, 0 to 255"):
            open_tokenizer(wrong)
