"""How does a run go?  Batch, step, log, checkpoint, until f = 1; then the run's facts and the artifact."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import msgspec
import torch

from evalkit.errors import DivergenceError, InputError
from train import checkpoint, machine, optim
from train.data import Blocks, Corpus
from train.measure import loss_of, val_bpb
from train.model import GPT
from train.recipe import Recipe
from train.schedule import lr_multiplier, progress, ramp
from train.shards import write_durably


@dataclass
class Log:
    """Progress lines: to the terminal and, without times of day or paths, to DIR/train.log."""

    path: Path
    echo: TextIO = field(default_factory=lambda: sys.stderr)

    def say(self, line: str) -> None:
        print(line, file=self.echo, flush=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


class Trainer:
    """One run: everything between a corpus and trained weights.  ``run()`` may be called again after a crash."""

    def __init__(self, recipe: Recipe, corpus: Corpus, out: Path) -> None:
        self.recipe, self.corpus, self.out = recipe, corpus, out
        self.device = machine.pick_device(recipe.run.device)
        self.log = Log(out / "train.log")
        self.step, self.elapsed, self.history = 0, 0.0, list[dict[str, float]]()
        saved = checkpoint.read(out)
        self.threads, self.precision = self._choices(saved)
        torch.set_num_threads(self.threads)
        machine.keep_heap()
        torch.manual_seed(recipe.run.seed)
        self.model = GPT(recipe.model).to(self.device)
        self._build_optimisers()
        self.average = {n: p.detach().clone() for n, p in self.model.named_parameters()} if recipe.optim.ema else {}
        self.blocks = Blocks(corpus.train, max(recipe.run.seq_lens), recipe.run.seed)
        if saved is not None:
            self._restore(saved)

    def _choices(self, saved: checkpoint.Checkpoint | None) -> tuple[int, str]:
        """Threads and precision: those of the interrupted run if there is one, since both decide bits."""
        run = self.recipe.run
        if saved is None:
            return machine.pick_threads(run.threads), machine.pick_precision(run.precision, self.device)
        if saved.facts["identity"] != self.identity():
            raise InputError(
                f"{self.out} holds step {saved.facts['step']} of a run with another recipe, text or seed; "
                "give another --out, or remove the folder to start again"
            )
        return saved.facts["threads"], saved.facts["precision"]

    def identity(self) -> str:
        """What must be equal for a resumed run to be the same run (export settings may change)."""
        recipe = msgspec.to_builtins(self.recipe)
        del recipe["export"]
        return json.dumps([recipe, self.corpus.fingerprint, self.device.type], sort_keys=True)

    def _build_optimisers(self) -> None:
        o = self.recipe.optim
        matrices, others = optim.split_params(self.model.named_parameters())
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        self.muon = optim.Muon(matrices, weight_decay=o.muon_weight_decay, row_norm=o.row_norm, dtype=dtype)
        self.adam = optim.AdamW(others, betas=o.adam_betas, eps=o.adam_eps, weight_decay=o.adam_weight_decay)

    def _restore(self, saved: checkpoint.Checkpoint) -> None:
        self.model.load_state_dict(saved.part("model."))
        self.muon.load(saved.tensors)
        self.adam.load(saved.tensors)
        for name, tensor in saved.part("average.").items():
            self.average[name].copy_(tensor)
        self.step, self.elapsed = saved.facts["step"], saved.facts["elapsed"]
        self.history = saved.facts["history"]
        if self.f < 1:
            self.log.say(f"resumed at step {self.step}")

    def save(self) -> None:
        tensors = {f"model.{n}": t for n, t in self.model.state_dict().items()}
        tensors |= {f"average.{n}": t for n, t in self.average.items()}
        tensors |= self.muon.state() | self.adam.state()
        facts = {"identity": self.identity(), "step": self.step, "elapsed": self.elapsed, "history": self.history}
        facts |= {"threads": self.threads, "precision": self.precision}
        checkpoint.write(self.out, checkpoint.Checkpoint(tensors, facts))

    @property
    def f(self) -> float:
        run = self.recipe.run
        return progress(self.step, run.steps, self.elapsed, run.seconds)

    def run(self) -> None:
        """Train until f = 1; nothing when it is there already.  Raises DivergenceError on a loss that is not finite."""
        if self.f >= 1:
            return
        run, start, before = self.recipe.run, time.monotonic(), self.elapsed
        self.log.say(
            f"{sum(p.numel() for p in self.model.parameters())} parameters, {len(self.corpus.train)} training tokens, "
            f"{self.device.type}, {self.threads} threads, {self.precision}"
        )
        while self.f < 1:
            loss = self.train_step()
            self.elapsed = before + time.monotonic() - start
            if self.step % max(1, run.eval_every // 10) == 0 or self.f >= 1:
                self._report(float(loss), self.step % run.eval_every == 0 or self.f >= 1)
            if self.step % run.checkpoint_every == 0 or self.f >= 1:
                self.save()

    def train_step(self) -> float:
        """One batch, one step of both optimisers, one step of the average.  Returns the batch's mean nats."""
        o, f = self.recipe.optim, self.f
        loss = loss_of(self.model, self._batch(), self.precision == "bf16")
        loss.backward()
        value = float(loss.detach())
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), o.clip)
        if not torch.isfinite(norm) or value != value:
            raise DivergenceError(
                f"loss {value} with gradient norm {float(norm)} at step {self.step}; lower optim.muon_lr and "
                "optim.embed_lr, then start in a new --out"
            )
        lr = lr_multiplier(f, o.warmdown, o.floor) * min(1.0, (self.step + 1) / max(1, o.lr_warmup_steps))
        self.muon.step(o.muon_lr * lr, ramp(self.step, o.momentum_steps, *o.momentum))
        rates = {n: lr * (o.embed_lr if n == "embed.weight" else o.scalar_lr) for n in self.adam.params}
        self.adam.step(rates)
        self.model.zero_grad(set_to_none=True)
        self.step += 1
        self._average()
        return value

    def _batch(self) -> torch.Tensor:
        run = self.recipe.run
        count = run.tokens_per_step // self.blocks.block_len
        batch = self.blocks.batch(self.step * count, count, self._seq_len())
        return torch.from_numpy(batch).to(self.device)

    def _seq_len(self) -> int:
        """The first length until ``long_from``; the others share the rest."""
        run = self.recipe.run
        later = run.seq_lens[1:]
        if not later or self.f < run.long_from:
            return run.seq_lens[0]
        share = (self.f - run.long_from) / max(1e-9, 1 - run.long_from)
        return later[min(len(later) - 1, int(share * len(later)))]

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.recipe.optim.ema, (1 + self.step) / (10 + self.step))
        for name, p in self.model.named_parameters() if self.average else ():
            self.average[name].lerp_(p, 1 - decay)

    def _report(self, loss: float, with_val: bool) -> None:
        run = self.recipe.run
        row = {"step": self.step, "loss": loss, "seconds": round(self.elapsed, 1)}
        rate = self.step * run.tokens_per_step / max(self.elapsed, 1e-9)
        left = self.elapsed * (1 - self.f) / max(self.f, 1e-9)
        line = f"step {self.step}/{run.steps}  loss {loss:.4f}"
        if with_val:
            row["val_bpb"] = self.val_bpb()
            line += f"  val_bpb {row['val_bpb']:.4f}"
        self.history.append(row)
        self.log.say(f"{line}  {rate:.0f} tok/s  {left:.0f} s left")

    def val_bpb(self) -> float:
        run = self.recipe.run
        return val_bpb(self.model, self.corpus, run.eval_tokens, max(run.seq_lens), self.device)

    def choose_weights(self) -> dict[str, Any]:
        """Keep the raw or the averaged weights, whichever scores lower on the held-out training text."""
        scores = {"raw": self.val_bpb()}
        if self.average:
            raw = {n: p.detach().clone() for n, p in self.model.named_parameters()}
            self.model.load_state_dict(self.average)
            scores["ema"] = self.val_bpb()
            if scores["raw"] <= scores["ema"]:
                self.model.load_state_dict(raw)
        kept = min(scores, key=lambda name: scores[name])
        self.log.say("weights: " + ", ".join(f"{n} {b:.4f}" for n, b in scores.items()) + f"; kept {kept}")
        return {"kept": kept, "val_bpb": scores}


def write_facts(out: Path, facts: dict[str, Any]) -> None:
    """DIR/run.json, durably."""
    write_durably(out / "run.json", json.dumps(facts, indent=1, sort_keys=True).encode())
