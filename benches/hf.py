"""A Hugging Face model with 32,768 ids: what do the plain loops cost, and what do our plans?

python -m benches.hf --train train.jsonl.xz --model DIR     # ten minutes on one thread, once
python -m benches.hf --model DIR --text val_mix.jsonl.xz
"""

from __future__ import annotations

import argparse
import json
import lzma
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

VOCAB = 32_768
USED = 2048
"""Ids that the tokenizer gives.  The others share one trained row: a softmax over all ids is then one over the used
ids and one more whose logit is raised by log(VOCAB - USED), exactly, at a sixteenth of the cost of training."""
CONTEXT = 512
"""Tokens of a training window, BOS first in each."""
SHAPE = {
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "tie_word_embeddings": False,
}


def texts(path: Path, n_bytes: int) -> list[str]:
    """Whole documents from the front of a .jsonl.xz, until ``n_bytes``."""
    found, held = list[str](), 0
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            found.append(json.loads(line)["text"])
            held += len(found[-1].encode())
            if held >= n_bytes:
                break
    return found


def train_tokenizer(documents: list[str], folder: Path) -> Any:
    """Byte-level BPE of ``USED`` ids; its template puts <s> (id 0) first, as Llama's does."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=USED, special_tokens=["<s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(documents, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 0)]
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "<s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings) + "\n", encoding="utf-8")
    return tokenizer


def loss_of(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Mean nats of ids int64 [B, L + 1] under the softmax over all ``VOCAB`` ids; see ``USED``."""
    hidden = model.model(input_ids=ids[:, :-1]).last_hidden_state
    logits = F.linear(hidden, model.lm_head.weight[: USED + 1])
    spare = torch.zeros(USED + 1)
    spare[USED] = np.log(VOCAB - USED)
    return F.cross_entropy((logits + spare).flatten(0, 1), ids[:, 1:].flatten())


def train(path: Path, folder: Path, steps: int, seed: int = 0) -> None:
    """A Llama of 0.8 M parameters in its layers: Muon for matrices, AdamW for the rest."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    documents = texts(path, 3 * CONTEXT * 8 * steps + 1_000_000)
    tokenizer = train_tokenizer(documents[:2000], folder)
    encoded = tokenizer.encode_batch_fast(documents)
    stream = torch.from_numpy(np.concatenate([np.array(e.ids, np.int64) for e in encoded]))
    model = LlamaForCausalLM(LlamaConfig(vocab_size=USED + 1, **SHAPE))
    with torch.no_grad():
        model.lm_head.weight.mul_(0.0)
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "layers." in n]
    others = [p for n, p in model.named_parameters() if not (p.ndim == 2 and "layers." in n)]
    optimizers = [
        torch.optim.Muon(matrices, lr=0.02, weight_decay=0.0, adjust_lr_fn="original"),
        torch.optim.AdamW(others, lr=4e-3, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    began = time.process_time()
    for step in range(steps):
        share = min(1.0, (step + 1) / 40, 1.5 * (1 - step / steps))
        for optimizer, lr in zip(optimizers, (0.02, 4e-3), strict=True):
            optimizer.param_groups[0]["lr"] = lr * share
        at = rng.integers(0, len(stream) - CONTEXT, size=8)
        ids = torch.stack([stream[a : a + CONTEXT] for a in at])
        ids = torch.cat((torch.zeros(8, 1, dtype=torch.int64), ids), dim=1)
        loss = loss_of(model, ids)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if step % 20 == 0 or step == steps - 1:
            print(
                f"step {step}  loss {loss.item():.4f}  {time.perf_counter() - began:.0f} s, {time.process_time():.0f} s of CPU",
                file=sys.stderr,
                flush=True,
            )
            if step % 500 == 499:
                widen(model).save_pretrained(folder)
    widen(model).save_pretrained(folder)


@torch.no_grad()
def widen(trained: Any) -> Any:
    """The trained model with all ``VOCAB`` ids: the spare row stands for each unused one."""
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCAB, **SHAPE))
    state = trained.state_dict()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        rows = state[name]
        state[name] = torch.cat((rows[:USED], rows[USED:].expand(VOCAB - USED, -1)))
    model.load_state_dict(state)
    return model


def plain_loop(model: Any, tokens: torch.Tensor, stride: int) -> float:
    """Nats of tokens 1.. by the loop of the Hugging Face docs ("Perplexity of fixed-length models"), windows of
    ``CONTEXT`` tokens; the mean loss of a window times what it scored."""
    nats, done = 0.0, 0
    for begin in range(0, len(tokens) - 1, stride):
        end = min(begin + CONTEXT, len(tokens) - 1)
        ids, labels = tokens[None, begin : end + 1], tokens[None, begin : end + 1].clone()
        fresh = end - done
        labels[:, : end + 1 - begin - fresh] = -100
        with torch.no_grad():
            nats += model(ids, labels=labels, use_cache=False).loss.item() * fresh
        done = end
        if end == len(tokens) - 1:
            break
    return nats


def sides(folder: Path, text: Path, targets: int) -> dict[str, Callable[[], float]]:
    """Name -> bits per byte of the same targets, one way of scoring each."""
    import evalkit
    from evalkit.plan import parse_plan

    opened = {o: evalkit.open_checkpoint(f"{folder}{o}") for o in ("", ":sinks=0", ":bos=document")}
    stream = evalkit.open_stream([text], evalkit.open_tokenizer(opened[""].tokenizer_model), limit_targets=targets)
    tokens = torch.from_numpy(np.asarray(stream.tokens[: targets + 1]).astype(np.int64))
    bits = np.log(2.0) * float(stream.target_bytes(1, targets + 1).sum())

    def ours(plan: str, options: str = "") -> Callable[[], float]:
        return lambda: evalkit.score(opened[options], stream, [], parse_plan(plan)).base_bpb

    return {
        "transformers, disjoint loop": lambda: plain_loop(opened[""].module, tokens, CONTEXT) / bits,
        "transformers, strided loop 512/64": lambda: plain_loop(opened[""].module, tokens, 64) / bits,
        "disjoint:seq_len=512": ours("disjoint:seq_len=512"),
        "disjoint:seq_len=512, bos=document": ours("disjoint:seq_len=512", ":bos=document"),
        "sliding:seq_len=512,stride=64": ours("sliding:seq_len=512,stride=64"),
        "banded:window=512,block=512": ours("banded:window=512,block=512"),
        "banded:window=512,block=1024": ours("banded:window=512,block=1024"),
        "banded:window=512,block=512, sinks=0": ours("banded:window=512,block=512", ":sinks=0"),
    }


def measure(folder: Path, text: Path, targets: int, rounds: int) -> list[dict[str, Any]]:
    """All sides in turn, ``rounds`` times: BPB, seconds of CPU, and the median of the ratios to the two plain loops."""
    runs = sides(folder, text, targets)
    seconds, bpb = {name: list[float]() for name in runs}, dict[str, float]()
    for _ in range(rounds):
        for name, run in runs.items():
            began = time.process_time()
            bpb[name] = run()
            seconds[name].append(time.process_time() - began)
            print(f"{name:40s} {bpb[name]:.5f} BPB  {seconds[name][-1]:.2f} s", file=sys.stderr, flush=True)
    plain = [seconds[name] for name in list(runs)[:2]]

    def ratio(name: str, base: list[float]) -> float:
        return round(statistics.median(s / b for s, b in zip(seconds[name], base, strict=True)), 3)

    return [
        {
            "way": name,
            "bpb": round(bpb[name], 5),
            "cpu_seconds": round(statistics.median(seconds[name]), 3),
            "to_disjoint_loop": ratio(name, plain[0]),
            "to_strided_loop": ratio(name, plain[1]),
        }
        for name in runs
    ]


def main() -> int:
    """Train the model when asked to, then measure; writes benches/results/hf.json."""
    parser = argparse.ArgumentParser(prog="python -m benches.hf", description=__doc__)
    parser.add_argument(
        "--train", type=Path, metavar="JSONL.XZ", help="train the model into --model, and measure nothing"
    )
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--model", type=Path, required=True, metavar="DIR")
    parser.add_argument("--text", type=Path, metavar="JSONL.XZ")
    parser.add_argument("--targets", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "hf.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.train:
        train(args.train, args.model, args.steps)
        return 0
    if not args.text:
        parser.error("give --text, or --train")
    import transformers

    rows = measure(args.model, args.text, args.targets, args.rounds)
    machine = {"processor": platform.processor() or platform.machine(), "torch": torch.__version__}
    result = {
        "command": f"python -m benches.hf --model DIR --text {args.text.name} --targets {args.targets} --rounds {args.rounds}",
        "model": f"python -m benches.hf --train train.jsonl.xz --model DIR --steps {args.steps}",
        "machine": {
            **machine,
            "python": platform.python_version(),
            "transformers": transformers.__version__,
            "threads": 1,
        },
        "vocab": VOCAB,
        "targets": args.targets,
        "rows": rows,
    }
    args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
