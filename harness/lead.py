"""Rank 0 beside its share of the forward: it scores, and makes the other ranks do what it does.

``Lead`` gives the scoring loop a forward pass over all ranks and learners that learn on all ranks; the loop itself
knows of neither.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from evalkit.adapters.base import Learner, LearnerProxy, Needs, Receipt, StreamInfo
from evalkit.errors import EvalkitError
from evalkit.harness.faults import RankFailed, breaks_a_line
from evalkit.harness.job import Job
from evalkit.harness.lines import Lines
from evalkit.harness.serve import SharedText, setup_message, state_digest
from evalkit.harness.sharded import Crew, ShardedForward
from evalkit.models.lanes import open_forward
from evalkit.plan import Chunk, Plan


class Lead:
    """``stopping``: True once this process was asked to stop (SIGTERM)."""

    def __init__(self, job: Job, stopping: Callable[[], bool]) -> None:
        self.job = job
        self.lines = Lines(job.peers, stopping)
        self.crew: Crew | None = None
        self._learners = 0

    def wrap(self, adapters: Sequence[Any]) -> list[Any]:
        """Learners become shared ones; experts stay: they live on rank 0 alone."""
        return [self._shared(a) if isinstance(a, Learner) else a for a in adapters]

    @property
    def ties_ranks(self) -> bool:
        """True when the bits depend on the number of ranks: learners whose gradients are added in any order."""
        return self._learners > 0 and self.job.size > 1 and not self.job.deterministic

    def _shared(self, learner: Learner) -> SharedLearner:
        shared = SharedLearner(learner, self._learners, self)
        self._learners += 1
        return shared

    def forwards(
        self, models: Sequence[Any], plan: Plan, stream: Any, needs: Sequence[Needs], info: StreamInfo, options: Any
    ) -> list[ShardedForward]:
        """What ``score(..., forwards=...)`` calls: set up the other ranks, return one forward over all of them a model.

        ``models``: the bare model, the one after each learner; the last is the one that is scored, and when there are
        fewer models than learners + 1 it is only that one.
        """
        tokens = np.ascontiguousarray(stream.tokens[:], dtype=np.int32)
        text = SharedText(tokens, stream.doc_start)
        own = [
            open_forward(m, plan, text, n, info.groups, options.batch_tokens)
            for m, n in zip(models, needs, strict=True)
        ]
        indices = [*range(len(models) - 1), self._learners]
        values, arrays = setup_message(own, indices, info, stream.doc_start, options.batch_tokens)
        self.lines.tell("setup", arrays, **values)
        self.job.broadcast(torch.from_numpy(tokens))

        def chunks() -> Iterator[Chunk]:
            return plan.chunks(len(tokens), stream.doc_start, options.chunk_tokens)

        if needs[-1].rows and self.job.size > 1:
            say(f"an adapter reads whole rows: {4 * info.vocab_size:,} bytes a target cross the wire")
        self.crew = Crew(self.job, self.lines, own, chunks, ahead=self._learners == 0)
        return [ShardedForward(self.crew, sweep) for sweep in range(len(models))]

    def close(self) -> None:
        """End rank 0's own thread and let the others go."""
        if self.crew is not None:
            self.crew.stop()
        self.lines.farewell()


class SharedLearner(LearnerProxy):
    """A learner that does on every rank what it does on this one: the same receipts, in the same order."""

    def __init__(self, learner: Learner, index: int, lead: Lead) -> None:
        super().__init__(learner)
        self._index, self._lead = index, lead
        if not learner.share(lead.job.ranks()) and lead.job.size > 1:
            say(f"adapter {learner.name} does not share its steps: every rank trains the whole chunk")

    def observe(self, receipt: Receipt) -> None:
        arrays = {"tokens": receipt.tokens, "nats": receipt.nats, "context": receipt.context}
        self._lead.lines.tell("observe", arrays, learner=self._index, lo=receipt.lo)
        try:
            self.inner.observe(receipt)
        except EvalkitError:
            raise
        except RuntimeError as fault:
            self._explain(fault)

    def _explain(self, fault: RuntimeError) -> None:
        """A collective broke: another rank's fault, if one speaks or is gone, is the cause."""
        if breaks_a_line(fault):
            self._lead.lines.blame()
        raise fault

    def snapshot(self) -> bytes:
        """Our state, after all ranks showed that theirs is the same."""
        state = self.inner.snapshot()
        mine = state_digest(state)
        for rank in self._lead.lines.peers:
            other = self._lead.lines.ask(rank, "digest", learner=self._index)["digest"]
            if other != mine:
                raise RankFailed(
                    f"learner '{self.name}' has drifted: rank {rank} holds other weights than rank 0; "
                    "its steps depend on the rank, which is a fault of the learner"
                )
        return state

    def restore(self, state: bytes) -> None:
        self._lead.lines.tell("restore", {"state": np.frombuffer(state, dtype=np.uint8)}, learner=self._index)
        self.inner.restore(state)

    def shed(self, work: str) -> str:
        """Do less of some work from now on, on every rank."""
        change = self.inner.shed(work)
        self._lead.lines.tell("shed", learner=self._index, work=work)
        return change


def say(text: str) -> None:
    """A line of the conversation."""
    print(text, file=sys.stderr, flush=True)
