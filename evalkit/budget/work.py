"""The arithmetic of one forward call and the tokens that a plan feeds: counted, not timed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evalkit.adapters.base import Learner
from evalkit.budget.forecast import Shape
from evalkit.budget.hardware import Work
from evalkit.plan import Plan


def input_tokens(plan: Plan, stream: Any) -> int:
    """Tokens that the plan's windows feed to the model, context included."""
    return sum(window.length for window in plan.windows(stream.n_targets + 1, stream.doc_start))


def shape_of(plan: Plan, stream: Any, learners: Sequence[Learner], chunk_tokens: int, batch_tokens: int) -> Shape:
    """Units and parts of a full chunk."""
    chunks = plan.chunks(stream.n_targets + 1, stream.doc_start, chunk_tokens)
    chunk = max((c for _, c in zip(range(4), chunks, strict=False)), key=lambda c: c.hi - c.lo)
    units = len(list(plan.units(chunk, batch_tokens)))
    parts = min((learner.work.parts(chunk.hi - chunk.lo) for learner in learners), default=1)
    return Shape(stream.n_targets, chunk.hi - chunk.lo, units, bool(learners), parts)


def count_work(forward: Any, stream: Any, chunk_tokens: int) -> Work:
    """Run the first unit of the stream once and count operations (torch's own formulas) and kernel launches."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import FlopCounterMode

    class Launches(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.count += not func.is_view
            return func(*args, **(kwargs or {}))

    chunk = next(iter(forward.plan.chunks(stream.n_targets + 1, stream.doc_start, chunk_tokens)))
    unit = next(iter(forward.plan.units(chunk, forward.batch_tokens)))
    question = forward.ask(chunk, unit[0].lo, unit[-1].hi)
    flops = FlopCounterMode(display=False)
    with flops:
        for _ in forward.run(unit, question):
            pass
    with Launches() as launches:
        for _ in forward.run(unit, question):
            pass
    rows = unit[-1].hi - unit[0].lo
    return Work(
        tokens=sum(window.length for window in unit),
        operations=float(flops.get_total_flops()),
        kernels=launches.count,
        row_bytes=8.0 * rows * forward.model.vocab_size,
        bfloat16=_is_bfloat16(forward.model),
    )


def _is_bfloat16(model: Any) -> bool:
    weight = next(iter(model.module.parameters()), None) if model.module is not None else None
    return weight is not None and str(weight.dtype) in ("torch.bfloat16", "torch.float16")
