"""Do dashboards follow a run, and can none of them harm it?  With fake packages: no network, none installed."""

from __future__ import annotations

import importlib.machinery
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from evalkit.errors import InputError
from evalkit.report.trackers.tracker import ROWS, Trackers, open_trackers
from evalkit.scoring.ledger import BookedChunk, DocumentPart
from evalkit.scoring.result import Result, RunRecord, Stage, Totals
from evalkit.units import LN2
from tests.kit import golf_file

Calls = list[tuple[Any, ...]]


def fake(monkeypatch: pytest.MonkeyPatch, name: str, **content: Any) -> ModuleType:
    module = ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    module.__dict__.update(content)
    monkeypatch.setitem(sys.modules, name, module)
    return module


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Fakes of the three packages that write down what they are asked."""
    found: Calls = []

    class Writer:
        def __init__(self, folder: str) -> None:
            found.append(("tensorboard", "open", folder))

        def add_text(self, name: str, text: str) -> None:
            found.append(("tensorboard", "text", name, text))

        def add_scalar(self, name: str, value: float, step: int) -> None:
            found.append(("tensorboard", "scalar", name, value, step))

        def close(self) -> None:
            found.append(("tensorboard", "close"))

    class Run:
        summary = SimpleNamespace(update=lambda totals: found.append(("wandb", "summary", totals)))

        def log(self, numbers: dict[str, Any], step: int | None = None) -> None:
            found.append(("wandb", "log", numbers, step))

        def finish(self, exit_code: int) -> None:
            found.append(("wandb", "finish", exit_code))

    def init(**settings: Any) -> Run:
        found.append(("wandb", "init", settings))
        return Run()

    def chatty(**settings: Any) -> None:
        print("hello from the dashboard")
        found.append(("trackio", "init", settings))

    fake(monkeypatch, "tensorboard")
    fake(monkeypatch, "torch.utils.tensorboard", SummaryWriter=Writer)
    fake(monkeypatch, "wandb", init=init, Table=lambda **table: ("table", table))
    fake(
        monkeypatch,
        "trackio",
        init=chatty,
        log=lambda numbers, step=None: found.append(("trackio", "log", numbers, step)),
        finish=lambda: found.append(("trackio", "finish")),
        Table=lambda data: ("table", data),
    )
    return found


def chunk(index: int, lo: int, hi: int, size: int, base: float, last: float) -> BookedChunk:
    return BookedChunk(index, lo, hi, (DocumentPart(0, hi - lo, size, (base, last)),), "digest")


def result(documents: int = 2) -> Any:
    table: Any = SimpleNamespace(
        doc=np.arange(documents),
        bytes=np.full(documents, 10),
        targets=np.full(documents, 4),
        nats=np.ones((documents, 2)),
    )
    totals = Totals(targets=4, bytes=10, base_nats=17.3, base_bpb=2.5, nats=13.9, bpb=2.0)
    stages = [Stage(adapter="ppm", bpb=2.0, delta_bpb=-0.5, ci95=None)]
    said = {"schema": 1, "settings": {}, "fingerprint": {}, "complete": True, "bytes_from": "text"}
    return Result(RunRecord(**said, totals=totals, stages=stages), table)


def follow(trackers: Trackers, out: str | None = None) -> None:
    with trackers:
        trackers.start({"run": {"seed": 0}}, out)
        trackers.chunk(chunk(0, 1, 9, 20, 40.0, 30.0))
        trackers.chunk(chunk(1, 9, 17, 20, 40.0, 20.0))
        trackers.finish(result())


def test_every_tracker_gets_settings_rates_tables_and_totals(calls: Calls, capsys: Any) -> None:
    said: list[str] = []
    follow(open_trackers(["tensorboard", "wandb:project=p,mode=offline", "trackio:name=n"], said.append), "/tmp/x")
    assert said == []
    kinds = {name: [c[1] for c in calls if c[0] == name] for name in ("tensorboard", "wandb", "trackio")}
    assert kinds["wandb"] == ["init", "log", "log", "log", "log", "summary", "finish"]
    assert kinds["trackio"] == ["init", "log", "log", "log", "log", "log", "finish"]
    assert kinds["tensorboard"][0] == "open"
    assert kinds["tensorboard"][-1] == "close"
    assert ("tensorboard", "open", str(Path("/tmp/x/tensorboard"))) in calls
    init = next(c for c in calls if c[:2] == ("wandb", "init"))[2]
    assert init["project"] == "p"
    assert init["mode"] == "offline"
    assert init["config"]["run"] == {"seed": 0}
    last = [c for c in calls if c[:2] == ("wandb", "log") and c[3] is not None][-1]
    assert last[3] == 16
    assert last[2]["bpb"] == pytest.approx(50 / LN2 / 40)
    assert last[2]["bpb_base"] == pytest.approx(80 / LN2 / 40)
    assert last[2]["bpb_chunk"] == pytest.approx(20 / LN2 / 20)
    assert calls[-1] == ("trackio", "finish")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "hello from the dashboard" in printed.err


def test_tables_have_the_rows_of_documents_up_to_a_bound(calls: Calls) -> None:
    trackers = open_trackers(["wandb"], print)
    with trackers:
        trackers.start({})
        trackers.finish(result(ROWS + 5))
    tables = [c[2] for c in calls if c[:2] == ("wandb", "log")]
    assert tables[0]["stages"][1] == {"columns": ["adapter", "bpb", "delta_bpb"], "data": [["ppm", 2.0, -0.5]]}
    assert len(tables[1]["documents"][1]["data"]) == ROWS


class Broken:
    """Raises in one of its calls, and remembers which it got."""

    package = "broken"

    def __init__(self, where: str, fault: BaseException) -> None:
        self.where, self.fault, self.got = where, fault, list[str]()

    def _call(self, name: str) -> None:
        self.got.append(name)
        if name == self.where:
            raise self.fault

    def start(self, settings: dict[str, Any]) -> None:
        self._call("start")

    def log(self, step: int, numbers: dict[str, float]) -> None:
        self._call("log")

    def table(self, name: str, rows: Any) -> None:
        self._call("table")

    def finish(self, totals: Any) -> None:
        self._call("finish")


@pytest.mark.parametrize("where", ["start", "log", "table", "finish"])
@pytest.mark.parametrize("fault", [RuntimeError("no route\nto it"), SystemExit(3), KeyError()])
def test_one_that_raises_is_reported_once_and_dropped(where: str, fault: BaseException) -> None:
    said: list[str] = []
    broken, sound = Broken(where, fault), Broken("never", fault)
    follow(Trackers([("broken", broken), ("sound", sound)], said.append))
    assert len(said) == 1
    assert said[0].startswith("tracker broken failed and is dropped (")
    assert "\n" not in said[0]
    assert broken.got[-1] == where
    assert broken.got.count(where) == 1
    assert sound.got == ["start", "log", "log", "table", "table", "finish"]


def test_an_interrupt_is_not_swallowed() -> None:
    with pytest.raises(KeyboardInterrupt):
        follow(Trackers([("broken", Broken("log", KeyboardInterrupt()))], print))


def test_a_run_that_fails_closes_its_trackers(calls: Calls) -> None:
    def run() -> None:
        with open_trackers(["wandb", "trackio"], print) as trackers:
            trackers.start({})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run()
    assert ("wandb", "finish", 1) in calls
    assert calls[-1] == ("trackio", "finish")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("tensorbord", "did you mean 'tensorboard'"),
        ("wandb:projekt=x", "did you mean 'project'"),
        ("tensorboard:folder=a,folder=b", "given twice"),
    ],
)
def test_wrong_words_are_refused_before_the_run(calls: Calls, spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_trackers([spec], print)
    assert calls == []


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_a_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(InputError, match=f"not installed; install it with: pip install {name}"):
        open_trackers([name], print)


def test_without_trackers_nothing_happens(tmp_path: Path) -> None:
    follow(Trackers([], print), str(tmp_path))


FLAGS = ("--tokenizer", "byte", "--plan", "disjoint:seq_len=64", "--chunk-tokens", "512")


@pytest.fixture
def user(tmp_path: Path) -> list[str]:
    """A random checkpoint and a text, as flags."""
    golf_file(tmp_path / "m.pt", layers=1, std=None)
    (tmp_path / "t.txt").write_text("the cat sat on the mat. " * 100)
    return ["--checkpoint", str(tmp_path / "m.pt"), "--text", str(tmp_path / "t.txt"), *FLAGS]


def test_the_command_line_follows_and_a_resumed_run_counts_what_was_booked(
    calls: Calls, user: list[str], tmp_path: Path, capsys: Any
) -> None:
    from evalkit.cli.main import main

    out = ["--out", str(tmp_path / "r")]
    assert main(["eval", *user, *out, "--tracker", "wandb", "--tracker", "trackio", "--json", "-"]) == 0
    run = json.loads(capsys.readouterr().out)
    logged = [c for c in calls if c[:2] == ("wandb", "log") and c[3] is not None]
    assert [c[3] for c in logged] == [512, 1024, 1536, 2048, 2400]
    assert logged[-1][2]["bpb"] == pytest.approx(run["totals"]["bpb"], rel=1e-12)
    journal = tmp_path / "r" / "journal.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:4]))
    calls.clear()
    assert main(["eval", *user, *out, "--tracker", "wandb"]) == 0
    logged = [c for c in calls if c[:2] == ("wandb", "log") and c[3] is not None]
    assert logged[-1][3] == 2400
    assert logged[-1][2]["bpb"] == pytest.approx(run["totals"]["bpb"], rel=1e-12)
    assert ("wandb", "summary", run["totals"]) in calls


def test_a_recipe_names_trackers(calls: Calls, user: list[str], tmp_path: Path) -> None:
    from evalkit.cli.main import main

    recipe = tmp_path / "r.toml"
    recipe.write_text('[run]\ntracker = ["trackio:project=mine"]\n')
    assert main(["eval", str(recipe), *user]) == 0
    assert calls[0][2]["project"] == "mine"
    assert calls[-1] == ("trackio", "finish")


def test_a_tracker_that_fails_does_not_change_the_run(
    calls: Calls, user: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from evalkit.cli.main import main

    def fail(**_: Any) -> None:
        raise ConnectionError("dashboard is down")

    monkeypatch.setattr(sys.modules["trackio"], "init", fail)
    assert main(["eval", *user, "--tracker", "trackio", "--json", "-"]) == 0
    said = capsys.readouterr()
    assert said.err.count("tracker trackio failed and is dropped (ConnectionError: dashboard is down)") == 1
    assert json.loads(said.out)["complete"]
    assert main(["eval", *user, "--tracker", "nonesuch"]) == 2
