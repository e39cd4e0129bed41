"""What a search tries: plans, perhaps a learner, and experts in order; what a model can do, the likeliest first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Spec = tuple[str, dict[str, Any]]
"""An adapter's name and raw settings."""

COUNTS: tuple[Spec, ...] = (
    ("ppm", {"counts": "continuations", "fast": 0.5, "decide": 0.05}),
    ("match", {}),
    ("best_agree", {}),
    ("hedge", {}),
)
BEST: tuple[Spec, ...] = (("log_bias", {"global_prior": 32.0, "document_prior": 3.0}), *COUNTS)
"""recipes/experts.toml: the one that reads whole rows first, the others on columns."""
ON_ROWS: tuple[Spec, ...] = (*COUNTS, ("log_bias", {}), ("temperature", {}))
"""0.0003 BPB lower on the bundled sample, for three times the seconds or more."""


@dataclass(frozen=True)
class Ladder:
    """Candidates are the prefixes of ``experts`` behind all ``learners``."""

    plan: str
    learners: tuple[Spec, ...] = ()
    experts: tuple[Spec, ...] = ()

    @property
    def name(self) -> str:
        return label(self.plan, [*self.learners, *self.experts])


def label(plan: str, adapters: Sequence[Spec]) -> str:
    """``banded:window=512 | ppm:fast=0.5 + match``."""
    words = [f"{n}:{','.join(f'{k}={_value(v)}' for k, v in raw.items())}" if raw else n for n, raw in adapters]
    return f"{plan} | {' + '.join(words) or 'no adapter'}"


def _value(value: Any) -> str:
    return f"[{','.join(map(str, value))}]" if isinstance(value, list | tuple) else str(value)


def ladders_for(
    model: Any, chunk_tokens: int, *, ranks: int = 1, corpus: str | None = None, own: Ladder | None = None
) -> tuple[str, list[Ladder]]:
    """(plan of the plain pass, ladders): what this model can do in chunks of so many targets, the likeliest first."""
    window = min(512, model.max_seq_len or 512)
    block = chunk_tokens if chunk_tokens < 2048 else 2048
    segment = 0 if ranks == 1 else chunk_tokens
    banded = "banded" in model.can
    plain = f"banded:window={window},block={block},segment={segment}" if banded else f"disjoint:seq_len={window}"
    wide = 2 * window if model.max_seq_len is None or model.max_seq_len >= 2 * window else 0
    best = BEST
    if corpus is not None:
        best = tuple((n, {**raw, "corpus": corpus} if n == "ppm" else raw) for n, raw in BEST)
    first = [Ladder(plain, (), best)] + ([Ladder(plain, (), BEST)] if corpus is not None else [])
    sliding = [f"sliding:seq_len={window},stride={window // k}" for k in (2, 4, 8, 16) if window // k]
    likely, others = (
        sliding[:1],
        [*sliding[1:], *([] if plain.startswith("disjoint") else [f"disjoint:seq_len={window}"])],
    )
    if banded:
        likely = [f"banded:window={wide},block={block},segment={segment}"] if wide else sliding[:1]
        others = [sliding[2], f"banded:window={window // 2},block={block},segment={segment}", others[-1], sliding[3]]
    learners = list[Ladder]()
    if "parameters" in model.can:
        short = plain.replace(f"block={block}", "block=256") if banded else f"disjoint:seq_len={min(256, window)}"
        apart = f"document:seq_len={window},stride={max(1, window // 2)}"
        lanes = {"lanes": 16, "chunk": max(1, window // 2), "targets": ["q", "v", "o", "mlp"]}
        learners = [
            Ladder(apart, (("lora_lanes", lanes),), best),
            Ladder(short, (("muon_ttt", {"epochs": 1}),), best),
            Ladder(short, (("muon_ttt", {"epochs": 2}),), best),
        ]
    found = [*first, *(Ladder(p, (), best) for p in likely), *learners[:2], *(Ladder(p, (), best) for p in others)]
    found += [*learners[2:], Ladder(plain, (), (("ppm", {}),)), Ladder(plain, (), ON_ROWS)]
    return plain, [own, *found] if own else found
