"""What does each learner bring, and at what cost?  Every learner alone and the best stack, on held-out text.

    python -m benches.learners --text val_fineweb_head.jsonl.xz --limit-tokens 360000
    python -m benches.learners --text ... --limit-tokens 360000 --plan document:seq_len=512,stride=256 --out lanes.json

Every row is scored on the same targets with the same windows as the base; the interval is paired by document.  CPU
seconds are those of this process on one thread, so that another job on the machine does not show in them.

It is long.  ``--only`` runs some rows, ``--base FILE.npz`` keeps the base's scores for the next call, and ``--merge``
puts the tables of several calls together.  Settings were chosen on val_wiki and val_tech, not on the reported text.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.cli.recipe import ASSETS, Recipe, RunSettings
from evalkit.machine import peak_memory_bytes
from evalkit.settings import split_spec

HERE = Path(__file__).resolve().parent
PLAN = "banded:window=512,block=256,segment=0"
EXPERTS = ["ppm:corpus=none", "match", "hedge", "log_bias", "temperature"]
STACKS = {
    "base": [],
    "full_ttt": ["full_ttt"],
    "full_ttt, AdamW": ["full_ttt:optimiser=adamw,lr=0.0002"],
    "muon_ttt": ["muon_ttt"],
    "lora_ttt, one state": ["lora_ttt"],
    "lora_ttt, per document": ["lora_ttt:reset=document"],
    "phased_ttt": ["phased_ttt"],
    "slot": ["slot"],
    "slot, chunks of 256": ["slot:chunk=256"],
    "slot, AdamW steps": ["slot:form=steps,scope=[document],delta=0.01,bias=0.03,context=2048"],
    "ppm": ["ppm:corpus=none"],
    "slot + ppm": ["slot:chunk=256", "ppm:corpus=none"],
    "experts": EXPERTS,
    "muon_ttt + experts": ["muon_ttt", *EXPERTS],
}
LANES = "lora_lanes:lanes=16,targets=[q,v,o,mlp],chunk=256"
BY_DOCUMENT = {
    "base": [],
    "lora_ttt, lanes": [LANES],
    "experts": EXPERTS,
    "lora_ttt, lanes + experts": [LANES, *EXPERTS],
}
"""Stacks that are scored document by document: what plan ``document`` runs."""


@dataclass
class Base:
    """Scores of the bare model: nats and bytes float64 [documents], and the totals of its run."""

    nats: np.ndarray
    bytes: np.ndarray
    totals: dict[str, Any]

    def save(self, path: Path) -> None:
        np.savez(
            path, nats=self.nats, bytes=self.bytes, totals=np.frombuffer(json.dumps(self.totals).encode(), np.uint8)
        )

    @staticmethod
    def load(path: Path) -> Base:
        with np.load(path) as f:
            return Base(f["nats"], f["bytes"], json.loads(f["totals"].tobytes()))

    @staticmethod
    def of(result: Any) -> Base:
        return Base(result.documents.nats[:, -1], result.documents.bytes.astype(np.float64), result.run["totals"])


def run_stack(parts: tuple[Any, Any], specs: list[str], plan: str, chunk: int) -> Any:
    """Score one stack, base pass off, sentinel on."""
    from evalkit.adapters.registry import parse_adapter
    from evalkit.plan import parse_plan
    from evalkit.scoring.score import ScoreOptions, score

    options = ScoreOptions(chunk_tokens=chunk, base_pass=False)
    return score(*parts, [parse_adapter(s) for s in specs], parse_plan(plan), options=options)


def row(name: str, specs: list[str], result: Any, base: Base, cpu: float) -> dict[str, Any]:
    """The row of one stack against the base run."""
    from evalkit.scoring.statistics import paired_interval

    interval = paired_interval(result.documents.nats[:, -1] - base.nats, base.bytes)
    return {
        "name": name,
        "adapters": specs,
        "bpb": result.bpb,
        "delta_bpb": result.bpb - base.totals["bpb"],
        "ci95": list(interval) if interval else None,
        "cpu_seconds": round(cpu, 2),
        "seconds": result.run["seconds"],
        "state_bytes": result.run["state_bytes"],
        "peak_memory_bytes": peak_memory_bytes(),
        "sentinel": result.run["verdicts"]["sentinel"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", nargs="+", default=[str(ASSETS / "sample.jsonl.xz")])
    parser.add_argument("--checkpoint", default=None)
    parser.add_argument("--limit-tokens", type=int, default=None)
    parser.add_argument("--plan", default=PLAN)
    parser.add_argument("--chunk-tokens", type=int, default=8192)
    parser.add_argument("--only", nargs="+", choices=list(STACKS | BY_DOCUMENT), metavar="NAME")
    parser.add_argument("--stack", action="append", default=[], metavar="A + B", help="a further stack")
    parser.add_argument("--base", metavar="FILE.npz", help="keep the base's scores there, or take them from there")
    parser.add_argument("--merge", nargs="+", metavar="FILE", help="only put these tables together")
    parser.add_argument("--out", default=str(HERE / "results" / "learners.json"))
    args = parser.parse_args()
    if args.merge:
        return _merge([Path(name) for name in args.merge], Path(args.out))

    from evalkit.cli.session import open_parts

    run = RunSettings(
        checkpoint=args.checkpoint, text=args.text, limit_tokens=args.limit_tokens, threads=1, device="cpu"
    )
    model, stream, _, _ = open_parts(Recipe(run=run, adapters=[]))
    stacks = BY_DOCUMENT if args.plan.startswith("document") else STACKS
    stacks = {name: specs for name, specs in stacks.items() if args.only is None or name in args.only}
    stacks |= {text: [part.strip() for part in text.split(" + ")] for text in args.stack}
    kept = Path(args.base) if args.base else None
    base = Base.load(kept) if kept and kept.exists() else None
    if base is None:
        stacks = {"base": [], **stacks}
    rows: list[dict[str, Any]] = []
    for name, specs in stacks.items():
        began = time.process_time()
        result = run_stack((model, stream), specs, args.plan, args.chunk_tokens)
        if base is None:
            base = Base.of(result)
            if kept:
                base.save(kept)
        rows.append(row(name, specs, result, base, time.process_time() - began))
        _show(rows[-1])
        _write(Path(args.out), args, rows, base, result.run)
    return 0


def _merge(paths: list[Path], out: Path) -> int:
    """One table of several, rows in the order of STACKS.  Fails when their bases differ."""
    tables = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    assert all(t["totals"] == tables[0]["totals"] and t["plan"] == tables[0]["plan"] for t in tables), "other bases"
    order = [*(STACKS | BY_DOCUMENT), *(r["name"] for t in tables for r in t["rows"])]
    rows = sorted((r for t in tables for r in t["rows"]), key=lambda r: order.index(r["name"]))
    defaults = {spec: values for t in tables for spec, values in t["defaults"].items()}
    commands = [c for t in tables for c in ([t["command"]] if isinstance(t["command"], str) else t["command"])]
    merged = {**tables[0], "command": commands, "defaults": defaults, "rows": rows}
    out.write_text(json.dumps(merged, indent=2) + "\n", encoding="utf-8")
    for r in rows:
        _show(r)
    return 0


def _show(r: dict[str, Any]) -> None:
    span = f"{r['ci95'][0]:+.4f} .. {r['ci95'][1]:+.4f}" if r["ci95"] else ""
    print(f"{r['name']:32s} {r['bpb']:.5f} {r['delta_bpb']:+.5f}  {span:22s} {r['cpu_seconds']:8.1f} CPU s", flush=True)


def _write(path: Path, args: argparse.Namespace, rows: list[dict[str, Any]], base: Base, run: dict[str, Any]) -> None:
    words = [Path(a).name if "/" in a else a for a in sys.argv[1:]]
    content = {
        "command": " ".join(["python -m benches.learners", *words]),
        "plan": args.plan,
        "totals": base.totals,
        "documents": len(base.bytes),
        "environment": run["environment"],
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
