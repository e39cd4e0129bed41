"""What do all tests share?  A deterministic hypothesis profile, miniature tokenizers, and real data if it is there."""

from __future__ import annotations

import functools
import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, here and in every process that a test starts

settings.register_profile(
    "ci",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=20,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.register_profile("all", parent=settings.get_profile("ci"), max_examples=60)
settings.register_profile("search", parent=settings.get_profile("ci"), derandomize=False, max_examples=2000)
settings.load_profile(os.environ.get("EVALKIT_HYPOTHESIS", "ci"))


@pytest.fixture(scope="session", autouse=True)
def cache_of_this_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What opening a checkpoint remembers is kept apart from the user's; workers of one session share it."""
    base = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"))
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real text, tokenizers and checkpoints: $EVALKIT_SHARED/data or ../shared/data; skips without it."""
    shared = Path(os.environ.get("EVALKIT_SHARED") or Path(__file__).resolve().parents[2] / "shared")
    data = shared / "data"
    if not (data / "README.md").is_file():
        pytest.skip(f"no data in {data}; set EVALKIT_SHARED to run this test")
    return data


SENTENCES = (
    "The quick brown fox jumps over the lazy dog, and the dog does not mind at all.",
    "In 1984 the price of bread was 1.25; in 2024 it was 3.50, which is more than twice as much.",
    'She said: "I don\'t know what the weather will be like tomorrow, but it will be weather."',
    "A tokenizer turns text into numbers, and numbers into text again; the bytes must be the same.",
    "Caf\u00e9 na\u00efve r\u00e9sum\u00e9 \u2014 \u00fcber Stra\u00dfe, \u65e5\u672c\u8a9e.",
)

FIELD = {"normalization_rule_name": "nmt_nfkc", "add_dummy_prefix": False, "byte_fallback": True}
LOSSLESS = {
    "normalization_rule_name": "identity",
    "add_dummy_prefix": False,
    "remove_extra_whitespaces": False,
    "byte_fallback": True,
    "user_defined_symbols": ["\n", "<extra>"],
}
MINIATURES: dict[str, dict[str, Any]] = {
    "lossless": LOSSLESS,
    "unigram": {**LOSSLESS, "model_type": "unigram"},
    "inner_space": {**LOSSLESS, "split_by_whitespace": False, "allow_whitespace_only_pieces": True},
    "dummy_prefix": {**LOSSLESS, "add_dummy_prefix": True},
    "field": FIELD,
    "no_fallback": {**FIELD, "byte_fallback": False},
    "suffix": {**LOSSLESS, "treat_whitespace_as_suffix": True},
    "no_bos": {**LOSSLESS, "bos_id": -1},
}


def train_miniature(**settings: Any) -> bytes:
    """A serialised SentencePiece model of about 400 pieces, trained on SENTENCES."""
    import sentencepiece

    out = io.BytesIO()
    defaults = {"model_type": "bpe", "pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3, "character_coverage": 0.98}
    lines = [line * 2 + "  " + line for line in SENTENCES] * 8
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(lines),
        model_writer=out,
        vocab_size=400,
        hard_vocab_limit=False,
        minloglevel=2,
        num_threads=1,
        **{**defaults, **settings},
    )
    return out.getvalue()


@pytest.fixture(scope="session")
def miniature() -> Callable[[str], bytes]:
    """Serialised miniature SentencePiece models by name (keys of MINIATURES), trained once a session."""
    return functools.cache(lambda name: train_miniature(**MINIATURES[name]))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random baseline GPT over the 260 ids of the byte tokenizer."""
    from tests.kit import golf_file

    return golf_file(tmp_path_factory.mktemp("model") / "random.pt", width=32, hidden=48)


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 short documents to train on."""
    path = tmp_path_factory.mktemp("text") / "train.jsonl"
    words = [
        "the",
        "cat",
        "sat",
        "on",
        "a",
        "mat",
        "while",
        "seven",
        "dogs",
        "ran",
        "over",
        "the",
        "hill",
        "and",
        "back",
        "again",
    ]
    rows = (" ".join(words[(i * j) % len(words)] for j in range(1, 60)) + f" {i}." for i in range(200))
    path.write_text("\n".join(json.dumps({"text": row}) for row in rows), "utf-8")
    return path
