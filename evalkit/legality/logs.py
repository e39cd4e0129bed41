"""The audit of logs: whether the figures that a run printed fit each other, the text and the rules.

No code is run and no model is needed.  A loss in nats per token, a BPB and a number of tokens imply the number of bytes
that the BPB was divided by:

    bytes = val_loss / ln 2 * val_tokens / val_bpb

which must be the bytes of the text.  Of 240 late pull requests of openai/parameter-golf that log all three, 22 imply
another text.  Beside that: coverage, a BPB that no compressor reaches, seconds and artifact bytes against the budget,
and ranks against gradient accumulation.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from evalkit.errors import InputError
from evalkit.legality.rules import ruleset
from evalkit.legality.verdict import LAWS, LEDGERS, Check, Result, Verdict
from evalkit.models.ek.container import CAP_BYTES

SPLIT_BYTES = 151_080_891
"""UTF-8 bytes of the first 50,000 documents of the FineWeb validation split."""
SPLIT_DOCUMENTS = 50_000
BUDGET_SECONDS = 600.0
OVERRUN = 1.0
"""Seconds by which a training loop may end late: it looks at the clock between two steps."""
TOLERANCE = 0.004
"""Relative gap of implied bytes that is still rounding or a dropped tail (the late pull requests leave a wide gap here)."""
BEST_COMPRESSOR, DOUBTFUL = 0.85, 1.0
"""BPB of the best entries of the Large Text Compression Benchmark on 1 GB of English (nncp, cmix; any time and memory);
and of what no audited record of the contest has come below."""
MAX_BYTES, MAX_LINE = 1 << 26, 4096

COUNTS = (
    ("SP1024", 62_021_632),
    ("SP4096", 45_508_608),
    ("SP8192", 40_540_160),
    ("SP8192 with case marks", 47_851_520),
)
"""Tokens of the split under the field's tokenizers."""
MISCOUNTS = (
    (7.7e6, "a fragment of the split"),
    (29.95e6, "the first 10,000 documents only, a fifth of the split"),
    (143.0e6, "an under-count seen before"),
    (152.57e6, "an SP4096 set that holds 1 % more bytes, unexplained"),
    (164.0e6, "a byte mixture's own count"),
    (164.6e6, "the 3-byte case marks of CaseOps were counted as bytes of the text"),
    (192.6e6, "spaces were probably counted twice (seen with SP4096)"),
    (197.9e6, "the SP10240 'casefold' set, whose validation file is 1.31 times the split: not comparable"),
)
"""Implied bytes that were seen before (pull requests #1816, #1854, #1726, #1933, #1771, #1871, #1707), and what they meant."""

SCORE = r"val_loss[:=]\s*(?P<val_loss>\d+\.\d+),?\s+val_bpb[:=]\s*(?P<val_bpb>\d+\.\d+)"
PATTERNS: tuple[str, ...] = (
    rf"^(?P<label>.*?)\s*\b{SCORE}(?:.*?\beval_time:\s*(?P<eval_ms>\d+(?:\.\d+)?)ms)?(?:.*?\btrain_time:\s*(?P<train_ms>\d+)ms)?",
    r"\bval_tokens[:=]\s*(?P<val_tokens>\d[\d_,]*)",
    r"^val_loader:.*\btokens:\s*(?P<val_tokens>\d+)",
    r"\btarget_tokens:\s*(?P<target_tokens>\d+)",
    r"\btotal_docs:\s*(?P<documents>\d+)",
    r"\btotal_eval_time:\s*(?P<eval_s>\d+(?:\.\d+)?)s",
    r"^stopping_early:.*\btrain_time:\s*(?P<train_ms>\d+)ms",
    r"\bworld_size[:=]\s*(?P<world_size>\d+)\s+grad_accum_steps[:=]\s*(?P<grad_accum>\d+)",
    r"^Total submission size[^:\n]*[+:][^:\n]*?:?\s+(?P<artifact_bytes>\d+) bytes",
)
"""Every line is held against every pattern.  Named groups say what is read; ``label`` names the stage of a score."""
FIELDS = frozenset(name for pattern in PATTERNS for name in re.compile(pattern).groupindex)


@dataclass(frozen=True)
class Score:
    """One pair of figures: stage, nats per token, bits per byte, and the decimals that the loss was printed with."""

    label: str
    val_loss: float
    val_bpb: float
    decimals: int

    def bytes_of(self, tokens: float) -> float:
        """The bytes that the pair implies for so many tokens."""
        return self.val_loss / math.log(2) * tokens / self.val_bpb if self.val_bpb > 0 else math.inf


@dataclass
class Log:
    """What was read from one log.  ``numbers``: all values of each field, in the order of the lines."""

    path: str
    scores: list[Score] = field(default_factory=list)
    numbers: dict[str, list[float]] = field(default_factory=dict)

    def last(self, name: str) -> float | None:
        found = self.numbers.get(name)
        return found[-1] if found else None

    @property
    def final(self) -> Score | None:
        """The score that the log ends with."""
        return self.scores[-1] if self.scores else None


def patterns_of(path: Path | None) -> tuple[str, ...]:
    """The built-in table, and before it the user's: a TOML file with ``patterns = ['regex with named groups', ...]``."""
    if path is None:
        return PATTERNS
    try:
        extra = tomllib.loads(path.read_text(encoding="utf-8")).get("patterns")
    except (OSError, ValueError) as fault:
        raise InputError(
            f"{path}: not a table of patterns ({fault}); write patterns = ['loss=(?P<val_loss>...)']"
        ) from None
    if not isinstance(extra, list) or not all(isinstance(p, str) for p in extra):
        raise InputError(f"{path}: 'patterns' must be a list of regular expressions; write patterns = ['...']")
    for pattern in extra:
        try:
            names = set(re.compile(pattern).groupindex)
        except re.error as fault:
            raise InputError(f"{path}: '{pattern}' is no regular expression ({fault})") from None
        if not names or not names <= FIELDS:
            raise InputError(
                f"{path}: '{pattern}' names {sorted(names) or 'no group'}; groups are {', '.join(sorted(FIELDS))}"
            )
    return (*extra, *PATTERNS)


def read_log(path: Path, patterns: Iterable[str] = PATTERNS) -> Log:
    """Read one log; InputError when it cannot be read or is too long."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise InputError(f"{path}: {size:,} bytes, more than {MAX_BYTES:,}; give the log of one run")
        text = path.read_bytes().decode("utf-8", errors="replace")
    except OSError as fault:
        raise InputError(f"{path}: cannot be read ({fault.strerror}); give the path of a log") from None
    log, compiled = Log(str(path)), [re.compile(p) for p in patterns]
    for line in text.splitlines():
        for found in _found(line[:MAX_LINE].strip(), compiled):
            _keep(log, found)
    return log


def _found(line: str, compiled: list[re.Pattern[str]]) -> Iterator[dict[str, str]]:
    for pattern in compiled:
        match = pattern.search(line)
        if match is not None:
            yield {k: v for k, v in match.groupdict().items() if v is not None}


def _keep(log: Log, found: dict[str, str]) -> None:
    numbers = {k: n for k, v in found.items() if k != "label" and (n := _number(v)) is not None}
    loss, bpb = numbers.pop("val_loss", None), numbers.pop("val_bpb", None)
    if loss is not None and bpb is not None:
        label = found.get("label", "").strip(" :|-") or "score"
        score = Score(label, loss, bpb, len(found["val_loss"].partition(".")[2]))
        if score not in log.scores:
            log.scores.append(score)
    for name, value in numbers.items():
        log.numbers.setdefault(name, []).append(value)


def _number(text: str) -> float | None:
    """A finite number, with commas or underscores between its digits; None for anything else."""
    try:
        value = float(text.replace(",", "").replace("_", ""))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def judge(log: Log, *, text_bytes: int | None = None, rules: str = "strict") -> Verdict:
    """The verdict on one log.  ``text_bytes``: bytes of the scored text (default: the contest's validation split)."""
    severities = ruleset(rules)
    contest = text_bytes is None
    checks = [*_bytes(log, text_bytes or SPLIT_BYTES, contest=contest), *_compressors(log), *_rounding(log)]
    checks += [*_coverage(log, contest=contest), *_seconds(log), *_ranks(log), *_artifact(log)]
    verdict = Verdict(target=log.path, ruleset=rules, checks=checks)
    verdict.laws = {law: Result(detail="a log holds no scorer") for law in LAWS}
    verdict.ledgers = {name: _ledger(checks, name) for name in LEDGERS}
    for name, result in verdict.ledgers.items():
        if result.status == "violated" and severities[name].severity != "violation":
            result.status = "warning"
    verdict.notes = [
        "no scorer was given, so no law was tested: this says only whether the printed figures can be true"
    ]
    broken = [verdict.ledgers[n].detail for n in LEDGERS if verdict.ledgers[n].status == "violated"]
    if broken:
        verdict.verdict, verdict.reason = "violation", "; ".join(broken)
    elif not log.scores:
        verdict.reason = "no line with val_loss and val_bpb; name the log's form in a table (--log-patterns FILE.toml)"
    elif verdict.ledgers["bytes"].status == "not-tested":
        verdict.reason = verdict.ledgers["bytes"].detail
    else:
        verdict.verdict = "legal"
    return verdict


def _ledger(checks: list[Check], name: str) -> Result:
    mine = [c for c in checks if c.ledger == name]
    if not mine:
        return Result(detail="the log says nothing of it")
    for status in ("violated", "warning", "ok"):
        found = [c for c in mine if c.status == status]
        if found:
            return Result(status=status, probes=len(mine), detail=found[0].detail)
    return Result(detail=mine[0].detail)


def _check(name: str, ledger: str, status: str, detail: str) -> Check:
    return Check(test="log", name=name, status=status, detail=detail, ledger=ledger)


def _bytes(log: Log, text_bytes: int, *, contest: bool) -> list[Check]:
    """The bytes that loss, BPB and tokens imply, against the text's."""
    if log.final is None:
        return []
    score, tokens = log.final, log.last("val_tokens") or log.last("target_tokens")
    if tokens is None:
        return [_ratio(score, text_bytes, contest=contest)]
    implied = score.bytes_of(tokens)
    gap = implied / text_bytes - 1
    said = f"{score.label}: {score.val_loss:g} nats x {tokens:,.0f} tokens at {score.val_bpb:g} BPB imply {implied / 1e6:.2f} MB"
    if abs(gap) <= TOLERANCE:
        return [_check("implied bytes", "bytes", "ok", f"{said}; the text has {text_bytes / 1e6:.2f} MB")]
    size, why = min(MISCOUNTS, key=lambda known: abs(implied / known[0] - 1))
    why = why if contest and abs(implied / size - 1) <= TOLERANCE else ""
    true = score.val_bpb * implied / text_bytes
    what = f"{said}, but the text has {text_bytes / 1e6:.2f} MB ({gap:+.1%})" + (f": {why}" if why else "")
    if gap > 0 and "not comparable" not in why:
        what += f"; over the text's bytes these tokens cost {true:.4f} BPB"
    return [_check("implied bytes", "bytes", "violated", what)]


def _ratio(score: Score, text_bytes: int, *, contest: bool) -> Check:
    """Without a number of tokens: tokens per byte, held against the tokenizers of the field."""
    tokens = text_bytes / score.bytes_of(1.0)
    said = f"{score.label}: no number of tokens in the log; loss and BPB imply {tokens:,.0f} tokens for {text_bytes:,} bytes"
    fits = [name for name, count in COUNTS if contest and abs(tokens / count - 1) <= TOLERANCE]
    if fits:
        return _check("implied tokens", "bytes", "ok", f"{said}, as {fits[0]} has")
    return _check("implied tokens", "bytes", "not-tested", f"{said}, which fits no known tokenizer; log val_tokens")


def _compressors(log: Log) -> list[Check]:
    if log.final is None:
        return []
    bpb = log.final.val_bpb
    if bpb < BEST_COMPRESSOR:
        what = (
            f"{bpb:g} BPB is below the best compressor of English text of any size and time ({BEST_COMPRESSOR} on 1 GB)"
        )
        return [_check("compressors", "record", "violated", what)]
    if bpb < DOUBTFUL:
        return [_check("compressors", "", "warning", f"{bpb:g} BPB: no audited record is below {DOUBTFUL:g}")]
    return [_check("compressors", "record", "ok", f"{bpb:g} BPB is no better than compressors allow")]


def _rounding(log: Log) -> list[Check]:
    """A line and its "_exact" twin say the same to the printed digits."""
    exact = {s.label.removesuffix("_exact"): s for s in log.scores if s.label.endswith("_exact")}
    out = []
    for short in log.scores:
        twin = exact.get(short.label)
        if twin is None or short.label.endswith("_exact"):
            continue
        apart = max(abs(short.val_loss - twin.val_loss), abs(short.val_bpb - twin.val_bpb))
        status = "ok" if apart <= 0.51 * 10.0**-short.decimals else "violated"
        what = f"{short.label} and its exact line differ by {apart:.2g} at most"
        out.append(_check("exact line", "record", status, what))
    return out


def _coverage(log: Log, *, contest: bool) -> list[Check]:
    out, tokens, targets = [], log.last("val_tokens"), log.last("target_tokens")
    if tokens is not None and targets is not None:
        short = tokens - targets
        status = "ok" if 0 <= short <= 0.001 * tokens else "violated"
        out.append(_check("targets", "coverage", status, f"{targets:,.0f} of {tokens:,.0f} tokens were scored"))
    documents = log.last("documents")
    if contest and documents is not None:
        status = "ok" if documents == SPLIT_DOCUMENTS else "violated"
        out.append(
            _check("documents", "coverage", status, f"{documents:,.0f} of {SPLIT_DOCUMENTS:,} documents were scored")
        )
    known = next((name for name, n in COUNTS if contest and tokens and abs(tokens / n - 1) <= TOLERANCE), None)
    if known is not None:
        out.append(_check("tokens", "coverage", "ok", f"{tokens:,.0f} tokens are the whole split under {known}"))
    elif contest and tokens is not None:
        out.append(_check("tokens", "", "warning", f"{tokens:,.0f} tokens are the split under no known tokenizer"))
    return out


def _seconds(log: Log) -> list[Check]:
    out = []
    train = max(log.numbers.get("train_ms", []), default=None)
    if train is not None:
        late = train / 1000 - BUDGET_SECONDS
        status = "ok" if late <= OVERRUN else "violated"
        out.append(
            _check("training seconds", "record", status, f"{train / 1000:.1f} s of training of {BUDGET_SECONDS:g} s")
        )
    spent = [ms / 1000 for ms in log.numbers.get("eval_ms", [])] + log.numbers.get("eval_s", [])
    if spent:
        status = "ok" if max(spent) <= BUDGET_SECONDS else "violated"
        out.append(
            _check("evaluation seconds", "record", status, f"{max(spent):.1f} s of evaluation of {BUDGET_SECONDS:g} s")
        )
    return out


def _ranks(log: Log) -> list[Check]:
    world, accumulated = log.last("world_size"), log.last("grad_accum")
    if world is None or accumulated is None:
        return []
    what = f"{world:.0f} ranks x {accumulated:.0f} accumulation steps"
    if world * accumulated != 8:
        return [_check("ranks", "record", "violated", f"{what} are {world * accumulated:.0f} parts of a batch, not 8")]
    if world != 8:
        return [_check("ranks", "", "warning", f"{what}: not the 8 GPUs whose seconds count")]
    return [_check("ranks", "record", "ok", what)]


def _artifact(log: Log) -> list[Check]:
    size = log.last("artifact_bytes")
    if size is None:
        return []
    status = "ok" if size <= CAP_BYTES else "violated"
    return [_check("artifact", "record", status, f"{size:,.0f} bytes of {CAP_BYTES:,}")]
