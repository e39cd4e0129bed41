"""Training recipes: a strict TOML file of a few tables, every field with a default, a unit and a reason."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import msgspec

from evalkit.errors import InputError, nearest
from evalkit.models.ek.config import GPTConfig

NEWTON = ("polar_express", "quintic", "turbo")

FOLDER = Path(__file__).with_name("recipes")


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of the tables: frozen, strict, keyword-only."""


class Data(Table, frozen=True, forbid_unknown_fields=True, kw_only=True):
    held_out_permille: int = 4
    """Documents of 1000 kept out of training, for the log's BPB and the choice of export settings."""
    loader: str = "blocks"
    """"blocks" (one shard, shuffled) or "coprime" (many shards, PR #1060)."""
    prefetch: int = 0
    """Batches made ahead in a thread."""


class Run(Table, frozen=True, forbid_unknown_fields=True, kw_only=True):
    steps: int = 3000
    seconds: float = 0.0
    """Wall-clock budget; 0 means steps alone decide, and the run is deterministic."""
    tokens_per_step: int = 4096
    seq_lens: tuple[int, ...] = (256, 512)
    """Sequence lengths in turn, tokens."""
    long_from: float = 0.6
    """Progress at which the next sequence length starts (shared evenly when there are more than two)."""
    seed: int = 0
    precision: str = "auto"
    """"auto" probes once and records the choice; "bf16" or "fp32" fix it."""
    device: str = "auto"
    threads: int = 0
    """Torch threads; 0 takes what the process may use."""
    eval_every: int = 500
    eval_tokens: int = 65_536
    checkpoint_every: int = 250
    accumulate: int = 1
    """Forward and backward passes per step; each rank runs tokens_per_step / (ranks * accumulate) tokens in one."""
    compile: str = ""
    """"" off, else a torch.compile backend: "inductor" on GPUs; the first steps wait for it."""
    looping_from: float = 0.35
    """Progress at which the replayed layers of model.loop_passes start (PR #1493); nothing without recurrence."""
    early_eval_step: int = 0
    """Evaluate after this step, 0 for never; a run above ``early_abort_bpb`` stops there."""
    early_abort_bpb: float = 0.0
    """Held-out BPB that the early evaluation must not exceed; 0 only reports."""
    check_every: int = 0
    """Steps between looks at the loss for NaN; 0 is each step on a CPU and every 20 on a GPU, where a look waits."""
    reserve_seconds: float = 0.0
    """Taken off ``seconds`` for calibration and the last checkpoint (records: 0.5 to 12)."""


class Optim(Table, frozen=True, forbid_unknown_fields=True, kw_only=True):
    muon_lr: float = 0.03
    muon_weight_decay: float = 0.05
    momentum: tuple[float, float] = (0.85, 0.95)
    momentum_steps: int = 200
    row_norm: bool = True
    embed_lr: float = 0.03
    scalar_lr: float = 0.02
    adam_betas: tuple[float, float] = (0.9, 0.95)
    adam_eps: float = 1e-8
    adam_weight_decay: float = 0.02
    clip: float = 0.3
    """Global gradient norm."""
    lr_warmup_steps: int = 20
    warmdown: float = 0.75
    floor: float = 0.05
    ema: float = 0.0
    """Decay of the averaged weights, 0 for none; ramped as min(ema, (1 + t) / (10 + t))."""
    swa_from: float = 1.0
    """Progress from which SWA collects every ``swa_every``-th step; 1 is off (EMA is 0.003 better, PR #375)."""
    swa_every: int = 50
    lawa_keep: int = 0
    """Snapshots that LAWA averages, one each ``lawa_every`` steps; 0 is off (never on in a record)."""
    lawa_every: int = 100
    newton: str = "polar_express"
    """"polar_express" (PR #1787), "quintic" (Muon's own triple) or "turbo" (row scaling and one step less)."""
    normuon: float = 0.0
    """Decay of NorMuon's row second moment, 0 for none; takes the place of ``row_norm``, so turn that off."""
    muon_lr_late: float = 0.0
    """Muon's learning rate in the second half of the layers; 0 is ``muon_lr`` everywhere."""
    cautious: bool = False
    """Decay matrices only where the step shrinks them too (nothing in PR #375)."""
    decay_taper: float = 1.0
    """Factor of Muon's weight decay at the end, falling from progress 0.7 on (0.5 in PR #1729); 1 is off."""
    table_weight_decay: float = -1.0
    """Weight decay of the embedding and other tables; below 0 it is ``adam_weight_decay`` (records: 0.085)."""
    momentum_down_steps: int = 0
    """Steps at the end in which the momentum goes back to its start (modded-nanogpt: 50)."""


class Loss(Table, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Helpers of the eval stack; none is in a record.  Evidence: train/switches/."""

    complementary: float = 0.0
    """alpha of 1 - alpha * p_bigram(target) (PR #803: 0.5); only pays with an n-gram expert at evaluation."""
    crown_q: float = 0.0
    """Weight of the CROWN-Q penalty during warm-down (PR #693)."""
    mtp: float = 0.0
    """Weight of the loss on the token after next; 0 is off (+0.001 BPB or worse)."""
    qat: str = ""
    """"" off, "ste" (straight through) or "soft" (PR #589)."""
    qat_below: float = 0.15
    """QAT starts when the learning-rate multiplier falls below this."""
    qat_bits: int = 6
    qat_k: float = 10.0
    qat_sharpening_steps: int = 500


class Export(Table, frozen=True, forbid_unknown_fields=True, kw_only=True):
    matrix_bits: int = 6
    matrix_k: float = 10.0
    """SDClip: quantisation step = k * std(row) / (2^(bits - 1) - 1); larger k, fewer bytes."""
    embed_bits: int = 8
    embed_k: float = 14.0
    gptq: bool = True
    calibration_tokens: int = 65_536
    embed_damp: float = 0.1
    """GPTQ's damping of the tied embedding, of its Hessian's mean diagonal: the head's inputs are half of its use.
    At k 12.85 and 20 the artifact loses 0.0230 BPB at 0.01 and 0.0176 at 0.1 (tiny-cpu, benches/results/quantise.json)."""
    embed_rank: int = 1
    """Singular pairs of GPTQ's error that are added back to the tied embedding (LQER), 0 for none; 2 KB at 2,048 rows.
    At k 12.85 and 20 the artifact loses 0.0176 BPB without and 0.0097 with it (tiny-cpu, the same file)."""
    target_bytes: int = 0
    """Bisect a factor on both k until the artifact has this size; 0 keeps k."""
    corpus_bytes: int = 0
    """Bytes of training text that go into the artifact for ppm to count, an even sample of documents; 0 for none."""


class Expect(Table, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the recipe was made for; the checks before and after a run compare (train/checks.py)."""

    gpus: int = 0
    """GPUs, one rank each; 0 runs anywhere."""
    gpu_kind: str = ""
    """A part of the device's name, as "H100"."""
    text: str = ""
    """Fingerprint of the tokenised text; another one is refused."""
    step_ms: float = 0.0
    """Mean time of a step, 0 when not known."""
    steps: int = 0
    """Steps that fit the budget, 0 when not known."""
    bpb: tuple[float, float] = (0.0, 0.0)
    """Held-out BPB of the artifact lies here; (0, 0) when not known.  Below is suspicious, above a failure to train."""
    source: str = ""
    """Where these figures come from, and whether the recipe was run."""


class Recipe(Table, frozen=True, forbid_unknown_fields=True, kw_only=True):
    model: GPTConfig = GPTConfig()
    data: Data = Data()
    run: Run = Run()
    optim: Optim = Optim()
    loss: Loss = Loss()
    export: Export = Export()
    expect: Expect = Expect()


def load_recipe(name: str, overrides: list[str] | None = None) -> Recipe:
    """Read a bundled recipe by name, or a TOML file by path, then apply ``table.key=value`` overrides."""
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if not path.is_file():
        raise InputError(f"unknown recipe '{name}'{nearest(name, (p.stem for p in FOLDER.glob('*.toml')))}")
    try:
        tree = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"recipe {path} is not TOML: {error}") from None
    for item in overrides or []:
        _override(tree, item)
    try:
        recipe = msgspec.convert(tree, Recipe)
    except msgspec.ValidationError as error:
        raise InputError(f"recipe {path}: {error}; see train/recipe.py for the fields") from None
    return _check(recipe)


def _override(tree: dict[str, Any], item: str) -> None:
    key, equals, value = item.partition("=")
    table, dot, field = key.strip().partition(".")
    if not equals or not dot:
        raise InputError(f"--set takes table.key=value, got '{item}'; for example --set run.steps=100")
    try:
        parsed = tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    tree.setdefault(table, {})[field.strip()] = parsed


def _check(recipe: Recipe) -> Recipe:
    recipe.model.check()
    run, longest = recipe.run, max(recipe.run.seq_lens, default=0)
    if run.steps < 1 or longest < 1 or run.tokens_per_step % longest or any(longest % n for n in run.seq_lens):
        raise InputError(
            f"run.tokens_per_step {run.tokens_per_step} must be whole sequences of {longest} tokens, each of run.seq_lens "
            f"{run.seq_lens} must divide the longest, and run.steps {run.steps} must be positive"
        )
    _one_of("run.precision", run.precision, ("auto", "bf16", "fp32"))
    _one_of("optim.newton", recipe.optim.newton, NEWTON)
    _one_of("loss.qat", recipe.loss.qat, ("", "ste", "soft"))
    _one_of("data.loader", recipe.data.loader, ("blocks", "coprime"))
    if run.accumulate < 1 or (run.tokens_per_step // longest) % run.accumulate:
        raise InputError(
            f"run.accumulate {run.accumulate} must divide the {run.tokens_per_step // longest} sequences of a step"
        )
    if recipe.model.loop_passes > 1 and not 0 <= run.looping_from < 1:
        raise InputError(
            f"run.looping_from {run.looping_from} must lie in 0..1 (below 1), or the layers of model.loop_passes "
            f"{recipe.model.loop_passes} would be replayed in the artifact and never in training"
        )
    if recipe.loss.mtp and recipe.loss.qat:
        raise InputError("loss.mtp and loss.qat do not go together; set one of them to 0 or off")
    return recipe


def _one_of(field: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(f"unknown {field} '{value}'{nearest(value, known)}")
