"""Only a ledger makes receipts: there is no other spelling, and a ledger books each target once, in order."""

from __future__ import annotations

import ast
import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evalkit.adapters.base import KEEP_CONTEXT, Receipt, TokenLedger
from evalkit.errors import LegalityError
from evalkit.scoring.ledger import Ledger

ROOT = Path(__file__).resolve().parents[2]
STREAM = np.arange(20_000, dtype=np.int32)


def mints(source: str) -> list[int]:
    """Lines that make a Receipt: a call of it by any name, ``__new__`` handed it, or a class that derives from it."""
    tree, names = ast.parse(source), {"Receipt"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom | ast.Import):
            names |= {a.asname for a in node.names if a.asname and a.name.rpartition(".")[2] == "Receipt"}
    found = []
    for node in ast.walk(tree):
        values = []
        if isinstance(node, ast.Call):
            maker = isinstance(node.func, ast.Attribute) and node.func.attr in ("__new__", "__reduce_ex__")
            values = [node.func, *(node.args if maker else [])]
        elif isinstance(node, ast.ClassDef):
            values = node.bases
        spelled = {getattr(v, "id", getattr(v, "attr", "")) for v in values}
        found += [node.lineno] if spelled & names else []
    return found


@pytest.mark.parametrize(
    "line",
    [
        "Receipt(1, 2)",
        "base.Receipt()",
        "object.__new__(Receipt)",
        "Receipt.__new__(Receipt)",
        "class Mine(Receipt): ...",
        "from evalkit.adapters.base import Receipt as R\nR()",
    ],
)
def test_the_search_sees_every_spelling(line: str) -> None:
    assert mints(line)


def test_one_place_in_the_sources_makes_receipts() -> None:
    packages = [p for name in ("evalkit", "harness", "train") for p in sorted((ROOT / name).rglob("*.py"))]
    assert len(packages) > 100
    found = {(p.relative_to(ROOT).as_posix(), n) for p in packages for n in mints(p.read_text(encoding="utf-8"))}
    lines = (ROOT / "evalkit/adapters/base.py").read_text(encoding="utf-8").splitlines()
    inside = [n for path, n in found if path == "evalkit/adapters/base.py"]
    assert len(found) == 1, f"receipts are made outside the ledger: {sorted(found)}"
    assert lines[inside[0] - 1].strip() == "receipt = object.__new__(Receipt)"


def receipt() -> Receipt:
    return TokenLedger(STREAM[:10]).book(10, STREAM[10:13], np.ones(3))


@pytest.mark.parametrize(
    "forge",
    [
        lambda: Receipt(0, 3, STREAM[:3], np.ones(3), STREAM[:0]),
        lambda: Receipt.__new__(Receipt),
        lambda: copy.copy(receipt()),
        lambda: copy.deepcopy(receipt()),
        lambda: pickle.loads(pickle.dumps(receipt())),
        lambda: type("Mine", (Receipt,), {}),
    ],
    ids=["call", "new", "copy", "deepcopy", "pickle", "subclass"],
)
def test_a_receipt_cannot_be_made_by_hand(forge: Any) -> None:
    with pytest.raises(TypeError, match=r"a Receipt .*ledger"):
        forge()


def test_a_receipt_cannot_be_changed_and_shows_booked_tokens_alone() -> None:
    made = receipt()
    with pytest.raises(AttributeError, match="cannot be changed"):
        made.hi = 20
    assert made.tokens.base is None
    assert made.context.base is None
    assert made.context.tolist() == list(range(10))


def test_context_is_what_was_booked_however_it_was_cut() -> None:
    """One ledger over many chunks, and one that goes on from the middle, carry the same context."""
    ledger = TokenLedger(STREAM[:1])
    for lo in range(1, 12_001, 3000):
        made = ledger.book(lo, STREAM[lo : lo + 3000], np.ones(3000))
        np.testing.assert_array_equal(made.context, STREAM[max(0, lo - KEEP_CONTEXT) : lo])
    again = TokenLedger(STREAM[100:9001], 9001).book(9001, STREAM[9001:12_001], np.ones(3000))
    np.testing.assert_array_equal(again.context, made.context)


@pytest.mark.parametrize(("lo", "word"), [(1, "twice"), (12, "out of order")])
def test_a_clock_books_each_target_once(lo: int, word: str) -> None:
    ledger = TokenLedger(STREAM[:1])
    ledger.book(1, STREAM[1:11], np.ones(10))
    with pytest.raises(LegalityError, match=word):
        ledger.book(lo, STREAM[lo : lo + 2], np.ones(2))


def test_entry_and_receipt_are_of_one_booking() -> None:
    """The receipt carries the nats of the last stage; a resumed ledger hands out the same one."""
    nats = np.random.default_rng(0).exponential(size=(2, 10))
    one = Ledger(("model", "ppm"), STREAM[:1])
    first, _ = one.book(0, 1, STREAM[1:11], nats, np.zeros(10, int), np.ones(10, int))
    entry, made = one.book(1, 11, STREAM[11:21], nats, np.zeros(10, int), np.ones(10, int))
    assert (made.lo, made.hi) == (entry.lo, entry.hi) == (11, 21)
    np.testing.assert_array_equal(made.nats, nats[-1])
    two = Ledger(("model", "ppm"), STREAM[:1])
    two.readmit([first], STREAM)
    again, same = two.book(1, 11, STREAM[11:21], nats, np.zeros(10, int), np.ones(10, int))
    assert again == entry
    np.testing.assert_array_equal(same.context, made.context)
    with pytest.raises(LegalityError, match="the journal books 1 next, expected 21"):
        two.readmit([first], STREAM)
