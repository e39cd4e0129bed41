"""A rank other than 0: it receives, does (units, learners) in the order of the messages, and replies.  In one thread."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import torch

from evalkit.adapters.base import Learner, Needs, StreamInfo, TokenLedger
from evalkit.harness.faults import GONE, GRACE, breaks_a_line, last_words, pack_fault, sentence
from evalkit.harness.job import Job
from evalkit.harness.sharded import rank_stats
from evalkit.harness.units import Unit, run_unit
from evalkit.harness.wire import Lost, Message
from evalkit.models.forward import LocalForward
from evalkit.models.lanes import open_forward
from evalkit.plan.parse import PLANS


@dataclass(frozen=True)
class SharedText:
    """The stream as a rank's forward reads it: token ids int32 [n], and int64 [D] where documents begin."""

    tokens: np.ndarray
    doc_start: np.ndarray


class Server:
    """One rank's service until rank 0 says stop."""

    def __init__(self, job: Job, open_model: Callable[[], Any], learners: Sequence[Learner]) -> None:
        self.job, self.line = job, job.peers[0]
        self._open_model, self._learners = open_model, learners
        self._forwards: list[LocalForward] = []
        self._ledgers = dict[int, TokenLedger]()
        self._spans: list[tuple[str, float, float]] = []
        self._verbs = {"setup": self._setup, "run": self._run, "observe": self._observe, "restore": self._restore}
        self._verbs |= {"digest": self._digest, "stats": self._stats, "shed": self._shed}

    def serve(self) -> int:
        """Exit code: 0 when rank 0 ended the job, else what our own failure calls for."""
        try:
            while True:
                self.job.pulse.at("")
                message = self.line.receive()
                if message.kind == "stop":
                    self.line.send("bye")
                    self.line.flush()
                    return 0
                self.job.pulse.at(_place(message))
                self._verbs[message.kind](message)
        except Lost:
            return self._orphaned()
        except Exception as fault:
            return self._failed(fault)

    def _setup(self, message: Message) -> None:
        """Open the model while rank 0 sends the tokens; then be ready for units."""
        v = message.values
        model = self._open_model()
        tokens = torch.empty(v["tokens"], dtype=torch.int32)
        self.job.broadcast(tokens)
        stream = SharedText(tokens.numpy(), message.arrays.pop("doc_start"))
        groups = {k: a.astype(bool) for k, a in message.arrays.items()}
        info = StreamInfo(**v["info"], piece_bytes=tuple(v["pieces"]), groups=groups)
        plan = msgspec.convert(v["plan"], PLANS[v["plan_name"]])
        models = [model]
        for learner in self._learners:
            learner.share(self.job.ranks())
            models.append(learner.attach(models[-1], info))
        sweeps = [(models[index], msgspec.convert(needs, Needs)) for index, needs in v["sweeps"]]
        batch = v["batch_tokens"]
        self._forwards = [open_forward(m, plan, stream, n, groups, batch) for m, n in sweeps]

    def _run(self, message: Message) -> None:
        for done in run_unit(self._forwards, Unit.unpack(message)):
            arrays, values = done.pack(self.job.rank, self.job.pulse.place)
            self.line.send("done", arrays, **values)

    def _observe(self, message: Message) -> None:
        a, v = message.arrays, message.values
        ledger = self._ledgers.setdefault(v["learner"], TokenLedger(a["context"], v["lo"]))
        receipt = ledger.book(v["lo"], a["tokens"], a["nats"])
        learner, begin = self._learners[v["learner"]], time.time()
        learner.observe(receipt)
        self._spans.append((f"observe/{learner.name}", begin, time.time()))

    def _restore(self, message: Message) -> None:
        self._learners[message.values["learner"]].restore(message.arrays["state"].tobytes())
        self._ledgers.pop(message.values["learner"], None)

    def _shed(self, message: Message) -> None:
        self._learners[message.values["learner"]].shed(message.values["work"])

    def _digest(self, message: Message) -> None:
        state = self._learners[message.values["learner"]].snapshot()
        self.line.send("answer", digest=state_digest(state))

    def _stats(self, message: Message) -> None:
        self.line.send("answer", spans=self._spans, **rank_stats(self.job))

    def _orphaned(self) -> int:
        """Rank 0 is gone.  torchrun will end us in a moment; say it only if it does not."""
        time.sleep(GRACE)
        last_words(GONE.format(0), 3)
        return 3

    def _failed(self, fault: Exception) -> int:
        """Tell rank 0 and leave our last words: our exit ends the job.  After the one who is the cause, if it is not us."""
        place = self.job.pulse.place
        if breaks_a_line(fault):
            time.sleep(GRACE)
        message, code = sentence(fault, self.job.rank, place)
        last_words(message, code)
        with contextlib.suppress(Lost):
            self.line.send("fault", **pack_fault(fault, self.job.rank, place))
            self.line.flush()
        return code or 3


def state_digest(state: bytes) -> str:
    return hashlib.blake2b(state, digest_size=16).hexdigest()


def _place(message: Message) -> str:
    v = message.values
    if message.kind == "run":
        return f"batch {v['number']}, in chunk {v['chunk']}"
    return f"learning target {v['lo']} and after" if message.kind == "observe" else message.kind


def setup_message(
    forwards: Sequence[LocalForward], indices: Sequence[int], info: StreamInfo, doc_start: np.ndarray, batch_tokens: int
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(values, arrays) that make a rank ready; the tokens follow by broadcast.

    ``indices``: for each forward the place of its model in the chain bare model, after learner 1, after learner 2 ...
    """
    last = forwards[-1]
    scalars = {k: getattr(info, k) for k in ("vocab_size", "bos_id", "first_token", "seed")}
    values = {
        "info": scalars,
        "pieces": list(info.piece_bytes),
        "plan_name": last.plan.name,
        "plan": msgspec.to_builtins(last.plan),
        "sweeps": [(i, msgspec.to_builtins(f.needs)) for i, f in zip(indices, forwards, strict=True)],
        "batch_tokens": batch_tokens,
        "tokens": len(last.tokens),
    }
    arrays = {k: np.ascontiguousarray(v, dtype=np.bool_) for k, v in info.groups.items()}
    return values, {**arrays, "doc_start": np.ascontiguousarray(doc_start, dtype=np.int64)}
