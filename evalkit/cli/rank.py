"""One process of a job: its part of a scoring run.  (``torchrun ... -m evalkit.harness RECIPE``, or ``evalkit eval --nproc N``.)

Rank 0 does what ``evalkit eval`` does, with a forward pass over all ranks; the others serve it.  Rank 0 does the talking.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from evalkit.cli.eval import finish, resolve
from evalkit.cli.main import build_parser, guarded
from evalkit.cli.recipe import Recipe
from evalkit.cli.session import say, threads_of
from evalkit.cli.stop import last_resort, on_sigterm
from evalkit.errors import EvalkitError

STOP_SECONDS = 12.0
"""From SIGTERM to the end of rank 0, at most; torchrun's patience is longer."""


def main(argv: Sequence[str]) -> NoReturn:
    """Flags and recipe as for ``evalkit eval``; ends this process."""
    from evalkit.harness.faults import last_words

    if os.environ.get("RANK", "0") != "0":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        code = _serve(argv)
    else:
        with on_sigterm() as asked:
            code = guarded(lambda: _lead(build_parser("eval").parse_args(["eval", *argv]), asked))
            if code:
                last_words("rank 0 has said why", code, said=True)
            _leave(code)
    _leave(code)


def _leave(code: int) -> NoReturn:
    """Threads of gloo or NCCL that still wait for a dead rank must not decide how this ends, nor a second SIGTERM."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _leave_stuck(out: str | None) -> None:
    """After SIGTERM, when the main thread does not come back: all that is booked is on disk."""
    from evalkit.harness.faults import note_stop
    from evalkit.scoring.journal import read_journal

    booked = read_journal(Path(out) / "journal.jsonl")[1] if out else []
    note_stop(booked[-1].hi - 1 if booked else 0)
    os._exit(0)


def _job(recipe: Recipe, out: str | None) -> Any:
    from evalkit.harness.job import Job

    run = recipe.run
    return Job(
        run.device,
        run.threads or threads_of(out),
        deterministic=run.deterministic,
        hang_seconds=run.hang_seconds,
        stuck_seconds=run.stuck_seconds,
    )


def _lead(args: argparse.Namespace, asked: Callable[[], bool]) -> int:
    from evalkit.cli.session import execute
    from evalkit.harness.faults import GONE, LAUNCHED, note_stop
    from evalkit.harness.lead import Lead

    recipe = resolve(args)
    job = _job(recipe, args.out)
    recipe.run.device, recipe.run.threads, recipe.run.nproc = job.device, job.threads, job.size
    last_resort(STOP_SECONDS, lambda: _leave_stuck(args.out))
    lead = Lead(job, asked)
    again = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    say(job.describe() + (f"; start number {again + 1}, going on from the journal" if again and args.out else ""))
    try:
        result = execute(recipe, args.out, stopping=asked, lead=lead)
    finally:
        lead.close()
        job.close()
    stopped = result.record.budget.stopped == "signal"
    if stopped and os.environ.get(LAUNCHED):
        note_stop(result.record.totals.targets)  # the launcher knows who was asked, and speaks
        return 0
    if stopped and lead.lines.lost is not None:
        raise EvalkitError(GONE.format(lead.lines.lost))
    return finish(result, args)


def _serve(argv: Sequence[str]) -> int:
    """A rank other than 0 says nothing; its last words lie in torchrun's file."""
    from evalkit.harness.faults import last_words, sentence

    rank = int(os.environ["RANK"])
    try:
        return _serve_until_stopped(build_parser("eval").parse_args(["eval", *argv]))
    except BaseException as fault:
        if isinstance(fault, SystemExit):
            return int(fault.code or 0)
        message, code = sentence(fault, rank, "starting")
        last_words(message, code)
        return code


def _serve_until_stopped(args: argparse.Namespace) -> int:
    from evalkit.adapters.registry import make_adapter
    from evalkit.harness.serve import Server
    from evalkit.models.registry import open_checkpoint
    from evalkit.scoring.run import families

    recipe = resolve(args)
    job = _job(recipe, args.out)
    adapters = [make_adapter(name, raw) for name, raw in recipe.adapters]
    learners = families(adapters)[0]
    code = Server(
        job, lambda: open_checkpoint(recipe.run.checkpoint, device=job.device, trust_causal=True), learners
    ).serve()
    if code == 0:
        job.close()
    return code
