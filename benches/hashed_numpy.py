"""What does the field's hashed cache cost?  Its recipe in numpy, written for comparison: it is not exact.

Orders 2..7, one table of context counts and one of pair counts per order, 2^22 buckets of uint32, xor of token times
prime, segments scored whole and then committed whole (parameter-golf #1159).  Collisions inflate its mass.
"""

from __future__ import annotations

import numpy as np

PRIMES = (36313, 27191, 51647, 81929, 131071)


class HashedCache:
    """Counts of orders 2..7 in hashed buckets."""

    def __init__(self, buckets: int = 1 << 22, orders: tuple[int, ...] = (2, 3, 4, 5, 6, 7)) -> None:
        self.mask, self.orders = buckets - 1, orders
        self.contexts = {k: np.zeros(buckets, np.uint32) for k in orders}
        self.pairs = {k: np.zeros(buckets, np.uint32) for k in orders}

    def segment(self, tokens: np.ndarray, lo: int, hi: int, p: np.ndarray) -> np.ndarray:
        """Score targets lo..hi-1 of int64 tokens given p float64 [hi-lo], then count them."""
        keys = [(k, *self._keys(tokens, lo, hi, k)) for k in self.orders]
        q = p.copy()
        for k, context, pair in keys:
            n = self.contexts[k][context]
            seen = n >= 2
            q[seen] = (self.pairs[k][pair[seen]] + 4.0 * q[seen]) / (n[seen] + 4.0)
        for k, context, pair in keys:
            np.add.at(self.contexts[k], context, 1)
            np.add.at(self.pairs[k], pair, 1)
        return q

    def _keys(self, tokens: np.ndarray, lo: int, hi: int, order: int) -> tuple[np.ndarray, np.ndarray]:
        h = np.zeros(hi - lo, np.int64)
        for o in range(order - 1):
            h ^= tokens[lo - order + 1 + o : hi - order + 1 + o] * PRIMES[o % 5]
        return h & self.mask, (h ^ (tokens[lo:hi] * PRIMES[(order - 1) % 5])) & self.mask
