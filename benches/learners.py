"""What does each learner bring, and at what cost?  Every learner alone and the best stack, on held-out text.

    python -m benches.learners --text ../shared/data/val_mix.jsonl.xz --limit-tokens 353000

Every row is scored on the same targets with the same windows as the base; the interval is paired by document.  CPU
seconds are those of this process on one thread, so that another job on the machine does not show in them.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.cli.recipe import ASSETS, Recipe, RunSettings
from evalkit.settings import split_spec

HERE = Path(__file__).resolve().parent
PLAN = "banded:window=512,block=256,segment=0"
STACKS = {
    "base": [],
    "full_ttt": ["full_ttt"],
    "muon_ttt": ["muon_ttt"],
    "lora_ttt, one state": ["lora_ttt:reset=never,lr=0.003"],
    "lora_ttt, per document": ["lora_ttt:reset=document"],
    "phased_ttt": ["phased_ttt"],
    "slot": ["slot"],
    "slot, AdamW steps": ["slot:form=steps,scope=[document],chunk=256,delta=0.01,bias=0.03,context=2048"],
    "ppm": ["ppm"],
    "slot + ppm": ["slot", "ppm"],
    "lora_ttt, per document + ppm": ["lora_ttt:reset=document", "ppm"],
    "phased_ttt + ppm": ["phased_ttt", "ppm"],
    "phased_ttt + slot + ppm": ["phased_ttt", "slot:chunk=256", "ppm"],
}


def run_stack(parts: tuple[Any, Any], specs: list[str], plan: str, chunk: int) -> Any:
    """Score one stack, base pass off, sentinel on."""
    from evalkit.adapters.registry import parse_adapter
    from evalkit.plan import parse_plan
    from evalkit.scoring.score import ScoreOptions, score

    options = ScoreOptions(chunk_tokens=chunk, base_pass=False)
    return score(*parts, [parse_adapter(s) for s in specs], parse_plan(plan), options=options)


def row(name: str, specs: list[str], result: Any, base: Any, cpu: float) -> dict[str, Any]:
    """The row of one stack against the base run."""
    from evalkit.scoring.statistics import paired_interval

    delta = result.documents.nats[:, -1] - base.documents.nats[:, -1]
    interval = paired_interval(delta, result.documents.bytes.astype(np.float64))
    return {
        "name": name,
        "adapters": specs,
        "bpb": result.bpb,
        "delta_bpb": result.bpb - base.bpb,
        "ci95": list(interval) if interval else None,
        "cpu_seconds": round(cpu, 2),
        "seconds": result.run["seconds"],
        "state_bytes": result.run["state_bytes"],
        "sentinel": result.run["verdicts"]["sentinel"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", nargs="+", default=[str(ASSETS / "sample.jsonl.xz")])
    parser.add_argument("--checkpoint", default=None)
    parser.add_argument("--limit-tokens", type=int, default=None)
    parser.add_argument("--plan", default=PLAN)
    parser.add_argument("--chunk-tokens", type=int, default=8192)
    parser.add_argument("--only", nargs="+", choices=list(STACKS), default=list(STACKS))
    parser.add_argument("--stack", action="append", default=[], metavar="A + B", help="a further stack")
    parser.add_argument("--out", default=str(HERE / "results" / "learners.json"))
    args = parser.parse_args()

    from evalkit.cli.session import open_parts

    run = RunSettings(
        checkpoint=args.checkpoint, text=args.text, limit_tokens=args.limit_tokens, threads=1, device="cpu"
    )
    model, stream, _, _ = open_parts(Recipe(run=run, adapters=[]))
    stacks = {name: specs for name, specs in STACKS.items() if name in args.only or name == "base"}
    stacks |= {text: [part.strip() for part in text.split(" + ")] for text in args.stack}
    rows: list[dict[str, Any]] = []
    base: Any = None
    for name, specs in stacks.items():
        began = time.process_time()
        result = run_stack((model, stream), specs, args.plan, args.chunk_tokens)
        base = base or result
        rows.append(row(name, specs, result, base, time.process_time() - began))
        _show(rows[-1])
        _write(Path(args.out), args, rows, base)
    return 0


def _show(r: dict[str, Any]) -> None:
    span = f"{r['ci95'][0]:+.4f} .. {r['ci95'][1]:+.4f}" if r["ci95"] else ""
    print(f"{r['name']:32s} {r['bpb']:.5f} {r['delta_bpb']:+.5f}  {span:22s} {r['cpu_seconds']:8.1f} CPU s", flush=True)


def _write(path: Path, args: argparse.Namespace, rows: list[dict[str, Any]], base: Any) -> None:
    content = {
        "command": "python -m benches.learners " + " ".join(Path(a).name if "/" in a else a for a in sys.argv[1:]),
        "plan": args.plan,
        "totals": base.run["totals"],
        "documents": base.run["documents"],
        "environment": base.run["environment"],
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "defaults": {s: _defaults(s) for r in rows for s in r["adapters"]},
        "rows": rows,
    }
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _defaults(spec: str) -> dict[str, Any]:
    """Every setting of an adapter as it ran."""
    import msgspec

    from evalkit.adapters.registry import make_adapter

    return msgspec.to_builtins(make_adapter(*split_spec(spec)).settings)


if __name__ == "__main__":
    sys.exit(main())
