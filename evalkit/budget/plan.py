"""The search for the recipe that scores lowest inside a budget: successive halving over plans, experts and learners.

The text is a calibration text, never the one to be scored.  Half of its documents are searched, half held back.  A
*ladder* is a plan, perhaps a learner, and experts in order; one run of it gives the BPB of all its prefixes.  Rungs grow
and keep the best third and the best learner (Jamieson and Talwalkar 2016; a learner shows what it brings on the longest
sample alone); all ladders of a rung score the same whole documents.  The winner is scored once more, exactly as it will run,
files and all, on the held-back documents: its gain, interval and seconds are those.

No run starts that is not expected to end in time, and each is stopped at the limit, so the search exceeds its seconds by a
chunk and the ends of a run at most.

Every finished run is a line of a journal, and what is done next follows from these lines alone: the same call goes on.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from evalkit.adapters.base import Learner, Needs
from evalkit.adapters.registry import make_adapter
from evalkit.budget.calibrate import period_of
from evalkit.budget.costs import DEVICE, FLOOR, HOST, LEARN, ChunkCost, CostModel, Watch, fit
from evalkit.budget.diary import (
    Diary,
    Measured,
    in_common,
    of_documents,
    whole_documents,
)
from evalkit.budget.forecast import Seconds, Shape, one_after_the_other
from evalkit.budget.gain import whole_gain
from evalkit.budget.hardware import Target
from evalkit.budget.ladders import Ladder, Spec, label
from evalkit.budget.profile import moved
from evalkit.budget.work import count_work, input_tokens, shape_of
from evalkit.errors import InputError
from evalkit.models.device import device_name
from evalkit.models.forward import WindowForward
from evalkit.plan import Plan, parse_plan
from evalkit.scoring.guard import Deadline
from evalkit.scoring.score import ScoreOptions, score
from evalkit.scoring.sentinel import rows_a_chunk
from evalkit.scoring.statistics import paired_interval
from evalkit.units import LN2

RUNGS = (0.5, 0.3, 0.2)
"""Shares of the searching seconds: the first rung has the most candidates, the last the most documents for each."""
GROWTH = 3
HELD_SHARE = 0.4
"""Of the search's seconds, for the held-back documents."""
DOUBT = 0.15
"""Of a candidate's seconds: a run of two thousand targets and one of sixty thousand, half a minute later on the same two busy
cores, differed by up to a fifth.  The winner's own interval comes from its run on held-back documents."""
DEARER = 1.5
"""Candidates up to so many budgets are measured: they say what more seconds would buy."""
LEAST_TARGETS = 1024
NO_TIME = "the search had no time for it; give --search-seconds more"
BUSY = 0.9
"""Processor seconds over wall seconds of one thread, below which the machine had other work."""
YET = 0.001
"""BPB by which an expert may be behind on the sample and stay; see :func:`choose`."""
LEARNING = 3.0
"""Forward passes that one pass of learning is expected to cost before it is measured."""
EXPERTS = 0.5
"""The same for experts."""


@dataclass(frozen=True)
class Candidate:
    """A prefix of a ladder as it was last measured.  Gains are BPB against the plain pass on the same documents."""

    plan: str
    adapters: tuple[Spec, ...]
    rung: int
    targets: int
    bpb: float
    gain: float
    ci95: tuple[float, float] | None
    seconds: Seconds
    fits: bool

    @property
    def name(self) -> str:
        return label(self.plan, self.adapters)

    def json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "plan": self.plan,
            "adapters": [{"name": n, **raw} for n, raw in self.adapters],
            "rung": self.rung,
            "targets": self.targets,
            "bpb": self.bpb,
            "delta_bpb": self.gain,
            "ci95": self.ci95,
            "seconds": self.seconds.total,
            "fits": self.fits,
        }


Place = Callable[[dict[str, float], Shape, Plan, float], Seconds]


@dataclass(frozen=True)
class Ask:
    """What is wanted: ``budget`` seconds for ``targets``; the search itself may take ``seconds``.

    ``place(parts, shape, plan, noise)`` forecasts from seconds of one rank here by place, for the whole run.
    """

    budget: float
    targets: int
    seconds: float
    place: Place
    chunk_tokens: int = 1024
    batch_tokens: int = 8192
    seed: int = 0


@dataclass
class Found:
    """The answer.  ``plain`` and ``chosen`` rest on the held-back documents; ``at_size`` is (gain, low, high) of a whole run."""

    chosen: Candidate
    plain: Candidate
    at_size: tuple[float, float, float]
    beats_plain: bool
    why: str
    table: list[Candidate]
    left_out: dict[str, str]
    spent: float
    held_documents: int
    searched_documents: int
    busy: float
    """Share of the confirming runs' seconds in which the process had a processor, of one thread; under 1 others had it."""
    tried: list[str] = field(default_factory=list)

    @property
    def front(self) -> list[Candidate]:
        """Of the last documents that candidates were compared on: no other is both quicker and better."""
        best, kept = math.inf, list[Candidate]()
        for c in sorted(self.table, key=lambda c: (c.seconds.total, c.gain)):
            if c.gain < best:
                best = c.gain
                kept.append(c)
        return kept


def choose(candidates: Sequence[Candidate], targets: int = 0) -> Candidate:
    """The lowest BPB among those of the last rung that fit; of equals the quickest.  ValueError when none does.

    ``targets``: size of the run that is planned.  What counts gains with every target, so where the run is longer than the
    sample, experts that continue the best stack and have not yet paid on the sample (by no more than YET) are kept.
    """
    last = max(c.rung for c in candidates)
    fitting = [c for c in candidates if c.fits and c.rung == last]
    best = min(fitting, key=_merit)
    if targets <= best.targets:
        return best
    n = len(best.adapters)
    same = (c for c in fitting if c.plan == best.plan and c.adapters[:n] == best.adapters)
    longer = [c for c in same if c.bpb <= best.bpb + YET]
    return max(longer, key=lambda c: len(c.adapters))


def _seconds(c: Candidate) -> float:
    return c.seconds.total


def _merit(c: Candidate) -> tuple[float, float]:
    return c.bpb, c.seconds.total


def here(parts: dict[str, float], shape: Shape, plan: Plan, noise: float) -> Seconds:
    """One process of this machine."""
    return one_after_the_other(parts, noise)


def elsewhere(target: Target, model: Any, stream: Any, batch_tokens: int) -> Place:
    """On other hardware: a forward call is counted once, or seconds are scaled from a GPU of the list."""
    form = parse_plan(f"disjoint:seq_len={min(512, model.max_seq_len or 512)}")
    work = count_work(WindowForward(model, form, stream, Needs(), {}, batch_tokens), stream, batch_tokens)

    def place(parts: dict[str, float], shape: Shape, plan: Plan, noise: float) -> Seconds:
        passes = 2 if shape.learners else 1  # the bare model is scored as well
        tokens = max(1, round(passes * input_tokens(plan, stream) * shape.targets / stream.n_targets))
        return moved(parts, tokens, shape, device_name(str(model.device)), target, work, noise)[0]

    return place


class Search:
    """One search.  ``say`` gets a line of progress."""

    def __init__(self, model: Any, stream: Any, ask: Ask, diary: Diary, say: Callable[[str], None]) -> None:
        self.model, self.stream, self.ask, self.diary, self.say = model, stream, ask, diary, say
        count = len(stream.doc_start)
        if count < 8:
            raise InputError(
                f"the calibration text has {count} documents, a search needs at least 8: it chooses on half of them and "
                "estimates on the other half; give more --text"
            )
        self.sizes = np.diff(np.append(stream.doc_start, len(stream.tokens))).tolist()
        order = np.random.default_rng(ask.seed).permutation(count).tolist()
        self.held, self.searched = order[: count // 2], order[count // 2 :]
        self.spent, self.left_out = 0.0, dict[str, str]()
        self._searching = (1.0 - HELD_SHARE) * ask.seconds
        self.table = dict[str, Candidate]()
        self._step = dict[str, float]()
        self.busy = 1.0
        self._around = math.inf
        """Seconds of a run outside its loop, the least so far: the first one pays for what is loaded once."""

    # -- runs -------------------------------------------------------------------------------------------------------------

    def run(
        self, plan: str, adapters: Sequence[Spec], documents: Sequence[int], until: float, *, exact: bool = False
    ) -> Measured:
        """Score these documents, or take what the diary knows; stopped when ``until`` seconds of the search are over.

        All files are written, as ``eval`` does: on short chunks they were a tenth of the seconds.  ``exact``: with the
        sentinel, too.
        """
        key = json.dumps([plan, adapters, sorted(documents) if not exact else list(documents), exact])
        if (known := self.diary.known.get(key)) is None:
            known = self.diary.add(self._run(key, plan, adapters, documents, until, exact))
        self.spent += known.elapsed
        self._around = min(self._around, known.elapsed - known.wall)
        return known

    def _run(
        self, key: str, plan: str, adapters: Sequence[Spec], documents: Sequence[int], until: float, exact: bool
    ) -> Measured:
        began, cpu, watch = time.perf_counter(), time.process_time(), Watch(time.perf_counter)
        part = of_documents(self.stream, sorted(documents))
        made = [make_adapter(name, raw) for name, raw in adapters]
        options = ScoreOptions(self.ask.chunk_tokens, self.ask.batch_tokens, self.ask.seed, sentinel=exact)
        guard = Deadline(max(until - self.spent, 1e-3))  # one chunk at least
        with tempfile.TemporaryDirectory(prefix=".search-", dir=self.diary.path.parent) as scratch:
            result = score(
                self.model, part, made, parse_plan(plan), out=scratch, options=options,
                on_chunk=watch.chunk, guard=guard,
            )  # fmt: skip
        costs = watch.costs(result.spans)
        table, wall = result.documents, result.run["seconds"]["wall"]
        verbs = {k: v for k, v in result.run["seconds"].items() if k != "wall"}
        elapsed = time.perf_counter() - began
        return Measured(
            key=key,
            targets=result.run["totals"]["targets"],
            doc_targets=table.targets.tolist(),
            bytes=table.bytes.tolist(),
            nats=table.nats.T.tolist(),
            wall=wall,
            elapsed=elapsed,
            cpu=(time.process_time() - cpu) / elapsed,
            verbs=verbs,
            chunks=[(c.lo, c.hi, c.seconds) for c in costs],
            complete=result.complete,
        )

    # -- the search -------------------------------------------------------------------------------------------------------

    def find(self, plain: str, ladders: Sequence[Ladder]) -> Found:
        """Search, choose, and estimate the choice on the held-back documents."""
        ask = self.ask
        probe = self.run(plain, (), whole_documents(self.sizes, self.searched, 3 * ask.chunk_tokens), self._searching)
        pace = probe.pace()
        self.say(
            f"the plain pass ({plain}) takes about {pace * ask.targets:.1f} s for {ask.targets:,} targets; the search "
            f"takes at most {ask.seconds:.1f} s"
        )
        self._note(0, plain, (), probe, probe, probe.parts())
        left = self._affordable(plain, pace, ladders)
        for rung, part in enumerate(RUNGS):
            if not left:
                break
            each = (self._searching - self.spent) * part / sum(RUNGS[rung:])
            targets = self._size(left, pace, each)
            if rung and (targets < 1.5 * self._last_size or pace * targets > each):
                break  # no time for more documents: what the last rung says stands
            self._last_size = targets
            documents = whole_documents(self.sizes, self.searched, targets)
            self.say(f"rung {rung + 1}: {len(left)} candidates on {targets:,} targets, about {each:.1f} s")
            self._rung(rung, plain, left, documents)
            left = self._survivors(rung, left)
        return self._confirm(plain, pace)

    def _affordable(self, plain: str, pace: float, ladders: Sequence[Ladder]) -> list[Ladder]:
        """Without what the count of input tokens alone puts far above the budget; what is likely above it comes last."""
        one, kept = input_tokens(parse_plan(plain), self.stream), list[Ladder]()
        self._prior = dict[str, float]()
        for ladder in ladders:
            ratio = input_tokens(parse_plan(ladder.plan), self.stream) / one
            passes = sum(1.0 + LEARNING * float(raw.get("epochs", 1)) for _, raw in ladder.learners)
            self._prior[ladder.name] = pace * (ratio * (1.0 + passes) + EXPERTS * bool(ladder.experts))
            least = pace * ratio * (1.0 + 2.0 * len(ladder.learners)) * self.ask.targets
            if self._limit(ladder.plan, least) > DEARER * self.ask.budget:
                self.left_out[ladder.name] = f"at least {self._limit(ladder.plan, least):.1f} s by its count of tokens"
            else:
                kept.append(ladder)
        return sorted(kept, key=lambda x: self._prior[x.name] * self.ask.targets > self.ask.budget)

    def _limit(self, plan: str, seconds: float) -> float:
        """Seconds of a forward pass here as seconds where the run will be."""
        shape = Shape(self.ask.targets, self.ask.chunk_tokens, 1, learners=False)
        return self.ask.place({DEVICE: seconds, HOST: 0.0, LEARN: 0.0}, shape, parse_plan(plan), FLOOR).total

    def _size(self, ladders: list[Ladder], pace: float, seconds: float) -> int:
        """Targets that all these ladders can score in ``seconds``; drops the least likely where that is too few."""
        while True:
            rate = sum(self._prior[x.name] for x in ladders) + pace
            targets = int((seconds - self._around * (len(ladders) + 1)) / rate)
            if targets >= LEAST_TARGETS or len(ladders) == 1:
                return max(LEAST_TARGETS, min(targets, sum(self.sizes[d] for d in self.searched)))
            self.left_out.setdefault(ladders.pop().name, NO_TIME)

    def _rung(self, rung: int, plain: str, ladders: Sequence[Ladder], documents: list[int]) -> None:
        """Nothing starts that would not be done in the searching time; what is stopped there has no place in the table."""
        base = self.run(plain, (), documents, self._searching)
        for i, ladder in enumerate(ladders, 1):
            if self.spent + self._around + self._prior[ladder.name] * base.targets > self._searching and (
                rung or i > 1
            ):
                self.left_out.setdefault(ladder.name, NO_TIME)
                continue
            adapters = (*ladder.learners, *ladder.experts)
            try:
                found = self.run(ladder.plan, adapters, documents, self._searching)
            except InputError as fault:  # this model or this plan cannot have it
                self.left_out.setdefault(ladder.name, str(fault))
                continue
            if not found.complete or not base.complete:
                self.left_out.setdefault(ladder.name, "stopped: it took more than was left of the search's time")
                continue
            self._prior[ladder.name] = found.wall / found.targets
            self._note(rung, plain, (), base, base, base.parts())
            self._prefixes(rung, ladder, found, base)
            self.say(
                f"rung {rung + 1}, {i}/{len(ladders)}: {found.targets:,} targets, {1e6 * found.wall / found.targets:.0f} "
                f"us/target, {found.bpb(-1):.4f} BPB (plain {base.bpb(-1):.4f}), {self.spent:.0f} s spent: {ladder.name}"
            )

    def _prefixes(self, rung: int, ladder: Ladder, found: Measured, base: Measured) -> None:
        """Candidates of one run: its last stage as measured, the shorter ones less what the experts behind cost."""
        whole = found.parts()
        least = 0 if ladder.learners or ladder.plan != base.plan else 1
        for k in range(least, len(ladder.experts) + 1):
            stage = len(ladder.learners) + k
            parts = dict(whole)
            bare = min(base.parts()[HOST], whole[HOST])
            parts[HOST] = bare + (whole[HOST] - bare) * self._share(ladder.experts, k, base)
            self._note(rung, ladder.plan, (*ladder.learners, *ladder.experts[:k]), found, base, parts, stage)

    def _share(self, experts: Sequence[Spec], k: int, base: Measured) -> float:
        """Of the seconds that all these experts cost, the share of the first k: measured once, on the plain plan."""
        if k in (0, len(experts)):
            return float(k > 0)
        few, pace = whole_documents(self.sizes, base.documents, LEAST_TARGETS), list[float]()
        for n in (0, k, len(experts)):
            name = json.dumps(experts[:n])
            if name not in self._step:
                if self.spent + self._around + base.wall / base.targets * LEAST_TARGETS > self._searching:
                    return k / len(experts)
                run = self.run(base.plan, experts[:n], few, self._searching)
                self._step[name] = run.wall / run.targets
            pace.append(self._step[name])
        return min(max((pace[1] - pace[0]) / max(pace[2] - pace[0], 1e-12), 0.0), 1.0)

    def _note(
        self,
        rung: int,
        plan: str,
        adapters: Sequence[Spec],
        run: Measured,
        base: Measured,
        parts: dict[str, float],
        stage: int = -1,
        noise: float = DOUBT,
    ) -> Candidate:
        seconds = self._forecast(plan, adapters, parts, noise)
        size, nats = np.array(run.bytes, np.float64), np.array(run.nats[stage])
        delta = nats - np.array(base.nats[-1])
        made = Candidate(
            plan,
            tuple(adapters),
            rung,
            run.targets,
            float(math.fsum(nats) / LN2 / size.sum()),
            float(math.fsum(delta) / LN2 / size.sum()),
            paired_interval(delta, size, self.ask.seed) if adapters or run is not base else None,
            seconds,
            seconds.fits(self.ask.budget),
        )
        if rung >= 0:
            self.table[made.name] = made
        return made

    def _forecast(self, plan: str, adapters: Sequence[Spec], parts: dict[str, float], noise: float) -> Seconds:
        """``parts``: seconds per target."""
        made = [make_adapter(name, raw) for name, raw in adapters]
        learners = [a for a in made if isinstance(a, Learner)]
        form = parse_plan(plan)
        shape = shape_of(form, self.stream, learners, self.ask.chunk_tokens, self.ask.batch_tokens)
        whole = {place: value * self.ask.targets for place, value in parts.items()}
        return self.ask.place(whole, replace(shape, targets=self.ask.targets), form, noise)

    def _survivors(self, rung: int, ladders: Sequence[Ladder]) -> list[Ladder]:
        """The best third by the lowest BPB of any prefix within the budget, and the best with a learner."""

        def best(ladder: Ladder) -> float:
            names = [
                label(ladder.plan, (*ladder.learners, *ladder.experts[:k])) for k in range(len(ladder.experts) + 1)
            ]
            found = [self.table[n] for n in names if n in self.table and self.table[n].rung == rung]
            return min((c.bpb for c in found if c.fits), default=math.inf)

        ranked = sorted((x for x in ladders if best(x) < math.inf), key=best)
        kept = ranked[: max(2, math.ceil(len(ranked) / GROWTH))]
        learner = next((x for x in ranked if x.learners), None)
        return kept if learner is None or learner in kept else [*kept, learner]

    # -- the answer -------------------------------------------------------------------------------------------------------

    def _confirm(self, plain: str, pace: float) -> Found:
        ask, last = self.ask, max(c.rung for c in self.table.values())
        room = max(ask.seconds - self.spent - 2.0 * self._around, 0.1 * ask.seconds)
        within = [c for c in self.table.values() if c.rung == last and c.seconds.total <= ask.budget]
        within = [c for c in within if c.adapters or c.plan != plain]
        feasible = [c for c in within if c.fits] or within  # where none fits beyond doubt, the run as a whole decides
        dear = max([pace, *(c.seconds.total / ask.targets for c in feasible)])
        targets = max(
            LEAST_TARGETS, int(0.9 * room / (pace + 1.5 * dear))
        )  # half of a second try, should one be needed
        documents = whole_documents(self.sizes, self.held, targets)
        chunk = (
            ask.chunk_tokens
        )  # none starts that would end behind the limit, so each run gets the seconds of one more
        part = room * pace / (pace + 1.2 * dear)
        base = self.run(plain, (), documents, self.spent + self._around + part + pace * chunk, exact=True)
        none = self._exact(plain, (), base, base)
        tried = list[str]()
        while feasible:
            best = choose([replace(c, fits=True) for c in feasible], ask.targets)
            feasible = [c for c in feasible if c.name != best.name]
            if tried and self.spent > ask.seconds:
                tried.append("the search's time was over before more could be tried")
                break
            until = ask.seconds + dear * chunk
            run, known = in_common(self.run(best.plan, best.adapters, documents, until, exact=True), base)
            if len(run.bytes) < 2:
                tried.append(f"{best.name}: the search had no time to confirm it; give --search-seconds more")
                break
            held = self._exact(best.plan, best.adapters, run, known)
            if not held.fits:
                tried.append(f"{best.name}: up to {held.seconds.high:.1f} s when run as a whole")
                slower = held.seconds.high / best.seconds.total  # as a whole, and by as much doubt
                quicker = sorted((c for c in feasible if c.seconds.total < best.seconds.total), key=_seconds)
                feasible = [c for c in quicker if c.seconds.total * slower <= ask.budget] or quicker[:1]
                continue
            size = whole_gain(run, known, ask.targets, ask.seed)
            if held.ci95 is not None and held.ci95[1] < 0.0:
                why = (
                    f"the lowest BPB within {ask.budget:g} s on {self.table[best.name].targets:,} searched targets; on "
                    f"{len(run.bytes):,} documents held back it gains {held.gain:+.4f} BPB "
                    f"({held.ci95[0]:+.4f} .. {held.ci95[1]:+.4f})"
                )
                return self._found(held, none, size, True, why, documents, tried)
            why = f"nothing beats the plain pass by more than its interval: {best.name} gains {held.gain:+.4f} BPB"
            return self._found(none, none, (0.0, 0.0, 0.0), False, why, documents, tried)
        why = "not even the plain pass fits the budget"
        if none.fits:
            why = "nothing else that fits the budget was confirmed in time" if tried else "nothing else fits the budget"
        return self._found(none, none, (0.0, 0.0, 0.0), False, why, documents, tried)

    def _exact(self, plan: str, adapters: Sequence[Spec], run: Measured, base: Measured) -> Candidate:
        made = [make_adapter(name, raw) for name, raw in adapters]
        costs = [ChunkCost(lo, hi, self._whole(seconds, run.targets)) for lo, hi, seconds in run.chunks]
        model: CostModel = fit(costs, period_of(made, self.ask.chunk_tokens))
        self.busy = run.cpu
        parts = {place: model.place(place, self.ask.targets) / self.ask.targets for place in (DEVICE, HOST, LEARN)}
        taken = max(0.0, 1.0 - run.cpu)  # other work may take none of the next run's seconds, or twice as many
        return self._note(-1, plan, adapters, run, base, parts, -1, math.hypot(model.noise, taken))

    def _whole(self, seconds: dict[str, float], targets: int) -> dict[str, float]:
        """A chunk's seconds as in the run asked for, where the sentinel looks at fewer rows of each of more chunks."""
        rows = [rows_a_chunk(n, self.ask.chunk_tokens, self.model.vocab_size) for n in (self.ask.targets, targets)]
        return {verb: s * rows[0] / rows[1] if verb == "sentinel" else s for verb, s in seconds.items()}

    def _found(
        self,
        chosen: Candidate,
        plain: Candidate,
        size: tuple[float, float, float],
        beats: bool,
        why: str,
        documents: list[int],
        tried: list[str],
    ) -> Found:
        return Found(
            chosen, plain, size, beats, why, list(self.table.values()), self.left_out, self.spent,
            len(documents), len(self.searched), self.busy, tried,
        )  # fmt: skip


def more_seconds(found: Found) -> list[str]:
    """Candidates beyond the budget that scored lower on the same documents than the best within it."""
    last = max(c.rung for c in found.table)
    inside = [c for c in found.table if c.fits and c.rung == last]
    if not inside:
        return []
    best, words = choose(inside), list[str]()
    bar = best.bpb
    beyond = [c for c in found.table if not c.fits and c.rung == last]
    for c in sorted(beyond, key=lambda c: c.seconds.total):
        if c.bpb < bar:
            extra = c.seconds.total - best.seconds.total
            words.append(f"{extra:.1f} s more, {c.bpb - best.bpb:+.4f} BPB: {c.name}")
            bar = c.bpb
    return words or ["nothing that was measured on as many documents"]


def wasted(found: Found) -> list[str]:
    """Candidates as dear as the choice or dearer, within the budget and compared on the same documents, that score no lower."""
    best = next((c for c in found.table if c.name == found.chosen.name), None)
    if best is None:
        return []
    others = [c for c in found.table if c.rung == best.rung and c.fits and c.name != best.name]
    worse = [c for c in others if c.seconds.total >= best.seconds.total and c.bpb >= best.bpb]
    return [
        f"{c.name}: {c.seconds.total - best.seconds.total:+.1f} s, {c.bpb - best.bpb:+.4f} BPB"
        for c in sorted(worse, key=lambda c: -c.seconds.total)[:5]
    ]
