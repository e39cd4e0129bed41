"""The training run: batch, step, log, checkpoint, until f = 1; then the run's facts and the artifact."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import msgspec
import torch

from evalkit.errors import DivergenceError, InputError
from evalkit.models.ek.model import GPT
from evalkit.models.ek.parts.kernel import attention_path, preferred
from evalkit.stream.files import write_atomic
from evalkit.train import averages, checkpoint, data, machine, optim, switches
from evalkit.train.data import Corpus
from evalkit.train.flops import flops_per_token, peak_flops
from evalkit.train.measure import val_bpb
from evalkit.train.objective import Moment
from evalkit.train.progress import Log, Pace
from evalkit.train.ranks import ALONE, Ranks
from evalkit.train.recipe import Recipe
from evalkit.train.schedule import decay_taper, lr_multiplier, momentum_at, progress

__all__ = ["Log", "Trainer", "write_facts"]


class Trainer:
    """One run: everything between a corpus and trained weights.  ``run()`` may be called again after a crash.

    With several ``ranks`` each holds the whole model and its part of every batch; gradients are averaged.
    """

    def __init__(self, recipe: Recipe, corpus: Corpus, out: Path, ranks: Ranks = ALONE) -> None:
        self.recipe, self.corpus, self.out, self.ranks = recipe, corpus, out, ranks
        self.device = machine.pick_device(recipe.run.device)
        self.log = Log(out / "train.log", silent=ranks.rank > 0)
        self.step, self.elapsed, self.history = 0, 0.0, list[dict[str, float]]()
        self._last = torch.zeros(()), torch.zeros(())
        """Loss and norm of the gradient of the last step."""
        saved = checkpoint.read(out)
        self.threads, self.precision = self._choices(saved)
        torch.set_num_threads(self.threads)
        machine.keep_heap()
        torch.manual_seed(recipe.run.seed)
        self.model = GPT(recipe.model).to(self.device)
        self.attention = attention_path(self.device, self.precision)
        self.objective = switches.objective(self.model, recipe.loss, self.precision == "bf16", corpus.shards[0])
        self.trained = dict(self.model.named_parameters()) | self.objective.parameters()
        ranks.same(p.data for p in self.trained.values())
        self._build_optimisers()
        self.averages = self._build_averages()
        self.blocks = data.loader(corpus, recipe.data.loader, max(recipe.run.seq_lens), recipe.run.seed)
        stride, depth = recipe.run.tokens_per_step // self.blocks.block_len, recipe.data.prefetch
        self._batches = data.Prefetch(self.blocks, depth, stride) if depth else self.blocks
        if saved is not None:
            self._restore(saved)
        self._set_looping()

    @property
    def world_size(self) -> int:
        return self.ranks.world

    @property
    def average(self) -> dict[str, torch.Tensor]:
        """The exponential average of the weights by name; empty when the recipe has none."""
        return self.averages["ema"].tensors() if "ema" in self.averages else {}

    def _choices(self, saved: checkpoint.Checkpoint | None) -> tuple[int, str]:
        """Threads and precision: those of the interrupted run if there is one, since both decide bits."""
        run = self.recipe.run
        if saved is None:
            threads = max(1, machine.pick_threads(run.threads) // self.ranks.world)
            return threads, machine.pick_precision(run.precision, self.device)
        if _known(saved.facts["identity"]) != _known(self.identity()):
            raise InputError(
                f"{self.out} holds step {saved.facts['step']} of a run with another recipe, text or seed; "
                "give another --out, or remove the folder to start again"
            )
        return saved.facts["threads"], saved.facts["precision"]

    def identity(self) -> str:
        """What must be equal for a resumed run to be the same run (export settings and expectations may change)."""
        recipe = msgspec.to_builtins(self.recipe)
        del recipe["export"], recipe["expect"]
        return json.dumps([recipe, self.corpus.fingerprint, self.device.type], sort_keys=True)

    def _build_optimisers(self) -> None:
        o = self.recipe.optim
        matrices, others = optim.split_params(self.trained.items())
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        self.muon = optim.Muon(
            matrices,
            weight_decay=o.muon_weight_decay,
            row_norm=o.row_norm,
            dtype=dtype,
            variance=o.normuon,
            method=o.newton,
            cautious=o.cautious,
            ranks=self.ranks,
        )
        decays = {n: o.table_weight_decay for n in others if optim.is_table(n) and o.table_weight_decay >= 0}
        self.adam = optim.AdamW(
            others, betas=o.adam_betas, eps=o.adam_eps, weight_decay=o.adam_weight_decay, decays=decays
        )
        late, layers = o.muon_lr_late / o.muon_lr if o.muon_lr_late else 1.0, self.recipe.model.layers
        self.muon_factors = {n: late for n in matrices if late != 1.0 and optim.layer_of(n) >= layers // 2}

    def _build_averages(self) -> dict[str, averages.Average]:
        o, params = self.recipe.optim, dict(self.model.named_parameters())
        found: dict[str, averages.Average] = {}
        if o.ema:
            found["ema"] = averages.Ema(params, o.ema)
        return found | switches.averages(params, o)

    def _restore(self, saved: checkpoint.Checkpoint) -> None:
        self.model.load_state_dict(saved.part("model."))
        for name, p in self.objective.parameters().items():
            p.data.copy_(saved.tensors[name])
        self.muon.load(saved.tensors)
        self.adam.load(saved.tensors)
        for average in self.averages.values():
            average.load(saved.tensors)
        self.step, self.elapsed = saved.facts["step"], saved.facts["elapsed"]
        self.history = saved.facts["history"]
        self.objective.qat_started = saved.facts["qat_started"]
        if self.f < 1:
            self.log.say(f"resumed at step {self.step}")

    def save(self) -> None:
        """Write the checkpoint (rank 0); refuses weights that are not finite."""
        self._check_finite()
        if self.ranks.rank > 0:
            return
        tensors = {f"model.{n}": t for n, t in self.model.state_dict().items()}
        tensors |= {n: p.data for n, p in self.objective.parameters().items()}
        for average in self.averages.values():
            tensors |= average.state()
        tensors |= self.muon.state() | self.adam.state()
        facts = {"identity": self.identity(), "step": self.step, "elapsed": self.elapsed, "history": self.history}
        facts |= {"threads": self.threads, "precision": self.precision, "world_size": self.ranks.world}
        facts["qat_started"] = self.objective.qat_started
        checkpoint.write(self.out, checkpoint.Checkpoint(tensors, facts))

    @property
    def f(self) -> float:
        run = self.recipe.run
        return progress(self.step, run.steps, self.elapsed, max(0.0, run.seconds - run.reserve_seconds))

    def run(self) -> None:
        """Train until f = 1; nothing when it is there already.

        Raises DivergenceError on a loss that is not finite, and when the early evaluation is above its threshold.
        """
        if self.f >= 1:
            return
        self.log.say(
            f"{sum(p.numel() for p in self.model.parameters())} parameters, {self.corpus.train_tokens} training tokens, "
            f"{self.device.type}, {self.threads} threads, {self.precision}, attention: {self.attention}"
            + (f", {self.ranks.world} ranks" if self.ranks.world > 1 else "")
        )
        with preferred(self.device):
            self._compile()
            self._steps()

    def _steps(self) -> None:
        run, start, before, first = self.recipe.run, time.monotonic(), self.elapsed, self.step
        arithmetic = 0.0
        while self.f < 1:
            arithmetic += run.tokens_per_step * flops_per_token(self.recipe.model, self._seq_len(), self.model.looping)
            loss = self.train_step()
            here = time.monotonic() - start
            self.elapsed = before + (self.ranks.agree(here, self.device) if run.seconds else here)
            self._abort_early()
            if self.step % max(1, run.eval_every // 10) == 0 or self.f >= 1:
                pace = Pace((self.step - first) * run.tokens_per_step, here, arithmetic, self._peak())
                self._report(float(loss), self.step % run.eval_every == 0 or self.f >= 1, pace)
            if self.step % run.checkpoint_every == 0 or self.f >= 1:
                self.save()

    def train_step(self) -> torch.Tensor:
        """One batch, one step of both optimisers, one step of the averages.  Returns the batch's mean nats, no gradient."""
        o, f, run = self.recipe.optim, self.f, self.recipe.run
        self._set_looping()
        multiplier = lr_multiplier(f, o.warmdown, o.floor)
        nats = self._backward(Moment(f, multiplier, self.step))
        self._last = nats, torch.nn.utils.clip_grad_norm_(self.trained.values(), o.clip)
        if self.step % (run.check_every or (20 if self.device.type == "cuda" else 1)) == 0:
            self._check_finite()
        lr = multiplier * min(1.0, (self.step + 1) / max(1, o.lr_warmup_steps))
        momentum = momentum_at(self.step, f, run.steps, o.momentum_steps, o.momentum_down_steps, *o.momentum)
        self.muon.step(o.muon_lr * lr, momentum, self.muon_factors, decay_taper(f, o.decay_taper))
        self.adam.step({n: lr * (o.embed_lr if optim.is_table(n) else o.scalar_lr) for n in self.adam.params})
        for p in self.trained.values():
            p.grad = None
        self.step += 1
        for average in self.averages.values():
            average.update(dict(self.model.named_parameters()), self.step, self.f)
        return nats

    def _backward(self, moment: Moment) -> torch.Tensor:
        """Gradients of the whole batch in ``p.grad``, averaged over the ranks; returns its mean nats."""
        parts = self._batch().chunk(self.recipe.run.accumulate)
        nats = torch.zeros((), device=self.device)
        for part in parts:
            total, mean = self.objective(part, moment)
            (total / len(parts) if len(parts) > 1 else total).backward()
            nats = nats + mean.detach() / len(parts) if len(parts) > 1 else mean.detach()
        if self.ranks.world > 1:
            self.ranks.average([*(p.grad for p in self.trained.values() if p.grad is not None), nats])
        return nats

    def _check_finite(self) -> None:
        """The NaN guard: looks at the last step's loss and gradient norm, which on a GPU waits for the step."""
        nats, norm = self._last
        if not (torch.isfinite(norm) and torch.isfinite(nats)):
            raise DivergenceError(
                f"loss {float(nats)} with gradient norm {float(norm)} at step {self.step}; lower optim.muon_lr and "
                "optim.embed_lr, then start in a new --out"
            )

    def _abort_early(self) -> None:
        run = self.recipe.run
        if self.step != run.early_eval_step:
            return
        bpb = self.val_bpb()
        self.log.say(f"early evaluation at step {self.step}: val_bpb {bpb:.4f}")
        if run.early_abort_bpb and not bpb <= run.early_abort_bpb:
            raise DivergenceError(
                f"val_bpb {bpb:.4f} at step {self.step} is above run.early_abort_bpb {run.early_abort_bpb}; the run stops "
                "here, mend the recipe and start in a new --out"
            )

    def _set_looping(self) -> None:
        self.model.looping = self.recipe.model.loop_passes > 1 and self.f >= self.recipe.run.looping_from

    def _compile(self) -> None:
        """Compile and prime every shape that the run will see, before its clock starts; weights do not move."""
        run = self.recipe.run
        if not run.compile:
            return
        torch._dynamo.config.cache_size_limit = 32
        self.objective.run = torch.compile(self.model, backend=run.compile, dynamic=False)
        rows = run.tokens_per_step // self.ranks.world // run.accumulate
        states = sorted({self.model.looping, self.recipe.model.loop_passes > 1})
        for looping in states:
            self.model.looping = looping
            for seq_len in run.seq_lens:
                ids = torch.zeros(rows // seq_len, seq_len + 1, dtype=torch.int64, device=self.device)
                self.objective(ids, Moment(0.0, 1.0, 0))[0].backward()
        self.model.zero_grad(set_to_none=True)
        self._set_looping()

    def _batch(self) -> torch.Tensor:
        """This rank's rows of the step's batch."""
        run = self.recipe.run
        count = run.tokens_per_step // self.blocks.block_len
        first, own = self.ranks.share(count)
        batch = torch.from_numpy(self._batches.batch(self.step * count + first, own, self._seq_len()))
        if self.device.type == "cuda":
            batch = batch.pin_memory()
        return batch.to(self.device, non_blocking=True)

    def _seq_len(self) -> int:
        """The first length until ``long_from``; the others share the rest."""
        run = self.recipe.run
        later = run.seq_lens[1:]
        if not later or self.f < run.long_from:
            return run.seq_lens[0]
        share = (self.f - run.long_from) / max(1e-9, 1 - run.long_from)
        return later[min(len(later) - 1, int(share * len(later)))]

    def _peak(self) -> float | None:
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"
        peak = peak_flops(name, self.precision)
        return peak * self.ranks.world if peak else None

    def _report(self, loss: float, with_val: bool, pace: Pace) -> None:
        run = self.recipe.run
        row = {"step": self.step, "loss": loss, "seconds": round(self.elapsed, 1)}
        left = self.elapsed * (1 - self.f) / max(self.f, 1e-9)
        bpb = loss / math.log(2) * len(self.corpus.val) / self.corpus.val_bytes
        line = f"step {self.step}/{run.steps}  loss {loss:.4f} (about {bpb:.3f} bpb)"
        if pace.mfu is not None:
            row["mfu"] = round(pace.mfu, 4)
        if with_val:
            row["val_bpb"] = self.val_bpb()
            line += f"  val_bpb {row['val_bpb']:.4f}"
        self.history.append(row)
        self.log.say(f"{line}  {pace.words()}  {left:.0f} s left")

    def val_bpb(self) -> float:
        run = self.recipe.run
        return val_bpb(self.model, self.corpus, run.eval_tokens, max(run.seq_lens), self.device, self.ranks)

    def choose_weights(self) -> dict[str, Any]:
        """Keep the raw or an averaged form of the weights, whichever scores lowest on the held-out training text."""
        candidates = {"raw": {n: p.detach().clone() for n, p in self.model.named_parameters()}}
        candidates |= {n: t for n, a in self.averages.items() if (t := a.tensors())}
        scores = {}
        for name, tensors in candidates.items():
            self.model.load_state_dict(tensors)
            scores[name] = self.val_bpb()
        kept = min(scores, key=lambda name: scores[name])
        self.model.load_state_dict(candidates[kept])
        self.log.say("weights: " + ", ".join(f"{n} {b:.4f}" for n, b in scores.items()) + f"; kept {kept}")
        return {"kept": kept, "val_bpb": scores}


def _known(identity: str) -> list[Any]:
    """An identity with the fields that an older release did not have at their defaults."""
    recipe, *rest = json.loads(identity)
    try:
        return [msgspec.convert(recipe, Recipe), *rest]
    except msgspec.ValidationError:
        return [recipe, *rest]


def write_facts(out: Path, facts: dict[str, Any]) -> None:
    """DIR/run.json, durably."""
    write_atomic(out / "run.json", json.dumps(facts, indent=1, sort_keys=True).encode())
