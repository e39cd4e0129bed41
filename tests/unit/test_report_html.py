"""Is the page well formed, self-contained, small, and safe with whatever a document is called?"""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.report.digest import REST, _digest, digest, running_bpb
from evalkit.report.elements import distinct, flat
from evalkit.report.html import render, write_report
from evalkit.report.words import DOCUMENT_BYTES, EACH, Columns, extremes, looked_at, stretch, words_of
from evalkit.scoring.calibration import Calibration
from evalkit.scoring.ledger import Ledger
from evalkit.scoring.result import Budget, Coverage, DocumentTable, Result, RunRecord, stage_rows, totals
from evalkit.stream import Stream, open_tokenizer
from evalkit.units import LN2
from tests.twins.digest import digest_naive

HOSTILE = (
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "https://example.org/x",
    "a" * 5000,
    "\ud800",
)
VOID = {"meta", "link", "br", "img"}


class Page(HTMLParser):
    """Checks that tags nest; keeps the text, the tags, and every attribute."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(k, v or "") for k, v in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(k, v or "") for k, v in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.texts)


def make(
    folder: Path | None,
    lengths: list[int],
    adapters: tuple[str, ...] = ("ppm",),
    names: tuple[str, ...] = (),
    keep: bool = True,
    seed: int = 0,
) -> tuple[Result, Stream]:
    """A result of documents with these many byte tokens each, as a run would leave it."""
    draw = np.random.default_rng(seed)
    tokens = np.concatenate([[1, *draw.integers(4, 260, n)] for n in lengths]).astype(np.uint16)
    starts = np.cumsum([0, *(n + 1 for n in lengths[:-1])])
    names = (names + tuple(f"d{i}" for i in range(len(lengths))))[: len(lengths)]
    stream = Stream(tokens, open_tokenizer("byte"), starts, np.array(lengths), names, "text", ("memory",))
    stages, n = ("model", *adapters), stream.n_targets
    nats = 3.0 + np.cumsum(draw.normal(-0.02, 0.3, (len(stages), n)), axis=0)
    ledger = Ledger(stages, tokens[:1])
    ledger.book(0, 1, tokens[1:], nats, stream.doc_of_target(1, n + 1), stream.target_bytes(1, n + 1))
    table = DocumentTable.from_chunks(ledger.chunks, len(stages))
    described = [{"adapter": a, "settings": {}} for a in adapters]
    counts = Calibration(stages)
    for _ in range(20):
        for s in range(len(stages)):
            counts.add(s, draw.dirichlet(np.full(260, 0.1)), int(draw.integers(260)))
    run = RunRecord(
        schema=1,
        settings={"plan": {"name": "banded", "window": 512}, "seed": 0, "adapters": described, "text": list(names)},
        fingerprint={"model": "ab" * 32},
        complete=True,
        totals=totals(table),
        stages=stage_rows(table, [(a, {}) for a in adapters], 0),
        bytes_from="text",
        documents=len(lengths),
        notes=["a <b>note</b>"],
        seconds={"forward": 1.5, "experts": 0.25, "wall": 2.0},
        peak_memory_bytes=1 << 28,
        state_bytes={"experts": 1 << 20},
        verdicts={"sentinel": {"on": True, "rows": 20, "worst": 1e-15, "calibration": counts.as_dict()}},
        environment={"python": "3.11", "device": "cpu", "packages": {"torch": None}},
    )
    if folder is not None and keep:
        (folder / "scores.f64").write_bytes(np.ascontiguousarray(nats.T, dtype="<f8").tobytes())
    return Result(run, table, folder, stages), stream


def checked(result: Result, stream: Stream) -> Page:
    """Rendered and parsed: tags nest, plots are XML, nothing is fetched, under a megabyte."""
    page = render(result, stream)
    assert len(page.encode("utf-8", "backslashreplace")) < 1_000_000
    found = Page(page)
    assert not {"script", "img", "iframe", "object", "embed", "base"} & set(found.tags)
    for name, value in found.attributes:
        assert not name.startswith("on")
        if name in ("src", "href", "srcset", "data", "action", "xlink:href", "style"):
            assert value == "data:,", (name, value)
    assert not re.search(r"@import|url\(", page.split("</style>")[0])
    for plot in re.findall(r"<svg.*?</svg>", page, re.S):
        ElementTree.fromstring(plot)
        assert "nan" not in plot.lower().replace("nan_", "")
        assert "inf" not in re.sub(r">[^<]*<", "><", plot)
    return found


def test_a_run_has_every_section(tmp_path: Path) -> None:
    result, stream = make(tmp_path, [300, 200, 900, 40, 700])
    page = checked(result, stream)
    for title in (
        "What each stage adds",
        "Along the stream",
        "Calibration",
        "By document length",
        "Documents that gained most, and least",
        "What was learned, word by word",
        "By class of token",
        "Where stages act, and whether they are right",
        "Verdicts",
        "Seconds",
        "Settings",
        "Environment",
    ):
        assert title in page.texts, title
    assert f"{result.run['totals']['bpb']:.4f}" in page.text
    assert "a <b>note</b>" in page.text
    assert "20 whole rows" in page.text


@given(seed=st.integers(0, 2**32), lengths=st.lists(st.integers(0, 60), min_size=1, max_size=5))
def test_words_are_the_text_and_carry_all_its_bits(seed: int, lengths: list[int]) -> None:
    _, stream = make(None, [*lengths, 5], seed=seed)
    draw = np.random.default_rng(seed)
    scores = draw.normal(3, 1, (stream.n_targets, 2)), draw.normal(3, 1, (stream.n_targets, 1))
    columns = Columns(("a", "b", "c"), scores, 0, 2)
    for doc, size in enumerate([*lengths, 5]):
        lo = int(stream.doc_start[doc])
        hi = min(lo + size + 1, stream.n_targets)
        words = words_of(stream, columns, doc)
        text = bytes(int(t) - 4 for t in stream.tokens[lo + 1 : hi + 1] if t >= 4)
        assert b"".join(words.text) == text
        assert words.nats.sum(0) == pytest.approx(columns.rows(lo, hi).sum(0), rel=1e-12, abs=1e-9)


def test_words_begin_at_white_space_and_break_no_character() -> None:
    text = "the cat  sat on\n\nthe mat. " + "\N{CJK UNIFIED IDEOGRAPH-4E00}" * 20
    tokenizer = open_tokenizer("byte")
    tokens = np.array([1, *(b + 4 for b in text.encode())], np.uint16)
    starts, size = np.array([0]), np.array([len(tokens) - 1])
    stream = Stream(tokens, tokenizer, starts, size, ("d",), "text", ("memory",))
    words = words_of(stream, Columns(("a",), (np.ones((len(tokens) - 1, 1)),), 0, 0), 0)
    shown = [word.decode() for word in words.text]
    assert shown[:6] == ["the", " cat", "  sat", " on", "\n\nthe", " mat."]
    assert "".join(shown) == text


def test_a_long_document_shows_the_stretch_that_matters_and_few_bytes(tmp_path: Path) -> None:
    bits = np.array([0.0, -1, -5, -5, 2, 0, -1])
    assert stretch(bits, 2) == (2, 4)
    assert stretch(-bits, 2) == (2, 4)
    assert stretch(bits, 7) == (0, 7)
    assert extremes(np.array([3.0, -1, 0, -2, 5])) == [3, 1, 4, 0]
    _, stream = make(None, [9000, 8000])
    scores = np.random.default_rng(0).normal(3, 1, (stream.n_targets, 8))
    columns = Columns(tuple(f"a_long_name_<{i}>" for i in range(8)), (scores,), 0, 7)
    drawn = looked_at(stream, columns, [0, 1], ["<b>one</b>", "two"])
    assert len(drawn.encode()) < 2 * DOCUMENT_BYTES + 2000
    assert "<b>" not in drawn
    assert drawn.count("<details open>") == 1
    assert EACH * 2 * DOCUMENT_BYTES < 500_000


def test_twelve_stages_and_many_documents_stay_under_a_megabyte(tmp_path: Path) -> None:
    stages = (*(f"a_rather_long_adapter_name_{i}" for i in range(10)), "ppm", "ppm")
    result, stream = make(tmp_path, [7] * 3000, stages)
    page = checked(result, stream)
    assert "ppm (2)" in page.text
    assert "1,500 of 3,000 documents are drawn." in page.text


def test_names_of_documents_cannot_leave_their_place(tmp_path: Path) -> None:
    result, stream = make(tmp_path, [50, 60, 70, 80, 90], names=HOSTILE)
    page = checked(result, stream)
    assert HOSTILE[0] in page.text
    path = write_report(result, stream)
    assert "<script" not in path.read_text(encoding="utf-8")


def test_names_of_adapters_cannot_either(tmp_path: Path) -> None:
    result, stream = make(tmp_path, [50, 60], adapters=("<script>x</script>", '"><svg onload=1>'))
    checked(result, stream)


def test_one_document(tmp_path: Path) -> None:
    page = checked(*make(tmp_path, [500]))
    assert "one document" in page.text
    assert "By document length" not in page.texts


def test_the_base_alone(tmp_path: Path) -> None:
    page = checked(*make(tmp_path, [100, 50], adapters=()))
    assert "The base alone: no adapters." in page.text
    assert "Calibration" in page.texts


def test_without_scores_of_targets(tmp_path: Path) -> None:
    page = checked(*make(tmp_path, [100, 50, 70], keep=False))
    assert "were not kept" in page.text
    assert "By document length" in page.texts
    assert "By class of token" not in page.texts


def test_a_run_that_booked_nothing(tmp_path: Path) -> None:
    result, stream = make(tmp_path, [10])
    none = DocumentTable.from_chunks([], 2)
    run = result.record
    run.totals, run.stages, run.complete, run.documents = totals(none), [], False, 0
    run.coverage = Coverage(booked=[[1, 1]], targets=[1, 11])
    run.verdicts = {"sentinel": {"on": True, "rows": 0, "worst": 0.0}}
    page = checked(Result(run, none, tmp_path, result.stage_names), stream)
    assert "0 of 10 targets were booked" in page.text
    assert "No byte was scored" in page.text


def test_a_run_whose_documents_have_no_bytes(tmp_path: Path) -> None:
    result, stream = make(tmp_path, [0, 0, 3])
    checked(result, stream)


def test_switched_off_sentinel_ranks_budget_and_other_verdicts_are_shown(tmp_path: Path) -> None:
    result, stream = make(tmp_path, [30, 40])
    result.record.verdicts = {"sentinel": {"on": False}, "audit": {"verdict": "violation", "laws": {"causal": "no"}}}
    result.record.ranks = [{"rank": 0, "busy": 1.25}, {"rank": 1, "busy": 1.5, "device": "<cpu>"}]
    result.record.budget = Budget(seconds=60.0, policy="stop")
    page = checked(result, stream)
    assert "no row was checked" in page.text
    assert "audit: violation" in page.text
    assert "<cpu>" in page.text
    assert "budget.policy" in page.text


def test_the_page_replaces_an_older_one_whole(tmp_path: Path) -> None:
    result, stream = make(tmp_path, [30, 40])
    (tmp_path / "report.html").write_text("old")
    path = write_report(result, stream)
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert not list(tmp_path.glob("*.tmp"))


@given(
    seed=st.integers(0, 2**32), lengths=st.lists(st.integers(0, 40), min_size=1, max_size=6), slab=st.integers(1, 50)
)
def test_the_pass_over_scores_equals_the_plain_twin(
    monkeypatch: pytest.MonkeyPatch, seed: int, lengths: list[int], slab: int
) -> None:
    monkeypatch.setattr("evalkit.report.digest.SLAB", slab)
    _, stream = make(None, [*lengths, 5], seed=seed)
    scores = np.random.default_rng(seed).normal(3, 0.02, (stream.n_targets, 3))
    found, plain = _digest(scores, stream), digest_naive(scores, stream)
    for name, n, nats in zip(found.classes, found.class_targets.tolist(), found.class_nats.tolist(), strict=True):
        count, sums = plain["classes"].get(name, (0, [0.0] * 3))
        assert n == count
        assert nats == pytest.approx(sums, rel=1e-12, abs=1e-12)
    for s, acts in enumerate(plain["acts"]):
        assert (found.better[s], found.worse[s]) == (acts["better"], acts["worse"])
        assert found.won[s] == pytest.approx(acts["won"], rel=1e-12, abs=1e-12)
        assert found.lost[s] == pytest.approx(acts["lost"], rel=1e-12, abs=1e-12)
    assert found.acts.sum(0).tolist() == (found.better + found.worse).tolist()
    assert found.bytes.sum() == stream.total_bytes
    assert found.nats.sum(0) == pytest.approx(scores.sum(0))


def test_the_last_point_so_far_is_the_total(tmp_path: Path) -> None:
    result, stream = make(tmp_path, [300, 200])
    found = digest(result, stream)
    assert found is not None
    assert running_bpb(found, 1)[-1] == pytest.approx(result.run["totals"]["bpb"], rel=1e-12)
    assert found.nats.sum() / LN2 > 0
    assert found.classes[-1] == REST


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        ({"a": {"b": 1, "c": None}}, [("a.b", "1"), ("a.c", "null")]),
        ({"a": [1, "x"]}, [("a", "1, x")]),
        ({"a": [{"b": True}, {"b": "y"}]}, [("a[1].b", "true"), ("a[2].b", "y")]),
        ({"a": {}, "b": []}, [("a", "{}"), ("b", "")]),
    ],
)
def test_settings_become_rows(content: dict[str, Any], rows: list[tuple[str, str]]) -> None:
    assert flat(json.loads(json.dumps(content))) == rows


def test_names_are_told_apart() -> None:
    assert distinct(["a", "b", "a", "a"]) == ["a", "b", "a (2)", "a (3)"]
