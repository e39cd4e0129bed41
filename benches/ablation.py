"""What is each switch of the base model worth?  One small model, a fixed number of tokens, one switch at a time.

    python -m benches.ablation --data train.jsonl.xz --work DIR --seeds 2

Every row trains the base with one change and scores the same held-out training text; a seed fixes start and order of the
text.  "bpb" is of the float weights, "bpb_int6" after rounding to the nearest of 6 bits (k = 12.85; embedding 8 bits,
k = 20), where quantisation-aware training would show.  Cost is CPU seconds per step on one thread over the base's of the
same seed, so that another job on the machine shows little.  Runs already in --work are not repeated.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
STEPS, TOKENS = 250, 2048
BASE = (
    "model.vocab_size=1024", "model.layers=4", "model.width=128", "model.kv_heads=1", "model.max_seq_len=128",
    "data.held_out_permille=40", f"run.steps={STEPS}", f"run.tokens_per_step={TOKENS}", "run.seq_lens=[128]",
    "run.precision=bf16", "run.device=cpu", "run.threads=1", "run.eval_every=100000", "run.eval_tokens=32768",
    "run.checkpoint_every=100000", "optim.muon_lr=0.03", "optim.embed_lr=0.03", "optim.momentum_steps=100",
    "optim.warmdown=0.75", "optim.floor=0.05", "optim.ema=0.0",
)  # fmt: skip
ROWS: dict[str, tuple[str, ...]] = {  # most telling first: a bench that is cut short keeps these
    "base": (),
    "no XSA": ("model.xsa=false",),
    "no value residual": ("model.value_residual=false",),
    "no head gate": ("model.head_gate=false",),
    "no smear gate": ("model.smear=false",),
    "U-Net skips": ("model.unet=true",),
    "layers 1-2 twice, from 0.35": ("model.loop_first=1", "model.loop_last=2", "model.loop_passes=2"),
    "two lanes from layer 2": ("model.parallel=lanes", "model.parallel_from=2"),
    "no row norm (MuonEq-R)": ("optim.row_norm=false",),
    "NorMuon 0.95 for row norm": ("optim.row_norm=false", "optim.normuon=0.95"),
    "EMA 0.95": ("optim.ema=0.95",),
    "BigramHash 2048 x 64": ("model.bigram_buckets=2048",),
    "EngramLite 4 x 2048 x 32": ("model.engram_buckets=2048",),
    "no layer-norm scale": ("model.norm_scale=false",),
    "relu^2 for leaky(0.5)^2": ("model.mlp_slope=0.0",),
    "q gain 5": ("model.qk_gain=5.0",),
    "late QAT, straight through": ("loss.qat=ste", "loss.qat_k=12.85"),
    "complementary 0.5": ("loss.complementary=0.5",),
    "token after next 0.2": ("loss.mtp=0.2",),
    "Turbo-Muon, 4 steps": ("optim.newton=turbo",),
    "Muon's own triple": ("optim.newton=quintic",),
    "rotate all 64 dims": ("model.rope_dims=64",),
    "no residual mix": ("model.resid_mix=false",),
    "no softcap": ("model.cap_logits=false",),
    "untied head": ("model.tied=false",),
    "side by side from layer 2": ("model.parallel=sum", "model.parallel_from=2"),
    "value embeddings, last 2": ("model.value_embeds=2", "model.value_embed_dim=64"),
    "a kv head for each query head": ("model.kv_heads=2",),
    "no q/k norm": ("model.qk_norm=false", "model.qk_gain=1.0"),
    "q gain 1": ("model.qk_gain=1.0",),
    "XSA on the last 2 only": ("model.xsa_last=2",),
    "residual lambdas": ("model.resid_lambdas=true",),
    "skip-gram hash 2048 x 64": ("model.skipgram_buckets=2048",),
    "cautious decay": ("optim.cautious=true",),
    "no weight decay": ("optim.muon_weight_decay=0.0",),
    "weight decay tapered to 0.5": ("optim.decay_taper=0.5",),
    "late layers at half the rate": ("optim.muon_lr_late=0.015",),
    "momentum back in 30 steps": ("optim.momentum_down_steps=30",),
    "SWA from 0.8": ("optim.swa_from=0.8", "optim.swa_every=5"),
    "LAWA of 5": ("optim.lawa_keep=5", "optim.lawa_every=10"),
    "CROWN-Q 1.0": ("loss.crown_q=1.0",),
    "late QAT, soft rounding": ("loss.qat=soft", "loss.qat_k=12.85", "loss.qat_sharpening_steps=40"),
}


def cut(source: Path, work: Path, megabytes: float) -> Path:
    """The first documents of ``source``, about so many MB of text, as a file of their own."""
    from evalkit.train.text import documents

    path = work / "text.jsonl"
    if not path.exists():
        size, lines = 0, []
        for document in documents(source):
            lines.append(json.dumps({"text": document}))
            size += len(document.encode())
            if size > megabytes * 1e6:
                break
        path.write_text("\n".join(lines), "utf-8")
    return path


def one(row: str, seed: int, work: Path) -> dict[str, Any]:
    """Train one row and score it."""
    import torch

    from evalkit.train import data, size
    from evalkit.train.loop import Trainer
    from evalkit.train.quant.plan import quantise
    from evalkit.train.recipe import Export, load_recipe

    recipe = load_recipe("tiny-cpu", [*BASE, *ROWS[row], f"run.seed={seed}"])
    corpus = data.prepare([work / "text.jsonl"], work / "data", recipe.model.vocab_size, recipe.data.held_out_permille)
    out = work / f"run-{list(ROWS).index(row)}-{seed}"
    out.mkdir(exist_ok=True)
    trainer = Trainer(recipe, corpus, out)
    start = time.process_time()
    for _ in range(STEPS):
        trainer.train_step()
    seconds = time.process_time() - start
    trainer._set_looping()
    for average in trainer.averages.values():
        trainer.model.load_state_dict(average.tensors())
    bpb = trainer.val_bpb()
    export = Export(matrix_bits=6, matrix_k=12.85, embed_bits=8, embed_k=20.0)
    with torch.no_grad():
        for name, coded in quantise(trainer.model, export, None).items():
            values = coded.dequantise() if hasattr(coded, "dequantise") else coded.astype("float32")
            trainer.model.get_parameter(name).copy_(torch.from_numpy(values))
    return {
        "row": row,
        "seed": seed,
        "bpb": bpb,
        "bpb_int6": trainer.val_bpb(),
        "cpu_seconds_per_step": seconds / STEPS,
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "artifact_bytes": size.estimate(recipe.model, export).total,
    }


def work_on(share: str, seeds: int, work: Path, seconds: float) -> None:
    """Every task of one worker that is not done, all rows of a seed before the next; none is begun after ``seconds``."""
    until = time.monotonic() + seconds
    number, of = (int(n) for n in share.split("/"))
    tasks = [(row, seed) for seed in range(seeds) for row in ROWS]
    tasks = [("base", seed) for seed in range(3)] + [t for t in tasks if t[0] != "base"]
    for i, (row, seed) in enumerate(tasks):
        path = work / f"{list(ROWS).index(row)}-{seed}.json"
        if i % of == number and not path.exists() and time.monotonic() < until:
            found = one(row, seed, work)
            path.write_text(json.dumps(found))
            print(f"{row:<32} seed {seed}  {found['bpb']:.4f}  {found['cpu_seconds_per_step']:.3f} s", flush=True)


def verdict(name: str, delta: float, noise: float) -> str:
    """Beyond two standard deviations of the base it counts; a row that begins with "no" takes something away."""
    if name == "base":
        return "base"
    if abs(delta) <= 2 * noise:
        return "within noise: stays as it is"
    removes = name.startswith("no ")
    if delta > 0:
        return "worse: keep what it takes away" if removes else "worse: leave it off"
    return "better without" if removes else "better: try it on the full recipe"


def gather(work: Path) -> dict[str, Any]:
    """The table of all finished runs: differences are to the base of the same seed."""
    runs = [json.loads(p.read_text()) for p in work.glob("*-*.json")]
    base = {r["seed"]: r for r in runs if r["row"] == "base"}
    noise = statistics.stdev(r["bpb"] for r in base.values()) if len(base) > 1 else float("nan")
    rows = []
    for name in ROWS:
        mine = [r for r in runs if r["row"] == name and r["seed"] in base]
        if not mine:
            continue
        deltas = [r["bpb"] - base[r["seed"]]["bpb"] for r in mine]
        rounded = [r["bpb_int6"] - base[r["seed"]]["bpb_int6"] for r in mine]
        cost = statistics.mean(r["cpu_seconds_per_step"] / base[r["seed"]]["cpu_seconds_per_step"] for r in mine)
        rows.append(
            {
                "row": name,
                "overrides": list(ROWS[name]),
                "seeds": len(mine),
                "bpb": statistics.mean(r["bpb"] for r in mine),
                "delta_bpb": statistics.mean(deltas),
                "delta_each_seed": deltas,
                "delta_bpb_int6": statistics.mean(rounded),
                "time_ratio": cost,
                "extra_parameters": mine[0]["parameters"] - next(iter(base.values()))["parameters"],
                "extra_bytes": mine[0]["artifact_bytes"] - next(iter(base.values()))["artifact_bytes"],
                "reading": verdict(name, statistics.mean(deltas), noise),
            }
        )
    return {
        "noise_bpb": noise,
        "noise_from": f"standard deviation of the base over {len(base)} seeds; a difference of one seed has up to sqrt 2 of it",
        "base": {"overrides": list(BASE), "recipe": "tiny-cpu", "steps": STEPS, "tokens_per_step": TOKENS},
        "base_int6_gap": statistics.mean(r["bpb_int6"] - r["bpb"] for r in base.values()),
        "rows": rows,
        "not_run": [name for name in ROWS if name not in {r["row"] for r in rows}],
    }


def environment() -> dict[str, str]:
    import torch

    cpu = next((x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")), "unknown")
    return {"cpu": cpu.partition(": ")[2], "python": platform.python_version(), "torch": torch.__version__}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benches.ablation", description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="training text")
    parser.add_argument("--work", type=Path, required=True, help="folder of the runs; a second call goes on there")
    parser.add_argument("--megabytes", type=float, default=8.0, help="text used (default 8)")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no run after so many seconds")
    parser.add_argument("--share", help=argparse.SUPPRESS)
    parser.add_argument("--gather", action="store_true", help="only write the table of what is done")
    parser.add_argument("--json", type=Path, default=HERE / "results" / "ablation_train.json")
    args = parser.parse_args()
    if args.share:
        work_on(args.share, args.seeds, args.work, args.seconds)
        return 0
    args.work.mkdir(parents=True, exist_ok=True)
    if not args.gather:
        cut(args.data, args.work, args.megabytes)
        prepare(args.work)
        start = [sys.executable, "-m", "benches.ablation", "--work", str(args.work), "--seeds", str(args.seeds)]
        start += ["--seconds", str(args.seconds)]
        workers = [
            subprocess.Popen([*start, "--share", f"{i}/{args.workers}"], cwd=HERE.parent) for i in range(args.workers)
        ]
        codes = [w.wait() for w in workers]
        if any(codes):
            return 1
    table = gather(args.work)
    command = f"python -m benches.ablation --data train.jsonl.xz --megabytes {args.megabytes:g} --seeds {args.seeds}"
    args.json.write_text(json.dumps({"command": command, "environment": environment(), **table}, indent=1) + "\n")
    for row in table["rows"]:
        rounded = f"int6 {row['delta_bpb_int6']:+.4f}  x{row['time_ratio']:.2f}"
        print(f"{row['row']:<32} {row['delta_bpb']:+.4f}  {rounded}  {row['reading']}")
    return 0


def prepare(work: Path) -> None:
    """Tokenise once, before the workers start."""
    from evalkit.train import data
    from evalkit.train.recipe import load_recipe

    recipe = load_recipe("tiny-cpu", list(BASE))
    data.prepare([work / "text.jsonl"], work / "data", recipe.model.vocab_size, recipe.data.held_out_permille)


if __name__ == "__main__":
    sys.exit(main())
