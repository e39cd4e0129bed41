"""The strict path, one row at a time: a model that is fed one token per call, and keeps its keys and values.

Encoder and decoder drive the same stepper with the same tokens, so they compute the same bits on one kind of machine.
The fast path runs whole windows; its rows differ in the last digits.  Documents that learn by themselves are walked one
after another in one lane; what a lane learns from a piece is the fast path's own step.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from evalkit.adapters.base import TOKEN_CONTEXT, Float64, Receipt, TokenLedger
from evalkit.legality.certificate.walk import Step
from evalkit.legality.engine.setup import Setup, assemble, stream_of
from evalkit.models.reduce import reduce
from evalkit.models.rows import Question
from evalkit.plan import Window, owners


class Stepper:
    """The strict path of a setup: ``row(step)`` before a target is known, ``book(token)`` after.

    Three clocks, three ledgers: experts learn a booked target, learners a booked chunk, a document its booked pieces.
    """

    def __init__(self, setup: Setup, first_token: int) -> None:
        """``first_token``: token 0 of the stream, all that a decoder knows of it."""
        self._run = assemble(setup, stream_of(np.array([first_token]), setup.tokenizer))
        self.setup, self.info = setup, self._run.info
        self.learners, self.stack = self._run.learners, self._run.stack
        self.model: Any = self._run.models[-1]
        self._lanes: Any = self.model if setup.lanes else None
        self.tokens = [first_token]
        self._starts = [0]
        self.nats: list[float] = []
        first = np.array([first_token])
        self._targets, self._chunks = TokenLedger(first, keep=TOKEN_CONTEXT), TokenLedger(first)
        self._document = TokenLedger(first)
        self._piece = 0
        self._state: Any = None
        self._begun = 0

    def close(self) -> None:
        self._run.detach()

    def row(self, step: Step) -> Float64:
        """The distribution of target ``step.t`` after the last stage, float64 [V], from the tokens before it."""
        if self._lanes is not None:
            self._lane(step)
        elif step.learn:
            self._learn(step.t)
        logits = self._feed(step)
        question = Question(step.t, np.empty((1, 0), dtype=np.int32), (step.t,))
        rows = reduce(logits, question, self.stack.needs, self.info.groups)
        return self.stack.row(rows.probed[step.t], rows.side)[-1]

    def book(self, token: int, row: Float64) -> float:
        """Take the target of the row; returns its cost in nats."""
        nats = float(-np.log(row[token]))
        t = len(self.tokens)
        self.stack.observe(self._targets.book(t, np.array([token]), np.array([nats])))
        if token == self.info.bos_id:
            self._starts.append(t)
        self.tokens.append(token)
        self.nats.append(nats)
        return nats

    def _learn(self, t: int) -> None:
        """Hand the booked chunk that ends before target t to the learners."""
        receipt = self._book_until(self._chunks, t)
        for learner in self.learners:
            learner.observe(receipt)

    def _book_until(self, ledger: TokenLedger, t: int) -> Receipt:
        """Book what a slower clock has not booked yet of the targets before t."""
        lo = ledger.next_target
        return ledger.book(lo, np.array(self.tokens[lo:t]), np.array(self.nats[lo - 1 : t - 1]))

    def _lane(self, step: Step) -> None:
        """A fresh state where a document begins; one step on the piece [lo, t) of a window where the next piece does."""
        lanes, start, t = self._lanes, self._piece, step.t
        if step.start < 0:
            return
        if step.document:
            lanes.start(0)
            self._document = TokenLedger(np.array(self.tokens[step.start : t]), t)
        elif step.learn:
            receipt = self._book_until(self._document, t)
            lanes.lane_logits([0], *(x[None] for x in self._inputs(start, t - 1)))
            lanes.learn([(0, receipt.lo - start - 1, receipt)])
        self._piece = step.start
        self.model = lanes.reading(0)

    def _feed(self, step: Step) -> Any:
        """Run the tokens that the model has not seen in this window; logits [1, V] of the last position."""
        import torch

        first = step.start if step.start >= 0 else step.t - 1
        if step.start >= 0:
            self._state, self._begun = None, step.start
        with torch.no_grad():
            if "banded" not in self.model.can:
                return self._again(step.t)
            ids, of = self._inputs(first, step.t)
            logits, self._state = self.model.banded(ids, of, self._state, self.setup.plan.context)
            self._scored(Window(first, step.t, step.t + 1))
            return logits[-1:]

    def _again(self, t: int) -> Any:
        """A model without keys and values to keep: the window so far, all over again."""
        ids, of = self._inputs(self._begun, t)
        logits = self.model.logits(ids[None], of[None])[0, -1:]
        self._scored(Window(self._begun, t, t + 1))
        return logits

    def _inputs(self, lo: int, hi: int) -> tuple[Any, Any]:
        """Ids and owners of stream positions lo..hi-1, int64 [hi - lo] each, on the model's device."""
        import torch

        of = torch.from_numpy(owners(np.array(self._starts), lo, hi))
        return torch.tensor(self.tokens[lo:hi], device=self.model.device), of.to(self.model.device)

    def _scored(self, window: Window) -> None:
        if "scored" in self.model.can:
            self.model.scored([window])
