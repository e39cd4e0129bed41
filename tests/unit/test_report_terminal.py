"""Is the table plain in a pipe, and coloured only on a terminal?"""

from __future__ import annotations

import io
from typing import Any

import pytest

from evalkit.report.terminal import plain_table, print_result
from evalkit.scoring.result import DocumentTable, Result, RunRecord, Stage, Totals


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def result(folder: Any = None, **change: Any) -> Any:
    stages = [
        Stage(adapter="ppm", bpb=2.36253, delta_bpb=-0.27247, ci95=[-0.32, -0.196]),
        Stage(adapter="a[bold]b", bpb=2.4, delta_bpb=0.03747, ci95=None),
    ]
    run = {
        "schema": 1,
        "complete": True,
        "fingerprint": {},
        "bytes_from": "text",
        "totals": Totals(targets=65536, bytes=159910, base_nats=292_000.0, base_bpb=2.635, nats=266_000.0, bpb=2.4),
        "stages": stages,
        "documents": 54,
        "settings": {"plan": {"name": "disjoint"}},
        "seconds": {"forward": 7.2, "experts": 0.2, "wall": 7.6},
        "notes": ["the base is adapted"],
    }
    return Result(RunRecord(**(run | change)), DocumentTable.from_chunks([], 3), folder)


def test_a_pipe_gets_plain_ascii() -> None:
    out = io.StringIO()
    print_result(result("/tmp/r"), out)
    text = out.getvalue()
    assert text.isascii()
    assert "\x1b" not in text
    assert text.endswith("kept in /tmp/r\n")
    lines = text.splitlines()
    assert lines[0].split() == ["stack", "BPB", "step", "95", "%", "interval", "to", "base"]
    assert lines[2] == "base        2.6350"
    assert lines[3] == "+ ppm       2.3625  -0.2725  -0.3200 .. -0.1960  -0.2725"
    assert lines[4] == "+ a[bold]b  2.4000  +0.0375        one document  -0.2350"
    assert not any(line.endswith(" ") for line in lines)
    assert "note: the base is adapted" in lines


def test_a_terminal_gets_the_same_numbers_in_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = Terminal()
    print_result(result(), out)
    text = out.getvalue()
    assert "\x1b[32m-0.2725" in text
    assert "\x1b[31m+0.0375" in text
    assert "+ a[bold]b" in text
    assert text.endswith("\n")


def test_one_document_is_singular_and_nothing_booked_has_no_rate() -> None:
    out = io.StringIO()
    nothing = Totals(targets=0, bytes=0, base_nats=0.0, base_bpb=None, nats=0.0, bpb=None)
    print_result(result(totals=nothing, stages=[], documents=1), out)
    assert "1 document  |" in out.getvalue()
    assert out.getvalue().splitlines()[2] == "base     -"


def test_seconds_of_learners_are_added_up() -> None:
    out = io.StringIO()
    seconds = {"forward": 1.0, "observe/a": 2.0, "observe/b": 0.5, "base": 0.7, "wall": 5.0}
    print_result(result(seconds=seconds), out)
    assert "5.0 s (forward 1.0, experts 0.0, base 0.7, learners 2.5)" in out.getvalue()


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    text = plain_table(("a", "b"), [("wide name", "1"), ("x", "22222")])
    assert text == "a              b\n---------  -----\nwide name      1\nx          22222\n"
