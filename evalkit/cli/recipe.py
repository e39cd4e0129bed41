"""The settings of a run: a recipe file, flags, and the defaults, resolved into one struct.

[run]
checkpoint = "model.ek"            # paths are relative to the recipe's folder
text = ["val.jsonl"]
plan = "sliding:seq_len=512,stride=64"

[[adapter]]
name = "ppm"
orders = [2, 3, 4, 5, 6, 7]
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import msgspec

from evalkit.errors import InputError
from evalkit.settings import make_settings, split_spec

DEFAULT_ADAPTERS = ("ppm",)
ASSETS = Path(__file__).resolve().parent.parent / "assets"


class RunSettings(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The ``[run]`` table; each field has a flag of the same name."""

    checkpoint: str | None = None
    """FILE[:key=value,...] or module:Class; the bundled checkpoint when absent."""
    trust_causal: bool = False
    """Do not ask at opening whether later tokens move the model's earlier rows."""
    tokenizer: str | None = None
    """SentencePiece model file, or "byte"; what travels with the checkpoint when absent."""
    lossy: bool = False
    """Score documents that the tokenizer changes (a normaliser that folds) as it gives them back; refused without."""
    text: list[str] = []
    """Text files and token shards; the bundled sample when empty."""
    plan: str | None = None
    limit_tokens: int | None = None
    """Score the first N targets only."""
    nproc: int = 1
    budget: float | None = None
    """Seconds."""
    shed: list[str] = []
    """Work to drop, in this order, when the budget is short: a learner's name (it learns no more) or
    NAME.WORK; empty: score all of it until the budget is used up, then stop."""
    chunk_tokens: int = 8192
    batch_tokens: int = 8192
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    sentinel: bool = True
    save_scores: bool | None = None
    planned_on: str | None = None
    """Corpus file of the text that this recipe was chosen on (evalkit plan); a text that overlaps with it is refused."""
    tracker: list[str] = []
    """Dashboards that follow the run: NAME[:key=value,...] each, of tensorboard, wandb, trackio."""
    deterministic: bool = True
    """Over several ranks: add gradients in an order that does not depend on their number."""
    max_restarts: int = 0
    """Times that torchrun starts the ranks again after one died; with --out they resume from the journal."""
    hang_seconds: float = 30.0
    """A rank without a heartbeat for so long has hung."""
    stuck_seconds: float = 900.0
    """A rank that is at the same piece of work for so long has hung, too."""


class Recipe(msgspec.Struct, kw_only=True):
    """A resolved recipe: settings of the run and adapter tables (name and raw settings), in stack order."""

    run: RunSettings
    adapters: list[tuple[str, dict[str, Any]]]


def read_recipe(path: Path) -> Recipe:
    """Read and check a recipe file.  InputError names the file, the place and the remedy."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"recipe {path}: no such file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as fault:
        raise InputError(f"recipe {path}: not valid TOML ({fault})") from None
    for key in raw:
        if key not in ("run", "adapter", "about"):
            raise InputError(f"recipe {path}: unknown table '{key}'; known: [run], [[adapter]], [about]")
    run = make_settings(RunSettings, raw.get("run", {}), f"recipe {path}: [run]")
    run.text = [_beside(path, t) for t in run.text]
    run.checkpoint = _beside(path, run.checkpoint) if run.checkpoint else None
    run.tokenizer = _beside(path, run.tokenizer) if run.tokenizer else None
    run.planned_on = _beside(path, run.planned_on) if run.planned_on else None
    adapters = []
    for table in raw.get("adapter", []):
        if not isinstance(table, dict) or "name" not in table:
            raise InputError(f"recipe {path}: every [[adapter]] needs a name")
        adapters.append((str(table["name"]), {k: v for k, v in table.items() if k != "name"}))
    return Recipe(run=run, adapters=adapters)


def _beside(recipe: Path, name: str) -> str:
    """A path of the recipe, relative to the recipe's folder when such a file is there."""
    path, options = split_spec(name)
    candidate = recipe.parent / path
    if Path(path).is_absolute() or not candidate.exists():
        return name
    return str(candidate) + (name[len(path) :] if options else "")
