"""How ``evalkit audit`` opens what the engine knows: adapters, recipes, run directories."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.cli.recipe import ASSETS, DEFAULT_ADAPTERS, Recipe, RunSettings, read_recipe
from evalkit.errors import InputError

if TYPE_CHECKING:
    from evalkit.legality.engine.setup import Setup
    from evalkit.scoring.result import RunRecord
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
        return open_resolved(Recipe(run=RunSettings(), adapters=[(name, {}) for name in DEFAULT_ADAPTERS]))
    if not Path(target).is_file():
        raise InputError(f"recipe {target}: no such file")
    return open_resolved(read_recipe(Path(target)))


def open_run(run: RunRecord, tokenizer: str | None = None) -> tuple[Setup, Stream]:
    """Model, adapters and text of a run, from the settings kept in run.json.

    ``tokenizer``: where it lies, when neither the checkpoint carries it nor its name is a path from here.
    """
    said = run.settings
    bundled = said.get("checkpoint") in (None, "bundled")
    settings = RunSettings(
        checkpoint=None if bundled else said["checkpoint"],
        trust_causal=bool(said.get("trust_causal")),
        tokenizer=tokenizer or _named_tokenizer(said.get("tokenizer")),
        text=list(said.get("text") or []),
        lossy=bool(said.get("lossy")),
        plan=_plan(said["plan"]),
        limit_tokens=said.get("limit_tokens"),
        chunk_tokens=said["chunk_tokens"],
        batch_tokens=said["batch_tokens"],
        seed=said["seed"],
        device=said.get("device") or "auto",
        threads=run.fingerprint.get("threads"),
    )
    names = [{k: v for k, v in a.items() if v is not None} for a in said["adapters"]]
    return open_resolved(Recipe(run=settings, adapters=[(a.pop("adapter"), a) for a in names]))


def _named_tokenizer(name: str | None) -> str | None:
    """A tokenizer's name that opens it: "byte260", "bytes:separator=0", or a path that is there."""
    from evalkit.stream.tokenizer import BYTE_NAMES, RAW_BYTES

    known = name and (name in BYTE_NAMES or name.startswith(RAW_BYTES) or Path(name).is_file())
    return name if known else None


def _plan(said: dict[str, Any]) -> str:
    options = ",".join(f"{k}={v}" for k, v in said.items() if k != "name")
    return f"{said['name']}:{options}" if options else said["name"]


def open_resolved(recipe: Recipe) -> tuple[Setup, Stream]:
    """Model, adapters, plan and text of a resolved recipe."""
    from evalkit.cli.session import open_parts
    from evalkit.legality.engine.setup import Setup
    from evalkit.scoring.run import ScoreOptions, settled

    _calm()
    run = recipe.run
    run.text = run.text or [str(ASSETS / "sample.jsonl.xz")]
    model, stream, plan, adapters = open_parts(recipe)
    plan = settled(model, plan, adapters, ScoreOptions(chunk_tokens=run.chunk_tokens))[1]
    setup = Setup(model, stream.tokenizer, tuple(adapters), plan, run.chunk_tokens, run.batch_tokens, run.seed)
    return setup, stream


def open_bare(settings: dict[str, Any], checkpoint: str, tokenizer_model: bytes | None) -> tuple[Setup, Any]:
    """A setup without any text, and its tokenizer: what a decoder opens."""
    from evalkit.adapters.registry import make_adapter
    from evalkit.cli.session import choose_device
    from evalkit.legality.engine.setup import Setup
    from evalkit.models.registry import open_checkpoint, require_torch
    from evalkit.plan import parse_plan
    from evalkit.stream import open_tokenizer

    _calm()
    require_torch()
    device = choose_device(settings["device"], settings["threads"])
    model = open_checkpoint(checkpoint, device=device, trust_causal=True)  # a decoder has no later tokens
    tokenizer = open_tokenizer(tokenizer_model if tokenizer_model is not None else model.tokenizer_model)
    adapters = tuple(make_adapter(name, raw) for name, raw in settings["adapters"])
    plan = parse_plan(settings["plan"])
    sizes = (settings["chunk_tokens"], settings["batch_tokens"], settings["seed"])
    return Setup(model, tokenizer, adapters, plan, *sizes), tokenizer


def bare_settings(recipe: Recipe, setup: Setup) -> dict[str, Any]:
    """What :func:`open_bare` needs of a recipe, in JSON's types."""
    import msgspec

    from evalkit.models.device import threads

    plan = {"name": setup.plan.name, **msgspec.to_builtins(setup.plan)}
    kept = [msgspec.to_builtins(a.settings) or {} for a in setup.adapters]
    resolved = [{k: v for k, v in settings.items() if v is not None} for settings in kept]
    return {
        "plan": _plan(plan),
        "adapters": [[name, raw] for (name, _), raw in zip(recipe.adapters, resolved, strict=True)],
        "chunk_tokens": setup.chunk_tokens,
        "batch_tokens": setup.batch_tokens,
        "seed": setup.seed,
        "device": str(setup.model.device),
        "threads": threads(),
    }


def _calm() -> None:
    """Idle threads sleep: a spinning one slows each short call on a busy machine."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
