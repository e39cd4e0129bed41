"""Is a corpus what it was made from, is a damaged one refused, and does a scored document in it stop the run?"""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalkit import _native
from evalkit.adapters.base import StreamInfo
from evalkit.adapters.experts.corpus import open_corpus, shingles
from evalkit.adapters.registry import parse_adapter
from evalkit.cli.main import main
from evalkit.cli.recipe import ASSETS
from evalkit.errors import EvalkitError, InputError
from evalkit.legality.engine.checks import corpora
from evalkit.legality.engine.setup import Setup
from evalkit.models.ek.container import add_corpus, read_artifact
from evalkit.models.ek.door import ArtifactDoor
from evalkit.plan import parse_plan
from evalkit.scoring.score import score
from evalkit.stream import open_texts
from evalkit.stream.corpus import build_corpus, parse_corpus, read_corpus, write_corpus, write_with_trusts
from evalkit.stream.tokenizer import ByteTokenizer, open_tokenizer
from tests.kit import examples
from tests.mutate import RAW, mutate

PREFIX = struct.Struct("<8sIII")
SUBJECTS = ("The keeper", "A sailor", "My neighbour", "The engineer", "Nobody", "An old friend")
VERBS = ("repaired", "painted", "sold", "described", "lost", "borrowed")
THINGS = ("the lamp", "a boat", "seven letters", "the garden wall", "an engine", "his hat")


def document(seed: int, sentences: int = 12) -> str:
    draw = random.Random(seed)
    parts = (
        f"{draw.choice(SUBJECTS)} {draw.choice(VERBS)} {draw.choice(THINGS)} in {draw.randint(1500, 9999)}."
        for _ in range(sentences)
    )
    return " ".join(parts)


def write_jsonl(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """corpus.jsonl: documents 0..39.  scored.jsonl: 100..103, of the same words and no 13 in a row."""
    folder = tmp_path_factory.mktemp("texts")
    write_jsonl(folder / "corpus.jsonl", [document(i) for i in range(40)])
    write_jsonl(folder / "scored.jsonl", [document(i) for i in range(100, 104)])
    build_corpus([folder / "corpus.jsonl"], ByteTokenizer(), folder / "clean.ekc")
    return folder


def flags(checkpoint: Path, text: Path, *rest: object) -> list[object]:
    plan = ("--plan", "sliding:seq_len=48,stride=16", "--chunk-tokens", "256", "--threads", "1")
    return ["eval", "--checkpoint", checkpoint, "--tokenizer", "byte", "--text", text, *plan, *rest]


def test_a_corpus_holds_its_documents(texts: Path) -> None:
    corpus, tokenizer = read_corpus(texts / "clean.ekc"), ByteTokenizer()
    held = [tokenizer.decode_bytes(ids).decode() for ids in corpus.documents()]
    assert held == [document(i) for i in range(40)]
    assert corpus.header.text_bytes == sum(len(text) for text in held)
    assert corpus.size == (texts / "clean.ekc").stat().st_size
    again = texts / "again.ekc"
    build_corpus([texts / "corpus.jsonl"], tokenizer, again)
    assert again.read_bytes() == (texts / "clean.ekc").read_bytes()


@pytest.mark.parametrize("size", [4096, 6000])
def test_a_bound_on_the_size_is_kept_and_used(texts: Path, tmp_path: Path, size: int) -> None:
    done = build_corpus([texts / "corpus.jsonl"], ByteTokenizer(), tmp_path / "some.ekc", size=size)
    assert (tmp_path / "some.ekc").stat().st_size == done.size <= size
    assert 0 < done.kept_documents < 40
    assert read_corpus(tmp_path / "some.ekc").header.documents == done.kept_documents


def test_the_documents_most_like_a_text_are_kept(texts: Path, tmp_path: Path) -> None:
    """Half of the documents are of other letters: they are left out, wherever they stand."""
    mixed = [document(i) if i % 2 else document(i).translate(str.maketrans("aeiorst", "qzxkjvw")) for i in range(40)]
    write_jsonl(tmp_path / "mixed.jsonl", mixed)
    like = [texts / "scored.jsonl"]
    build_corpus([tmp_path / "mixed.jsonl"], ByteTokenizer(), tmp_path / "like.ekc", size=8000, like=like)
    held = [ByteTokenizer().decode_bytes(ids).decode() for ids in read_corpus(tmp_path / "like.ekc").documents()]
    assert len(held) >= 4
    assert set(held) <= set(mixed[1::2])


@given(text=st.binary(max_size=400), seed=st.integers(0, 99))
@settings(max_examples=examples(10))
def test_sequences_of_words_are_the_twins(text: bytes, seed: int) -> None:
    text = text + b" " + document(seed).encode() + text
    words = [zlib.crc32(w) for w in re.findall(rb"[a-z0-9]+", text.lower())]
    base, mask, want = 0x9E3779B97F4A7C15, (1 << 64) - 1, []
    for i in range(len(words) - 12):
        total = 0
        for k in range(13):
            total = ((total ^ (words[i + k] * base & mask)) * base + k + 1) & mask
            total ^= total >> 29
        want.append(total)
    assert _native.word_sequences(text).tolist() == want
    assert shingles(text).tolist() == sorted(set(want))
    wanted = np.array(sorted({*want[::2], 1, 2, mask}), np.uint64)
    found = _native.SequenceSet(wanted)
    found.read(text)
    assert found.seen().tolist() == [w in set(want) for w in wanted.tolist()]


def sealed(data: bytes, header: bytes, body: bytes, version: int = 1) -> bytes:
    content = PREFIX.pack(data[:8], version, len(header), zlib.crc32(header)) + header + body
    return content + hashlib.sha256(content).digest()


def opened(data: bytes) -> tuple[dict[str, Any], bytes]:
    length = PREFIX.unpack_from(data)[2]
    return json.loads(data[PREFIX.size : PREFIX.size + length]), data[PREFIX.size + length : -32]


def refused_or_read(data: bytes) -> bool:
    """True when read; whatever is read has ids of its vocabulary and the documents it names."""
    try:
        corpus = parse_corpus(data, "mutant")
    except InputError as fault:
        return not re.fullmatch(r"mutant.*", str(fault))
    assert corpus.ids.max() < corpus.header.vocab_size
    assert len(corpus.ids) == corpus.header.tokens
    return True


@pytest.mark.parametrize("kind", sorted(RAW))
def test_a_damaged_corpus_is_refused(texts: Path, kind: str) -> None:
    data = (texts / "clean.ekc").read_bytes()
    for number in range(30):
        changed = mutate(11, number, data, {kind: RAW[kind]})[1]
        assert changed == data or not refused_or_read(changed)


def test_a_forged_corpus_is_refused_or_is_valid_text(texts: Path) -> None:
    """Header and ids are changed and the checksums put right: every length is still checked before it is used."""
    data = (texts / "clean.ekc").read_bytes()
    header, body = opened(data)
    draw, read = random.Random(5), 0
    values = (-1, 0, 1, 2, 255, 1 << 16, 1 << 31, 1 << 40, (1 << 64) - 1, "x", None, 0.5, [])
    for name in header:
        for value in values:
            forged = json.dumps({**header, name: value}).encode()
            read += refused_or_read(sealed(data, forged, body))
    for _ in range(60):
        changed = bytearray(body)
        for _ in range(draw.randint(1, 4)):
            changed[draw.randrange(len(changed))] = draw.randrange(256)
        read += refused_or_read(sealed(data, json.dumps(header).encode(), bytes(changed)))
    read += refused_or_read(sealed(data, json.dumps({**header, "extra": 1}).encode(), body))
    assert read < 20  # such as a larger number of bytes of text


@pytest.fixture(scope="module")
def trusting(texts: Path) -> Path:
    """trusting.ekc: the corpus of forty documents with trusts learned behind the bundled checkpoint; and plain.ek."""
    add_corpus(ASSETS / "tiny.ek", None, texts / "plain.ek")
    build = (
        "corpus",
        "build",
        "--checkpoint",
        texts / "plain.ek",
        "--text",
        texts / "corpus.jsonl",
        "--bytes",
        "200_000",
    )
    assert main([str(a) for a in (*build, "--trusts", "4_000", "--out", texts / "trusting.ekc")]) == 0
    assert main([str(a) for a in (*build, "--out", texts / "plain.ekc")]) == 0
    return texts / "trusting.ekc"


def test_trusts_are_learned_on_documents_of_the_corpus_and_move_the_score(trusting: Path) -> None:
    plain, corpus = read_corpus(trusting.with_name("plain.ekc")), read_corpus(trusting)
    assert (plain.trusts, (corpus.ids == plain.ids).all()) == (None, True)
    assert corpus.trusts is not None
    assert 0.5 * 4000 < corpus.trusts.header.targets < 2 * 4000
    model = ArtifactDoor.load(trusting.with_name("plain.ek"))
    stream = open_texts([document(i) for i in range(100, 104)], open_tokenizer(model.tokenizer_model))
    with_, fresh, without = (
        score(model, stream, [parse_adapter(f"ppm:corpus={file}{rest}")]).bpb
        for file, rest in ((trusting, ""), (trusting, ",trusts=fresh"), (trusting.with_name("plain.ekc"), ""))
    )
    assert fresh == without
    assert with_ < fresh


def test_trusts_of_other_settings_are_refused(evalkit, trusting: Path) -> None:
    flags = ("--checkpoint", trusting.with_name("plain.ek"), "--text", trusting.with_name("scored.jsonl"))
    said = evalkit("eval", *flags, "--adapter", f"ppm:corpus={trusting},orders=1..4")
    assert said.code == 2
    assert re.search(r"orders=\[1, 2, 3, 4, 5, 6\].*orders=\[1, 2, 3, 4\].*trusts=fresh", said.err)


def test_forged_trusts_are_refused(trusting: Path) -> None:
    """Lengths, versions and values are changed and the checksums put right."""
    data = trusting.read_bytes()
    header, body = opened(data)
    info = StreamInfo(2048, header["bos_id"], header["bos_id"], piece_bytes=(b"x",) * 2048, groups={})
    forged = trusting.with_name("forged.ekc")

    def told(header: dict[str, Any], body: bytes, version: int = 2) -> str:
        forged.write_bytes(sealed(data, json.dumps(header).encode(), body, version))
        expert = parse_adapter(f"ppm:corpus={forged}")
        with pytest.raises(InputError) as fault:
            expert.begin(info)
        return str(fault.value)

    trusts = header["trusts"]
    for name in ("values", "packed_bytes"):
        for value in (-1, 0, 1, trusts[name] - 1, trusts[name] + 1, 1 << 40):
            assert told({**header, "trusts": {**trusts, name: value}}, body).startswith(str(forged))
    assert "disagree about trusts" in told(header, body, version=1)
    assert "disagree about trusts" in told({k: v for k, v in header.items() if k != "trusts"}, body)
    assert "version 3" in told(header, body, version=3)
    corpus = read_corpus(trusting)
    assert corpus.trusts is not None
    for codes, words in (
        (corpus.trusts.codes[:-4], "make it again"),
        (np.full_like(corpus.trusts.codes, 99), "4\\^99"),
    ):
        write_with_trusts(forged, trusting.with_name("plain.ekc"), replace(corpus.trusts, codes=codes))
        with pytest.raises(InputError, match=words):
            parse_adapter(f"ppm:corpus={forged}").begin(info)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "{dir}/c.ekc", "--trusts", "-1"], "--trusts -1"),
        (["--out", "{dir}/no/c.ekc"], "does not exist"),
        (["--out", "{dir}/clean.ekc"], "--force"),
        (["--out", "{dir}/c.ekc", "--bytes", "100"], "at least 4096"),
        (["--out", "{dir}/c.ekc", "--like", "{dir}/scored.jsonl"], "give --bytes"),
        (["--out", "{dir}/c.ekc", "--bytes", "5k"], "--bytes"),
    ],
)
def test_what_cannot_be_built_is_told(evalkit, checkpoint: Path, texts: Path, arguments: list[str], words: str) -> None:
    rest = [a.format(dir=texts) for a in arguments]
    said = evalkit(
        "corpus", "build", "--checkpoint", checkpoint, "--tokenizer", "byte", "--text", texts / "corpus.jsonl", *rest
    )
    assert said.code == 2
    assert words in said.err


def test_a_corpus_lowers_the_score_and_says_where_it_is_from(
    evalkit, checkpoint: Path, texts: Path, tmp_path: Path
) -> None:
    built = evalkit(
        *("corpus", "build", "--checkpoint", checkpoint, "--tokenizer", "byte"),
        *("--text", texts / "corpus.jsonl", "--out", tmp_path / "mine.ekc"),
    )
    assert built.code == 0
    assert "40 of 40 documents" in built.out
    runs = {}
    for name, spec in (("without", "ppm"), ("with", f"ppm:corpus={tmp_path / 'mine.ekc'}")):
        said = evalkit(*flags(checkpoint, texts / "scored.jsonl", "--adapter", spec, "--json", "-"))
        assert said.code == 0, said.err
        runs[name] = json.loads(said.out)
    assert runs["with"]["totals"]["bpb"] < 0.8 * runs["without"]["totals"]["bpb"]
    assert runs["without"]["provenance"] == []
    (row,) = runs["with"]["provenance"]
    assert (row["exact"], row["near"], row["documents"], row["corpus_documents"]) == (0, 0, 4, 40)
    assert row["corpus"] == read_corpus(tmp_path / "mine.ekc").digest
    assert runs["with"]["fingerprint"]["corpora"] == [row["corpus"]]
    assert any("stand in the corpus" in note for note in runs["with"]["notes"])


@pytest.mark.parametrize("share", ["whole", "near copy", "quotation"])
def test_a_scored_document_in_the_corpus_stops_the_run(
    evalkit, checkpoint: Path, texts: Path, tmp_path: Path, share: str
) -> None:
    """A near copy: other capitals, other stops, two sentences of twelve changed.  A quotation of a sixth is only reported."""
    victim = document(102)
    sentences = victim.split(". ")
    copied = {
        "whole": victim,
        "near copy": " -- ".join(s.upper() for s in [*sentences[:5], "Something else", *sentences[6:11], "The end"]),
        "quotation": ". ".join([*sentences[:4], document(7)]),
    }[share]
    write_jsonl(tmp_path / "dirty.jsonl", [document(0), copied, document(1)])
    build_corpus([tmp_path / "dirty.jsonl"], ByteTokenizer(), tmp_path / "dirty.ekc")
    out = tmp_path / "run"
    spec = f"ppm:corpus={tmp_path / 'dirty.ekc'}"
    said = evalkit(*flags(checkpoint, texts / "scored.jsonl", "--adapter", spec, "--out", out))
    checked = evalkit(
        *("corpus", "check", tmp_path / "dirty.ekc", "--text", texts / "scored.jsonl"),
        *("--checkpoint", checkpoint, "--tokenizer", "byte", "--json", "-"),
    )
    found = json.loads(checked.out)
    model, tokenizer = ArtifactDoor.load(ASSETS / "tiny.ek"), ByteTokenizer()
    setup = Setup(model, tokenizer, (parse_adapter(spec),), parse_plan("disjoint"))
    (seen,) = corpora(setup, open_texts([document(i) for i in range(100, 104)], tokenizer))
    assert (seen.ledger, seen.status) == ("provenance", "ok" if share == "quotation" else "violated")
    if share == "quotation":
        assert said.code == checked.code == 0
        assert 0.1 < found["most"] < 0.5
        assert "scored.jsonl:3" in json.loads((out / "run.json").read_text())["provenance"][0]["most_document"]
        return
    assert said.code == checked.code == 1
    assert "law provenance" in said.err
    assert found["exact"] == (share == "whole")
    assert found["near"] == 1
    assert "scored.jsonl:3" in said.err
    assert not (out / "run.json").exists()


def test_a_corpus_of_another_tokenizer_is_refused(evalkit, checkpoint: Path, texts: Path, tmp_path: Path) -> None:
    path = tmp_path / "foreign.ekc"
    write_corpus(path, np.array([1, 5, 6, 7], np.int32), vocab_size=200, bos_id=1, tokenizer="0" * 64)
    said = evalkit(*flags(checkpoint, texts / "scored.jsonl", "--adapter", f"ppm:corpus={path}"))
    assert said.code == 2
    assert "another tokenizer" in said.err
    said = evalkit(*flags(checkpoint, texts / "scored.jsonl", "--adapter", f"ppm:corpus={texts / 'scored.jsonl'}"))
    assert said.code == 2
    assert "is not a corpus" in said.err


def test_a_run_goes_on_only_with_the_corpus_it_began_with(
    evalkit, checkpoint: Path, texts: Path, tmp_path: Path
) -> None:
    shutil.copy(texts / "clean.ekc", tmp_path / "c.ekc")
    command = flags(checkpoint, texts / "scored.jsonl", "--adapter", f"ppm:corpus={tmp_path / 'c.ekc'}")
    assert evalkit(*command, "--out", tmp_path / "whole").code == 0
    lines = (tmp_path / "whole" / "journal.jsonl").read_bytes().splitlines(keepends=True)
    for name in ("cut", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "journal.jsonl").write_bytes(b"".join(lines[:3]))
        shutil.copy(tmp_path / "whole" / "scores.f64", tmp_path / name)
    assert evalkit(*command, "--out", tmp_path / "cut").code == 0
    whole, cut = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("whole", "cut"))
    assert cut["resumed_chunks"] == 2
    assert cut["totals"] == whole["totals"]
    build_corpus([texts / "corpus.jsonl"], ByteTokenizer(), tmp_path / "c.ekc", size=6000, force=True)
    said = evalkit(*command, "--out", tmp_path / "other")
    assert said.code == 2
    assert "corpora" in said.err


def test_a_full_table_counts_the_beginning(texts: Path) -> None:
    """The rest is left out, and what is counted are the same counts as of the beginning alone."""
    ids = np.random.default_rng(0).integers(0, 200, 4000).astype(np.int32)
    small = _native.CountedCorpus(tokens=ids, vocab=200, max_order=4, bytes=_native.smallest_table(200, 4) + 20_000)
    assert 100 < small.counted < 3999
    part = _native.CountedCorpus(tokens=ids[: small.counted + 1], vocab=200, max_order=4, bytes=1 << 24)
    x, p = ids[:300], np.full((299, 200), 1 / 200)
    got = []
    for corpus in (small, part):
        kernel = _native.LearnedPpm(
            vocab=200,
            bos=1,
            orders=[],
            document_orders=[],
            rate=0.3,
            side=False,
            bytes=1 << 22,
            document_bytes=1 << 22,
            expected_tokens=0,
            corpus=corpus,
            corpus_orders=[1, 2, 3, 4],
        )
        kernel.begin(int(x[0]))
        got.append(kernel.score(x[1:], None, p, None, None))
    np.testing.assert_array_equal(got[0], got[1])
    with pytest.raises(ValueError, match="too small"):
        _native.CountedCorpus(tokens=ids, vocab=200, max_order=4, bytes=100)


def test_a_corpus_is_read_once_while_it_is_held(texts: Path) -> None:
    first = open_corpus(texts / "clean.ekc")
    assert open_corpus(texts / "clean.ekc") is first
    with pytest.raises(EvalkitError, match="no such file"):
        open_corpus(texts / "missing.ekc")


@pytest.fixture(scope="module")
def carrying(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """both.ek: the bundled artifact with a corpus of forty documents, clean.ek: without any."""
    folder = tmp_path_factory.mktemp("carrying")
    write_jsonl(folder / "corpus.jsonl", [document(i) for i in range(40)])
    add_corpus(ASSETS / "tiny.ek", None, folder / "clean.ek")
    tokenizer = open_tokenizer(read_artifact(folder / "clean.ek").tokenizer_model)
    build_corpus([folder / "corpus.jsonl"], tokenizer, folder / "c.ekc")
    add_corpus(folder / "clean.ek", (folder / "c.ekc").read_bytes(), folder / "both.ek")
    return folder


def test_an_artifact_carries_its_corpus(evalkit, carrying: Path) -> None:
    clean, both = (read_artifact(carrying / name) for name in ("clean.ek", "both.ek"))
    corpus = (carrying / "c.ekc").read_bytes()
    assert (clean.corpus, both.corpus) == (None, corpus)
    assert 0 < both.size - clean.size - len(corpus) < 100
    assert all((both.tensors[name] == clean.tensors[name]).all() for name in clean.tensors)
    add_corpus(carrying / "both.ek", None, carrying / "again.ek")
    assert (carrying / "again.ek").read_bytes() == (carrying / "clean.ek").read_bytes()
    attach = ("corpus", "attach", carrying / "c.ekc", "--checkpoint", carrying / "clean.ek", "--out")
    assert evalkit(*attach, carrying / "attached.ek").code == 0
    assert (carrying / "attached.ek").read_bytes() == (carrying / "both.ek").read_bytes()
    said = evalkit(*attach, carrying / "attached.ek")
    assert said.code == 2
    assert "--force" in said.err


def test_ppm_finds_the_checkpoints_corpus(carrying: Path) -> None:
    """The same bits as with the file beside the checkpoint; a damaged one is told."""

    def scored(name: str, spec: str) -> dict[str, Any]:
        model = ArtifactDoor.load(carrying / name)
        stream = open_texts([document(100)], open_tokenizer(model.tokenizer_model))
        return score(model, stream, [parse_adapter(spec)]).run

    own, off, beside = (
        scored("both.ek", "ppm"),
        scored("both.ek", "ppm:corpus=none"),
        scored("clean.ek", f"ppm:corpus={carrying / 'c.ekc'}"),
    )
    assert own["totals"] == beside["totals"]
    assert own["totals"]["bpb"] < 0.8 * off["totals"]["bpb"]
    assert own["provenance"] == beside["provenance"]
    assert off["provenance"] == []
    broken = bytearray((carrying / "c.ekc").read_bytes())
    broken[-40] ^= 1
    add_corpus(carrying / "clean.ek", bytes(broken), carrying / "broken.ek")
    with pytest.raises(InputError, match="the checkpoint's corpus"):
        scored("broken.ek", "ppm")


def test_a_certificate_of_an_artifact_with_a_corpus(evalkit, carrying: Path, tmp_path: Path) -> None:
    """Whoever decodes has the artifact, so the corpus is there too."""
    (tmp_path / "text.txt").write_text(document(100), encoding="utf-8")
    flags = ("--checkpoint", carrying / "both.ek", "--text", tmp_path / "text.txt", "--adapter", "ppm")
    said = evalkit("certify", *flags, "--threads", "1", "--tokens", "64", "--out", tmp_path / "cert")
    assert said.code == 0, said.err
    assert evalkit("certify", "--decode", tmp_path / "cert").code == 0
