"""Does ``benches.card`` keep what it measured, go on where it was cut, say what failed, and end with 1 when scores differ?"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from benches.card import __main__ as kit
from benches.card import page, parity, speed
from benches.card.sheet import Absent, Card, Sheet, mark, read


def sheets(out: Path) -> dict[str, dict[str, dict[str, Any]]]:
    return {name: {r["key"]: r for r in read(out / f"{name}.json").get("rows", [])} for name in kit.SHARES}


def small_card(out: Path, until: float = 60.0) -> Card:
    return Card(out, "cpu", True, 1.0, time.time(), time.time() + until)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("card")
    assert kit.main(["--smoke", "--out", str(out)]) == 0
    return out


def test_a_smoke_run_has_every_section_and_one_page(smoke: Path) -> None:
    found = sheets(smoke)
    for name, rows in found.items():
        assert rows, name
        wrong = {key: row for key, row in rows.items() if row["status"] not in ("ok", "absent")}
        assert not wrong, name
    assert {key for key, row in found["attention"].items() if row["status"] == "absent"} >= {
        f"2 x 32, flash-attn {version}" for version in (2, 3, 4)
    }
    assert found["train"]["train"]["totals"]["artifact_bytes"] == (smoke / "train" / "model.ek").stat().st_size
    assert "trained here" in read(smoke / "table.json")["note"]
    text = (smoke / "card.html").read_text(encoding="utf-8")
    assert all(title in text for title in page.TITLES.values())
    assert text.count("<svg") >= 5
    assert "<script" not in text


@pytest.mark.slow
def test_a_second_run_goes_on_and_a_difference_to_the_cpu_ends_with_1(
    smoke: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before, path = sheets(smoke)["parity"], smoke / "parity.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    cut = next(row for row in content["rows"] if row["key"] == "plan disjoint")
    cut["status"] = "under way"
    path.write_text(json.dumps(content), encoding="utf-8")
    plain, calls = parity.scores, []

    def shifted(card: Card, device: str, *more: Any) -> Any:
        nats, record = plain(card, device, *more)
        calls.append(more)
        return nats + 0.02 * len(calls), record

    monkeypatch.setattr(parity, "scores", shifted)
    assert kit.main(["--smoke", "--out", str(smoke), "--only", "parity"]) == 1
    after = sheets(smoke)["parity"]
    assert len(calls) == 2
    assert [key for key in after if after[key] != before[key]] == ["plan disjoint"]
    assert after["plan disjoint"]["worst_nats"] == pytest.approx(0.02)
    assert "parity: plan disjoint" in capsys.readouterr().err
    assert "1 out of tolerance: plan disjoint" in (smoke / "card.html").read_text(encoding="utf-8")


def test_a_row_that_fails_says_why_and_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(card: Card, form: str) -> dict[str, Any]:
        raise RuntimeError(f"no kernel for {form}")

    monkeypatch.setattr(speed, "product", broken)
    monkeypatch.setattr(kit, "section_of", lambda name: speed.forward if name == "forward" else _cannot)
    assert kit.main(["--smoke", "--out", str(tmp_path), "--only", "forward", "rows"]) == 0
    found = sheets(tmp_path)
    failed = found["forward"]["matrix product, tf32"]
    assert (failed["status"], failed["why"]) == ("failed", "RuntimeError: no kernel for tf32")
    assert found["forward"]["smallest, 1 x 64, float32"]["status"] == "ok"
    assert found["rows"]["the section itself"]["why"] == "ImportError: nothing here"


def _cannot(card: Card, sheet: Sheet) -> None:
    raise ImportError("nothing here")


def test_rows_are_on_disk_before_the_next_and_only_good_ones_stay(tmp_path: Path) -> None:
    sheet = Sheet(small_card(tmp_path), "rows")

    def absent() -> dict[str, Any]:
        assert read(sheet.path)["rows"][0]["value"] == 1
        raise Absent("not here")

    sheet.row("one", lambda: {"value": 1})
    sheet.row("two", absent)
    sheet.row("three", lambda: {"status": "violated"})
    mark(sheet.path, "the process is gone")
    assert [row["status"] for row in read(sheet.path)["rows"]] == ["ok", "absent", "violated"]
    again = Sheet(small_card(tmp_path), "rows")
    again.row("one", lambda: {"value": 2})
    again.row("two", lambda: {"value": 2})
    again.row("three", lambda: {"value": 2})
    assert [again.rows[key].get("value") for key in ("one", "two", "three")] == [1, None, 2]
    late = Sheet(small_card(tmp_path, until=-1.0), "rows")
    late.row("four", lambda: {"value": 2})
    assert late.rows["four"]["status"] == "late"
    late.about("another model")
    assert not late.rows


def test_a_section_that_hangs_is_ended_and_one_of_its_own_process_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--out", str(tmp_path), "--device", "cpu", "--only", "machine"]
    assert kit.main(arguments) == 0
    assert sheets(tmp_path)["machine"]["machine"]["environment"]["device"] == "cpu"
    monkeypatch.setattr(kit, "GRACE", 0.05)
    kit.apart(small_card(tmp_path, until=-1.0), "parity", arguments)
    assert "did not end in its time" in sheets(tmp_path)["parity"]["the section itself"]["why"]
