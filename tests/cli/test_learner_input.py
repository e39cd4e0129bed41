"""Bad settings of learners are one sentence and exit code 2; a learner that runs away stops the run with exit code 1."""

from __future__ import annotations

from pathlib import Path

import pytest

from evalkit.scoring.journal import read_journal

HEADLESS = """
from evalkit.models.golf import GolfGPT, GolfOptions

class Headless(GolfGPT):
    can = frozenset({"parameters"})

    def __init__(self):
        shape = {"vocab": 260, "width": 16, "layers": 1, "heads": 2, "kv_heads": 1, "hidden": 16}
        super().__init__(shape, GolfOptions(), tied=True)

    @classmethod
    def load(cls, path, *, device):
        return cls()
"""


@pytest.fixture
def score(evalkit, checkpoint: Path, text: Path):
    def run(*arguments: object, model: object = None):
        common = ("--tokenizer", "byte", "--plan", "sliding:seq_len=48,stride=16", "--limit-tokens", "200")
        return evalkit("eval", "--checkpoint", model or checkpoint, "--text", text, *common, *arguments)

    return run


def sentence(said, code: int) -> str:
    """The one line that is left for the user."""
    assert said.code == code, said.err
    assert said.out == ""
    assert "Traceback" not in said.err
    lines = [line for line in said.err.splitlines() if line.startswith("evalkit")]
    assert len(lines) == 1, said.err
    return lines[0]


@pytest.mark.parametrize(
    ("adapter", "words"),
    [
        ("lora_ttt:chunk=64,rank=0", ("rank", "at least 1", "got 0")),
        ("lora_ttt:chunk=64,rank=33", ("rank 33", "layer", "rank <=")),
        ("lora_ttt:chunk=64,targets=[quary]", ("'quary'", "matches no linear layer", "known:")),
        ("lora_ttt:chunk=64,lr=0", ("lr must be a positive number", "got 0")),
        ("full_ttt:chunk=64,lr=-1", ("lr must be a positive number", "got -1")),
        ("muon_ttt:chunk=50", ("chunk 50", "multiple of the 16 targets", "choose chunk=48")),
        ("slot:chunk=50", ("chunk 50", "multiple of the 16 targets", "choose chunk=48")),
    ],
)
def test_bad_settings(score, adapter: str, words: tuple[str, ...]) -> None:
    line = sentence(score("--adapter", adapter), 2)
    assert all(word in line for word in words), line


def test_slot_on_a_model_without_a_head_of_its_own(score, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "headless_model.py").write_text(HEADLESS, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    line = sentence(score("--adapter", "slot:chunk=64", model="headless_model:Headless"), 2)
    assert "adapter slot" in line
    assert "hidden states apart from its head" in line


@pytest.mark.parametrize("adapter", ["full_ttt:chunk=64,lr=1e6", "lora_ttt:chunk=64,lr=1e6"])
def test_a_learner_that_runs_away(score, adapter: str, tmp_path: Path) -> None:
    line = sentence(score("--adapter", adapter, "--out", tmp_path / "r"), 1)
    for word in ("chunk 0", "booked targets 1..64", "norm", "learning rate 1e+06", "lower lr"):
        assert word in line
    assert [c.hi for c in read_journal(tmp_path / "r" / "journal.jsonl")[1]] == [65]


UNTOLD = """
from evalkit.models.golf import GolfGPT, GolfOptions

class Untold(GolfGPT):
    def __init__(self):
        shape = {"vocab": 260, "width": 16, "layers": 1, "heads": 2, "kv_heads": 1, "hidden": 16}
        super().__init__(shape, GolfOptions(), tied=True)

    def logits(self, ids):
        return self.head(self.hidden(ids))

    @classmethod
    def load(cls, path, *, device):
        return cls()

class Bare:
    @classmethod
    def load(cls, path, *, device):
        return cls()
"""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Untold", ("Untold.logits(ids) cannot take (ids, owners)", "write def logits(self, ids, owners)")),
        ("Bare", ("Bare is not a model; it must have can, device,", "tokenizer_model")),
    ],
)
def test_a_model_of_another_protocol_is_told_what_to_write(
    score, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: tuple[str, ...]
) -> None:
    (tmp_path / "untold.py").write_text(UNTOLD)
    monkeypatch.syspath_prepend(tmp_path)
    line = sentence(score(model=f"untold:{name}"), 2)
    assert all(word in line for word in words), line
