"""Where the seconds of a recipe go, whether it fits its budget, and what else would fit.

All forecasts are of the scoring loop (``seconds.wall`` of run.json); start and finish are given apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from evalkit.adapters.base import Learner
from evalkit.budget.calibrate import Calibration
from evalkit.budget.costs import DEVICE, HOST, LEARN, place_of
from evalkit.budget.forecast import Seconds, Shape, alone, over_ranks
from evalkit.budget.hardware import Derived, Target, Work, derive_from_gpu, derive_from_work, known_gpu
from evalkit.plan import Plan, Sliding


@dataclass(frozen=True)
class Subject:
    """What is profiled: the calibration, the shape of the run, and its plan's input tokens."""

    calibration: Calibration
    shape: Shape
    input_tokens: int
    threads: int
    cpus: int
    device: str
    device_name: str | None

    @property
    def parts(self) -> dict[str, float]:
        """Seconds of one rank here, for the whole stream."""
        model = self.calibration.model
        return {place: model.place(place, self.shape.targets) for place in (DEVICE, HOST, LEARN)}


def stage_rows(subject: Subject) -> list[dict[str, Any]]:
    """One row per verb, the most expensive first: seconds per million targets, share, seconds for the whole stream."""
    model, targets = subject.calibration.model, subject.shape.targets
    whole = model.seconds(targets)
    total = sum(whole.values()) or 1.0
    rows = [
        {
            "verb": cost.verb,
            "place": place_of(cost.verb),
            "microseconds_a_target": 1e6 * (whole[cost.verb] - cost.warm) / targets,
            "warm_seconds": cost.warm,
            "growth": cost.slope,
            "seconds": whole[cost.verb],
            "share": whole[cost.verb] / total,
        }
        for cost in model.verbs
    ]
    return sorted(rows, key=lambda row: -row["seconds"])


def here(subject: Subject, ranks: int) -> Seconds:
    """On this machine."""
    if ranks == 1:
        return alone(subject.calibration.model, subject.shape)
    spare = subject.device != "cpu" or subject.cpus > ranks * subject.threads
    found = over_ranks(subject.parts, subject.shape, ranks, spare, subject.calibration.model.noise)
    return replace(found, assumption=f"{ranks} ranks as fast as this one at {subject.threads} threads each")


def on_target(subject: Subject, target: Target, work: Work | None) -> Seconds:
    """On other hardware: device and learners derived, host work as here."""
    work = work if known_gpu(subject.device_name) is None else None
    noise = subject.calibration.model.noise
    found, derived = moved(subject.parts, subject.input_tokens, subject.shape, subject.device_name, target, work, noise)
    return replace(found, assumption=_words(derived, subject))


def moved(
    parts: dict[str, float],
    tokens: int,
    shape: Shape,
    device_name: str | None,
    target: Target,
    work: Work | None,
    noise: float,
) -> tuple[Seconds, Derived]:
    """``parts``: seconds of one rank here for the whole run, by place; ``tokens`` go into its forward passes.

    ``work``: a counted forward call, where this machine's GPU is not of the list.
    """
    gpu = known_gpu(device_name)
    if gpu is not None:
        derived = derive_from_gpu(parts[DEVICE] / tokens, gpu, target.gpu)
    else:
        assert work is not None
        derived = derive_from_work(work, target.gpu)
    middle = (derived.low * derived.high) ** 0.5
    scale = middle * tokens / parts[DEVICE] if parts[DEVICE] else 0.0
    there = {DEVICE: parts[DEVICE] * scale, HOST: parts[HOST], LEARN: parts[LEARN] * scale}
    spread = derived.high / middle - 1.0 if middle else 0.0
    return over_ranks(there, shape, target.count, True, noise, spread), derived


def _words(derived: Derived, subject: Subject) -> str:
    words = f"{derived.assumption}; host work as measured here"
    return f"{words}; learners scaled like the forward" if subject.shape.learners else words


@dataclass(frozen=True)
class Option:
    """Something else that the seconds could buy: seconds of the whole run with it."""

    what: str
    seconds: Seconds


def options(
    subject: Subject, plan: Plan, stream: Any, learners: Sequence[Learner], forecast: Any, window: int
) -> list[Option]:
    """Strides 64 and 32, and one more epoch of each learner.  ``forecast(subject) -> Seconds``.

    Nothing with lanes: they have one plan and one epoch.
    """
    if any(learner.lanes for learner in learners):
        return []
    from evalkit.budget.work import input_tokens

    found = []
    for stride in (64, 32):
        other = Sliding(seq_len=max(window, stride), stride=stride)
        if other != plan:
            ratio = input_tokens(other, stream) / subject.input_tokens
            what = f"plan sliding:seq_len={other.seq_len},stride={stride}"
            found.append(Option(what, forecast(_with(subject, ("forward", "base"), ratio))))
    for learner in learners:
        if epochs := learner.work.epochs:
            more = _with(subject, (f"observe/{learner.name}",), (epochs + 1) / epochs)
            found.append(Option(f"{learner.name} with {epochs + 1} epochs", forecast(more)))
    return found


def _with(subject: Subject, verbs: Sequence[str], factor: float) -> Subject:
    """The same run with some verbs ``factor`` times as dear."""
    model = subject.calibration.model
    costs = tuple(
        replace(v, rate=v.rate * factor, slope=v.slope * factor, warm=v.warm * factor) if v.verb in verbs else v
        for v in model.verbs
    )
    device = factor if "forward" in verbs else 1.0
    return replace(
        subject,
        calibration=replace(subject.calibration, model=replace(model, verbs=costs)),
        input_tokens=round(subject.input_tokens * device),
    )


def best_use(choices: Sequence[Option], budget: float) -> Option | None:
    """The dearest option that still fits: what the rest of the budget can buy at most."""
    fitting = [option for option in choices if option.seconds.fits(budget)]
    return max(fitting, key=lambda option: option.seconds.total, default=None)
