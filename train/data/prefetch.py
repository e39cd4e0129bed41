"""The next batch, made ready while the model computes: one thread that makes the batch which comes next."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from evalkit.train.data.blocks import Loader

Batch = npt.NDArray[np.int64]


class Prefetch:
    """A Loader that answers as the one inside does, bit for bit: it only asks it earlier.

    After a request (first, count, seq_len) the next ``depth`` requests of the same size are made in a thread.  A request
    that was not foreseen (the sequence length changed, a resumed run) is answered at once.  stride: blocks from the
    first of a request to the first of the next; None is ``count``, with several ranks it is the whole step's.
    """

    def __init__(self, inner: Loader, depth: int = 2, stride: int | None = None) -> None:
        self.inner, self.depth, self.stride = inner, depth, stride
        self._waiting: dict[tuple[int, int, int], Future[Batch]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")

    @property
    def block_len(self) -> int:
        return self.inner.block_len

    @property
    def per_epoch(self) -> int:
        return self.inner.per_epoch

    def batch(self, first: int, count: int, seq_len: int) -> Batch:
        """See :class:`Loader`; an error in the thread is raised here."""
        ready = self._waiting.pop((first, count, seq_len), None)
        wanted = [(first + (self.stride or count) * i, count, seq_len) for i in range(1, self.depth + 1)]
        for key in [k for k in self._waiting if k not in wanted]:
            self._waiting.pop(key).cancel()
        result = ready.result() if ready else self.inner.batch(first, count, seq_len)
        for key in wanted:
            if key not in self._waiting:
                self._waiting[key] = self._thread.submit(self.inner.batch, *key)
        return result

    def close(self) -> None:
        """Stop the thread; batches not yet made are dropped."""
        self._thread.shutdown(wait=True, cancel_futures=True)
