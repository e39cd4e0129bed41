"""What does a run do?  A recipe: a strict TOML file of five tables, every field with a default, a unit and a reason."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import msgspec

from evalkit.errors import InputError, nearest
from train.config import GPTConfig

FOLDER = Path(__file__).with_name("recipes")


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of the tables: frozen, strict, keyword-only."""


class Data(Table, frozen=True, forbid_unknown_fields=True, kw_only=True):
    held_out_permille: int = 4
    """Documents of 1000 kept out of training, for the log's BPB and the choice of export settings."""


class Run(Table, frozen=True, forbid_unknown_fields=True, kw_only=True):
    steps: int = 3000
    seconds: float = 0.0
    """Wall-clock budget; 0 means steps alone decide, and the run is deterministic."""
    tokens_per_step: int = 4096
    seq_lens: tuple[int, ...] = (256, 512)
    """Sequence lengths in turn, tokens."""
    long_from: float = 0.6
    """Progress at which the next sequence length starts (shared evenly when there are more than two)."""
    seed: int = 0
    precision: str = "auto"
    """"auto" probes once and records the choice; "bf16" or "fp32" fix it."""
    device: str = "auto"
    threads: int = 0
    """Torch threads; 0 takes what the process may use."""
    eval_every: int = 500
    eval_tokens: int = 65_536
    checkpoint_every: int = 250


class Optim(Table, frozen=True, forbid_unknown_fields=True, kw_only=True):
    muon_lr: float = 0.03
    muon_weight_decay: float = 0.05
    momentum: tuple[float, float] = (0.85, 0.95)
    momentum_steps: int = 200
    row_norm: bool = True
    embed_lr: float = 0.03
    scalar_lr: float = 0.02
    adam_betas: tuple[float, float] = (0.9, 0.95)
    adam_eps: float = 1e-8
    adam_weight_decay: float = 0.02
    clip: float = 0.3
    """Global gradient norm."""
    lr_warmup_steps: int = 20
    warmdown: float = 0.75
    floor: float = 0.05
    ema: float = 0.0
    """Decay of the averaged weights, 0 for none; ramped as min(ema, (1 + t) / (10 + t))."""


class Export(Table, frozen=True, forbid_unknown_fields=True, kw_only=True):
    matrix_bits: int = 6
    matrix_k: float = 10.0
    """SDClip: quantisation step = k * std(row) / (2^(bits - 1) - 1); larger k, fewer bytes."""
    embed_bits: int = 8
    embed_k: float = 14.0
    gptq: bool = True
    calibration_tokens: int = 65_536


class Recipe(Table, frozen=True, forbid_unknown_fields=True, kw_only=True):
    model: GPTConfig = GPTConfig()
    data: Data = Data()
    run: Run = Run()
    optim: Optim = Optim()
    export: Export = Export()


def load_recipe(name: str, overrides: list[str] | None = None) -> Recipe:
    """Read a bundled recipe by name, or a TOML file by path, then apply ``table.key=value`` overrides."""
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if not path.is_file():
        raise InputError(f"unknown recipe '{name}'{nearest(name, (p.stem for p in FOLDER.glob('*.toml')))}")
    try:
        tree = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"recipe {path} is not TOML: {error}") from None
    for item in overrides or []:
        _override(tree, item)
    try:
        recipe = msgspec.convert(tree, Recipe)
    except msgspec.ValidationError as error:
        raise InputError(f"recipe {path}: {error}; see train/recipe.py for the fields") from None
    return _check(recipe)


def _override(tree: dict[str, Any], item: str) -> None:
    key, equals, value = item.partition("=")
    table, dot, field = key.strip().partition(".")
    if not equals or not dot:
        raise InputError(f"--set takes table.key=value, got '{item}'; for example --set run.steps=100")
    try:
        parsed = tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    tree.setdefault(table, {})[field.strip()] = parsed


def _check(recipe: Recipe) -> Recipe:
    recipe.model.check()
    run, longest = recipe.run, max(recipe.run.seq_lens, default=0)
    if run.steps < 1 or longest < 1 or run.tokens_per_step % longest or any(longest % n for n in run.seq_lens):
        raise InputError(
            f"run.tokens_per_step {run.tokens_per_step} must be whole sequences of {longest} tokens, each of run.seq_lens "
            f"{run.seq_lens} must divide the longest, and run.steps {run.steps} must be positive"
        )
    if run.precision not in ("auto", "bf16", "fp32"):
        raise InputError(f"unknown run.precision '{run.precision}'{nearest(run.precision, ('auto', 'bf16', 'fp32'))}")
    return recipe
