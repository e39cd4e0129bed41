"""What other tools call perplexity: their loops, from their description, over one model and one text.

    python -m benches.conventions            writes benches/results/conventions.json

Each loop is a dozen lines and asks one thing of the model: ``nats(start, end)``, the nats of tokens start+1 .. end-1, each
from the tokens start .. before it, in one forward.  docs/perplexity.md has the table; the tests compare these loops with
``evalkit eval`` to the digit.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

RESULT = Path(__file__).parent / "results" / "conventions.json"
TARGETS = 20_000
LN2 = math.log(2.0)
Nats = Callable[[int, int], np.ndarray]


@dataclass(frozen=True)
class Score:
    """``count`` bookings of ``nats`` in all; a target that is booked twice counts twice."""

    nats: float
    count: float

    @property
    def perplexity(self) -> float:
        return math.exp(self.nats / self.count)


def forward_nats(model: Any, tokens: Sequence[int]) -> Nats:
    """``nats(start, end)`` by a plain forward of the model."""
    import torch

    def nats(start: int, end: int) -> np.ndarray:
        ids = torch.tensor([[int(t) for t in tokens[start : end - 1]]])
        with torch.no_grad():
            logp = model.logits(ids)[0].double().log_softmax(-1)
        return -logp[torch.arange(end - start - 1), torch.tensor([int(t) for t in tokens[start + 1 : end]])].numpy()

    return nats


def hugging_face(nats: Nats, n_tokens: int, max_length: int, stride: int) -> tuple[Score, float]:
    """The strided loop of transformers' page "Perplexity of fixed-length models": today's form, and the mean over windows
    of an earlier one.  A later window's mean is over trg_len targets, its weight is one less."""
    total, weight, means, before = 0.0, 0, [], 0
    for begin in range(0, n_tokens, stride):
        end = min(begin + max_length, n_tokens)
        targets = end - before
        loss = float(nats(begin, end)[-targets:].mean())
        means.append(loss)
        total, weight = total + loss * (targets - 1), weight + targets - 1
        before = end
        if end == n_tokens:
            break
    return Score(total, weight), math.exp(sum(means) / len(means))


def llama_cpp(nats: Nats, n_tokens: int, n_ctx: int) -> Score:
    """llama-perplexity: chunks side by side, of each only the second half is scored; what is left at the end is dropped."""
    first, rows = n_ctx // 2, []
    for chunk in range(n_tokens // n_ctx):
        rows.append(nats(chunk * n_ctx, (chunk + 1) * n_ctx)[first:])
    return Score(math.fsum(np.concatenate(rows)), sum(len(r) for r in rows))


def lm_eval(nats: Nats, n_tokens: int, max_length: int) -> Score:
    """loglikelihood_rolling of one text, a BOS before it: windows side by side, the last one moved back until it is full."""
    rows, done = [], 0
    while done < n_tokens - 1:
        end = min(done + max_length, n_tokens - 1)
        start = 0 if done == 0 else end - max_length
        rows.append(nats(start, end + 1)[done - end :])
        done = end
    return Score(math.fsum(np.concatenate(rows)), n_tokens - 1)


def golf(nats: Nats, n_tokens: int, seq_len: int, stride: int) -> Score:
    """Parameter Golf's first sliding evaluation: every window that begins before the end books its last ``stride`` targets,
    so the windows that the end cuts short book the same final targets again."""
    rows, total = [], n_tokens - 1
    for begin in range(0, total, stride):
        length = min(begin + seq_len, total) - begin
        skip = 0 if begin == 0 else max(length - stride, 0)
        rows.append(nats(begin, begin + length + 1)[skip:])
    return Score(math.fsum(np.concatenate(rows)), sum(len(r) for r in rows))


def golf_bytes(processor: Any, tokens: Sequence[int]) -> int:
    """Parameter Golf's byte table (build_sentencepiece_luts): pieces without the mark, and 1 for a mark that does not
    follow a control piece."""
    total = 0
    for before, token in itertools.pairwise(tokens):
        if processor.is_control(token) or processor.is_unknown(token) or processor.is_unused(token):
            continue
        piece = processor.id_to_piece(token)
        boundary = processor.is_control(before) or processor.is_unknown(before) or processor.is_unused(before)
        if processor.is_byte(token):
            total += 1
        else:
            total += len(piece.removeprefix("\u2581").encode()) + (piece.startswith("\u2581") and not boundary)
    return total


def piece_bytes(processor: Any, tokens: Sequence[int]) -> int:
    """The table that goes wrong: every piece as long as it is printed, the mark of a space 3 bytes, a byte piece 6."""
    return sum(len(processor.id_to_piece(int(t)).encode()) for t in tokens[1:] if not processor.is_control(int(t)))


def measure(targets: int) -> dict[str, Any]:
    """All conventions on the bundled checkpoint and the first ``targets`` targets of the bundled text."""
    import sentencepiece

    import evalkit
    from evalkit.cli.recipe import ASSETS
    from evalkit.plan import parse_plan

    model = evalkit.open_checkpoint(None)
    tokenizer = evalkit.open_tokenizer(model.tokenizer_model)
    stream = evalkit.open_stream([ASSETS / "sample.jsonl.xz"], tokenizer, limit_targets=targets)
    tokens = [int(t) for t in stream.tokens]
    nats, n = forward_nats(model, tokens), len(tokens)

    def ours(plan: str) -> dict[str, Any]:
        run = evalkit.score(model, stream, plan=parse_plan(plan)).run
        return {
            "plan": plan,
            **run["totals"],
            "perplexity": run["perplexity"]["base"],
            "words": run["perplexity"]["words"],
        }

    def row(name: str, plan: str, score: Score, **more: Any) -> dict[str, Any]:
        own = ours(plan)
        bits = {"theirs": score.perplexity, "ours": own["perplexity"]["token"], "counted": score.count}
        relative = math.log(score.perplexity) / math.log(own["perplexity"]["token"]) - 1
        return {"name": name, "plan": plan, **bits, "relative_nats": relative, **more, "evalkit": own}

    strided, mean_of_means = hugging_face(nats, n, 512, 256)
    ends = [*stream.doc_start[1:].tolist(), n]
    texts = [
        lm_eval(lambda a, b, s=s: nats(s + a, s + b), e - s, 512)
        for s, e in zip(stream.doc_start.tolist(), ends, strict=True)
    ]
    rolling = Score(math.fsum(t.nats for t in texts), sum(t.count for t in texts))
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model_bytes)
    return {
        "targets": targets,
        "bytes": stream.total_bytes,
        "documents": len(stream.doc_start),
        "rows": [
            row(
                "transformers, strided loop",
                "sliding:seq_len=511,stride=256",
                strided,
                mean_of_means=mean_of_means,
                windows=targets - round(strided.count) + 1,
            ),
            row("llama.cpp, second halves", "sliding:seq_len=511,stride=256", llama_cpp(nats, n, 512)),
            row("lm-eval, rolling", "document:seq_len=512,stride=512", rolling),
            row("Parameter Golf, old tail", "sliding:seq_len=512,stride=64", golf(nats, n, 512, 64)),
            row("windows side by side", "disjoint:seq_len=512", Score(math.fsum(_disjoint(nats, n, 512)), n - 1)),
        ],
        "byte_tables": {
            "text": stream.total_bytes,
            "golf": golf_bytes(processor, tokens),
            "printed pieces": piece_bytes(processor, tokens),
        },
    }


def _disjoint(nats: Nats, n_tokens: int, seq_len: int) -> list[float]:
    return [x for s in range(0, n_tokens - 1, seq_len) for x in nats(s, min(s + seq_len + 1, n_tokens))]


def table(found: dict[str, Any]) -> list[list[str]]:
    """The cells of the table in docs/perplexity.md."""
    rows = []
    for row in found["rows"]:
        shown = [(row["name"], f"{row['counted']:,.0f}", row["theirs"])]
        if "mean_of_means" in row:
            shown.append((f"{row['name']}, mean over windows", f"{row['windows']:,} windows", row["mean_of_means"]))
        for name, counted, theirs in shown:
            relative = math.log(theirs) / math.log(row["ours"]) - 1
            rows.append([name, counted, f"{theirs:.4f}", f"`{row['plan']}`", f"{row['ours']:.4f}", f"{relative:+.4%}"])
    return rows


def main() -> None:
    from evalkit.scoring.environment import environment

    found = {"command": "python -m benches.conventions", **measure(TARGETS), "environment": environment("cpu")}
    RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for row in found["rows"]:
        print(f"{row['name']:30s} {row['theirs']:.4f} {row['ours']:.4f} {row['relative_nats']:+.5%}")
    print(found["byte_tables"])


if __name__ == "__main__":
    main()
