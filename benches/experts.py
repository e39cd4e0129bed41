"""What does each expert bring?  Every expert alone, the default, the best stack and what it loses without each part.

    python -m benches.experts --text val_fineweb_head.jsonl.xz --limit-tokens 500000

    python -m benches.experts ... --merge --only "best without temperature" "best + tilt"

The second form measures these rows alone (and "best", which such rows are compared with) and puts them into the file
of an earlier run on the same text.

The model runs once; every stack is scored on the same recorded rows.  Intervals are 95 %, paired by document.  One
target in 256, at random, is looked at with its whole row of every stage: ``worst_sum`` is max |1 - sum|, and the row's
entry was the booked score bit for bit (else the run ends with an error).
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benches.learners import PLAN
from evalkit.cli.recipe import ASSETS, Recipe, RunSettings
from evalkit.machine import peak_memory_bytes

HERE = Path(__file__).resolve().parent
CHUNK = 256
"""Targets a chunk, of which one is looked at; scores of experts do not depend on it."""


def without_corpus(spec: str) -> str:
    """The same ppm without the corpus that the bundled checkpoint carries: what that brings stands in benches.corpus."""
    if spec.split(":")[0] != "ppm" or "escape=dirichlet" in spec:
        return spec
    return f"{spec}{',' if ':' in spec else ':'}corpus=none"


def spec_of(part: dict[str, Any]) -> str:
    """A table of a recipe as --adapter takes it; its settings here are plain words and numbers."""
    settings = ",".join(f"{key}={value}" for key, value in part.items() if key != "name")
    return f"{part['name']}:{settings}" if settings else part["name"]


PARTS = tomllib.loads((HERE.parent / "recipes/experts.toml").read_text("utf-8"))["adapter"]
BEST = [spec_of(part) for part in PARTS]
_STACKS = {
    "base": [],
    "ppm (default)": ["ppm"],
    "ppm, stream's counts alone": ["ppm:document=[]"],
    "ppm, no entropy or argmax": ["ppm:side=false"],
    "ppm, continuations": ["ppm:counts=continuations,fast=0.5"],
    "ppm, two trusts": ["ppm:fast=0.5"],
    "ppm, fixed concentrations": ["ppm:escape=dirichlet"],
    "ppm, published c = 4": ["ppm:escape=dirichlet,c=4,min_count=2"],
    "backoff": ["backoff"],
    "match": ["match"],
    "tilt": ["tilt"],
    "tilt, published": ["tilt:beta=1.0,min_share=[0.7,0.7,0.7,0.6,0.6,0.6,0.5,0.5,0.5],min_count=[3,3,3,2,2,2,2,2,2]"],
    "best_agree": ["best_agree"],
    "best_agree, tokens alone": ["best_agree:words=[],document_words=[]"],
    "hedge": ["hedge"],
    "log_bias": ["log_bias"],
    "temperature": ["temperature"],
    "best": BEST,
    **{f"best without {part['name']}": [s for s in BEST if s != spec_of(part)] for part in PARTS},
    "best + tilt": [*BEST[:3], "tilt", *BEST[3:]],
}
STACKS = {name: [without_corpus(spec) for spec in specs] for name, specs in _STACKS.items()}


class Recorded:
    """The forward pass of one model, plan and text: run once, then read again by every stack."""

    def __init__(self) -> None:
        self.chunks: dict[int, list[tuple[int, int, Any]]] = {}
        self.tape: list[tuple[int, int, Any]] = []

    def forwards(
        self, models: Sequence[Any], plan: Any, stream: Any, needs: Sequence[Any], info: Any, options: Any
    ) -> list[Any]:
        from evalkit.adapters.base import Needs
        from evalkit.models.forward import WindowForward

        recorded = self

        class Tape(WindowForward):
            def finish(self, logits: Any, question: Any) -> Any:
                recorded.tape.append((question.lo, question.hi, logits))
                return super().finish(logits, question)

        self.own = Tape(models[-1], plan, stream, Needs(), {}, options.batch_tokens)
        return [Replay(self, needs[-1], info.groups)]

    def logits(self, chunk: Any) -> list[tuple[int, int, Any]]:
        """(lo, hi, logits [hi - lo, V]) of the chunk's forward calls."""
        if chunk.lo not in self.chunks:
            self.tape = self.chunks[chunk.lo] = []
            for _ in self.own.rows(chunk):
                pass
        return self.chunks[chunk.lo]


class Replay:
    """A Forward over the recorded rows, with what one stack needs of each."""

    world_size = 1
    ask: Any

    def __init__(self, recorded: Recorded, needs: Any, groups: Any) -> None:
        self.recorded, self.needs, self.groups = recorded, needs, groups

    def rows(self, chunk: Any) -> Iterator[Any]:
        from evalkit.models.reduce import reduce

        for lo, hi, logits in self.recorded.logits(chunk):
            yield reduce(logits, self.ask(chunk, lo, hi), self.needs, self.groups)

    def snapshot(self) -> bytes:
        return b""

    def restore(self, state: bytes) -> None: ...

    def ranks(self) -> list[Any]:
        return []

    def tracks(self) -> dict[int, Any]:
        return {}


def score_stack(parts: tuple[Any, Any], specs: list[str], plan: str, recorded: Recorded) -> Any:
    from evalkit.adapters.registry import parse_adapter
    from evalkit.plan import parse_plan
    from evalkit.scoring.score import ScoreOptions, score

    adapters, options = [parse_adapter(s) for s in specs], ScoreOptions(chunk_tokens=CHUNK)
    return score(*parts, adapters, parse_plan(plan), options=options, forwards=recorded.forwards)


def row(name: str, specs: list[str], result: Any, rival: Any, cpu: float) -> dict[str, Any]:
    """Against the base, or for "best without X" and "best + X" against the best stack."""
    from evalkit.scoring.statistics import paired_interval

    delta = result.documents.nats[:, -1] - rival.documents.nats[:, -1]
    interval = paired_interval(delta, result.documents.bytes.astype(np.float64))
    return {
        "name": name,
        "adapters": specs,
        "bpb": result.bpb,
        "against": "best" if name.startswith("best ") else "base",
        "delta_bpb": result.bpb - rival.bpb,
        "ci95": list(interval) if interval else None,
        "verdict": verdict(interval),
        "stages": [{k: s[k] for k in ("adapter", "bpb", "delta_bpb", "ci95")} for s in result.run["stages"]],
        "cpu_seconds_without_forward": round(cpu, 2),
        "state_bytes": result.run["state_bytes"]["experts"],
        "rows_summed": result.run["verdicts"]["sentinel"]["rows"],
        "worst_sum": result.run["verdicts"]["sentinel"]["worst"],
    }


def verdict(interval: tuple[float, float] | None) -> str:
    if interval is None or interval[0] <= 0.0 <= interval[1]:
        return "cannot be told apart"
    return "better" if interval[1] < 0.0 else "worse"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", nargs="+", default=[str(ASSETS / "sample.jsonl.xz")])
    parser.add_argument("--checkpoint", default=None)
    parser.add_argument("--limit-tokens", type=int, default=None)
    parser.add_argument("--plan", default=PLAN)
    parser.add_argument("--only", nargs="+", choices=list(STACKS), default=list(STACKS))
    parser.add_argument("--merge", action="store_true", help="keep the other rows of --out, of the same text and model")
    parser.add_argument("--stack", action="append", default=[], metavar="A + B", help="a further stack")
    parser.add_argument("--out", default=str(HERE / "results" / "experts.json"))
    args = parser.parse_args()

    from evalkit.cli.session import open_parts

    run = RunSettings(
        checkpoint=args.checkpoint, text=args.text, limit_tokens=args.limit_tokens, threads=1, device="cpu"
    )
    model, stream, _, _ = open_parts(Recipe(run=run, adapters=[]))
    rivals = {"base"} | ({"best"} if any(name.startswith("best ") for name in args.only) else set())
    stacks = {name: specs for name, specs in STACKS.items() if name in {*args.only, *rivals}}
    stacks |= {text: [part.strip() for part in text.split(" + ")] for text in args.stack}
    rows: list[dict[str, Any]] = []
    recorded, base, best = Recorded(), None, None
    for name, specs in stacks.items():
        began = time.process_time()
        result = score_stack((model, stream), specs, args.plan, recorded)
        cpu = 0.0 if base is None else time.process_time() - began
        base = base or result
        best = result if name == "best" else best
        rival = best if name.startswith("best ") and best is not None else base
        rows.append(row(name, specs, result, rival, cpu))
        _show(rows[-1])
        _write(Path(args.out), args, rows, base)
    return 0 if all(r["worst_sum"] <= 1e-12 for r in rows) else 1


def _show(r: dict[str, Any]) -> None:
    span = f"{r['ci95'][0]:+.5f} .. {r['ci95'][1]:+.5f}" if r["ci95"] else ""
    print(f"{r['name']:28s} {r['bpb']:.5f} {r['delta_bpb']:+.5f}  {span:22s} {r['verdict']}", flush=True)


def _merged(path: Path, rows: list[dict[str, Any]], base: Any) -> tuple[str, list[dict[str, Any]]]:
    """(command of the earlier run, its rows with these in their places); SystemExit when it was on another text."""
    known = json.loads(path.read_text("utf-8"))
    for key in ("targets", "bytes", "base_nats"):
        if known["totals"][key] != base.run["totals"][key]:
            raise SystemExit(
                f"{path.name} has {key} {known['totals'][key]}, this run {base.run['totals'][key]}: "
                "measure all rows anew, without --merge"
            )
    new = {r["name"]: r for r in rows}
    together = {r["name"]: r for r in known["rows"]} | new
    order = [name for name in STACKS if name in together] + [name for name in together if name not in STACKS]
    return known["command"], [together[name] for name in order]


def _write(path: Path, args: argparse.Namespace, rows: list[dict[str, Any]], base: Any) -> None:
    command = "python -m benches.experts " + shlex.join(Path(a).name if "/" in a else a for a in sys.argv[1:])
    if args.merge and path.is_file():
        rows = [r | {"command": command} for r in rows]
        command, rows = _merged(path, rows, base)
    content = {
        "command": command,
        "plan": args.plan,
        "totals": base.run["totals"],
        "documents": base.run["documents"],
        "environment": base.run["environment"],
        "peak_memory_bytes": peak_memory_bytes(),
        "rows": rows,
        "do_not_help": [r["name"] for r in rows[1:] if r["against"] == "base" and r["verdict"] != "better"],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
