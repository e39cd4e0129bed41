"""Is a document whose tokens lie about its bytes found, however the lie is spread?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from evalkit.errors import ByteCountError, InputError
from evalkit.stream import open_stream, open_texts, open_tokenizer, stream_of_tokens
from evalkit.stream.reconcile import bytes_changed, reconcile
from evalkit.stream.text import Document
from evalkit.stream.tokenizer import ByteTokenizer, SentencePieceTokenizer

TOKENIZER = ByteTokenizer()


def check(texts: Sequence[str], pretended: Sequence[str]) -> np.ndarray:
    """Reconcile ``texts`` with the tokens of other texts."""
    documents = [Document("f.jsonl", i, f"n{i}", text.encode()) for i, text in enumerate(texts)]
    return reconcile(TOKENIZER, documents, TOKENIZER.encode_batch(pretended))


def test_an_honest_batch_comes_back_with_a_bos_before_each_document():
    assert check(["ab", "", "c"], ["ab", "", "c"]).tolist() == [1, 101, 102, 1, 1, 103]


@pytest.mark.parametrize(
    ("pretended", "match"),
    [
        (
            ["ab", "cX"],
            r"document 1 \('n1'\): the text has 2 bytes and its tokens 2; they part at byte 1 \('d' became 'X'\)",
        ),
        (
            ["abc", "d"],
            r"document 0 \('n0'\): the text has 2 bytes and its tokens 3; they part at byte 2 \(the end became 'c'\)",
        ),
        (
            ["ab", "c"],
            r"document 1 \('n1'\): the text has 2 bytes and its tokens 1; they part at byte 1 \('d' became the end\)",
        ),
    ],
)
def test_other_bytes_moved_bytes_and_lost_bytes_are_found(pretended: list[str], match: str):
    with pytest.raises(ByteCountError, match=match):
        check(["ab", "cd"], pretended)


def test_the_position_is_in_bytes_and_the_excerpt_in_whole_characters():
    with pytest.raises(ByteCountError, match="part at byte 4 \\('\u00ebz' became '\u00e9z'\\)"):
        check(["\u00e9a\u00ebz"], ["\u00e9a\u00e9z"])


def test_equal_length_changes_are_found_with_a_real_normaliser(miniature: Callable[[str], bytes]):
    tokenizer = SentencePieceTokenizer.from_bytes(miniature("field"))
    document = Document("f.txt", 0, "f.txt", b"the\ndog")
    with pytest.raises(ByteCountError, match=r"7 bytes and its tokens 7; they part at byte 3 .*folds white space"):
        reconcile(tokenizer, [document], [tokenizer.encode(document.text)])


def test_a_bos_inside_a_document_is_refused():
    document = Document("f.txt", 0, "f.txt", b"ab")
    with pytest.raises(InputError, match=r"its text encodes to BOS \(id 1\)"):
        reconcile(TOKENIZER, [document], [np.array([101, 1, 102], np.int32)])


FOLDED = ["the\ndog", "plain text", " x\u00a0y  z ", "", "\ufb01ne"]
GIVEN_BACK = ["the dog", "plain text", "x y z", "", "fine"]


def test_a_folded_text_is_refused_with_the_option_in_the_sentence(miniature: Callable[[str], bytes]):
    with pytest.raises(ByteCountError, match="give --lossy to score the text as the tokenizer gives it back"):
        open_texts(FOLDED, open_tokenizer(miniature("field")))


def test_lossy_scores_the_text_that_comes_back_and_says_what_changed(miniature: Callable[[str], bytes]):
    tokenizer = open_tokenizer(miniature("field"))
    stream = open_texts(FOLDED, tokenizer, lossy=True)
    assert stream.doc_bytes.tolist() == [len(t) for t in GIVEN_BACK]
    assert stream.folded == {0: (7, 7, 1), 2: (9, 5, 6), 4: (5, 4, 5)}
    assert stream.bytes_from == "folded text"
    assert stream.folding is not None
    assert (stream.folding.documents, stream.folding.text_bytes, stream.folding.scored_bytes) == (3, 21, 16)
    assert int(stream.target_bytes(1, stream.n_targets + 1).sum()) == sum(len(t) for t in GIVEN_BACK)
    again = open_texts(GIVEN_BACK, tokenizer)
    assert again.tokens.tolist() == stream.tokens.tolist()
    assert (again.folding, again.bytes_from) == (None, "text")
    assert open_texts(GIVEN_BACK, tokenizer, lossy=True).bytes_from == "text"


def test_a_limit_keeps_the_account_of_the_documents_that_are_left(miniature: Callable[[str], bytes], tmp_path: Path):
    tokenizer = open_tokenizer(miniature("field"))
    first, second = tmp_path / "a.txt", tmp_path / "b.txt"
    first.write_text("plain")
    second.write_text("the\ndog")
    assert open_stream([first, second], tokenizer, lossy=True).folded == {1: (7, 7, 1)}
    assert open_stream([first, second], tokenizer, lossy=True, limit_targets=1).folding is None


def test_a_token_that_stands_for_any_text_has_no_bytes_to_count(miniature: Callable[[str], bytes]):
    tokenizer = open_tokenizer(miniature("no_fallback"))
    with pytest.raises(ByteCountError, match=r"1 of its \d+ tokens are <unk>, .* with --lossy neither"):
        open_texts(["a \u2603"], tokenizer, lossy=True)


def test_a_lying_piece_table_is_found_under_lossy_too(
    miniature: Callable[[str], bytes], monkeypatch: pytest.MonkeyPatch
):
    tokenizer = open_tokenizer(miniature("field"))
    monkeypatch.setattr(type(tokenizer), "given_back", lambda self, ids: b"the hog")
    with pytest.raises(ByteCountError, match="they part at byte 4"):
        open_texts(["the\ndog"], tokenizer, lossy=True)


@pytest.mark.parametrize(
    ("a", "b", "changed"), [("a b", "a b", 0), ("a\nb", "a b", 1), ("a  b", "ab", 4), ("", "x", 1), ("a a", "a b", 1)]
)
def test_changed_bytes_are_those_of_words_and_gaps_that_differ(a: str, b: str, changed: int):
    assert bytes_changed(a.encode(), b.encode()) == bytes_changed(b.encode(), a.encode()) == changed


def test_the_decoders_of_the_libraries_agree_with_the_piece_tables(miniature: Callable[[str], bytes]):
    text = "the dog, caf\u00e9 \u65e5 1984"
    for name in ("lossless", "unigram", "dummy_prefix", "field"):
        tokenizer = open_tokenizer(miniature(name))
        ids = tokenizer.encode(text)
        assert tokenizer.given_back(ids) == tokenizer.decode_bytes(ids) == text.encode()
    assert TOKENIZER.given_back(TOKENIZER.encode(text)) == text.encode()
    shard = stream_of_tokens(np.array([1, 101]), TOKENIZER)
    assert shard.folding is None


def test_published_tokenizers_on_wiki_text(shared_data: Path):
    tokenizer = open_tokenizer(shared_data / "tokenizers" / "fineweb_1024_bpe.model")
    paths = [shared_data / "val_wiki.jsonl.xz"]
    with pytest.raises(ByteCountError, match=r"folds white space.*--lossy"):
        open_stream(paths, tokenizer, limit_targets=5000)
    stream = open_stream(paths, tokenizer, limit_targets=20_000, lossy=True)
    assert stream.folding is not None
    assert stream.folding.documents == len(stream.doc_start)
    assert 0 < stream.folding.changed_bytes < 0.02 * stream.folding.text_bytes
    assert int(stream.target_bytes(1, stream.n_targets + 1).sum()) == stream.total_bytes
