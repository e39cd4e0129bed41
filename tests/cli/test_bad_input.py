"""Every mistake of a user is one sentence on stderr, exit code 2, no traceback."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import numpy as np
import pytest


def refused(said, *words: str) -> None:
    assert said.code == 2, said.err
    assert said.out == ""
    sentences = [line for line in said.err.splitlines() if line.startswith("evalkit")]
    assert len(sentences) == 1, said.err
    assert "Traceback" not in said.err
    for word in words:
        assert word in sentences[0], said.err


def shard(path: Path, ids: list[int], magic: int = 20240520, count: int | None = None) -> Path:
    header = struct.pack("<3i", magic, 1, len(ids) if count is None else count) + bytes(1024 - 12)
    path.write_bytes(header + np.array(ids, dtype="<u2").tobytes())
    return path


@pytest.fixture
def score(evalkit, checkpoint: Path, text: Path):
    def run(*arguments: object, text_file: Path | None = None, model: Path | str | None = None):
        common = ("--tokenizer", "byte", "--plan", "disjoint:seq_len=64")
        return evalkit("eval", "--checkpoint", model or checkpoint, "--text", text_file or text, *common, *arguments)

    return run


def test_missing_and_empty_text(score, tmp_path: Path) -> None:
    refused(score(text_file=tmp_path / "no.txt"), "no.txt", "no such file")
    (tmp_path / "empty.txt").write_bytes(b"")
    refused(score(text_file=tmp_path / "empty.txt"), "empty.txt", "empty")


def test_binary_garbage_as_text(score, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes(bytes(range(256)) * 20)
    refused(score(text_file=tmp_path / "x.txt"), "x.txt")


def test_damaged_shards(score, tmp_path: Path) -> None:
    good = [1, *range(4, 100)]
    refused(score(text_file=shard(tmp_path / "magic.bin", good, magic=20240521)), "20240521", "20240520")
    refused(score(text_file=shard(tmp_path / "short.bin", good, count=400)), "short.bin", "400")
    refused(score(text_file=shard(tmp_path / "id.bin", [1, 4, 259, 260, 5])), "260")


def test_adapters_and_plans(score) -> None:
    refused(score("--adapter", "pmm"), "'pmm'", "'ppm'")
    refused(score("--adapter", "ppm:ordres=3"), "'ordres'", "'orders'")
    refused(score("--adapter", "none", "--adapter", "ppm"), "none")
    refused(score("--plan", "sliding:stride=-1"), "-1")
    refused(score("--plan", "sliding:seq_len=64,stride=65"), "65", "64")
    refused(score("--limit-tokens", "0"), "limit-tokens", "0")
    refused(score("--budget", "-3"), "budget", "-3")
    refused(score("--chunk-tokens", "10"), "10", "64")


def test_a_tokenizer_that_does_not_fit(score, evalkit, checkpoint: Path, text: Path) -> None:
    refused(evalkit("eval", "--checkpoint", checkpoint, "--text", text), "260 ids", "--tokenizer")


def test_damaged_checkpoints(score, checkpoint: Path, tmp_path: Path) -> None:
    refused(score(model=tmp_path / "no.pt"), "no.pt")
    (tmp_path / "empty.pt").write_bytes(b"")
    refused(score(model=tmp_path / "empty.pt"), "empty")
    (tmp_path / "cut.pt").write_bytes(checkpoint.read_bytes()[:2000])
    refused(score(model=tmp_path / "cut.pt"), "cut.pt")
    (tmp_path / "noise.ek").write_bytes(b"noise" * 100)
    refused(score(model=tmp_path / "noise.ek"), "noise.ek")


def test_nan_weights_are_refused(score, checkpoint: Path, tmp_path: Path) -> None:
    import torch

    state = torch.load(checkpoint, weights_only=True)
    state["blocks.1.mlp.fc.weight"][3, 4] = float("nan")
    torch.save(state, tmp_path / "nan.pt")
    refused(score(model=tmp_path / "nan.pt"), "blocks.1.mlp.fc.weight", "NaN")


def test_a_class_that_opens_nothing(score) -> None:
    refused(score(model="json:JSONDecoder"), "json:JSONDecoder", "it has no load(path, *, device=...)")
    refused(score(model="json:Nope"), "cannot import 'json:Nope'")


def test_a_checkpoint_that_would_run_code_is_refused(score, tmp_path: Path) -> None:
    import torch

    class Boom:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"tok_emb.weight": Boom()}, tmp_path / "evil.pt")
    refused(score(model=tmp_path / "evil.pt"), "evil.pt")
    assert not (tmp_path / "ran").exists()


def test_a_tensor_of_another_shape(score, checkpoint: Path, tmp_path: Path) -> None:
    import torch

    state = torch.load(checkpoint, weights_only=True)
    torch.save(state | {"blocks.0.mlp.proj.weight": torch.zeros(3, 3)}, tmp_path / "shape.pt")
    refused(score(model=tmp_path / "shape.pt"), "(3, 3)", "(32, 48)")


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc").exists(), reason="needs a folder nobody can write to")
def test_an_unwritable_folder(score) -> None:
    refused(score("--out", "/proc/evalkit-run"), "/proc/evalkit-run")


def test_a_full_disk(score, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first fsync after the journal's header fails as a full disk does."""
    real, calls = os.fsync, list[int]()

    def fsync(handle: int) -> None:
        calls.append(handle)
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    refused(score("--out", tmp_path / "r"), "disk is full")
    assert len(calls) > 3


@pytest.mark.parametrize("plan", ["banded:window=513", "sliding:seq_len=513,stride=64", "disjoint:seq_len=513"])
def test_windows_longer_than_the_model_was_made_for(evalkit, plan: str) -> None:
    refused(evalkit("eval", "--plan", plan, "--limit-tokens", "600"), "513", "512")


def test_recipes(evalkit, tmp_path: Path) -> None:
    refused(evalkit("eval", tmp_path / "no.toml"), "no.toml")
    (tmp_path / "bad.toml").write_text("[run\n")
    refused(evalkit("eval", tmp_path / "bad.toml"), "TOML")
    (tmp_path / "key.toml").write_text("[run]\nstrid = 3\n")
    refused(evalkit("eval", tmp_path / "key.toml"), "strid")


def test_unknown_verbs_and_flags(evalkit) -> None:
    assert evalkit("evla").code == 2
    assert "'eval'" in evalkit("evla").err
    assert evalkit("eval", "--plann", "x").code == 2


def test_help_does_not_import_torch() -> None:
    import subprocess
    import sys

    code = "import sys, evalkit.cli.main as m\ntry:\n m.main(['--help'])\nexcept SystemExit: pass\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("False")
