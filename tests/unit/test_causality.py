"""Is every model that reads ahead refused when it is opened, and every honest one let in?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from evalkit.errors import InputError
from evalkit.models import causality
from evalkit.models.causality import probe, require_causal
from evalkit.models.registry import open_checkpoint
from tests.zoo.model import HONEST, LEAKS, BlockMeans, Mixer, Recurrence, ShortConvolution


@pytest.mark.parametrize("leak", LEAKS)
def test_a_leak_is_named_by_place(leak: type[Mixer]) -> None:
    model = leak()
    found = probe(model)
    move = found.moves[0]
    assert move.form == "suffix"
    assert move.row < move.changed
    ids = np.random.default_rng(0).integers(0, model.vocab_size, found.tokens)
    other = ids.copy()
    other[move.changed : move.changed + 1 if move.alone else None] += 1
    a, b = (model.rows(x[None] % model.vocab_size)[0, move.row] for x in (ids, other))
    assert np.abs(a - b).max() > 0
    with pytest.raises(InputError, match=f"is not causal: position {move.row}, .* when the later"):
        require_causal(model, "zoo")


@pytest.mark.parametrize("honest", HONEST)
def test_a_look_alike_is_let_in(honest: type[Mixer]) -> None:
    found = probe(honest())
    assert found.causal
    assert found.forms == ["suffix", "batch", "prefix", "repeat"]


@pytest.mark.parametrize("length", [2, 5, 16, 100])
def test_models_made_for_little_are_asked_what_they_take(length: int) -> None:
    model = ShortConvolution()
    model.max_seq_len = length
    assert probe(model).tokens == length
    assert probe(model).causal
    leak = BlockMeans()
    leak.max_seq_len = length
    assert not probe(leak).causal


def test_a_large_vocabulary_runs_in_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = probe(BlockMeans())
    monkeypatch.setattr(causality, "CELLS", 3 * 1024 * 32)
    parts = probe(BlockMeans())
    assert parts.calls > whole.calls
    assert parts.moves == whole.moves
    assert probe(Recurrence()).causal


class Remembers(ShortConvolution):
    """Adds what the call before it ended with."""

    last: float = 0.0

    def mix(self, x: Any) -> Any:
        mixed = super().mix(x) + self.last
        self.last = float(x[0, -1, 0])
        return mixed


class ReadsItsMates(ShortConvolution):
    """Adds the mean over the batch."""

    def mix(self, x: Any) -> Any:
        return super().mix(x) + x.mean(axis=0, keepdims=True)


class KnowsTheLength(ShortConvolution):
    """Positions count from the end."""

    def mix(self, x: Any) -> Any:
        return super().mix(x) + 1.0 / (x.shape[1] - np.arange(x.shape[1]))[:, None]


class Banded(ShortConvolution):
    """A banded pass that reads one token ahead, by ``ahead``, or is off by ``off``."""

    can: ClassVar[frozenset[str]] = frozenset({"banded"})
    ahead = off = 0.0

    def banded(self, ids: torch.Tensor, owners: torch.Tensor, state: Any, window: int) -> tuple[torch.Tensor, Any]:
        past = [] if state is None else list(state)
        every = np.array([*past, *ids.tolist()])
        rows = self.rows(every[None])[0, len(past) :] + self.off
        rows[:-1, 0] += self.ahead * every[len(past) + 1 :]
        return torch.from_numpy(rows), tuple(every.tolist())


class SplitHead(ShortConvolution):
    """A head that mixes positions."""

    can: ClassVar[frozenset[str]] = frozenset({"hidden"})

    def hidden(self, ids: torch.Tensor, owners: torch.Tensor | None = None) -> torch.Tensor:
        return self.logits(ids)

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + torch.roll(hidden, 1, dims=1)


@pytest.mark.parametrize(
    ("model", "form", "told"),
    [
        (Remembers(), "repeat", "given again"),
        (ReadsItsMates(), "batch", "other windows of the batch"),
        (KnowsTheLength(), "prefix", "is cut after"),
        (SplitHead(), "head", "on some positions"),
    ],
)
def test_other_ways_to_read_ahead(model: Mixer, form: str, told: str) -> None:
    found = probe(model)
    assert form in [m.form for m in found.moves]
    with pytest.raises(InputError, match=told if len(found.moves) == 1 else "position"):
        require_causal(model, "x")


@pytest.mark.parametrize(
    ("ahead", "off", "form"), [(0.0, 0.0, None), (0.1, 0.0, "banded suffix"), (0.0, 0.5, "banded")]
)
def test_the_banded_pass_is_asked_too(ahead: float, off: float, form: str | None) -> None:
    model = Banded()
    model.ahead, model.off = ahead, off
    forms = [m.form for m in probe(model).moves]
    assert (form in forms) if form else not forms


def test_half_precision_is_judged_by_its_own_rounding() -> None:
    class Half(ShortConvolution):
        def rows(self, ids: Any) -> Any:
            return super().rows(ids) + 5e-2 * ids.shape[1] / 1024 * (np.arange(32) < 9)

    model = Half()
    assert not probe(model).causal
    model.module = torch.nn.Linear(2, 2).bfloat16()
    assert probe(model).causal


def test_a_pass_is_remembered_for_our_own_code_alone(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    open_checkpoint(checkpoint)
    (kept,) = (tmp_path / "evalkit" / "causal").iterdir()
    assert json.loads(kept.read_text())["moves"] == []
    monkeypatch.setattr(causality, "probe", lambda model: pytest.fail("asked again"))
    open_checkpoint(checkpoint)
    with pytest.raises(pytest.fail.Exception, match="asked again"):
        require_causal(Remembers(), "a stranger's")


def test_a_cache_that_cannot_be_written_is_no_fault(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert open_checkpoint(checkpoint).vocab_size == 260


DOOR = """
import numpy as np
from tests.zoo.model import BlockMeans

class Wide(BlockMeans):
    vocab_size = 260

    def rows(self, ids):
        return np.tile(super().rows(ids % 32), 9)[..., :260]

class Door:
    @staticmethod
    def load(path, *, device="cpu", **options):
        return Wide()
"""


def test_the_command_line_refuses_and_trusts_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from evalkit.cli.main import main

    (tmp_path / "leaky_door.py").write_text(DOOR)
    (tmp_path / "t.txt").write_text("one two three. " * 40)
    monkeypatch.syspath_prepend(str(tmp_path))
    flags = ["eval", "--checkpoint", "leaky_door:Door", "--tokenizer", "byte", "--text", str(tmp_path / "t.txt")]
    flags += ["--adapter", "none", "--plan", "disjoint:seq_len=64", "--json", "-"]
    assert main(flags) == 2
    said = capsys.readouterr().err
    assert "is not causal: position" in said
    assert "--trust-causal" in said
    assert main([*flags, "--trust-causal"]) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["trust_causal"] is True


def test_an_audit_of_a_checkpoint_is_the_deep_form(capsys: pytest.CaptureFixture[str]) -> None:
    from evalkit.cli.main import main

    assert main(["audit", "--checkpoint", "tests.zoo.model:ShortConvolution", "--json", "-"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["verdict"] == "legal"
    assert told["laws"]["causal"]["probes"] > 80
    assert told["laws"]["normalised"]["status"] == "ok"
    assert {c["name"] for c in told["checks"]} == {"suffix", "batch", "prefix", "repeat"}
    assert main(["audit", "--checkpoint", "tests.zoo.model:BlockMeans"]) == 1
    said = capsys.readouterr().out
    assert "when the later token" in said
    assert main(["audit", "ppm", "--checkpoint", "x"]) == 2


def test_a_rule_at_one_late_border_is_found_by_the_deep_form() -> None:
    """One token ahead, at row 383 alone."""

    class OneRow(ShortConvolution):
        def mix(self, x: Any) -> Any:
            mixed = super().mix(x)
            if x.shape[1] > 384:
                mixed[:, 383] += x[:, 384]
            return mixed

    assert probe(OneRow()).causal
    found = probe(OneRow(), deep=True)
    assert (found.moves[0].row, found.moves[0].changed) == (383, 384)
