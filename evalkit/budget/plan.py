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
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from evalkit.adapters.base import Learner, Needs
from evalkit.adapters.registry import make_adapter
from evalkit.budget.calibrate import period_of
from evalkit.budget.costs import DEVICE, FLOOR, HOST, LEARN, ChunkCost, CostModel, Watch, fit, place_of
from evalkit.budget.forecast import Seconds, Shape, one_after_the_other
from evalkit.budget.hardware import Target
from evalkit.budget.profile import moved
from evalkit.budget.work import count_work, input_tokens, shape_of
from evalkit.errors import InputError
from evalkit.models.device import device_name
from evalkit.models.forward import WindowForward
from evalkit.plan import Plan, parse_plan
from evalkit.scoring.guard import Deadline
from evalkit.scoring.journal import decode_line, encode_line
from evalkit.scoring.score import ScoreOptions, score
from evalkit.scoring.sentinel import rows_a_chunk
from evalkit.scoring.statistics import paired_interval
from evalkit.units import LN2

Spec = tuple[str, dict[str, Any]]
"""An adapter's name and raw settings."""

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
LEARNING = 3.0
"""Forward passes that one pass of learning is expected to cost before it is measured."""
EXPERTS = 0.5
"""The same for experts."""
DRAWS = 1000
SCHEMA = 2

COUNTS: tuple[Spec, ...] = (
    ("ppm", {"counts": "continuations", "fast": 0.5}),
    ("match", {}),
    ("best_agree", {}),
    ("hedge", {}),
)
BEST: tuple[Spec, ...] = (("log_bias", {"global_prior": 32.0, "document_prior": 3.0}), *COUNTS)
"""recipes/experts.toml: the one that reads whole rows first, the others on columns."""
ON_ROWS: tuple[Spec, ...] = (*COUNTS, ("log_bias", {}), ("temperature", {}))
"""0.0003 BPB lower on the bundled sample, for three times the seconds or more."""


@dataclass(frozen=True)
class Ladder:
    """Candidates are the prefixes of ``experts`` behind all ``learners``."""

    plan: str
    learners: tuple[Spec, ...] = ()
    experts: tuple[Spec, ...] = ()

    @property
    def name(self) -> str:
        return label(self.plan, [*self.learners, *self.experts])


def label(plan: str, adapters: Sequence[Spec]) -> str:
    """``banded:window=512 | ppm:fast=0.5 + match``."""
    words = [f"{n}:{','.join(f'{k}={_value(v)}' for k, v in raw.items())}" if raw else n for n, raw in adapters]
    return f"{plan} | {' + '.join(words) or 'no adapter'}"


def _value(value: Any) -> str:
    return f"[{','.join(map(str, value))}]" if isinstance(value, list | tuple) else str(value)


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One run of the search.  nats [S+1][D] of the model, learners and experts; bytes, targets [D]."""

    key: str
    targets: int
    doc_targets: list[int]
    bytes: list[int]
    nats: list[list[float]]
    wall: float
    elapsed: float
    """With start and finish: what it took of the search's time."""
    cpu: float
    """Processor seconds of the process over ``elapsed``."""
    verbs: dict[str, float]
    """Seconds of the loop by verb, first chunk included."""
    chunks: list[tuple[int, int, dict[str, float]]]
    complete: bool


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


@dataclass(frozen=True)
class Ask:
    """What is wanted: ``budget`` seconds for ``targets``; the search itself may take ``seconds``.

    ``place(parts, shape, plan, noise)`` forecasts from seconds of one rank here by place, for the whole run.
    """

    budget: float
    targets: int
    seconds: float
    place: Callable[[dict[str, float], Shape, Plan, float], Seconds]
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


def choose(candidates: Sequence[Candidate]) -> Candidate:
    """The lowest BPB among those of the last rung that fit; of equals the quickest.  ValueError when none does."""
    last = max(c.rung for c in candidates)
    return min((c for c in candidates if c.fits and c.rung == last), key=_merit)


def _merit(c: Candidate) -> tuple[float, float]:
    return c.bpb, c.seconds.total


Place = Callable[[dict[str, float], Shape, Plan, float], Seconds]


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


def ladders_for(
    model: Any, ask: Ask, *, ranks: int = 1, corpus: str | None = None, own: Ladder | None = None
) -> tuple[str, list[Ladder]]:
    """(plan of the plain pass, ladders): what this model can do, the likeliest first."""
    window = min(512, model.max_seq_len or 512)
    block = ask.chunk_tokens if ask.chunk_tokens < 2048 else 2048
    segment = 0 if ranks == 1 else ask.chunk_tokens
    banded = "banded" in model.can
    plain = f"banded:window={window},block={block},segment={segment}" if banded else f"disjoint:seq_len={window}"
    wide = 2 * window if model.max_seq_len is None or model.max_seq_len >= 2 * window else 0
    best = BEST
    if corpus is not None:
        best = tuple((n, {**raw, "corpus": corpus} if n == "ppm" else raw) for n, raw in BEST)
    first = [Ladder(plain, (), best)] + ([Ladder(plain, (), BEST)] if corpus is not None else [])
    sliding = [f"sliding:seq_len={window},stride={window // k}" for k in (2, 4, 8, 16) if window // k]
    likely, others = (
        sliding[:1],
        [*sliding[1:], *([] if plain.startswith("disjoint") else [f"disjoint:seq_len={window}"])],
    )
    if banded:
        likely = [f"banded:window={wide},block={block},segment={segment}"] if wide else sliding[:1]
        others = [sliding[2], f"banded:window={window // 2},block={block},segment={segment}", others[-1], sliding[3]]
    learners = list[Ladder]()
    if "parameters" in model.can:
        short = plain.replace(f"block={block}", "block=256") if banded else f"disjoint:seq_len={min(256, window)}"
        apart = f"document:seq_len={window},stride={max(1, window // 2)}"
        lanes = {"lanes": 16, "chunk": max(1, window // 2), "targets": ["q", "v", "o", "mlp"]}
        learners = [
            Ladder(apart, (("lora_lanes", lanes),), best),
            Ladder(short, (("muon_ttt", {"epochs": 1}),), best),
            Ladder(short, (("muon_ttt", {"epochs": 2}),), best),
        ]
    found = [*first, *(Ladder(p, (), best) for p in likely), *learners[:2], *(Ladder(p, (), best) for p in others)]
    found += [*learners[2:], Ladder(plain, (), (("ppm", {}),)), Ladder(plain, (), ON_ROWS)]
    return plain, [own, *found] if own else found


def of_documents(stream: Any, documents: Sequence[int]) -> Any:
    """A stream of these whole documents, in this order; the target behind the last one (the next BOS) is not in it."""
    ends = np.append(stream.doc_start[1:], len(stream.tokens))
    parts = [stream.tokens[stream.doc_start[d] : ends[d]] for d in documents]
    sizes = [len(p) for p in parts]
    return replace(
        stream,
        tokens=np.concatenate(parts),
        doc_start=np.cumsum([0, *sizes[:-1]]).astype(np.int64),
        doc_bytes=stream.doc_bytes[list(documents)],
        doc_names=tuple(stream.doc_names[d] for d in documents),
        folded={},
    )


def whole_documents(sizes: Sequence[int], order: Sequence[int], targets: int) -> list[int]:
    """Documents in this order until ``targets`` are there; one that would overshoot by a quarter is passed over."""
    kept, held = list[int](), 0
    for d in order:
        if held >= targets:
            break
        if held + sizes[d] <= 1.25 * targets or (not kept and sizes[d] <= 2 * targets):
            kept.append(d)
            held += sizes[d]
    return kept or [min(order, key=lambda d: sizes[d])]


class Diary:
    """Finished runs, one checksummed line each, on disk before the next begins.  InputError for another search's."""

    def __init__(self, path: Path, fingerprint: dict[str, Any]) -> None:
        self.path, self.known = path, dict[str, Measured]()
        header = {"schema": SCHEMA, "fingerprint": fingerprint}
        good = 0
        for i, line in enumerate(path.read_bytes().splitlines(keepends=True) if path.exists() else []):
            record = decode_line(line)
            if record is None:
                break
            if i == 0 and record != json.loads(json.dumps(header)):
                raise InputError(
                    f"{path}: another search was kept here (other model, text or budget); give another --out"
                )
            if i:
                run = msgspec.convert(record, Measured)
                self.known[run.key] = run
            good += len(line)
        if good:
            os.truncate(path, good)
        else:
            path.write_bytes(encode_line(header))

    def add(self, run: Measured) -> Measured:
        """What a later call will read, keys in the same order: sums are the same to the bit."""
        line = encode_line(msgspec.to_builtins(run))
        with self.path.open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self.known[run.key] = msgspec.convert(decode_line(line), Measured)
        return self.known[run.key]


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
        pace = _pace(probe)
        self.say(
            f"the plain pass ({plain}) takes about {pace * ask.targets:.1f} s for {ask.targets:,} targets; the search "
            f"takes at most {ask.seconds:.1f} s"
        )
        self._note(0, plain, (), probe, probe, _parts(probe, probe.targets))
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
            self._note(rung, plain, (), base, base, _parts(base, base.targets))
            self._prefixes(rung, ladder, found, base)
            self.say(
                f"rung {rung + 1}, {i}/{len(ladders)}: {found.targets:,} targets, {1e6 * found.wall / found.targets:.0f} "
                f"us/target, {_bpb(found, -1):.4f} BPB (plain {_bpb(base, -1):.4f}), {self.spent:.0f} s spent: {ladder.name}"
            )

    def _prefixes(self, rung: int, ladder: Ladder, found: Measured, base: Measured) -> None:
        """Candidates of one run: its last stage as measured, the shorter ones less what the experts behind cost."""
        whole = _parts(found, found.targets)
        least = 0 if ladder.learners or ladder.plan != plan_of(base) else 1
        for k in range(least, len(ladder.experts) + 1):
            stage = len(ladder.learners) + k
            parts = dict(whole)
            bare = min(_parts(base, base.targets)[HOST], whole[HOST])
            parts[HOST] = bare + (whole[HOST] - bare) * self._share(ladder.experts, k, base)
            self._note(rung, ladder.plan, (*ladder.learners, *ladder.experts[:k]), found, base, parts, stage)

    def _share(self, experts: Sequence[Spec], k: int, base: Measured) -> float:
        """Of the seconds that all these experts cost, the share of the first k: measured once, on the plain plan."""
        if k in (0, len(experts)):
            return float(k > 0)
        few, pace = whole_documents(self.sizes, documents_of(base), LEAST_TARGETS), list[float]()
        for n in (0, k, len(experts)):
            name = json.dumps(experts[:n])
            if name not in self._step:
                if self.spent + self._around + base.wall / base.targets * LEAST_TARGETS > self._searching:
                    return k / len(experts)
                run = self.run(plan_of(base), experts[:n], few, self._searching)
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
            best = min(feasible, key=_merit)
            feasible.remove(best)
            if tried and self.spent > ask.seconds:
                tried.append("the search's time was over before more could be tried")
                break
            until = ask.seconds + dear * chunk
            run, known = _common(self.run(best.plan, best.adapters, documents, until, exact=True), base)
            if len(run.bytes) < 2:
                tried.append(f"{best.name}: the search had no time to confirm it; give --search-seconds more")
                break
            held = self._exact(best.plan, best.adapters, run, known)
            if not held.fits:
                tried.append(f"{best.name}: up to {held.seconds.high:.1f} s when run as a whole")
                slower = held.seconds.total / best.seconds.total
                feasible = [c for c in feasible if c.seconds.total * slower <= ask.budget]
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


def whole_gain(run: Measured, base: Measured, targets: int, seed: int = 0) -> tuple[float, float, float]:
    """(gain, low, high) in BPB expected of a run of ``targets``, 95 %: documents of this run, and those of that one, vary.

    Adapters gain more the more they have read.  A document's gain is taken to fall with the logarithm of its position,
    gain(t) = a + b ln t with b <= 0, which is carried on to the longer run: its mean over 0..T is a + b (ln T - 1).  Carried on
    even where b could be chance: a test for it first kept the gains of small samples flat, and runs gained up to a sixth more
    than the far end of the interval.
    """
    size = np.array(run.bytes, np.float64)
    bits = (np.array(run.nats[-1]) - np.array(base.nats[-1])) / LN2
    ends = np.cumsum(run.doc_targets)
    x = np.log(np.maximum(ends - np.array(run.doc_targets) / 2.0, 1.0))
    keep = size > 0
    size, bits, x = size[keep], bits[keep], x[keep]
    if len(size) < 2:
        gain = float(bits.sum() / size.sum()) if len(size) else 0.0
        return gain, gain, gain
    rng = np.random.default_rng(seed)
    fresh = max(2, round(len(size) * targets / max(1, run.targets)))
    mean = math.log(targets) - 1.0 if targets > run.targets else float((x * size).sum() / size.sum())
    line = _falling(x, bits, size)
    residual = bits - (line[0] + line[1] * x) * size
    draws = np.empty(DRAWS)
    for i in range(DRAWS):
        pick = rng.integers(0, len(size), len(size))
        a, b = _falling(x[pick], bits[pick], size[pick])
        other = rng.integers(0, len(size), fresh)
        draws[i] = a + b * mean + residual[other].sum() / size[other].sum()
    low, high = np.quantile(draws, [0.025, 0.975])
    gain, wide = line[0] + line[1] * mean, few_documents(len(size))
    return gain, float(gain - wide * (gain - low)), float(gain + wide * (high - gain))


def few_documents(n: int) -> float:
    """How much wider a 95 % interval of n >= 2 documents is than the percentiles of their resamples: a resample's variance
    is (n - 1) / n of the sample's, and Student's quantile (here by its expansion in 1 / n) stands where the normal one would.
    """
    z, v = 1.959964, n - 1
    student = z + (z**3 + z) / (4 * v) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v * v)
    return student / z * math.sqrt(n / v)


def _falling(x: np.ndarray, bits: np.ndarray, size: np.ndarray) -> tuple[float, float]:
    """:func:`_line`, flat where it rises: what an adapter has read is not unlearned."""
    a, b = _line(x, bits, size)
    return (a, b) if b <= 0.0 else (float(bits.sum() / size.sum()), 0.0)


def _line(x: np.ndarray, bits: np.ndarray, size: np.ndarray) -> tuple[float, float]:
    """(a, b) of bits = (a + b x) size, weighted by size."""
    total = size.sum()
    centre = (x * size).sum() / total
    spread = ((x - centre) ** 2 * size).sum()
    slope = float(((x - centre) * bits).sum() / spread) if spread > 0 else 0.0
    return float(bits.sum() / total - slope * centre), slope


def _common(run: Measured, base: Measured) -> tuple[Measured, Measured]:
    """Both without the documents that either of them had no time to finish."""
    n = min(len(x.bytes) - (not x.complete) for x in (run, base))
    cut = (
        msgspec.structs.replace(
            x,
            doc_targets=x.doc_targets[:n],
            targets=sum(x.doc_targets[:n]),
            bytes=x.bytes[:n],
            nats=[stage[:n] for stage in x.nats],
        )
        for x in (run, base)
    )
    first, second = cut
    return first, second


def _pace(run: Measured) -> float:
    """Seconds a target without the first chunk."""
    later = run.chunks[1:] or run.chunks
    if not later:
        raise InputError("the search's time was over before one chunk was scored: give --search-seconds more")
    return sum(sum(s.values()) for _, _, s in later) / sum(hi - lo for lo, hi, _ in later)


def _parts(run: Measured, targets: int) -> dict[str, float]:
    """Seconds a target by place; what no span covers is the host's."""
    parts = {DEVICE: 0.0, HOST: 0.0, LEARN: 0.0}
    for verb, seconds in run.verbs.items():
        parts[place_of(verb)] += seconds / targets
    parts[HOST] += max(0.0, run.wall - sum(run.verbs.values())) / targets
    return parts


def plan_of(run: Measured) -> str:
    return json.loads(run.key)[0]


def documents_of(run: Measured) -> list[int]:
    return json.loads(run.key)[2]


def _bpb(run: Measured, stage: int) -> float:
    return math.fsum(run.nats[stage]) / LN2 / sum(run.bytes)


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
