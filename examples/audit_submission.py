"""Audit a submission's scorer: an n-gram mixture as someone might hand it in, and the same with a mistake that pays.

python examples/audit_submission.py                                   both, with verdicts and a counter-example
evalkit audit examples/audit_submission.py:Counted                    from the command line
evalkit audit examples/audit_submission.py:PeeksAtItsChunk --markdown verdict.md
"""

from __future__ import annotations

import sys

import numpy as np

VOCAB = 16


class Counted:
    """Bigram counts with add-one smoothing, updated after each token: legal."""

    vocab_size = VOCAB
    chunk = 1

    def score(self, tokens: np.ndarray) -> np.ndarray:
        """tokens int64 [T] -> float64 [T]: natural-log probability booked for tokens[t] given tokens[:t]."""
        counts, out = np.ones((VOCAB, VOCAB)), np.empty(len(tokens))
        for lo in range(0, len(tokens), self.chunk):
            hi = min(lo + self.chunk, len(tokens))
            pairs = [(int(tokens[t - 1]) if t else 0, int(tokens[t])) for t in range(lo, hi)]
            self.learn_and_book(counts, pairs, out[lo:hi])
        return out

    def learn_and_book(self, counts: np.ndarray, pairs: list[tuple[int, int]], out: np.ndarray) -> None:
        for i, (a, b) in enumerate(pairs):
            out[i] = np.log(counts[a, b] / counts[a].sum())
            counts[a, b] += 1


class PeeksAtItsChunk(Counted):
    """The same, "a chunk at a time for speed": the chunk is counted before it is scored."""

    chunk = 16

    def learn_and_book(self, counts: np.ndarray, pairs: list[tuple[int, int]], out: np.ndarray) -> None:
        for a, b in pairs:
            counts[a, b] += 1
        for i, (a, b) in enumerate(pairs):
            out[i] = np.log(counts[a, b] / counts[a].sum())


def main(probes: int = 2000) -> int:
    """``probes``: calls of 128 tokens, the same on any machine."""
    import evalkit

    verdicts = {scorer: evalkit.audit(scorer, probes=probes) for scorer in (Counted, PeeksAtItsChunk)}
    for scorer, verdict in verdicts.items():
        print(f"{scorer.__name__}: {verdict.verdict}. {verdict.reason}")
        for found in verdict.evidence[:1]:
            print(f"  {found.law}, test {found.test}, position {found.position}")
    return 0 if [v.verdict for v in verdicts.values()] == ["legal", "violation"] else 1


if __name__ == "__main__":
    sys.exit(main())
