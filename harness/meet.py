"""How the ranks of one attempt find each other: by a word that no earlier attempt knows.

torchrun may start the ranks again and keep the same store, with the addresses that dead ranks left there; on several
nodes not even the count of restarts is the same everywhere.  So every rank posts a token of its own, rank 0 answers each
token with the word of this attempt, and all keys of the attempt lie under that word.
"""

from __future__ import annotations

import secrets
import threading
import time
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from evalkit.errors import EvalkitError

POLL = 0.02
"""Seconds between looks at the store."""


class Meeting:
    """``store`` for this attempt's keys.  Rank 0 goes on answering until :meth:`over`."""

    def __init__(self, store: Any, rank: int, size: int, timeout: timedelta) -> None:
        self._raw, self._size = store, size
        self._ended = threading.Event()
        if rank == 0:
            self.word = secrets.token_hex(8)
            self._thread = threading.Thread(target=self._answer, args=(store.clone(),), name="meet", daemon=True)
            self._thread.start()
        else:
            self.word = self._ask(rank, timeout)
        self.store = dist.PrefixStore(f"evalkit/{self.word}", store)  # pyright: ignore[reportPrivateImportUsage]

    def over(self) -> None:
        """All ranks are connected."""
        self._ended.set()

    def _ask(self, rank: int, timeout: timedelta) -> str:
        token, give_up = secrets.token_hex(8), time.monotonic() + timeout.total_seconds()
        self._raw.set(f"evalkit/join/{rank}", token)
        key = f"evalkit/answer/{rank}/{token}"
        while not self._raw.check([key]):
            if time.monotonic() > give_up:
                raise EvalkitError(f"rank {rank} waited {timeout.total_seconds():g} s for rank 0 to start")
            time.sleep(POLL)
        return self._raw.get(key).decode()

    def _answer(self, store: Any) -> None:
        answered: dict[int, bytes] = {}
        while not self._ended.wait(POLL):
            for rank in range(1, self._size):
                if not store.check([f"evalkit/join/{rank}"]):
                    continue
                token = store.get(f"evalkit/join/{rank}")
                if answered.get(rank) != token:
                    answered[rank] = token
                    store.set(f"evalkit/answer/{rank}/{token.decode()}", self.word)
