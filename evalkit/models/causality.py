"""Causality of a model, asked of every one when it is opened: do rows move when only later tokens change?

One stream of about 1,024 random ids and changed copies of it run in one batch; copy k differs from the base from token
c_k on, so its rows before c_k must be those of the base.  Places stand inside and across the chunks that published
leaks had: means of 64-token blocks and summaries of 16-token chunks (karpathy/nanochat #844), a scan that leaks across
its chunks of 256 (huggingface/transformers #47475), an unmasked mixer (CortexLM/cortex #95).  A move counts when it is
larger than the rounding of the model's own number type and than the model's own noise, which is what the same stream
twice, at other places of the batch, differs by.

What else could read ahead is asked, too: other windows of the batch, the length of the input, earlier calls, the head,
and the banded pass.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evalkit.errors import InputError
from evalkit.stream.files import write_atomic

TOKENS, DEEP_TOKENS = 1024, 2048
"""Longest probe stream, tokens; shorter for models made for less."""
PLACES = (1, 7, 17, 33, 65, 129, 257)
CELLS = 1 << 26
"""Logits of one call at most (256 MiB of float32): what bounds the batch when the vocabulary is large."""
FLOOR = {torch.float32: 2e-5, torch.float64: 2e-5, torch.float16: 1e-3, torch.bfloat16: 4e-3}
"""Least move that counts, as a share of the largest logit (of a row minus its mean).  In float32 a filter by FFT, the
least exact of the honest look-alikes, moves by 1e-6."""
FORMS = {torch.float32: 1e-3, torch.float64: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Most that passes of different shapes may differ by, in the same unit: other shapes run other kernels."""
NOISE_TIMES = 16.0
KNOWN_CODE = ("evalkit", "transformers")
"""Packages whose models are remembered."""
VERSION = 1
"""Of the probe: part of the cache's key."""


@dataclass(frozen=True)
class Move:
    """One thing that should not have moved.  ``moved`` and ``limit`` are logits; ``scale`` is the largest one."""

    form: str
    """ "suffix" (later tokens), "banded suffix", or what disagrees: "repeat", "batch", "prefix", "banded", "head"."""
    row: int
    """Input position; row i is the distribution of token i + 1."""
    changed: int
    """The later token that was changed, or the length of the shorter input ("prefix"); -1: not about a place."""
    moved: float
    limit: float
    scale: float
    alone: bool = True
    """Whether that token changed alone, or all from it on."""

    @property
    def sentence(self) -> str:
        size = f"by {self.moved:.3g} (its logits reach {self.scale:.3g}, rounding explains {self.limit:.2g})"
        if "suffix" in self.form:
            how = "in the banded pass " if self.form.startswith("banded") else ""
            when = f"token {self.changed} changes" if self.alone else f"tokens from {self.changed} on change"
            return f"{how}position {self.row}, the distribution of token {self.row + 1}, moves {size} when the later {when}"
        return f"position {self.row} moves {size} {_FORMS_TOLD[self.form].format(self.changed)}"


_FORMS_TOLD = {
    "repeat": "when the same ids are given again: rows must depend on the ids alone, and on no earlier call",
    "batch": "when the other windows of the batch change: they hold later text",
    "prefix": "when the input is cut after {} tokens: earlier rows must not know how much text follows",
    "banded": "between the banded pass and the plain one, inside the first window where both see the same tokens",
    "head": "between head(hidden(ids)) on some positions and logits(ids)",
}


@dataclass
class Causality:
    """What the probe of one model found.  Lengths in tokens; ``noise`` and ``worst`` in logits."""

    tokens: int
    places: tuple[int, ...]
    noise: float = 0.0
    worst: float = 0.0
    """Largest move that passed."""
    scale: float = 0.0
    mass: float = 0.0
    """Largest |1 - sum| of a row's probabilities in float64; infinity where a row holds NaN or +infinity."""
    calls: int = 0
    forms: list[str] = field(default_factory=list)
    """What was compared."""
    moves: list[Move] = field(default_factory=list)

    @property
    def causal(self) -> bool:
        return not self.moves


def require_causal(model: Any, name: str) -> None:
    """InputError when rows of ``model`` move with later tokens, or its passes disagree; see :func:`probe`.

    A pass is remembered by the model's fingerprint and the code of its classes, for models of evalkit and of
    transformers; a stranger's class is asked every time, for what leaks is code and may stand in any file beside it.
    """
    key = _cache_key(model)
    if key is not None and key.is_file():
        return
    found = probe(model)
    if found.moves:
        what = "is not causal" if any("suffix" in m.form for m in found.moves) else "does not agree with itself"
        raise InputError(
            f"checkpoint {name}: the model {what}: {found.moves[0].sentence}; such rows have no score "
            f"('evalkit audit --checkpoint' says more; --trust-causal skips this check and is written into run.json)"
        )
    if key is not None:
        with contextlib.suppress(OSError, InputError):
            key.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(key, (json.dumps(asdict(found)) + "\n").encode())


def _cache_key(model: Any) -> Path | None:
    """The file that says that this model passed; None for a stranger's class."""
    kinds = [type(part) for part in (model, model.module) if part is not None]
    if not all(kind.__module__.split(".")[0] in KNOWN_CODE for kind in kinds):
        return None
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        code = [Path(inspect.getfile(kind)).read_bytes() for kind in kinds]
    except (OSError, RuntimeError, TypeError):
        return None
    words = [VERSION, model.fingerprint, model.max_seq_len, sorted(model.can), torch.__version__, model.device]
    digest = hashlib.sha256(b"|".join([repr(words).encode(), *code])).hexdigest()
    return root / "evalkit" / "causal" / f"{digest}.json"


@torch.no_grad()
def probe(model: Any, *, deep: bool = False, seed: int = 0) -> Causality:
    """Ask a model all of it.  ``deep``: more streams' worth of places (every border), twice the length, all prefixes."""
    rng = np.random.default_rng(seed)
    length = min(DEEP_TOKENS if deep else TOKENS, model.max_seq_len or TOKENS * 2)
    ids = rng.integers(0, model.vocab_size, length)
    found = Causality(length, _places(length, rng, deep))
    _Probe(model, ids, found, rng).run(deep)
    return found


def _places(length: int, rng: np.random.Generator, deep: bool) -> tuple[int, ...]:
    """Where the copies begin to differ, ascending, in 1 .. length-1."""
    places = {*PLACES, length - 1, int(rng.integers(400, 601)), *rng.integers(1, length, 2).tolist()}
    if deep:
        borders = [*(1 << k for k in range(12)), *range(16, 128, 16), *range(128, length, 128)]
        places |= {b + d for b in borders for d in (-1, 0, 1)} | set(rng.integers(1, length, 16).tolist())
    return tuple(sorted(p for p in places if 1 <= p < length))


class _Probe:
    """One model under one stream ``ids`` int64 [L]; ``base`` is its rows float32 [L, V]."""

    def __init__(self, model: Any, ids: np.ndarray, found: Causality, rng: np.random.Generator) -> None:
        self.model, self.ids, self.found, self.rng = model, ids, found, rng
        self.other = (ids + 1 + rng.integers(0, max(1, model.vocab_size - 1), len(ids))) % model.vocab_size
        self.group = max(1, CELLS // (len(ids) * model.vocab_size))
        dtypes = {p.dtype for p in model.module.parameters()} if isinstance(model.module, torch.nn.Module) else set()
        self.floor = max((FLOOR[d] for d in dtypes if d in FLOOR), default=FLOOR[torch.float32])
        self.form = max((FORMS[d] for d in dtypes if d in FORMS), default=FORMS[torch.float32])

    def run(self, deep: bool) -> None:
        found = self.found
        self.base = self._call([self.ids])[0]
        finite = self.base[torch.isfinite(self.base)]
        found.scale = float((self.base - self.base.mean(-1, keepdim=True)).nan_to_num(0.0, 0.0, 0.0).abs().max())
        sums = torch.cat([slab.double().softmax(-1).sum(-1) for slab in self.base.split(128)])
        found.mass = float((sums - 1.0).abs().nan_to_num(float("inf")).max())
        if not finite.numel():
            return  # the loop says which row is not finite
        self._suffixes()
        self._shapes(deep)
        if "banded" in self.model.can and not found.moves:
            self._banded()
        if "hidden" in self.model.can and not found.moves:
            self._head()

    def _call(self, streams: Sequence[np.ndarray]) -> Tensor:
        """Rows of ids int64 [L] each, all of one length -> float32 [B, L, V]."""
        self.found.calls += 1
        ids = torch.from_numpy(np.stack(streams)).to(self.model.device)
        return self.model.logits(ids, torch.zeros_like(ids)).float()  # one document, from position 0 on

    def _changed(self, place: int) -> np.ndarray:
        """The stream with other tokens from ``place`` on."""
        return np.concatenate((self.ids[:place], self.other[place:]))

    def _suffixes(self) -> None:
        """Base and copies in batches of one shape; the base stands in at other places to measure noise."""
        places = [0, *self.found.places, 0]  # 0: the base itself
        places += [0] * (-len(places) % self.group) if len(places) > self.group else []
        size, first, noise = min(self.group, len(places)), None, 0.0
        moves = list[tuple[int, int, float]]()
        for begin in range(0, len(places), size):
            batch = places[begin : begin + size]
            rows = self._call([self._changed(p) if p else self.ids for p in batch])
            if first is None:
                first = rows[0].clone()
            for place, row in zip(batch, rows, strict=True):
                at, moved = _largest(first[: place or None], row[: place or None])
                if place:
                    moves.append((place, at, moved))
                else:
                    noise = max(noise, moved)
        assert first is not None
        self.found.noise, self.found.forms = noise, ["suffix"]
        self._disagree("repeat", noise, 0, -1)
        limit = max(self.floor * self.found.scale, NOISE_TIMES * noise)
        self.found.worst = max((m for _, _, m in moves if m <= limit), default=0.0)
        over = [(moved, at, place) for place, at, moved in moves if moved > limit]
        if over:
            moved, at, place = max(over)
            self._name(at, place, moved, limit)

    def _name(self, row: int, place: int, moved: float, limit: float) -> None:
        """Which later token moves that row?  The last place from which a changed suffix moves it half as far, by
        bisection; then that token alone, if it does so alone."""

        def move(ids: np.ndarray) -> float:
            return _largest(self.base[row : row + 1], self._call([ids])[0, row : row + 1])[1]

        low, high, half = place, len(self.ids), max(limit, moved / 2)
        while high - low > 1:
            middle = (low + high) // 2
            here = move(self._changed(middle))
            low, high, moved = (middle, high, here) if here > half else (low, middle, moved)
        single = self.ids.copy()
        single[low] = self.other[low]
        alone = move(single)
        found = Move("suffix", row, low, alone if alone > limit else moved, limit, self.found.scale, alone > limit)
        self.found.moves.append(found)

    def _shapes(self, deep: bool) -> None:
        """Other batch mates, a shorter input, and the first call again."""
        self.found.forms += ["batch", "prefix", "repeat"]
        mate = np.roll(self.other, 1)
        at, moved = _largest(self.base, self._call([mate, self.ids])[1])
        self._disagree("batch", moved, at, -1)
        length = len(self.ids)
        cuts = {max(1, 2 * length // 3 | 1)} | (
            set(self.found.places[:: max(1, len(self.found.places) // 8)]) if deep else set()
        )
        for cut in sorted(c for c in cuts if c < length):
            at, moved = _largest(self.base[:cut], self._call([self.ids[:cut]])[0])
            self._disagree("prefix", moved, at, cut)
        at, moved = _largest(self.base, self._call([self.ids])[0])
        self._disagree("repeat", moved, at, -1)

    def _banded(self) -> None:
        """Inside the first window, in one call and in two, the rows are the plain ones; later tokens move none."""
        self.found.forms += ["banded", "banded suffix"]
        window = max(2, len(self.ids) // 2)
        place = min(len(self.ids) - 1, window + window // 3)
        rows = self._band([self.ids], window)
        cut = window * 3 // 5
        for got in (rows[:window], self._band([self.ids[:cut], self.ids[cut:window]], window)):
            at, moved = _largest(self.base[:window], got)
            self._disagree("banded", moved, at, -1)
        at, moved = _largest(rows[:place], self._band([self._changed(place)], window)[:place])
        limit = self.floor * self.found.scale
        if moved > limit:
            self.found.moves.append(Move("banded suffix", at, place, moved, limit, self.found.scale))

    def _band(self, pieces: Sequence[np.ndarray], window: int) -> Tensor:
        """Rows of pieces that follow each other, float32 [L, V]."""
        self.found.calls += 1
        rows, state = list[Tensor](), None
        for piece in pieces:
            ids = torch.from_numpy(piece).to(self.model.device)
            logits, state = self.model.banded(ids, torch.zeros_like(ids), state, window)
            rows.append(logits.float())
        return torch.cat(rows)

    def _head(self) -> None:
        """The head works position by position: on every seventh it gives the rows of the whole pass."""
        self.found.forms.append("head")
        ids = torch.from_numpy(self.ids[None]).to(self.model.device)
        hidden = self.model.hidden(ids, torch.zeros_like(ids))
        at, moved = _largest(self.base[::7], self.model.head(hidden[:, ::7])[0].float())
        self._disagree("head", moved, 7 * at, -1)

    def _disagree(self, form: str, moved: float, row: int, changed: int) -> None:
        """Keep the largest disagreement of each form."""
        limit = self.form * self.found.scale
        known = next((m for m in self.found.moves if m.form == form), None)
        if moved > max(limit, known.moved if known else 0.0):
            self.found.moves = [m for m in self.found.moves if m is not known]
            self.found.moves.append(Move(form, row, changed, moved, limit, self.found.scale))


def _largest(a: Tensor, b: Tensor) -> tuple[int, float]:
    """(row, size) of the largest difference of rows [n, V]; infinity where only one side is finite.

    In slabs of rows, so that no third [n, V] is made.
    """
    row, size = 0, 0.0
    for begin in range(0, len(a), 128):
        x, y = a[begin : begin + 128], b[begin : begin + 128]
        same = (x == y) | (x.isnan() & y.isnan())
        moved = torch.where(same, 0.0, (x - y).abs()).nan_to_num(float("inf"), float("inf")).amax(-1)
        at = int(moved.argmax())
        if float(moved[at]) > size:
            row, size = begin + at, float(moved[at])
    return row, size
