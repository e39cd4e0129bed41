"""Measures a recipe in a minute: two short runs on the head of the stream; the second one is fitted."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from evalkit.budget.costs import CostModel, Watch, fit
from evalkit.errors import InputError
from evalkit.plan import Plan
from evalkit.scoring.guard import Deadline
from evalkit.scoring.result import RunRecord
from evalkit.scoring.run import ScoreOptions, families
from evalkit.scoring.score import score

SHARE = 0.05
"""Of the stream, when nobody says how much."""

LEAST_CHUNKS = 8


@dataclass(frozen=True)
class Calibration:
    """``model``: the fitted costs.  ``around``: seconds outside the loop (start, totals, files), by their growth."""

    model: CostModel
    run: RunRecord
    seconds: float
    around_fixed: float
    around_document: float

    def around(self, documents: int) -> float:
        return self.around_fixed + self.around_document * documents


def calibrate(
    model: Any,
    stream: Any,
    make_adapters: Callable[[], Sequence[Any]],
    plan: Plan,
    options: ScoreOptions,
    *,
    targets: int | None = None,
    at_most_seconds: float = 120.0,
    out: Any = None,
) -> Calibration:
    """Score a quarter of ``targets``, then ``targets`` (a twentieth of the stream, eight chunks at least; with learners
    rounded up to whole periods of their work).

    Stops after ``at_most_seconds`` and fits what there is.  InputError when that is not a single chunk.  The second run
    keeps its files, in ``out`` or for a moment in a temporary folder: a journal that is forced to disk after every chunk
    is two seconds in a hundred when chunks are short.
    """
    wanted = targets or max(round(SHARE * stream.n_targets), LEAST_CHUNKS * options.chunk_tokens)
    period = period_of(make_adapters(), options.chunk_tokens)
    wanted = min(-(-wanted // period) * period, stream.n_targets)
    began = time.perf_counter()
    around = []
    with tempfile.TemporaryDirectory(prefix="evalkit-profile-") as scratch:
        for share, kept in ((4, None), (1, out or scratch)):
            watch, head = Watch(time.perf_counter), stream.head(max(wanted // share, min(wanted, plan.step)))
            guard = Deadline(at_most_seconds / (share + 1) if share > 1 else at_most_seconds)
            start = time.perf_counter()
            result = score(
                model, head, make_adapters(), plan, out=kept, options=replace(options, budget_seconds=None),
                on_chunk=watch.chunk, guard=guard,
            )  # fmt: skip
            around.append((result.record.documents, time.perf_counter() - start - result.record.seconds["wall"]))
    costs = watch.costs(result.spans)
    if not costs:
        raise InputError(
            f"the calibration booked nothing in {at_most_seconds:g} s: give --seconds more, or a shorter --chunk-tokens "
            f"than {options.chunk_tokens}"
        )
    (d0, a0), (d1, a1) = around
    per_document = max(0.0, (a1 - a0) / (d1 - d0)) if d1 > d0 else 0.0
    fixed = max(0.0, a1 - per_document * d1)
    return Calibration(fit(costs, period), result.record, time.perf_counter() - began, fixed, per_document)


def period_of(adapters: Sequence[Any], chunk_tokens: int) -> int:
    """Targets after which the work of the learners repeats; 1 without a learner."""
    return math.lcm(*(learner.period or chunk_tokens for learner in families(adapters)[0]))
