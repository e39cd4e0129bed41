"""Turns a recipe's words into a model, a stream and adapters, and says on stderr what was chosen."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from evalkit.cli.recipe import ASSETS, Recipe, RunSettings
from evalkit.errors import InputError

if TYPE_CHECKING:
    from evalkit.scoring.run import ScoreOptions

FIELD_TOKENIZERS = {1024: ASSETS / "fineweb_1024_bpe.model"}
"""Vocabulary -> the tokenizer that the field's checkpoints of that size were trained with."""


def say(text: str) -> None:
    """One line of the conversation, on stderr."""
    print(text, file=sys.stderr, flush=True)


def json_flag(parser: argparse.ArgumentParser, instead: str = "") -> None:
    """``--json FILE``, as every verb that measures or judges has it."""
    parser.add_argument("--json", metavar="FILE", help=f"machine form; '-' prints it{instead}")


def check_json(args: argparse.Namespace) -> None:
    """InputError before long work when the file could not be written after it."""
    if args.json and args.json != "-" and not Path(args.json).resolve().parent.is_dir():
        raise InputError(f"--json {args.json}: its folder does not exist")


def tell(args: argparse.Namespace, content: Any, words: Callable[[], Any]) -> None:
    """The machine form (text as it is, anything else as JSON) where ``--json`` wants it; ``words()`` where stdout is free."""
    text = content if isinstance(content, str) else json.dumps(content, indent=2)
    if args.json == "-":
        print(text)
        return
    if args.json:
        Path(args.json).write_text(
            text + "\n", encoding="utf-8"
        )  # not renamed into place: it may be a pipe or a device
    words()


def open_parts(recipe: Recipe) -> tuple[Any, Any, Any, list[Any]]:
    """(model, stream, plan or None, adapters); everything that can be refused is refused before work begins."""
    from evalkit.adapters.registry import make_adapter
    from evalkit.models.base import NotedModel
    from evalkit.models.registry import open_checkpoint, require_torch
    from evalkit.plan import parse_plan
    from evalkit.stream import open_stream

    run = recipe.run
    # A second thread that spins at a barrier while another job holds its core makes steps many times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    require_torch()
    plan = parse_plan(run.plan) if run.plan else None
    adapters = [make_adapter(name, raw) for name, raw in recipe.adapters]
    device = choose_device(run.device, run.threads)
    model = open_checkpoint(run.checkpoint, device=device, trust_causal=run.trust_causal)
    tokenizer, note = choose_tokenizer(run.tokenizer, run.checkpoint, model)
    text = run.text or [ASSETS / "sample.jsonl.xz"]
    stream = open_stream(text, tokenizer, limit_targets=run.limit_tokens, lossy=run.lossy)
    if run.planned_on:
        from evalkit.legality.provenance import check_planned

        say(check_planned(run.planned_on, stream))
    for line in (*(model.notes if isinstance(model, NotedModel) else ()), note):
        if line:
            say(line)
    say(
        f"model {Path(run.checkpoint or 'bundled').name} on {device}; tokenizer {tokenizer.name} ({tokenizer.vocab_size} ids); "
        f"text {len(stream.doc_start):,} documents, {stream.n_targets:,} targets, bytes from the {stream.bytes_from}"
    )
    return model, stream, plan, adapters


def choose_device(wanted: str, threads: int | None) -> str:
    """'auto' is cuda where there is one; sets the CPU threads, keeps the memory of batches.  InputError when it is not there."""
    import torch

    from evalkit import _native

    _native.keep_large_blocks()
    if threads is not None:
        torch.set_num_threads(threads)
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted != "cpu" and not (wanted.split(":")[0] == "cuda" and torch.cuda.is_available()):
        raise InputError(
            f"--device {wanted}: not available here; use cpu or auto ('evalkit doctor' shows what is found)"
        )
    return wanted


def choose_tokenizer(wanted: str | None, checkpoint: str | None, model: Any) -> tuple[Any, str]:
    """The one asked for, the checkpoint's own, a .model beside it, or the field's for that vocabulary; and a note."""
    from evalkit.stream import open_tokenizer

    note = ""
    own = open_tokenizer(model.tokenizer_model) if model.tokenizer_model else None
    if wanted is not None:
        tokenizer = open_tokenizer(wanted)
        if own is not None and own.fingerprint != tokenizer.fingerprint:
            raise InputError(
                f"--tokenizer {wanted}: the checkpoint was trained with another one (sha256 {own.fingerprint[:12]}, "
                f"this is {tokenizer.fingerprint[:12]}); leave --tokenizer out to use its own"
            )
    elif own is not None:
        tokenizer = own
    else:
        found, note = _find_tokenizer(checkpoint, model.vocab_size)
        tokenizer = open_tokenizer(found)
    spare = model.vocab_size - tokenizer.vocab_size
    most = 128 if own is None else model.vocab_size  # its own tokenizer belongs to it however many rows are padding
    if not 0 <= spare < most:
        raise InputError(
            f"tokenizer {tokenizer.name} has {tokenizer.vocab_size} ids, the model {model.vocab_size}: they do not belong "
            "together; give the tokenizer that the model was trained with: --tokenizer FILE.model"
        )
    return tokenizer, note


def _find_tokenizer(checkpoint: str | None, vocab_size: int) -> tuple[Path, str]:
    from evalkit.settings import split_spec

    beside = sorted(Path(split_spec(checkpoint or "")[0]).resolve().parent.glob("*.model"))
    if len(beside) == 1:
        return beside[0], f"tokenizer: the checkpoint carries none, taking {beside[0].name} beside it"
    if vocab_size in FIELD_TOKENIZERS:
        known = FIELD_TOKENIZERS[vocab_size]
        return known, f"tokenizer: the checkpoint carries none, taking the field's {known.name} for {vocab_size} ids"
    raise InputError(
        f"the checkpoint carries no tokenizer and none is known for {vocab_size} ids; give --tokenizer FILE.model"
    )


def threads_of(out: str | None) -> int | None:
    """CPU threads that the run in this folder began with; None when there is none.  Another number, other bits."""
    from evalkit.scoring.journal import read_header

    header = read_header(Path(out) / "journal.jsonl") if out else None
    return header["fingerprint"].get("threads") if header else None


def make_guard(recipe: Recipe, stopping: Callable[[], bool]) -> Any:
    """The guard that the recipe's budget asks for."""
    from evalkit.budget.guard import Shedding
    from evalkit.scoring.guard import Deadline, Guard

    run = recipe.run
    if run.budget is None:
        if run.shed:
            raise InputError(f"shed {run.shed}: there is no budget to keep; give --budget SECONDS, or drop shed")
        return Guard(stopping)
    return Shedding(run.budget, run.shed, stopping=stopping) if run.shed else Deadline(run.budget, stopping=stopping)


def _options(run: RunSettings, model: Any, stream: Any, ranks: int | str) -> ScoreOptions:
    """What the record of the run says of its settings, resolved."""
    from evalkit.legality.provenance import planned_record
    from evalkit.models.hf import HuggingFaceModel
    from evalkit.scoring.run import ScoreOptions

    return ScoreOptions(
        chunk_tokens=run.chunk_tokens,
        batch_tokens=run.batch_tokens,
        seed=run.seed,
        sentinel=run.sentinel,
        budget_seconds=run.budget,
        save_scores=run.save_scores,
        ranks=ranks,
        extra={
            "checkpoint": run.checkpoint or "bundled",
            "trust_causal": run.trust_causal,
            "bos": model.bos if isinstance(model, HuggingFaceModel) else "document",
            "tokenizer": stream.tokenizer.name,
            "lossy": run.lossy,
            "text": list(stream.sources),
            "limit_tokens": run.limit_tokens,
            "device": str(model.device),
            "threads": run.threads,
            "nproc": run.nproc,
            **({"planned_on": planned_record(run.planned_on)} if run.planned_on else {}),
        },
    )


def execute(
    recipe: Recipe,
    out: str | None,
    quiet: bool = False,
    stopping: Callable[[], bool] = lambda: False,
    lead: Any = None,
) -> Any:
    """Open, score with progress, return the Result.

    ``stopping``: True once the process was asked to end.  ``lead``: the harness's rank 0, when there are ranks.
    """
    from evalkit.cli.progress import Progress
    from evalkit.report.trackers.tracker import open_trackers
    from evalkit.scoring.run import run_folder
    from evalkit.scoring.score import score

    run_folder(out)  # refuse a folder that cannot be written before the model is opened

    run = recipe.run
    trackers = open_trackers(run.tracker, say)
    guard = make_guard(recipe, stopping)
    if run.threads is None and (kept := threads_of(out)) is not None:
        say(f"threads: {kept}, as the run in {out} began")
        run.threads = kept
    model, stream, plan, adapters = open_parts(recipe)
    if lead is not None:
        adapters = lead.wrap(adapters)
    options = _options(run, model, stream, run.nproc if lead is not None and lead.ties_ranks else "any")
    with trackers, Progress(stream.n_targets, quiet=quiet) as progress:

        def on_chunk(booked: Any) -> None:
            progress.chunk(booked)
            trackers.chunk(booked)

        trackers.start({"run": msgspec.to_builtins(run), "adapters": recipe.adapters}, out)
        result = score(
            model,
            stream,
            adapters,
            plan,
            out=out,
            options=options,
            on_chunk=on_chunk,
            forwards=lead.forwards if lead is not None else None,
            guard=guard,
        )
        trackers.finish(result)
    if result.folder is not None:
        from evalkit.report.html import write_report

        write_report(result, stream)
    return result
