"""lm-evaluation-harness's own class and evalkit on one Hugging Face folder: the same values, seconds side by side.

    python -m benches.lm_eval            writes benches/results/lm_eval.json

The folder is made here: a Llama of 4 layers x 256 over 32,768 ids, random weights, windows of 512 tokens; the texts are the
bundled ones that fit into one window.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent / "results" / "lm_eval.json"
LENGTH, ROUNDS = 512, 5


def make_folder(folder: Path, texts: list[str]) -> None:
    """Model and byte-level tokenizer as transformers saves them."""
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    torch.manual_seed(0)
    shape = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 4}
    ids = {"bos_token_id": 0, "eos_token_id": 0, "max_position_embeddings": LENGTH, "num_key_value_heads": 2}
    transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=32_768, **shape, **ids)).save_pretrained(folder)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=4096, special_tokens=["<s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="<s>")
    fast.save_pretrained(folder)


def main() -> None:
    import torch
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from evalkit.cli.recipe import ASSETS
    from evalkit.integrations.lm_eval import EvalkitLM
    from evalkit.scoring.environment import environment
    from evalkit.stream.text import read_documents

    torch.set_num_threads(1)
    texts = [d.text for d in read_documents(ASSETS / "sample.jsonl.xz", "jsonl")]
    with tempfile.TemporaryDirectory() as name:
        make_folder(Path(name), texts)
        ours: Any = EvalkitLM(checkpoint=name, device="cpu", threads=1)
        short = [t for t in texts if len(ours.tok_encode(t)) < LENGTH][:24]
        asked = [Instance("loglikelihood_rolling", {}, (t,), i) for i, t in enumerate(short)]
        models: dict[str, Any] = {
            f"lm-eval's hf, batch_size={size}": HFLM(pretrained=name, device="cpu", dtype="float32", batch_size=size)
            for size in (1, 8)
        } | {"evalkit": ours}
        seconds: dict[str, list[float]] = {name: [] for name in models}
        values: dict[str, list[float]] = {}
        for _ in range(ROUNDS):
            for name, model in models.items():
                begin = time.perf_counter()
                values[name] = model.loglikelihood_rolling(asked, disable_tqdm=True)
                seconds[name].append(time.perf_counter() - begin)
        tokens = sum(len(ours.tok_encode(t)) for t in short)
    base = "lm-eval's hf, batch_size=1"
    rows = [
        {
            "name": name,
            "seconds": statistics.median(taken),
            "ratio": statistics.median(t / s for t, s in zip(taken, seconds[base], strict=True)),
            "nats": -sum(values[name]),
            "largest_relative_difference": max(abs(a / b - 1) for a, b in zip(values[name], values[base], strict=True)),
        }
        for name, taken in seconds.items()
    ]
    found = {
        "command": "python -m benches.lm_eval",
        "texts": len(short),
        "tokens": tokens,
        "rounds": ROUNDS,
        "rows": rows,
    }
    RESULT.write_text(json.dumps({**found, "environment": environment("cpu")}, indent=1) + "\n", encoding="utf-8")
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
