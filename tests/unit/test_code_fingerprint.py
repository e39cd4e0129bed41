"""The code fingerprint covers what computes the scores, and nothing else: what may change under a run that resumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evalkit.adapters.base import LearnerProxy
from evalkit.adapters.registry import parse_adapter
from evalkit.errors import InputError
from evalkit.plan import parse_plan
from evalkit.scoring import environment
from evalkit.scoring.environment import ROOT, SCORING, code_fingerprint, sources
from evalkit.scoring.guard import Guard
from evalkit.scoring.score import ScoreOptions, score
from tests.kit import golf, tiny_stream

PLAN = "sliding:seq_len=48,stride=16"


def in_play(*parts: Any) -> set[str]:
    return set(sources({"evalkit.scoring.loop", *(type(part).__module__ for part in parts)}))


def test_a_run_is_made_of_its_model_its_adapters_and_the_loop() -> None:
    found = in_play(golf(), parse_plan(PLAN), parse_adapter("ppm"), parse_adapter("lora_ttt"))
    inside = {"models.golf", "models.attention", "models.forward", "models.lanes", "plan.plan", "stream.pieces"}
    inside |= {"adapters.base", "adapters.stack", "scoring.loop", "scoring.ledger", "scoring.run"}
    inside |= {type(parse_adapter(name)).__module__.removeprefix("evalkit.") for name in ("ppm", "lora_ttt")}
    assert {f"evalkit.{name}" for name in inside} <= found
    assert {name.split(".")[1] for name in found} == set(SCORING)
    assert not any("slot" in name or "phased" in name or name == "evalkit.models.hf" for name in found)


def test_what_an_adapter_imports_when_it_is_used_counts() -> None:
    """Learners import torch and their models inside functions."""
    assert "evalkit.adapters.learners.lora" not in in_play(parse_adapter("ppm"))
    assert "evalkit.adapters.learners.lora" in in_play(parse_adapter("lora_ttt"))


def test_an_adapter_of_the_user_counts_with_its_own_file(tmp_path: Path) -> None:
    path = tmp_path / "mine_for_the_fingerprint.py"
    source = "from evalkit.adapters.strict import StrictExpert\nclass Mine(StrictExpert):\n    name = 'mine'\n"
    path.write_text(source)
    one = parse_adapter(f"{path}:Mine")
    found = sources([type(one).__module__])
    assert found[type(one).__module__] == path.resolve()
    before = code_fingerprint([one])
    path.write_text(source + "# another rule\n")
    environment._digest.cache_clear()
    assert code_fingerprint([one]) != before


def test_ranks_do_not_show() -> None:
    """The harness puts a proxy before each learner; a run resumes on any number of ranks."""
    learner = parse_adapter("lora_ttt")
    assert code_fingerprint([LearnerProxy(learner)]) == code_fingerprint([learner])


@pytest.mark.parametrize(
    ("changed", "resumes"),
    [
        ("legality/target.py", True),
        ("report/html.py", True),
        ("cli/eval.py", True),
        ("budget/costs.py", True),
        ("adapters/experts/hints.py", True),
        ("models/golf.py", False),
        ("adapters/experts/ppm.py", False),
        ("plan/plan.py", False),
        ("scoring/ledger.py", False),
    ],
)
def test_a_run_resumes_unless_its_code_changed(
    changed: str, resumes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(guard: Guard | None = None) -> Any:
        adapters, options = [parse_adapter("ppm")], ScoreOptions(chunk_tokens=64)
        return score(model, stream, adapters, parse_plan(PLAN), out=tmp_path / "run", options=options, guard=guard)

    path = ROOT / changed
    assert path.is_file()
    model, stream = golf(), tiny_stream(tmp_path, 200)
    asked = iter([False, True])
    assert not run(Guard(lambda: next(asked))).complete
    real = environment._read
    monkeypatch.setattr(environment, "_read", lambda p: real(p) + (b"\n# a comment" if p == path else b""))
    environment._digest.cache_clear()
    try:
        if resumes:
            assert run().complete
        else:
            with pytest.raises(InputError, match="holds a run with another code"):
                run()
    finally:
        environment._digest.cache_clear()
