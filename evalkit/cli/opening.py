"""How does ``evalkit audit`` open what the engine knows: adapters, recipes, run directories?"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.cli.recipe import ASSETS, DEFAULT_ADAPTERS, Recipe, RunSettings, read_recipe
from evalkit.errors import InputError

if TYPE_CHECKING:
    from evalkit.legality.engine.setup import Setup
    from evalkit.stream import Stream

DEFAULT = "default"


def kind_of(target: str) -> str:
    """ "run", "recipe", "adapter", "zoo" or "scorer"."""
    from evalkit.adapters.registry import known
    from evalkit.settings import split_spec

    if target.startswith("zoo:"):
        return "zoo"
    if Path(target).is_dir():
        return "run"
    if target.endswith(".toml") or target == DEFAULT:
        return "recipe"
    return "adapter" if all(split_spec(part)[0] in known() for part in target.split("+")) else "scorer"


def open_adapters(target: str) -> list[Any]:
    """``ppm`` or ``slot:chunk=16+ppm`` -> adapters in stack order."""
    from evalkit.adapters.registry import parse_adapter

    _calm()
    return [parse_adapter(part) for part in target.split("+")]


def open_recipe(target: str) -> tuple[Setup, Stream]:
    """A recipe file, or "default": what ``evalkit eval`` scores without arguments."""
    if target == DEFAULT:
        return _open(Recipe(run=RunSettings(), adapters=[(name, {}) for name in DEFAULT_ADAPTERS]))
    if not Path(target).is_file():
        raise InputError(f"recipe {target}: no such file")
    return _open(read_recipe(Path(target)))


def open_run(run: dict[str, Any]) -> tuple[Setup, Stream]:
    """Model, adapters and text of a run, from the settings kept in run.json."""
    said = run["settings"]
    bundled = said.get("checkpoint") in (None, "bundled")
    settings = RunSettings(
        checkpoint=None if bundled else said["checkpoint"],
        text=list(said.get("text") or []),
        plan=_plan(said["plan"]),
        limit_tokens=said.get("limit_tokens"),
        chunk_tokens=said["chunk_tokens"],
        batch_tokens=said["batch_tokens"],
        seed=said["seed"],
        device=said.get("device") or "auto",
        threads=run["fingerprint"].get("threads"),
    )
    names = [{k: v for k, v in a.items() if v is not None} for a in said["adapters"]]
    return _open(Recipe(run=settings, adapters=[(a.pop("adapter"), a) for a in names]))


def _plan(said: dict[str, Any]) -> str:
    options = ",".join(f"{k}={v}" for k, v in said.items() if k != "name")
    return f"{said['name']}:{options}" if options else said["name"]


def _open(recipe: Recipe) -> tuple[Setup, Stream]:
    from evalkit.cli.session import open_parts
    from evalkit.legality.engine.setup import Setup
    from evalkit.scoring.score import default_plan

    _calm()
    run = recipe.run
    run.text = run.text or [str(ASSETS / "sample.jsonl.xz")]
    model, stream, plan, adapters = open_parts(recipe)
    plan = plan or default_plan(model, run.chunk_tokens)
    setup = Setup(model, stream.tokenizer, tuple(adapters), plan, run.chunk_tokens, run.batch_tokens, run.seed)
    return setup, stream


def _calm() -> None:
    """Idle threads sleep: a spinning one slows each short call on a busy machine."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
