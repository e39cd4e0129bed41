"""The cost model finds the numbers that made its data, and the forecast adds them up as the run would."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.adapters.base import ChunkWork
from evalkit.adapters.registry import parse_adapter
from evalkit.budget.costs import ChunkCost, CostModel, VerbCost, Watch, fit
from evalkit.budget.forecast import Shape, alone, over_ranks
from evalkit.budget.hardware import GPUS, Work, derive_from_gpu, derive_from_work, known_gpu, parse_target
from evalkit.errors import InputError
from evalkit.scoring.loop import Spans
from tests.kit import golf_file

rates = st.floats(1e-7, 1e-3)


def test_learners_say_how_they_work_and_what_ranks_can_share() -> None:
    work = parse_adapter("full_ttt:chunk=1024,seq_len=128,micro_tokens=256,batch=0,epochs=3").work
    assert work == ChunkWork(epochs=3, seq_len=128, micro_tokens=256, batch=0)
    assert work.parts(1024) == 4, "8 sequences, 2 of them at a time"
    assert parse_adapter("full_ttt:seq_len=128,micro_tokens=256,batch=2").work.parts(1024) == 1
    assert parse_adapter("slot").work == parse_adapter("lora_lanes").work == ChunkWork()
    assert ChunkWork().parts(1024) == 1


def chunks(count: int, size: int, forward: float, rate: float, slope: float, warm: float = 0.0) -> list[ChunkCost]:
    found = []
    for i in range(count):
        hi = (i + 1) * size + 1
        seconds = {
            "forward": forward * size + (warm if i == 0 else 0.0),
            "experts": (rate + slope * math.log2(hi)) * size,
        }
        found.append(ChunkCost(i * size + 1, hi, seconds))
    return found


@given(rates, rates, st.floats(0.0, 1e-5), st.floats(0.0, 10.0), st.integers(6, 40))
def test_the_fit_gives_back_the_costs_that_made_the_chunks(
    forward: float, rate: float, slope: float, warm: float, count: int
) -> None:
    model = fit(chunks(count, 512, forward, rate, slope, warm))
    total = 512 * count
    verbs = {v.verb: v for v in model.verbs}
    assert verbs["forward"].rate == pytest.approx(forward)
    assert verbs["forward"].warm == pytest.approx(warm, abs=1e-9)
    far = 1_000_000
    exact = rate * far + slope * (far * math.log2(far) - far / math.log(2))
    assert verbs["experts"].seconds(far) == pytest.approx(exact, rel=1e-3)
    assert model.targets == total


@pytest.mark.parametrize(
    ("period", "count", "last"), [(512, 5, 400), (512, 5, 512), (1024, 9, 512), (1024, 8, 100), (512, 2, 9)]
)
def test_a_last_chunk_that_is_cut_short_does_not_hide_the_learning(period: int, count: int, last: int) -> None:
    """Learning costs 2 ms a target of its period, and happens where the period ends."""
    costs = []
    for c in chunks(count, 512, 1e-4, 1e-5, 0.0):
        hi = c.hi if c.hi < count * 512 else c.lo + last
        learning = 2e-3 * period if (hi - 1) % period == 0 else 0.0
        costs.append(ChunkCost(c.lo, hi, {"forward": 1e-4 * (hi - c.lo), "observe/full_ttt": learning}))
    model = fit(costs, period)
    assert model.seconds(100_000)["observe/full_ttt"] == pytest.approx(200.0, rel=1e-9)
    assert model.seconds(100_000)["forward"] == pytest.approx(10.0, rel=1e-9)


def test_a_phase_is_a_period_and_calibration_covers_whole_ones() -> None:
    from evalkit.adapters.registry import parse_adapter
    from evalkit.budget.calibrate import period_of

    stack = [parse_adapter(s) for s in ("phased_ttt:chunk=512,every=2048", "slot", "full_ttt:chunk=3072", "ppm")]
    assert period_of(stack, 512) == 6144
    assert period_of([parse_adapter("slot")], 512) == 512
    assert period_of([parse_adapter("ppm")], 512) == 1


def test_noise_without_growth_gives_no_slope_and_an_honest_interval() -> None:
    rng = np.random.default_rng(1)
    costs = [ChunkCost(c.lo, c.hi, {k: v * rng.normal(1, 0.2) for k, v in c.seconds.items()}) for c in chunks(40, 512, 1e-4, 1e-5, 0.0)]  # fmt: skip  # noqa: E501
    model = fit(costs)
    assert {v.slope for v in model.verbs} == {0.0}
    assert 0.03 <= model.noise < 0.15
    assert sum(model.seconds(512 * 40).values()) == pytest.approx(512 * 40 * 1.1e-4, rel=0.1)
    assert fit(costs[:2]).noise == 0.25


def test_a_watch_cuts_the_spans_at_the_chunks_ends() -> None:
    spans = Spans(origin=100.0)
    spans.events = [("forward", 0.0, 1.0), ("experts", 1.0, 1.5), ("forward", 2.0, 4.0), ("book", 4.0, 4.5)]
    ends = iter([102.0, 105.0])
    watch = Watch(lambda: next(ends))
    for lo, hi in ((1, 11), (11, 21)):
        watch.chunk(SimpleNamespace(lo=lo, hi=hi))
    first, second = watch.costs(spans)
    assert first == ChunkCost(1, 11, {"forward": 1.0, "experts": 0.5, "other": 0.5})
    assert second.seconds == {"forward": 2.0, "book": 0.5, "other": 0.5}
    assert first.total + second.total == pytest.approx(5.0)


def model(forward: float, experts: float, observe: float = 0.0) -> CostModel:
    verbs = [VerbCost("forward", forward), VerbCost("experts", experts), VerbCost("observe/lora_ttt", observe)]
    return CostModel(tuple(verbs), 0.05, 1000)


def parts(m: CostModel, shape: Shape) -> dict[str, float]:
    return {place: m.place(place, shape.targets) for place in ("device", "host", "learn")}


def test_one_process_does_one_thing_after_the_other() -> None:
    shape = Shape(1000, 100, 4, learners=True)
    found = alone(model(0.02, 0.01, 0.005), shape)
    assert found.total == pytest.approx(35.0)
    assert (found.low, found.high) == pytest.approx((35.0 * 0.95, 35.0 * 1.05))
    assert found.path == "device"


def test_ranks_share_the_forward_until_the_sequencer_decides() -> None:
    shape, m = Shape(100_000, 1000, 4, learners=False), model(1e-3, 1e-4)
    seconds = [over_ranks(parts(m, shape), shape, n, True, 0.05) for n in (1, 2, 4, 8, 16, 64)]
    assert [s.path for s in seconds] == ["device", "device", "device", "device", "host", "host"]
    assert [round(s.total) for s in seconds] == [100, 50, 25, 13, 10, 10]
    crowded = over_ranks(parts(m, shape), shape, 2, False, 0.05)
    assert crowded.total == pytest.approx((100 + 10) / 2 + 0.25)


def test_a_learner_makes_a_barrier_of_every_chunk() -> None:
    shape, m = Shape(100_000, 1000, 4, learners=True, parts_a_step=2), model(1e-3, 1e-4, 1e-3)
    two, eight = (over_ranks(parts(m, shape), shape, n, True, 0.05) for n in (2, 8))
    assert two.total == pytest.approx(50 + 2.5 + 50)
    assert eight.total == pytest.approx(25 + 2.5 + 50)
    assert eight.path == "learn"


def test_a_budget_is_met_only_by_the_upper_end() -> None:
    found = alone(model(0.01, 0.0), Shape(1000, 100, 1, learners=False))
    assert found.total == pytest.approx(10.0)
    assert not found.fits(10.2)
    assert found.fits(10.5)


@pytest.mark.parametrize("text", ["8xH300", "eight", "0xH100", "", "8x"])
def test_unknown_hardware_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="write COUNTxGPU"):
        parse_target(text)


def test_targets_and_what_is_derived_for_them() -> None:
    target = parse_target("8xh100")
    assert (target.count, target.gpu.name, target.name) == (8, "H100", "8xH100")
    assert parse_target("H200").count == 1
    same = derive_from_gpu(2e-6, GPUS["H100"], GPUS["H100"])
    assert (same.low, same.high) == (2e-6, 2e-6)
    slower = derive_from_gpu(2e-6, GPUS["H200"], GPUS["H100"])
    assert slower.low == 2e-6
    assert slower.high == pytest.approx(2e-6 * 4.8 / 3.35)
    small = derive_from_work(Work(1000, 1e3, 100, 0.0), GPUS["H100"])
    assert small.low == small.high == pytest.approx(100 * 6e-6 / 1000)
    large = derive_from_work(Work(1000, 1e15, 100, 0.0), GPUS["H100"])
    assert large.high / large.low == pytest.approx(0.5 / 0.15)
    assert "derived, not measured" in large.assumption
    assert known_gpu("NVIDIA H200") is GPUS["H200"]
    assert known_gpu(None) is None


@pytest.fixture
def flags(tmp_path: Path) -> list[str]:
    golf_file(tmp_path / "model.pt", layers=1, heads=1, hidden=16, std=None)
    (tmp_path / "text.txt").write_text("the cat sat on the mat and the dog sat on the log. " * 200, encoding="utf-8")
    common = ["--checkpoint", str(tmp_path / "model.pt"), "--text", str(tmp_path / "text.txt"), "--tokenizer", "byte"]
    return ["profile", *common, "--plan", "disjoint:seq_len=64", "--chunk-tokens", "512", "--threads", "1"]


def profile(flags: list[str], capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, dict[str, Any]]:
    from evalkit.cli.main import main

    code = main([*flags, *more, "--json", "-"])
    return code, json.loads(capsys.readouterr().out)


def test_a_profile_names_every_verb_and_says_what_fits(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "kept"
    stack = ["--adapter", "full_ttt:chunk=512,seq_len=64", "--adapter", "ppm"]
    code, report = profile(flags, capsys, *stack, "--tokens", "4096", "--budget", "3600", "--out", str(out))
    assert code == 0
    assert report["calibration"]["targets"] == 4096
    assert report["calibration"]["of"] == 10200
    verbs = {row["verb"]: row for row in report["stages"]}
    assert {"forward", "base", "experts", "observe/full_ttt", "journal", "other"} <= set(verbs)
    assert sum(row["share"] for row in verbs.values()) == pytest.approx(1.0)
    assert report["here"]["total"] == pytest.approx(sum(row["seconds"] for row in verbs.values()))
    assert report["here"]["low"] < report["here"]["total"] < report["here"]["high"] < 3600
    assert report["fits"] is True
    assert [o["what"] for o in report["options"]] == [
        "plan sliding:seq_len=512,stride=64", "plan sliding:seq_len=512,stride=32", "full_ttt with 2 epochs"
    ]  # fmt: skip
    dear = {o["what"]: o["total"] for o in report["options"]}
    assert (
        dear["plan sliding:seq_len=512,stride=32"]
        > dear["plan sliding:seq_len=512,stride=64"]
        > report["here"]["total"]
    )
    assert dear["full_ttt with 2 epochs"] == pytest.approx(
        report["here"]["total"] + verbs["observe/full_ttt"]["seconds"], rel=1e-6
    )
    assert json.loads((out / "trace.json").read_text())["traceEvents"]
    code, _ = profile(flags, capsys, "--tokens", "1024", "--budget", "0.001")
    assert code == 1


def test_documents_that_learn_by_themselves_have_one_plan_and_one_epoch(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    lanes = "lora_lanes:lanes=2,chunk=16,rank=2,targets=[q,v]"
    plan = ["--plan", "document:seq_len=64,stride=32"]
    code, report = profile(flags, capsys, *plan, "--adapter", lanes, "--tokens", "1024")
    assert code == 0
    assert report["options"] == []
    assert report["here"]["total"] > 0


def test_a_profile_for_other_hardware_prints_its_assumption(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    from evalkit.cli.main import main

    code, report = profile(flags, capsys, "--tokens", "1024", "--target", "8xH100")
    assert code == 0
    assert report["target"]["name"] == "8xH100"
    assert "derived, not measured" in report["target"]["assumption"]
    assert report["budget"] == 600.0
    assert main([*flags, "--tokens", "1024", "--target", "8xH100"]) == 0
    said = capsys.readouterr().out
    assert "forecast 8xH100: " in said
    assert "budget 600 s: fits" in said
    assert main([*flags, "--target", "8xT4"]) == 2
    assert "write COUNTxGPU" in capsys.readouterr().err


def test_a_span_inside_another_takes_its_time_out_of_it() -> None:
    spans = Spans()
    with spans.span("forward"), spans.span("propose"):
        pass
    verbs, begins, ends = zip(*spans.events, strict=True)
    assert verbs == ("forward", "propose", "forward")
    assert begins[1:] == ends[:-1]
    assert sum(spans.seconds.values()) == pytest.approx(ends[-1] - begins[0])
