"""Write an adapter, test it, audit it: a cache of the last tokens, mixed in at a fixed rate.

python examples/my_adapter.py                                        the laws, then its gain on the bundled text
evalkit eval --adapter ppm --adapter examples/my_adapter.py:Recent   in a stack, from the command line
evalkit audit examples/my_adapter.py:factory                         the black-box audit of the same thing
"""

from __future__ import annotations

import sys
from collections import deque
from pathlib import Path

import numpy as np

from evalkit.adapters.base import Float64, Receipt, Settings, Side, StreamInfo
from evalkit.adapters.strict import StrictExpert


class RecentSettings(Settings):
    length: int = 256
    """Tokens that are remembered."""
    rate: float = 0.02
    """Share of the cache in the mixture."""


class Recent(StrictExpert):
    """p'(v) = (1 - rate) p(v) + rate c(v): c are the shares of the last ``length`` tokens, smoothed by one.

    A mixture of two distributions sums to 1; ``row`` has no target to look at; ``observe`` gets it with the receipt.
    """

    name = "recent"
    Settings = RecentSettings

    def __init__(self, settings: RecentSettings | None = None) -> None:
        self.settings = settings or RecentSettings()

    def begin(self, info: StreamInfo) -> None:
        super().begin(info)
        self.counts = np.ones(info.vocab_size)
        self.kept: deque[int] = deque()

    def row(self, p: Float64, side: Side, history: tuple[Float64, ...] = ()) -> Float64:
        rate = self.settings.rate
        return (1 - rate) * p + rate * self.counts / self.counts.sum()

    def observe(self, receipt: Receipt) -> None:
        token = int(receipt.tokens[0])
        self.counts[token] += 1
        self.kept.append(token)
        if len(self.kept) > self.settings.length:
            self.counts[self.kept.popleft()] -= 1


class Alone:
    """The adapter over a uniform model, as the black-box audit wants it: tokens in, log-probabilities out."""

    vocab_size = 16

    def score(self, tokens: np.ndarray) -> np.ndarray:
        counts, kept, out = np.ones(self.vocab_size), deque[int](), []
        for token in tokens:
            out.append(np.log(0.5 / self.vocab_size + 0.5 * counts[token] / counts.sum()))
            counts[token] += 1
            kept.append(int(token))
            if len(kept) > 256:
                counts[kept.popleft()] -= 1
        return np.array(out)


def factory() -> Alone:
    return Alone()


def main(limit: int = 4000) -> int:
    import evalkit
    from evalkit.testing import check_adapter

    verdict = check_adapter(Recent())
    print(f"laws: {verdict.verdict}")
    model = evalkit.open_checkpoint(None)
    sample = Path(evalkit.__file__).parent / "assets" / "sample.jsonl.xz"
    stream = evalkit.open_stream([sample], evalkit.open_tokenizer(model.tokenizer_model), limit_targets=limit)
    result = evalkit.score(model, stream, [Recent()])
    print(f"base {result.base_bpb:.4f}, with recent {result.bpb:.4f} bits per byte")
    return 0 if verdict.verdict == "legal" else 1


if __name__ == "__main__":
    sys.exit(main())
