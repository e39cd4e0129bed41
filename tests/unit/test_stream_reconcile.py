"""Is a document whose tokens lie about its bytes found, however the lie is spread?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from evalkit.errors import ByteCountError, InputError
from evalkit.stream.reconcile import reconcile
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
