"""``evalkit profile``: where the seconds go, and whether a run fits its budget."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from evalkit.cli.eval import add_run_flags, resolve
from evalkit.cli.session import json_flag, tell
from evalkit.machine import usable_cpus

EPILOG = """examples:
  evalkit profile                                           the default run, on this machine
  evalkit profile recipe.toml --target 8xH100 --budget 600  does it fit there? (exit code 1: no)
  evalkit profile --text val.bin.xz --tokens 50000 --out p  keep the calibration run and its trace.json in p
"""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "profile",
        help="show where the seconds go, and whether a run fits its budget",
        description="Measure a short run, fit the cost of each step, and forecast the whole stream on this machine or another.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_run_flags(parser)
    parser.add_argument("--nproc", type=int, metavar="N", help="ranks on this machine to forecast for (default 1)")
    parser.add_argument("--target", metavar="NxGPU", help="other hardware to forecast for, such as 8xH100")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="say whether it fits (600 with --target)")
    parser.add_argument("--tokens", type=int, metavar="N", help="targets of the calibration (default 5 %% of the text)")
    parser.add_argument(
        "--seconds", type=float, default=120.0, metavar="S", help="longest calibration run (default 120)"
    )
    parser.add_argument("--out", metavar="DIR", help="keep the calibration run here, with trace.json for Perfetto")
    json_flag(parser, " instead of the tables")


def run(args: argparse.Namespace) -> int:
    from evalkit.budget.hardware import parse_target
    from evalkit.errors import InputError

    for name, value in (("tokens", args.tokens), ("seconds", args.seconds)):
        if value is not None and value <= 0:
            raise InputError(f"--{name} must be positive, got {value:g}")
    if args.out and (Path(args.out) / "journal.jsonl").exists():
        raise InputError(f"--out {args.out} holds a run already, and a profile must measure: give another folder")
    target = parse_target(args.target) if args.target else None
    report = _profile(args, target)
    from evalkit.report.profile import print_profile

    tell(args, report, lambda: print_profile(report))
    return 0 if report["fits"] in (None, True) else 1


def _profile(args: argparse.Namespace, target: Any) -> dict[str, Any]:
    from evalkit.adapters.registry import make_adapter
    from evalkit.budget import profile
    from evalkit.budget.calibrate import calibrate
    from evalkit.budget.work import count_work, input_tokens, shape_of
    from evalkit.cli.session import open_parts, say
    from evalkit.models.device import device_name, threads
    from evalkit.scoring.run import ScoreOptions, families, settled

    recipe = resolve(args)
    if recipe.run.nproc > 1 and recipe.run.threads is None:
        from evalkit.harness.launch import threads_wanted

        recipe.run.threads = threads_wanted(recipe.run.nproc)
    model, stream, plan, adapters = open_parts(recipe)
    learners, settings = families(adapters)[0], recipe.run
    options = ScoreOptions(chunk_tokens=settings.chunk_tokens, batch_tokens=settings.batch_tokens, seed=settings.seed)
    options, plan = settled(model, plan, adapters, options)
    say(f"calibrating on the head of {stream.n_targets:,} targets, at most {args.seconds:g} s")
    calibration = calibrate(
        model,
        stream,
        lambda: [make_adapter(name, raw) for name, raw in recipe.adapters],
        plan,
        options,
        targets=args.tokens,
        at_most_seconds=args.seconds,
        out=args.out,
    )
    subject = profile.Subject(
        calibration,
        shape_of(plan, stream, learners, options.chunk_tokens, options.batch_tokens),
        input_tokens(plan, stream),
        threads(),
        usable_cpus(),
        str(model.device),
        device_name(str(model.device)),
    )
    work = count_work(_bare_forward(model, plan, stream, options), stream, options.chunk_tokens) if target else None
    forecast = (lambda s: profile.on_target(s, target, work)) if target else lambda s: profile.here(s, settings.nproc)
    budget = settings.budget or (600.0 if target else None)
    window = min(512, model.max_seq_len or 512)
    choices = profile.options(subject, plan, stream, learners, forecast, window)
    return _report(subject, stream, settings.nproc, target, forecast(subject), choices, budget, args.out)


def _bare_forward(model: Any, plan: Any, stream: Any, options: Any) -> Any:
    from evalkit.adapters.base import Needs
    from evalkit.models.forward import WindowForward

    return WindowForward(model, plan, stream, Needs(), {}, options.batch_tokens)


def _report(
    subject: Any, stream: Any, nproc: int, target: Any, main: Any, choices: Any, budget: float | None, out: str | None
) -> dict[str, Any]:
    from evalkit.budget import profile

    calibration = subject.calibration
    best = profile.best_use(choices, budget) if budget and main.fits(budget) else None
    return {
        "schema": 1,
        "calibration": {
            "targets": calibration.model.targets,
            "of": subject.shape.targets,
            "seconds": calibration.seconds,
            "noise": calibration.model.noise,
            "device": subject.device_name or subject.device,
            "threads": subject.threads,
            "peak_memory_bytes": calibration.run.peak_memory_bytes,
            "state_bytes": calibration.run.state_bytes,
        },
        "stages": profile.stage_rows(subject),
        "around_seconds": calibration.around(len(stream.doc_start)),
        "here": profile.here(subject, nproc).json(),
        "target": {"name": target.name, **main.json()} if target else None,
        "budget": budget,
        "fits": main.fits(budget) if budget else None,
        "left_seconds": budget - main.high if budget else None,
        "options": [
            {"what": o.what, **o.seconds.json(), "fits": o.seconds.fits(budget) if budget else None} for o in choices
        ],
        "best_use": best.what if best else None,
        "trace": str(Path(out) / "trace.json") if out else None,
    }
