"""What does :mod:`evalkit.report.digest` sum?  The same, one target at a time."""

from __future__ import annotations

from typing import Any

from evalkit.report.digest import CLASSES, MOVES, REST


def digest_naive(scores: Any, stream: Any) -> dict[str, Any]:
    """Classes -> (targets, nats by stage); per adapter better, worse, won, lost."""
    adapters = scores.shape[1] - 1
    classes: dict[str, list[Any]] = {}
    acts = [{"better": 0, "worse": 0, "won": 0.0, "lost": 0.0} for _ in range(adapters)]
    for i, row in enumerate(scores.tolist()):
        token = int(stream.tokens[i + 1])
        groups = stream.tokenizer.pieces.groups
        name = next((CLASSES[g] for g in CLASSES if g in groups and groups[g][token]), REST)
        entry = classes.setdefault(name, [0, [0.0] * len(row)])
        entry[0] += 1
        entry[1] = [a + b for a, b in zip(entry[1], row, strict=True)]
        for s in range(adapters):
            step = row[s + 1] - row[s]
            if step < -MOVES:
                acts[s]["better"] += 1
                acts[s]["won"] += step
            if step > MOVES:
                acts[s]["worse"] += 1
                acts[s]["lost"] += step
    return {"classes": classes, "acts": acts}
