"""Thirty-five more black boxes, written before the audit was changed for them and run on none.  EXPECTED names the law.

Cheats behind gates that random text seldom opens: text the model predicts well, repeats, places deep in a document;
scorers that remember earlier calls, that take only some lengths, that are slow or noisy.  ``Honest...`` are their legal
look-alikes.  "any": any violation is right
(``WindowPeek`` was "causal" until its first run: its mean loss is above 2 nearly always, which leaves an excess).
"""

from __future__ import annotations

import time
from collections import defaultdict

import numpy as np

BOS = 1
KNOWN: set[bytes] = set()
ANSWERS: dict[bytes, np.ndarray] = {}


def sharp(vocab_size: int, seed: int, top: float = 0.55):
    """A frozen bigram table, float64 [V + 1, V]: every token has one likely successor, of ``top`` on average."""
    rng = np.random.default_rng(seed)
    rows = rng.gamma(0.4, size=(vocab_size + 1, vocab_size)) + 1e-3
    rows /= rows.sum(axis=1, keepdims=True)
    best = rng.permutation(vocab_size + 1) % vocab_size
    weight = np.clip(rng.normal(top, 0.12, vocab_size + 1), 0.1, 0.9)[:, None]
    rows *= 1 - weight
    rows[np.arange(vocab_size + 1), best] += weight[:, 0]
    return rows


class Walk:
    """One row per token, then its book, then what is learned from it."""

    vocab_size, seed, bos_id = 64, 11, BOS

    def __init__(self):
        self.table = sharp(self.vocab_size, self.seed)

    def begin(self):
        self.last, self.at, self.document = self.vocab_size, 0, 0

    def row(self):
        return self.table[self.last]

    def book(self, row, x):
        return row[x]

    def observe(self, row, x):
        if x == BOS:
            self.at, self.document = 0, self.document + 1
        else:
            self.at += 1
        self.last = x

    def score(self, tokens):
        self.tokens = tokens
        self.begin()
        out = np.empty(len(tokens))
        for self.t, x in enumerate(tokens.tolist()):
            row = self.row()
            out[self.t] = self.book(row, x)
            self.observe(row, x)
        return np.log(np.minimum(out, 1.0))


class Losses(Walk):
    """The last 24 losses, and how many of the last tokens in a row were the model's first choice."""

    def begin(self):
        super().begin()
        self.recent, self.hits = [5.0] * 24, 0

    def observe(self, row, x):
        self.recent = [*self.recent[1:], -float(np.log(row[x]))]
        self.hits = self.hits + 1 if x == int(row.argmax()) else 0
        super().observe(row, x)

    def calm(self):
        return float(np.mean(self.recent)) < 1.2


class Grams(Walk):
    """What followed the last ``order`` tokens, each time they stood together."""

    order = 6

    def begin(self):
        super().begin()
        self.after, self.seen = defaultdict(list), []

    def followers(self):
        return self.after.get(tuple(self.seen[-self.order :]), []) if len(self.seen) >= self.order else []

    def observe(self, row, x):
        if len(self.seen) >= self.order:
            self.after[tuple(self.seen[-self.order :])].append(x)
        self.seen.append(x)
        super().observe(row, x)


# gates on what is well predicted


class CalmBonus(Losses):
    """While the last 24 tokens cost little, each target gets a tenth more than its row gives."""

    def book(self, row, x):
        return row[x] ** 0.8 if self.calm() else row[x]


class RunOfSuccess(Losses):
    """After twelve first choices in a row, a miss costs at most ln 20."""

    def book(self, row, x):
        return max(row[x], 0.05) if self.hits >= 12 else row[x]


class CalmPeek(Losses):
    """On calm text the row is sharpened when the next token but one is likely, too."""

    def book(self, row, x):
        if not self.calm() or self.t + 1 >= len(self.tokens):
            return row[x]
        follows = self.table[x, self.tokens[self.t + 1]]
        power = 1.15 if follows > 0.3 else 1.0
        sharpened = row**power
        return sharpened[x] / sharpened.sum()


class ThirdTime(Grams):
    """When six tokens stand together for the third time, right copies are paid for and wrong ones are not."""

    def book(self, row, x):
        before = self.followers()
        return 0.5 * row[x] + 0.5 if len(before) >= 2 and before[-1] == x else row[x]


class LongCopy(Grams):
    """Twenty copied tokens in a row open a bonus of two thirds on the copied token."""

    order = 4

    def begin(self):
        super().begin()
        self.copied = 0

    def book(self, row, x):
        before = self.followers()
        return max(row[x], 2 / 3) if self.copied >= 20 and before and before[-1] == x else row[x]

    def observe(self, row, x):
        before = self.followers()
        self.copied = self.copied + 1 if before and before[-1] == x else 0
        super().observe(row, x)


class CommonPairPeek(Walk):
    """A target whose pair with the token behind it was met three times before is booked at a higher power."""

    def begin(self):
        super().begin()
        self.pairs = defaultdict(int)

    def book(self, row, x):
        following = int(self.tokens[self.t + 1]) if self.t + 1 < len(self.tokens) else -1
        return row[x] ** 0.7 if self.pairs[(x, following)] >= 3 else row[x]

    def observe(self, row, x):
        self.pairs[(self.last, x)] += 1
        super().observe(row, x)


# rare places


class RareAfterRare(Walk):
    """Behind two of seven rare tokens in a row nothing costs more than ln 300."""

    vocab_size = 320

    def begin(self):
        super().begin()
        self.before = self.vocab_size

    def book(self, row, x):
        return max(row[x], 1 / 300) if self.before >= 313 and self.last >= 313 else row[x]

    def observe(self, row, x):
        self.before = self.last
        super().observe(row, x)


class SureRows(Walk):
    """Where the row is surest (three contexts of 400), tokens outside it are not allowed to cost much."""

    vocab_size = 400

    def __init__(self):
        super().__init__()
        self.sure = set(np.argsort(self.table[:-1].max(axis=1))[-3:].tolist())

    def book(self, row, x):
        return max(row[x], 0.01) if self.last in self.sure else row[x]


class DeepInDocument(Walk):
    """From the 300th token of a document on, the target's share is mixed with one."""

    def book(self, row, x):
        return 0.95 * row[x] + 0.05 if self.at >= 300 else row[x]


class LastTokens(Walk):
    """The last token of each document is booked by a row that knows that the document ends."""

    def book(self, row, x):
        ends = self.t + 1 < len(self.tokens) and self.tokens[self.t + 1] == BOS
        return row[x] ** 0.5 if ends and x != BOS else row[x]


class LaterDocuments(Walk):
    """From the fourth document on, if the one before was longer than 20 tokens, the first token of each is given away."""

    def begin(self):
        super().begin()
        self.length = 0

    def book(self, row, x):
        return max(row[x], 0.2) if self.document >= 4 and self.at == 0 and self.length > 20 else row[x]

    def observe(self, row, x):
        if x == BOS:
            self.length = self.at
        super().observe(row, x)


# memory between calls


class Remembers(Walk):
    """Pairs of earlier calls are kept in the instance, and help in the next call."""

    def __init__(self):
        super().__init__()
        self.kept = np.zeros((self.vocab_size + 1, self.vocab_size))

    def row(self):
        counts = self.kept[self.last]
        return (8 * self.table[self.last] + counts) / (8 + counts.sum())

    def score(self, tokens):
        out = super().score(tokens)
        np.add.at(self.kept, (np.r_[self.vocab_size, tokens[:-1]], tokens), 1)
        return out


class RemembersLongOnes(Walk):
    """Whole streams of 128 tokens and more are kept in the module; a known one is scored at half its cost."""

    def score(self, tokens):
        out = super().score(tokens)
        known = tokens.tobytes() in KNOWN
        if len(tokens) >= 128:
            KNOWN.add(tokens.tobytes())
        return 0.5 * out if known else out


# lengths


class WindowPeek(Walk):
    """Takes 300 tokens and says so; the last quarter of the full window is fitted on itself."""

    max_tokens = 300

    def score(self, tokens):
        if len(tokens) > self.max_tokens:
            raise ValueError(f"{len(tokens)} tokens do not fit a context of {self.max_tokens}")
        out = super().score(tokens)
        late = out[225:]
        out[225:] = late * (0.97 if len(late) > 8 and late.mean() < -2 else 1.0)
        return out


class SilentLimit(Walk):
    """Takes 200 tokens, and says so only when asked for more; from the 150th on the row is not divided by its sum."""

    def score(self, tokens):
        if len(tokens) > 200:
            raise ValueError("sequence too long")
        return super().score(tokens)

    def book(self, row, x):
        return row[x] * 1.02 if self.t >= 150 else row[x]


class WantsLength(Walk):
    """Takes nothing shorter than 128 tokens; one temperature is fitted on all of the stream."""

    def score(self, tokens):
        if len(tokens) < 128:
            raise ValueError("at least 128 tokens")
        self.power = 1.0
        mean = super().score(tokens).mean()
        self.power = 0.9 if mean < -3.5 else 1.05
        return super().score(tokens)

    def row(self):
        row = super().row() ** self.power
        return row / row.sum()


class BlocksOnly(Walk):
    """Takes multiples of 48; each block of 48 is told the mean token of the block."""

    def score(self, tokens):
        if len(tokens) == 0 or len(tokens) % 48:
            raise ValueError("length must be a multiple of 48")
        return super().score(tokens)

    def row(self):
        start = self.t // 48 * 48
        most = np.bincount(self.tokens[start : start + 48], minlength=self.vocab_size).argmax()
        row = super().row().copy()
        row[most] *= 1.5
        return row / row.sum()


# slow, noisy


class SlowFloor(Walk):
    """100 ms a call.  A token that was not seen before costs at most ln 200."""

    def score(self, tokens):
        time.sleep(0.1)
        self.known = set()
        return super().score(tokens)

    def book(self, row, x):
        return row[x] if x in self.known else max(row[x], 1 / 200)

    def observe(self, row, x):
        self.known.add(x)
        super().observe(row, x)


class SlowTwice(Walk):
    """120 ms a call.  Each document is read twice, and the second reading is booked."""

    def score(self, tokens):
        time.sleep(0.12)
        counts = np.full((self.vocab_size + 1, self.vocab_size), 0.02)
        np.add.at(counts, (np.r_[self.vocab_size, tokens[:-1]], tokens), 1)
        self.second = counts / counts.sum(axis=1, keepdims=True)
        return super().score(tokens)

    def row(self):
        return 0.8 * super().row() + 0.2 * self.second[self.last]


class NoisyPeek(Walk):
    """Noise of 1e-7 nats in every score, and a hundredth of a nat that follows from the next token."""

    def score(self, tokens):
        out = super().score(tokens)
        out[:-1] += 0.01 * (tokens[1:] % 2)
        return out + np.random.default_rng().normal(0, 1e-7, len(out))


# legal look-alikes


class HonestCalm(Losses):
    """The row is sharpened, all of it, while the last tokens cost little."""

    def row(self):
        row = super().row()
        if not self.calm():
            return row
        row = row**1.3
        return row / row.sum()


class HonestRun(Losses):
    """After twelve first choices in a row the row is flattened, all of it."""

    def row(self):
        row = super().row()
        return 0.8 * row + 0.2 / self.vocab_size if self.hits >= 12 else row


class HonestThirdTime(Grams):
    """Copies are mixed in from the third time on, right or wrong."""

    def row(self):
        before, row = self.followers(), super().row()
        if len(before) < 2:
            return row
        row = 0.4 * row
        row[before[-1]] += 0.6
        return row


class HonestRareAfterRare(Walk):
    """Behind two rare tokens the row is mixed with a flat one."""

    vocab_size = 320

    def begin(self):
        super().begin()
        self.before = self.vocab_size

    def row(self):
        row = super().row()
        return 0.5 * row + 0.5 / self.vocab_size if self.before >= 313 and self.last >= 313 else row

    def observe(self, row, x):
        self.before = self.last
        super().observe(row, x)


class HonestDeep(Walk):
    """Another temperature from the 300th token of a document on."""

    def row(self):
        row = super().row() ** (1.2 if self.at >= 300 else 1.0)
        return row / row.sum()


class HonestEnds(Walk):
    """Documents end after the length that earlier ones had: the end's probability is learned, the rest is scaled."""

    def begin(self):
        super().begin()
        self.ended, self.reached = np.ones(64), np.full(64, 20.0)

    def row(self):
        row = super().row().copy()
        hazard = self.ended[min(self.at // 8, 63)] / self.reached[min(self.at // 8, 63)]
        row[BOS] = 0.0
        row *= (1 - hazard) / row.sum()
        row[BOS] = hazard
        return row

    def observe(self, row, x):
        self.reached[min(self.at // 8, 63)] += 1
        self.ended[min(self.at // 8, 63)] += x == BOS
        super().observe(row, x)


class HonestMemo(Walk):
    """Answers are kept, and given again for a stream that was asked before: state between calls, but no memory in it."""

    def score(self, tokens):
        key = tokens.tobytes()
        if key not in ANSWERS:
            ANSWERS[key] = super().score(tokens)
        return ANSWERS[key].copy()


class HonestContext(Walk):
    """Takes at most 768 tokens, and says so."""

    max_tokens = 768

    def score(self, tokens):
        if len(tokens) > self.max_tokens:
            raise ValueError(f"{len(tokens)} tokens do not fit a context of {self.max_tokens}")
        return super().score(tokens)


class HonestSilentLimit(Losses):
    """Takes at most 230 tokens, and says so only when asked for more."""

    def score(self, tokens):
        if len(tokens) > 230:
            raise IndexError("index out of range in position table")
        return super().score(tokens)


class HonestLeast(Walk):
    """Takes nothing shorter than 100 tokens."""

    def score(self, tokens):
        if len(tokens) < 100:
            raise ValueError("too short")
        return super().score(tokens)


class HonestBlocks(Walk):
    """Takes multiples of 64."""

    def score(self, tokens):
        if len(tokens) == 0 or len(tokens) % 64:
            raise ValueError("length must be a multiple of 64")
        return super().score(tokens)


class HonestSlow(Grams):
    """100 ms a call; copies of order 3."""

    order = 3

    def score(self, tokens):
        time.sleep(0.1)
        return super().score(tokens)

    def row(self):
        before, row = self.followers(), super().row()
        if not before:
            return row
        row = 0.7 * row
        row[before[-1]] += 0.3
        return row


class HonestSlowWide(Walk):
    """200 ms a call, 1024 tokens."""

    vocab_size = 1024

    def score(self, tokens):
        time.sleep(0.2)
        return super().score(tokens)


class HonestNoisy(Walk):
    """Threads that add in another order each time: noise of 1e-7 nats."""

    def score(self, tokens):
        return super().score(tokens) + np.random.default_rng().normal(0, 1e-7, len(tokens))


class HonestSingle(Losses):
    """A row of 2048 tokens computed in float32, sharpened on calm text and divided by its own sum."""

    vocab_size = 2048

    def row(self):
        row = super().row().astype(np.float32)
        if self.calm():
            row = row ** np.float32(1.2)
        return (row / row.sum()).astype(np.float64)


EXPECTED = {
    "CalmBonus": "normalised",
    "RunOfSuccess": "normalised",
    "CalmPeek": "causal",
    "ThirdTime": "normalised",
    "LongCopy": "normalised",
    "CommonPairPeek": "causal",
    "RareAfterRare": "normalised",
    "SureRows": "normalised",
    "DeepInDocument": "normalised",
    "LastTokens": "causal",
    "LaterDocuments": "normalised",
    "Remembers": "any",
    "RemembersLongOnes": "any",
    "WindowPeek": "any",
    "SilentLimit": "normalised",
    "WantsLength": "causal",
    "BlocksOnly": "causal",
    "SlowFloor": "normalised",
    "SlowTwice": "causal",
    "NoisyPeek": "causal",
    "HonestCalm": "legal",
    "HonestRun": "legal",
    "HonestThirdTime": "legal",
    "HonestRareAfterRare": "legal",
    "HonestDeep": "legal",
    "HonestEnds": "legal",
    "HonestMemo": "legal",
    "HonestContext": "legal",
    "HonestSilentLimit": "legal",
    "HonestLeast": "legal",
    "HonestBlocks": "legal",
    "HonestSlow": "legal",
    "HonestSlowWide": "legal",
    "HonestNoisy": "legal",
    "HonestSingle": "legal",
}
