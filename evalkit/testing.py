"""``check_adapter``: test that an adapter is legal, with one call in the author's own test suite.

from evalkit.testing import check_adapter

def test_my_adapter():
    check_adapter(MyExpert())
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evalkit.errors import LegalityError

if TYPE_CHECKING:
    from evalkit.legality.effort import Effort
    from evalkit.legality.verdict import Verdict


def check_adapter(adapter: Any, *, seed: int = 0, effort: Effort | None = None) -> Verdict:
    """Audit an expert or a learner on a small model, and check that it resumes with the same bits.

    adapter: an instance; replays make fresh ones as ``type(adapter)(adapter.settings)``, or ``type(adapter)()`` where the
    class has no ``Settings``.  A learner's ``chunk``, ``seq_len`` and the like are cut to the length of the probe streams.
    effort: how many probes (default: about 1,000 short replays, under a minute for an expert).

    Returns the verdict when it is legal.  Raises LegalityError with law, position and the smallest counter-example when a
    law is broken, when the audit is inconclusive, or when a restored snapshot does not continue with the same bits; InputError
    when ``adapter`` is not an adapter.
    """
    import numpy as np

    from evalkit.adapters.base import clock_of
    from evalkit.legality.effort import Effort
    from evalkit.legality.engine.setup import EngineScorer, stream_of, worst_after_resume
    from evalkit.legality.engine.toy import toy_setup
    from evalkit.legality.probes.streams import textlike
    from evalkit.legality.referee import audit
    from evalkit.legality.scorer import LocalBox

    clock_of(type(adapter))
    setup = toy_setup([adapter])
    plan = effort or Effort(length=64, streams=4, cuts=48, forks=12, long_length=160, long_cuts=4, long_forks=1)
    verdict = audit(LocalBox(lambda: EngineScorer(setup)), target=adapter.name, effort=plan, seed=seed)
    if verdict.verdict != "legal":
        first = verdict.evidence[0] if verdict.evidence else None
        law, position = (first.law, first.position) if first else ("inconclusive", 0)
        raise LegalityError(law, position, f"{adapter.name}: {verdict.verdict}: {verdict.reason}")
    tokens = textlike(np.random.default_rng(seed), 32, setup.tokenizer.bos_id, 96).tokens
    moved = worst_after_resume(setup, stream_of(tokens, setup.tokenizer))
    if moved != 0.0:
        raise LegalityError(
            "single-pass", 0, f"{adapter.name}: scores move by up to {moved:.3g} nats when it goes on from its snapshot"
        )
    return verdict
