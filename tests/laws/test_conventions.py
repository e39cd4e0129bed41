"""The loops by which other tools get a perplexity, beside ours on the same model and text: where they differ, by how much."""

from __future__ import annotations

import itertools
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import evalkit
from benches import conventions
from evalkit.cli.recipe import ASSETS
from evalkit.models.golf import GolfGPT
from evalkit.plan import parse_plan
from evalkit.scoring.score import ScoreOptions
from evalkit.scoring.scores import read_scores
from tests.kit import golf

LENGTH, STRIDE = 32, 16
TEXTS = ["the cat sat on the mat. " * 12 + "Yes!", "so it is", "and the dog, too, saw the cat on the mat; " * 4]
PAGE = Path(__file__).resolve().parents[2] / "docs" / "perplexity.md"


@pytest.fixture(scope="module")
def model() -> GolfGPT:
    model = golf(width=32, hidden=48)
    model.fingerprint = "random"
    return model


@pytest.fixture(scope="module")
def stream() -> Any:
    return evalkit.open_texts(TEXTS, evalkit.open_tokenizer("byte"))


@pytest.fixture(scope="module")
def nats(model: GolfGPT, stream: Any) -> conventions.Nats:
    return conventions.forward_nats(model, stream.tokens)


def ours(model: GolfGPT, stream: Any, plan: str, folder: Path) -> tuple[dict[str, Any], np.ndarray]:
    """run.json and the nats of targets 1..n."""
    options = ScoreOptions(chunk_tokens=64, sentinel=False)
    run = evalkit.score(model, stream, plan=parse_plan(plan), out=folder, options=options).run
    return run, np.array(read_scores(folder / "scores.f64", 1))[:, 0]


def test_the_strided_loop_of_transformers_weighs_later_windows_one_short(
    model: GolfGPT, stream: Any, nats: conventions.Nats, tmp_path: Path
) -> None:
    run, own = ours(model, stream, f"sliding:seq_len={LENGTH - 1},stride={STRIDE}", tmp_path)
    theirs, mean_of_means = conventions.hugging_face(nats, len(stream.tokens), LENGTH, STRIDE)
    edges = [0, LENGTH - 1, *range(LENGTH - 1 + STRIDE, stream.n_targets, STRIDE), stream.n_targets]
    means = [float(own[lo:hi].mean()) for lo, hi in itertools.pairwise(edges)]
    short = math.fsum(means[1:])
    assert theirs.count == stream.n_targets - (len(means) - 1)
    assert theirs.nats == pytest.approx(run["totals"]["base_nats"] - short, rel=1e-6)
    assert mean_of_means == pytest.approx(math.exp(sum(means) / len(means)), rel=1e-6)
    right = math.exp(run["totals"]["base_nats"] / stream.n_targets)
    assert run["perplexity"]["base"]["token"] == pytest.approx(right, rel=1e-12)
    assert abs(theirs.perplexity / right - 1) > 1e-6
    assert abs(mean_of_means / right - 1) > 1e-6


def test_llama_cpp_scores_half_of_the_same_rows(
    model: GolfGPT, stream: Any, nats: conventions.Nats, tmp_path: Path
) -> None:
    _, own = ours(model, stream, f"sliding:seq_len={LENGTH - 1},stride={STRIDE}", tmp_path)
    theirs = conventions.llama_cpp(nats, len(stream.tokens), LENGTH)
    target = np.arange(1, len(stream.tokens) // LENGTH * LENGTH)
    scored = target[target % LENGTH > LENGTH // 2]
    assert theirs.count == len(scored) == len(stream.tokens) // LENGTH * (LENGTH // 2 - 1)
    assert theirs.nats == pytest.approx(math.fsum(own[scored - 1]), rel=1e-6)
    assert theirs.count < 0.5 * stream.n_targets


def test_the_rolling_loop_of_lm_eval_moves_its_last_window_and_ends_before_the_next_bos(
    model: GolfGPT, stream: Any, nats: conventions.Nats, tmp_path: Path
) -> None:
    _, own = ours(model, stream, f"document:seq_len={LENGTH},stride={LENGTH}", tmp_path)
    ends = [*stream.doc_start[1:].tolist(), len(stream.tokens)]
    for begin, end in zip(stream.doc_start.tolist(), ends, strict=True):
        theirs = conventions.lm_eval(lambda a, b, s=begin: nats(s + a, s + b), end - begin, LENGTH)
        targets = np.arange(begin + 1, end)  # without the BOS that ends the document
        cut = begin + 1 + (end - begin - 1) // LENGTH * LENGTH
        same, moved = targets[targets < cut], targets[targets >= cut]
        first = max(begin, end - 1 - LENGTH)
        expected = math.fsum(own[same - 1]) + math.fsum(nats(first, end)[len(range(first, end - 1)) - len(moved) :])
        assert theirs.count == len(targets)
        assert theirs.nats == pytest.approx(expected, rel=1e-6)
        if len(targets) <= LENGTH:
            assert theirs.nats == pytest.approx(math.fsum(own[targets - 1]), rel=1e-6)
        else:
            assert abs(theirs.nats - math.fsum(own[targets - 1])) > 1e-4


def test_the_old_tail_rule_books_the_end_again_and_again(
    model: GolfGPT, stream: Any, nats: conventions.Nats, tmp_path: Path
) -> None:
    run, own = ours(model, stream, f"sliding:seq_len={LENGTH},stride=4", tmp_path)
    theirs = conventions.golf(nats, len(stream.tokens), LENGTH, 4)
    total, again = stream.n_targets, 0.0
    booked = np.zeros(total + 1, int)
    for begin in range(0, total, 4):
        end = min(begin + LENGTH, total)
        lo = 1 if begin == 0 else max(end - 4, begin) + 1
        row = nats(begin, end + 1)
        for target in range(lo, end + 1):
            again += row[target - begin - 1] if booked[target] else 0.0
            booked[target] += 1
    assert booked[1:].min() == 1
    assert booked.max() == LENGTH // 4
    assert theirs.count == booked.sum() > total
    assert theirs.nats == pytest.approx(run["totals"]["base_nats"] + again, rel=1e-6)
    assert len(own) == total


def test_perplexities_per_token_word_and_byte(model: GolfGPT, stream: Any, tmp_path: Path) -> None:
    run, own = ours(model, stream, "disjoint:seq_len=32", tmp_path)
    words = sum(len(text.split()) for text in TEXTS)
    total = math.fsum(own)
    assert run["perplexity"]["words"] == stream.words(stream.n_targets) == words
    assert run["perplexity"]["base"] == {
        "token": pytest.approx(math.exp(total / stream.n_targets)),
        "word": pytest.approx(math.exp(total / words)),
        "byte": pytest.approx(2 ** run["totals"]["base_bpb"]),
    }
    assert run["perplexity"]["stack"] == run["perplexity"]["base"]


@pytest.mark.parametrize(("n_targets", "words"), [(1, 1), (2, 1), (3, 2), (7, 2), (8, 2), (9, 3), (12, 4), (13, 4)])
def test_words_of_what_was_booked(n_targets: int, words: int) -> None:
    stream = evalkit.open_texts(["a cat\n", " on it"], evalkit.open_tokenizer("byte"))
    assert stream.words(n_targets) == words
    apart = evalkit.open_texts(["a", "cat"], evalkit.open_tokenizer("byte"))
    assert apart.words(apart.n_targets) == 2


def test_a_perplexity_beyond_any_number_is_null() -> None:
    from evalkit.scoring.result import Totals, perplexities

    found = perplexities(Totals(targets=10, bytes=9, base_nats=5000.0, nats=50.0, base_bpb=3.0, bpb=0.1), 2)
    assert found["base"] == {"token": pytest.approx(math.exp(500)), "word": None, "byte": pytest.approx(8)}
    assert found["stack"]["word"] == pytest.approx(math.exp(25))
    assert perplexities(Totals(targets=1, bytes=0, base_nats=1.0, nats=1.0, base_bpb=None, bpb=None), 0)["base"] == {
        "token": pytest.approx(math.e),
        "word": None,
        "byte": None,
    }


def test_byte_tables_beside_the_text() -> None:
    import sentencepiece

    model = (ASSETS / "fineweb_1024_bpe.model").read_bytes()
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    stream = evalkit.open_stream([ASSETS / "sample.jsonl.xz"], evalkit.open_tokenizer(model), limit_targets=3000)
    tokens = [int(t) for t in stream.tokens]
    assert conventions.golf_bytes(processor, tokens) == stream.total_bytes
    assert conventions.piece_bytes(processor, tokens) > 1.2 * stream.total_bytes
    folded = evalkit.open_texts(["two\n\nlines"], stream.tokenizer, lossy=True)
    assert conventions.golf_bytes(processor, [int(t) for t in folded.tokens]) == len("two lines") < len("two\n\nlines")


def test_the_table_of_the_page_is_the_result_file() -> None:
    found = json.loads(conventions.RESULT.read_text(encoding="utf-8"))
    page = PAGE.read_text(encoding="utf-8")
    shown = re.search(r"<!-- conventions -->\n(.*?)\n<!-- end -->", page, re.DOTALL)
    assert shown is not None
    cells = [[c.strip() for c in line.split("|")[1:-1]] for line in shown.group(1).splitlines()][2:]
    assert cells == conventions.table(found)
    for row in found["rows"]:
        assert f"--plan {row['plan']}" in page
