"""Does a tokenizer.json, byte-level or after SentencePiece, carry the exact bytes of any text?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.errors import ByteCountError, InputError
from evalkit.stream import open_stream, open_tokenizer
from evalkit.stream.hf_tokenizer import HuggingFaceTokenizer, byte_alphabet, why_not_exact

pytest.importorskip("tokenizers")


def train(**pre: Any) -> dict[str, Any]:
    """A byte-level BPE of 300 pieces with one special token (id 0), as tokenizer.json content."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(**{"add_prefix_space": False, **pre})
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the cat sat on the mat, caf\u00e9 \u65e5\u672c\n"] * 20, trainer)
    return json.loads(tokenizer.to_str())


@pytest.fixture(scope="module")
def spec() -> dict[str, Any]:
    return train()


@pytest.fixture(scope="module")
def tokenizer(spec: dict[str, Any]) -> HuggingFaceTokenizer:
    return HuggingFaceTokenizer(spec, 0, "small")


def test_the_byte_alphabet_is_that_of_the_library() -> None:
    from tokenizers import pre_tokenizers

    assert set(byte_alphabet()) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(byte_alphabet().values()) == list(range(256))
    assert byte_alphabet()["\u0120"] == ord(" ")


@given(text=st.text(max_size=80))
def test_any_text_comes_back_byte_for_byte(tokenizer: HuggingFaceTokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode_bytes(ids) == text.encode()
    before = np.concatenate(([tokenizer.bos_id], ids[:-1])).astype(np.int64)
    assert tokenizer.pieces.target_bytes(before, ids).sum() == len(text.encode())


@pytest.mark.parametrize("text", [" leading", "<|endoftext|>", "a <|endoftext|> b", "\u2581 \x00\n\n  end "])
def test_spellings_that_other_tokenizers_lose(tokenizer: HuggingFaceTokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode_bytes(ids) == text.encode()
    assert 0 not in ids


def test_its_bytes_open_the_same_tokenizer(tokenizer: HuggingFaceTokenizer) -> None:
    again = open_tokenizer(tokenizer.model_bytes)
    assert (again.fingerprint, again.bos_id, again.vocab_size) == (tokenizer.fingerprint, 0, tokenizer.vocab_size)


def test_a_stream_reconciles_with_its_text(tokenizer: HuggingFaceTokenizer, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    texts = ["the cat", " sat on <|endoftext|>", "caf\u00e9 \u2581"]
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    stream = open_stream([path], tokenizer)
    assert stream.doc_bytes.tolist() == [len(t.encode()) for t in texts]
    assert stream.bytes_from == "text"
    assert int(stream.target_bytes(1, stream.n_targets + 1).sum()) == sum(len(t.encode()) for t in texts)


def test_truncation_padding_and_dropout_in_the_file_change_nothing(spec: dict[str, Any]) -> None:
    text = "the cat sat on the mat " * 20
    plain = HuggingFaceTokenizer(spec, 0, "plain").encode(text)
    odd = json.loads(json.dumps(spec))
    odd["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    odd["model"]["dropout"] = 0.5
    assert HuggingFaceTokenizer(odd, 0, "odd").encode(text).tolist() == plain.tolist()


def test_a_normaliser_is_named_when_it_loses_text(spec: dict[str, Any], tmp_path: Path) -> None:
    lossy = HuggingFaceTokenizer({**spec, "normalizer": {"type": "NFC"}}, 0, "nfc")
    path = tmp_path / "t.txt"
    path.write_text("cafe\u0301")
    with pytest.raises(ByteCountError, match=r"normaliser \(NFC\)"):
        open_stream([path], lossy)


def test_a_tokenizer_that_adds_a_space_is_counted_or_refused(tmp_path: Path) -> None:
    adding = HuggingFaceTokenizer(train(add_prefix_space=True), 0, "adds")
    assert adding.decode_bytes(adding.encode("the cat")) == b"the cat"
    path = tmp_path / "t.txt"
    path.write_text(" the cat")
    with pytest.raises(ByteCountError, match="adds a space in front"):
        open_stream([path], adding)


def test_bos_comes_from_the_files_beside_it(spec: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(spec))
    with pytest.raises(InputError, match="bos_id=N"):
        open_tokenizer(path)
    (tmp_path / "config.json").write_text('{"eos_token_id": [0, 7]}')
    assert open_tokenizer(path).bos_id == 0
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": {"content": "<|endoftext|>"}}')
    assert open_tokenizer(path).bos_id == 0
    (tmp_path / "config.json").write_text('{"bos_token_id": 5}')
    with pytest.raises(InputError, match="id 5 cannot separate documents"):
        open_tokenizer(path)
    assert HuggingFaceTokenizer.from_file(path, 0).bos_id == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"type": "WordPiece"}}, "its model is WordPiece"),
        ({"model": 3}, "its model is not named"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "show neither bytes .* nor spaces"),
        ({"pre_tokenizer": None}, "show neither bytes .* nor spaces"),
        ({"added_tokens": [{"id": 0}]}, "cannot load it"),
        ({"added_tokens": [{"content": "x"}]}, "cannot load it"),
    ],
)
def test_other_files_are_refused(spec: dict[str, Any], change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        HuggingFaceTokenizer({**spec, **change}, 0, "other")


def test_a_vocabulary_with_wild_ids_is_refused(spec: dict[str, Any]) -> None:
    wild = json.loads(json.dumps(spec))
    wild["model"]["vocab"]["zz"] = 2**31
    with pytest.raises(InputError, match="the file is damaged"):
        HuggingFaceTokenizer(wild, 0, "wild")


@pytest.mark.parametrize("data", [b"{", b'{"bos_id": 0}', b'{"bos_id": "x", "tokenizer": {}}', b"{" * 100_000])
def test_damaged_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(InputError):
        open_tokenizer(data)


def test_holes_in_the_vocabulary_carry_nothing(spec: dict[str, Any]) -> None:
    holed = json.loads(json.dumps(spec))
    holed["added_tokens"].append({**holed["added_tokens"][0], "id": 310, "content": "<|pad|>"})
    table = HuggingFaceTokenizer(holed, 310, "holed").pieces
    assert table.vocab_size == 311
    assert table.piece_bytes[305] == b""
    assert bool(table.groups["control"][305])


def test_fragments_of_characters_are_byte_pieces(tokenizer: HuggingFaceTokenizer) -> None:
    bytes_of = tokenizer.pieces.piece_bytes
    fragments = {bytes_of[i] for i in np.flatnonzero(tokenizer.pieces.groups["byte"])}
    assert b"\xe6" in fragments
    assert not any(_valid(b) for b in fragments)


def _valid(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def test_why_not_exact_says_nothing_of_a_good_file(spec: dict[str, Any]) -> None:
    assert why_not_exact(spec) == ""
    nested = {**spec, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [spec["pre_tokenizer"]]}}
    assert why_not_exact(nested) == ""


def marked(kind: str) -> dict[str, Any]:
    """A tokenizer.json after SentencePiece: "llama" (dummy space), "gemma" (none), "t5" (Unigram, no byte fallback)."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    lines = ["the cat sat on the mat, the caf\u00e9\n"] * 20
    if kind == "t5":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer = normalizers.Replace(Regex(" {2,}"), " ")
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=60, special_tokens=["<s>", "<unk>"], unk_token="<unk>", show_progress=False
        )
        tokenizer.train_from_iterator(lines, trainer)
        return json.loads(tokenizer.to_str())
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    replace = normalizers.Replace(" ", "\u2581")
    dummy = [normalizers.Prepend("\u2581")] if kind == "llama" else []
    tokenizer.normalizer = normalizers.Sequence([*dummy, replace])
    fallback = [f"<0x{b:02X}>" for b in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=["<s>", "<unk>", *fallback], show_progress=False)
    tokenizer.train_from_iterator(lines, trainer)
    strip = [decoders.Strip(" ", 1, 0)] if kind == "llama" else []
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    tokenizer.decoder = decoders.Sequence(steps)
    spec = json.loads(tokenizer.to_str())
    spec["added_tokens"] = [t for t in spec["added_tokens"] if not t["content"].startswith("<0x")]
    return spec


@pytest.fixture(scope="module", params=["llama", "gemma", "llama without decoder"])
def fallback(request: pytest.FixtureRequest) -> HuggingFaceTokenizer:
    spec = marked(request.param.split()[0])
    if "without" in request.param:
        spec["decoder"] = None
    return HuggingFaceTokenizer(spec, 0, request.param)


@given(text=st.text(alphabet=st.one_of(st.sampled_from("the cat \n\u00e9<0xA>"), st.characters()), max_size=60))
def test_byte_fallback_spells_any_text(fallback: HuggingFaceTokenizer, text: str) -> None:
    text = text.replace("\u2581", "_")
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    ids = fallback.encode(text)
    assert fallback.decode_bytes(ids) == fallback.given_back(ids) == text.encode()
    before = np.concatenate(([0], ids[:-1])).astype(np.int64)
    assert fallback.pieces.target_bytes(before, ids).sum() == len(text.encode())


def test_spaces_are_the_texts_own_where_none_is_added() -> None:
    llama, gemma = (HuggingFaceTokenizer(marked(kind), 0, kind) for kind in ("llama", "gemma"))
    assert (llama.adds_space, gemma.adds_space) == (True, False)
    assert llama.pieces.piece_bytes[llama.encode("the")[0]].startswith(b" ")
    assert gemma.decode_bytes(gemma.encode(" the")) == b" the"
    assert open_tokenizer(llama.model_bytes).fingerprint == llama.fingerprint


def test_what_unigram_pieces_lose_is_said_and_can_be_allowed(tmp_path: Path) -> None:
    tokenizer = HuggingFaceTokenizer(marked("t5"), 0, "t5")
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "the cat"}\n{"text": "the  mat, the"}\n')
    with pytest.raises(ByteCountError, match=r"normaliser \(Replace\) rewrites characters; .*--lossy"):
        open_stream([path], tokenizer)
    stream = open_stream([path], tokenizer, lossy=True)
    assert stream.bytes_from == "folded text"
    assert stream.folded == {1: (13, 12, 2)}
    assert stream.doc_bytes.tolist() == [7, 12]
    path.write_text('{"text": "the \u65e5 cat"}\n')
    for lossy in (False, True):
        with pytest.raises(ByteCountError, match="unk"):
            open_stream([path], tokenizer, lossy=lossy)
    path.write_text('{"text": " the cat"}\n')
    with pytest.raises(ByteCountError, match="adds a space in front"):
        open_stream([path], tokenizer)
    assert open_stream([path], tokenizer, lossy=True).folded == {0: (8, 7, 1)}


def test_a_vocabulary_that_is_neither_map_nor_list_is_refused() -> None:
    with pytest.raises(InputError, match=r"cannot load it|neither a map"):
        HuggingFaceTokenizer({**marked("t5"), "model": {"type": "Unigram", "vocab": "x"}}, 0, "odd")
