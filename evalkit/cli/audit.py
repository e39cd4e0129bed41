"""``evalkit audit``: is a scorer legal?"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evalkit.legality.scorer import Box
    from evalkit.legality.target import Target
    from evalkit.legality.verdict import Verdict

EXAMPLES = """TARGET is one of:
  evalkit audit runs/demo                      a run directory: its record, a replay, and its setup on its text
  evalkit audit recipe.toml                    a recipe ("default": what evalkit eval scores without arguments)
  evalkit audit ppm:c=4                        an adapter on a toy model; slot+ppm is a stack
  evalkit audit mine.py:factory --html v.html  any object with vocab_size and score(tokens), in its own process;
                                               mine.py:MyExpert audits an adapter class there
  evalkit audit --checkpoint model.ek          a model alone: do its rows move with later tokens, do its passes agree?
  evalkit audit zoo:A4                         a known violation; zoo:A4:fix is its legal form, zoo:all the whole table
  evalkit audit mine.py:factory --reproduce verdict.json    run the recorded counter-example again
  evalkit audit --log train.log other.log      no code: do the logged figures agree with each other and the text?

exit code: 0 legal; 1 a violation, or inconclusive (the answer is not yes); 2 wrong input
"""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "audit",
        help="test whether a scorer is legal",
        description="Probe a scorer for the four laws: causal, normalised, score-first, single-pass.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", metavar="TARGET", nargs="?", help="see below")
    parser.add_argument(
        "--checkpoint",
        metavar="C",
        help="without TARGET: does this model read ahead? FILE[:key=value,...] or module:Class",
    )
    parser.add_argument("--ruleset", metavar="R", help="strict (default), readme, organizer-2026-05")
    parser.add_argument("--json", metavar="F", help="write the verdict to F; '-' prints it")
    parser.add_argument("--html", metavar="F", help="write a page with the evidence drawn")
    parser.add_argument("--markdown", metavar="F", help="write twenty lines to paste into a review; '-' prints them")
    parser.add_argument(
        "--seconds",
        type=float,
        metavar="N",
        help="total time, exceeded by one call at most (default 60; 600 with --deep)",
    )
    parser.add_argument(
        "--probes",
        type=int,
        metavar="N",
        help="calls of 128 tokens instead of seconds: the same probes on any machine",
    )
    parser.add_argument("--deep", action="store_true", help="longer streams, more positions; replay all of a run")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of streams and positions (default 0)")
    parser.add_argument(
        "--timeout", type=float, default=60.0, metavar="N", help="seconds one call may take (default 60)"
    )
    parser.add_argument(
        "--memory-gb", type=float, default=8.0, metavar="N", help="memory limit of the scorer (default 8; 0: none)"
    )
    parser.add_argument(
        "--vocab-tokens", metavar="FILE.bin", help="real tokens of the scorer's vocabulary, to be probed as well"
    )
    parser.add_argument("--tokenizer", metavar="T", help="tokenizer of a run whose checkpoint has none")
    parser.add_argument(
        "--reproduce", metavar="PROBE", help="run one recorded probe again: its JSON, or a verdict file"
    )
    group = parser.add_argument_group("the figures of a log (without TARGET)")
    group.add_argument("--log", nargs="+", type=Path, metavar="F", help="training and evaluation logs")
    group.add_argument(
        "--text-bytes", type=int, metavar="N", help="bytes of the scored text (default: the contest's split)"
    )
    group.add_argument("--text", nargs="+", type=Path, metavar="F", help="the scored text itself, to count its bytes")
    group.add_argument(
        "--log-patterns", type=Path, metavar="F.toml", help="more forms: patterns = ['regex with groups']"
    )
    group = parser.add_argument_group("where the text came from (without TARGET)")
    group.add_argument("--train-manifest", nargs="+", metavar="M", help="manifests or texts of the training data")
    group.add_argument("--val-manifest", nargs="+", metavar="N", help="manifests or texts of the scored data")
    group.add_argument("--artifact", metavar="A", help="record its size and sha256 in the verdict")
    group.add_argument(
        "--build", metavar="CMD", help="command with {val} and {out}: the artifact must not change with {val}"
    )


def run(args: argparse.Namespace) -> int:
    began = time.monotonic()
    _check(args)
    if args.log:
        return _logs(args)
    if args.checkpoint is not None:
        return _checkpoint(args)
    if args.target is None:
        return _provenance(args)
    _alone(args)
    if args.target.lower() == "zoo:all":
        return _whole_zoo(args)
    from evalkit.legality.scorer import ScorerFault

    try:
        return _one(args, began)
    except ScorerFault as fault:
        return _say(_never_started(args, fault), args)


def _check(args: argparse.Namespace) -> None:
    if args.json == "-" and args.markdown == "-":
        raise InputError("--json - and --markdown - would mix on stdout; give one of them a file")
    for flag in ("text_bytes", "text", "log_patterns"):
        if getattr(args, flag) and not args.log:
            raise InputError(f"--{flag.replace('_', '-')} belongs to --log FILE...")
    for flag, least in (("seconds", 0.0), ("timeout", 0.0)):
        value = getattr(args, flag)
        if value is not None and value <= least:
            raise InputError(f"--{flag} must be more than {least:g} seconds, got {value:g}")
    if args.probes is not None and args.probes < 1:
        raise InputError(f"--probes must be 1 or more, got {args.probes}")
    if args.probes is not None and args.seconds is not None:
        raise InputError("give --seconds or --probes, not both")
    if args.memory_gb < 0:
        raise InputError(f"--memory-gb must be 0 (no limit) or more, got {args.memory_gb:g}")
    if args.seed < 0:
        raise InputError(f"--seed must be 0 or more, got {args.seed}")


def _alone(args: argparse.Namespace) -> None:
    for flag in ("train_manifest", "val_manifest", "artifact", "build"):
        if getattr(args, flag):
            name = flag.replace("_", "-")
            raise InputError(f"--{name} asks where text came from, without a TARGET; leave out '{args.target}'")


def _checkpoint(args: argparse.Namespace) -> int:
    """A model alone, asked at every border (opening asks at a dozen places)."""
    from evalkit.cli.session import choose_device
    from evalkit.legality.checkpoint import audit_model
    from evalkit.models.registry import open_checkpoint

    if args.target is not None:
        raise InputError(f"--checkpoint audits a model alone, without a TARGET; leave out '{args.target}'")
    model = open_checkpoint(args.checkpoint, device=choose_device("auto", None), trust_causal=True)
    return _say(audit_model(model, args.checkpoint, seed=args.seed), args)


def _provenance(args: argparse.Namespace) -> int:
    """Overlap of training and validation text, and the artifact's dependence on the latter."""
    from evalkit.legality.provenance import artifact_check, build_check, overlap_checks
    from evalkit.legality.rules import ruleset
    from evalkit.legality.verdict import from_checks

    if not args.val_manifest or not (args.train_manifest or args.build):
        raise InputError(
            "give a TARGET, or --val-manifest with --train-manifest or --build; see 'evalkit audit --help'"
        )
    checks = [] if args.artifact is None else [artifact_check(args.artifact)]
    if args.train_manifest:
        checks += overlap_checks(args.train_manifest, args.val_manifest)
    if args.build:
        checks.append(build_check(args.build, args.val_manifest[0]))
    rules = ruleset(args.ruleset or "strict")
    target = args.artifact or ", ".join(args.val_manifest)
    return _say(from_checks(checks, target, args.ruleset or "strict", rules["provenance"].severity), args)


def _limits(args: argparse.Namespace) -> Any:
    from evalkit.legality.cage import GIB, Limits

    return Limits(
        call_seconds=args.timeout, load_seconds=max(120.0, args.timeout), memory_bytes=int(args.memory_gb * GIB)
    )


def _seconds(args: argparse.Namespace) -> float:
    from evalkit.legality.effort import DEEP_SECONDS, DEFAULT_SECONDS

    return args.seconds or (DEEP_SECONDS if args.deep else DEFAULT_SECONDS)


def _one(args: argparse.Namespace, began: float) -> int:
    from evalkit.cli.opening import kind_of
    from evalkit.legality.rules import ruleset

    if args.ruleset:
        ruleset(args.ruleset)
    kind = kind_of(args.target)
    if kind in ("recipe", "run"):
        return _engine(args, kind)
    target = _adapters(args) if kind == "adapter" else _boxed(args)
    try:
        if args.reproduce:
            return _reproduce({"": target.box, "toy": target.box}, args)
        return _say(_audit(target, args, began), args)
    finally:
        target.box.close()


def _boxed(args: argparse.Namespace) -> Target:
    from evalkit.legality.target import open_target

    return open_target(args.target, _limits(args))


def _adapters(args: argparse.Namespace) -> Target:
    """Adapters on the toy model, in this process."""
    import torch

    from evalkit.cli.opening import open_adapters
    from evalkit.legality.engine.toy import toy_scorer
    from evalkit.legality.scorer import LocalBox
    from evalkit.legality.target import Target

    adapters = open_adapters(args.target)
    torch.set_num_threads(1)
    return Target(args.target, LocalBox(lambda: toy_scorer(adapters)))


def _engine(args: argparse.Namespace, kind: str) -> int:
    """A recipe, or a run with its record."""
    from evalkit.cli.opening import open_recipe, open_run
    from evalkit.legality.engine.recipe import audit_setup, worlds
    from evalkit.legality.engine.run import run_checks
    from evalkit.scoring.result import RunRecord

    run = RunRecord.read(Path(args.target)) if kind == "run" else None
    setup, stream = open_recipe(args.target) if run is None else open_run(run, args.tokenizer)
    if args.reproduce:
        return _reproduce(worlds(setup), args)
    checks = [] if run is None else run_checks(Path(args.target), run, setup, stream, whole=args.deep)
    options: dict[str, Any] = {"ruleset": args.ruleset or "strict", "seconds": _seconds(args), "probes": args.probes}
    options |= {"seed": args.seed, "checks": checks}
    return _say(audit_setup(setup, stream, target=args.target, **options), args)


def _audit(target: Target, args: argparse.Namespace, began: float) -> Verdict:
    from evalkit.legality.effort import QUICK
    from evalkit.legality.referee import audit
    from evalkit.legality.target import read_tokens

    tokens = target.tokens
    if args.vocab_tokens:
        tokens = read_tokens(args.vocab_tokens, target.box.facts.vocab_size)
    seconds = _seconds(args)
    quick = target.specimen is not None and args.seconds is None and args.probes is None and not args.deep
    with _progress(None if quick or args.probes else seconds, began) as tell:
        return audit(
            target.box,
            target=target.name,
            ruleset=args.ruleset or target.ruleset or "strict",
            seconds=seconds,
            probes=args.probes,
            effort=QUICK if quick else None,
            seed=args.seed,
            tokens=tokens,
            spent=min(0.5 * seconds, time.monotonic() - began),
            tell=tell,
        )


@contextmanager
def _progress(seconds: float | None, began: float) -> Iterator[Callable[[str], None]]:
    """A bar on a terminal's stderr: the family of probes under way, and the share of the time that is gone."""
    if not sys.stderr.isatty():
        yield lambda family: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:32}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=seconds)
        yield lambda family: bar.update(
            task, description=family, completed=time.monotonic() - began if seconds else None
        )


def _never_started(args: argparse.Namespace, fault: Exception) -> Verdict:
    from evalkit.legality.verdict import Verdict

    return Verdict(target=args.target, ruleset=args.ruleset or "strict", reason=str(fault), seed=args.seed)


def _logs(args: argparse.Namespace) -> int:
    """The figures of one log or of many; a table for many."""
    from evalkit.legality.logs import judge, patterns_of, read_log
    from evalkit.report.verdict import markdown, print_logs

    if args.target is not None:
        raise InputError(f"--log reads logs, without a TARGET; leave out '{args.target}'")
    if args.text_bytes is not None and args.text_bytes < 1:
        raise InputError(f"--text-bytes must be 1 or more, got {args.text_bytes}")
    if args.text_bytes is not None and args.text:
        raise InputError("give --text-bytes or --text, not both")
    size = sum(_size(path) for path in args.text) if args.text else args.text_bytes
    patterns = patterns_of(args.log_patterns)
    read = [read_log(path, patterns) for path in args.log]
    verdicts = [judge(log, text_bytes=size, rules=args.ruleset or "strict") for log in read]
    if len(verdicts) == 1:
        return _say(verdicts[0], args)
    if args.html:
        raise InputError("--html draws one verdict; give one --log, or --markdown for many")
    _write(args.json, lambda: "[" + ",\n".join(v.to_json() for v in verdicts) + "]")
    _write(args.markdown, lambda: "\n".join(markdown(v) for v in verdicts))
    if "-" not in (args.json, args.markdown):
        print_logs(list(zip(read, verdicts, strict=True)))
    return max(v.exit_code for v in verdicts)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as fault:
        raise InputError(f"--text {path}: {fault.strerror}; give the text that was scored, or --text-bytes N") from None


def _write(name: str | None, text: Callable[[], str]) -> None:
    """To a file, or to stdout for '-'; nothing without a name."""
    if name == "-":
        print(text())
    elif name:
        Path(name).write_text(text() + "\n", encoding="utf-8")


def _say(verdict: Verdict, args: argparse.Namespace) -> int:
    from evalkit.report.verdict import markdown, print_verdict, render

    if args.html:
        Path(args.html).write_text(render(verdict), encoding="utf-8")
    _write(args.json, verdict.to_json)
    _write(args.markdown, lambda: markdown(verdict))
    if "-" not in (args.json, args.markdown):
        print_verdict(verdict, kept=args.json or "")
    return verdict.exit_code


def _reproduce(worlds: Mapping[str, Box], args: argparse.Namespace) -> int:
    """Ask recorded probes again, alone; 1 when any still shows a violation, else 0."""
    from evalkit.legality.probes.ask import ask
    from evalkit.legality.probes.tolerance import Tolerance
    from evalkit.legality.scorer import ScorerFault

    violated = False
    for probe in _recorded(args.reproduce):
        if probe.world not in worlds:
            raise InputError(f"--reproduce: this target has no world '{probe.world}'; it has {sorted(worlds)}")
        box = worlds[probe.world]
        try:
            outcome = ask(_fitted(box), probe, Tolerance(0.0, box.facts.precision, box.facts.vocab_size))
        except ScorerFault as fault:
            print(f"still failing: {fault.kind}: {fault}")
            violated = True
            continue
        violated |= outcome.violated
        print(f"{'violated' if outcome.violated else 'not seen'}: {outcome.sentence}")
        print(f"  {outcome.value:.9g} {outcome.unit}, at most {outcome.limit:.9g} is rounding")
    return 1 if violated else 0


def _fitted(box: Box) -> Box:
    """The box as the audit asked it: streams filled up to a length that the scorer takes."""
    import numpy as np

    from evalkit.legality.effort import QUICK
    from evalkit.legality.probes import lengths
    from evalkit.legality.probes.lab import Lab
    from evalkit.legality.scorer import ScorerFault

    lab = Lab(box, np.random.default_rng(0), QUICK)
    try:
        lab.lengths = lengths.find(lab)
    except ScorerFault:
        return box
    return lab.box


def _recorded(text: str) -> list[Any]:
    """Probes of an argument: JSON of one probe, or a verdict file (all of its evidence)."""
    import json

    from evalkit.legality.probes.probe import from_json

    if text.lstrip().startswith("{"):
        return [from_json(text)]
    try:
        evidence = json.loads(Path(text).read_text(encoding="utf-8"))["evidence"]
        probes = [from_json(json.dumps(item["probe"])) for item in evidence]
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise InputError(f"--reproduce {text}: neither a probe nor a verdict written by --json ({fault})") from None
    if not probes:
        raise InputError(f"--reproduce {text}: that verdict holds no evidence; there is nothing to ask again")
    return probes


def _whole_zoo(args: argparse.Namespace) -> int:
    from evalkit.cli.session import tell
    from evalkit.legality.target import zoo

    table = zoo("table")
    rows = table.sweep(seed=args.seed, seconds=args.seconds, tell=lambda line: print(line, file=sys.stderr))
    tell(args, table.to_json(rows), lambda: table.print_table(rows))
    return 0 if all(row["right"] for row in rows) else 1
