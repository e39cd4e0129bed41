"""``evalkit plan``: the lowest BPB inside a budget, searched on text that is not scored."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.cli.eval import add_run_flags, resolve
from evalkit.cli.session import json_flag, tell
from evalkit.machine import usable_cpus

if TYPE_CHECKING:
    from evalkit.budget.plan import Ask, Found, Place

EPILOG = """examples:
  evalkit plan --text mine.jsonl --budget 600 --targets 1000000 --out plans/a
  evalkit plan --text mine.jsonl --budget 600 --targets 60000000 --target 8xH100 --out plans/b
  evalkit plan mine.toml --text mine.jsonl --budget 60 --scored val.jsonl --out plans/c   (refused when they overlap)
then:
  evalkit eval plans/a/planned.toml --text other.jsonl
"""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "plan",
        help="search the lowest BPB inside a budget, on text that is not scored",
        description="Search plans, experts and learners on a calibration text; write planned.toml, a table and a picture.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_run_flags(parser)
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="seconds of scoring that the run may take")
    parser.add_argument("--targets", type=int, metavar="N", help="targets of that run (default: those of the text)")
    parser.add_argument("--target", metavar="NxGPU", help="other hardware that the budget is for, such as 8xH100")
    parser.add_argument("--scored", nargs="+", metavar="F", help="the text to be scored later: refused if it overlaps")
    parser.add_argument("--corpus", metavar="C.ekc", help="counts of your own text as a further candidate")
    parser.add_argument(
        "--search-seconds", type=float, metavar="S", help="time limit of the search (default: the budget)"
    )
    parser.add_argument(
        "--out", metavar="DIR", required=True, help="planned.toml, plan.json, plan.html; the same command resumes"
    )
    json_flag(parser, " instead of the table")


def run(args: argparse.Namespace) -> int:
    from evalkit.errors import InputError
    from evalkit.report.plan import plan_lines, plan_page, plan_toml
    from evalkit.stream.files import write_atomic

    if not args.text:
        raise InputError("a plan needs --text: text that is like the one to be scored, and is not it")
    recipe = resolve(args)
    if not recipe.run.budget:
        raise InputError("a plan needs a budget: give --budget SECONDS")
    for name, value in (("targets", args.targets), ("search-seconds", args.search_seconds)):
        if value is not None and value <= 0:
            raise InputError(f"--{name} must be positive, got {value:g}")
    report = _plan(args, recipe)
    folder = Path(args.out)
    write_atomic(folder / "planned.toml", plan_toml(report).encode())
    write_atomic(folder / "plan.html", plan_page(report).encode())
    write_atomic(folder / "plan.json", (json.dumps(report, indent=2) + "\n").encode())
    tell(args, report, lambda: print("\n".join([*plan_lines(report), f"recipe: {folder / 'planned.toml'}"])))
    return 0 if report["chosen"]["fits"] else 1


def _plan(args: argparse.Namespace, recipe: Any) -> dict[str, Any]:
    from evalkit.adapters.registry import make_adapter
    from evalkit.budget.diary import Diary
    from evalkit.budget.ladders import Ladder, ladders_for
    from evalkit.budget.plan import Search
    from evalkit.cli.session import open_parts, say
    from evalkit.legality.provenance import check_planned
    from evalkit.models.device import threads
    from evalkit.scoring.environment import code_fingerprint, environment
    from evalkit.scoring.score import run_folder
    from evalkit.stream import open_stream

    folder = run_folder(args.out)
    assert folder is not None
    settings = recipe.run
    settings.planned_on = None
    model, stream, _, _ = open_parts(recipe)
    kept = _keep(stream, folder)
    if args.scored:
        say(check_planned(str(kept), open_stream(args.scored, stream.tokenizer, lossy=settings.lossy)))
    place, ranks, where = _place(args.target, model, stream)
    ask = _ask(args, settings, stream, place)
    own = Ladder(settings.plan, (), tuple(recipe.adapters)) if args.recipe and settings.plan else None
    plain, ladders = ladders_for(model, ask.chunk_tokens, ranks=ranks, corpus=args.corpus, own=own and _families(own))
    used = [make_adapter(*a) for ladder in ladders for a in (*ladder.learners, *ladder.experts)]
    fingerprint = {
        "model": model.fingerprint,
        "text": stream.fingerprint,
        "ask": [ask.budget, ask.targets, ask.seconds, ask.chunk_tokens, ask.batch_tokens, ask.seed, where],
        "ladders": [ladder.name for ladder in ladders],
        "code": code_fingerprint([model, *used]),
    }
    search = Search(model, stream, ask, Diary(folder / "search.jsonl", fingerprint), say)
    found = search.find(plain, ladders)
    return {
        "schema": 1,
        "ask": {"budget": ask.budget, "targets": ask.targets, "where": where, "threads": threads()},
        "calibration": {
            "fingerprint": stream.fingerprint,
            "documents": len(stream.doc_start),
            "targets": stream.n_targets,
        },
        "run": {
            "checkpoint": _absolute(settings.checkpoint),
            "tokenizer": _absolute(settings.tokenizer),
            "trust_causal": settings.trust_causal or None,
            "lossy": settings.lossy or None,
            "plan": found.chosen.plan,
            "chunk_tokens": ask.chunk_tokens,
            "batch_tokens": ask.batch_tokens,
            "seed": ask.seed,
            "budget": ask.budget,
            "device": args.device,
            "threads": args.threads,
            "nproc": ranks if ranks > 1 else None,
            "planned_on": kept.name,
        },
        **_answer(found, ask.seconds),
        "environment": environment(str(model.device)),
    }


def _keep(stream: Any, folder: Path) -> Path:
    """The calibration text as a corpus beside the plan, so that a later run can see whether it scores the same documents."""
    from evalkit.stream.corpus import write_corpus

    tokenizer, path = stream.tokenizer, folder / "calibration.ekc"
    end = len(stream.tokens) - int(stream.tokens[-1] == tokenizer.bos_id)
    write_corpus(
        path, stream.tokens[:end], vocab_size=tokenizer.vocab_size, bos_id=tokenizer.bos_id,
        tokenizer=tokenizer.fingerprint, text_bytes=stream.total_bytes,
    )  # fmt: skip
    return path


def _ask(args: argparse.Namespace, settings: Any, stream: Any, place: Place) -> Ask:
    from evalkit.budget.plan import Ask

    targets = args.targets or stream.n_targets
    return Ask(
        settings.budget,
        targets,
        args.search_seconds or settings.budget,
        place,
        chunk_tokens=args.chunk_tokens or (8192 if targets >= 200_000 else 1024),
        batch_tokens=settings.batch_tokens,
        seed=settings.seed,
    )


def _answer(found: Found, allowed: float) -> dict[str, Any]:
    from evalkit.budget.plan import BUSY, more_seconds, wasted

    chosen, plain = ({**c.json(), "forecast": c.seconds.json()} for c in (found.chosen, found.plain))
    gain, low, high = found.at_size
    return {
        "chosen": chosen,
        "plain": plain,
        "beats_plain": found.beats_plain,
        "at_size": {"delta_bpb": gain, "low": low, "high": high},
        "why": found.why,
        "candidates": [c.json() for c in found.table],
        "front": [c.name for c in found.front],
        "left_out": found.left_out,
        "tried": found.tried,
        "more": more_seconds(found),
        "waste": wasted(found),
        "search": {
            "spent": found.spent,
            "allowed": allowed,
            "searched_documents": found.searched_documents,
            "held_documents": found.held_documents,
            "busy": found.busy,
            "busy_below": BUSY,
        },
    }


def _place(target: str | None, model: Any, stream: Any) -> tuple[Place, int, str]:
    """(how seconds here become seconds there, ranks, where)."""
    from evalkit.budget.plan import elsewhere, here

    if target is None:
        return here, 1, f"this machine ({usable_cpus()} CPUs, {model.device})"
    from evalkit.budget.hardware import parse_target

    there = parse_target(target)
    return elsewhere(there, model, stream, 8192), there.count, there.name


def _families(own: Any) -> Any:
    """A recipe's adapters, learners apart from experts."""
    from dataclasses import replace

    from evalkit.adapters.base import Learner
    from evalkit.adapters.registry import make_adapter

    learners = tuple(a for a in own.experts if isinstance(make_adapter(*a), Learner))
    return replace(own, learners=learners, experts=tuple(a for a in own.experts if a not in learners))


def _absolute(spec: str | None) -> str | None:
    """A file's whole path: the recipe may be run from anywhere."""
    from evalkit.settings import split_spec

    name = split_spec(spec)[0] if spec else ""
    return f"{Path(name).resolve()}{(spec or '')[len(name) :]}" if name and Path(name).exists() else spec
