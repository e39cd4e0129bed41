"""Which models read ahead, and which only look so?  Seven mixers of the past that leak, each with its causal form.

Every specimen is a ``Model`` (:mod:`evalkit.models.base`), so that opening one is judged too, and a black-box scorer.
The mixer stands on the toy's bigram network: logits = network[token] + GAIN * mix(x) H, x = E[token].

Shape legend: B streams, L positions, D = 16 width, V = 32 ids.
"""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tests.zoo.declare import fix, look_alike, violation
from tests.zoo.toy import BOS, Float64, Int64, Toy, V, network_logits

if TYPE_CHECKING:
    import torch

D = 16
GAIN = 2.0
ALSO = ("normalised", "score-first", "single-pass")
"""A row that moves with its own target may also sum to something else than 1 over targets."""
leak = partial(violation, law="causal", also=ALSO)


@cache
def weights(name: str, rows: int, columns: int = D) -> Float64:
    """Frozen random weights [rows, columns] of standard deviation 1 / sqrt(D)."""
    seed = int.from_bytes(name.encode(), "little") % (1 << 32)
    return np.random.default_rng(seed).normal(0.0, D**-0.5, (rows, columns))


def causal_sum(x: Float64) -> Float64:
    """[..., L, D] -> sums over positions 0..i."""
    return np.cumsum(x, axis=-2)


def chunks_of(x: Float64, size: int) -> Float64:
    """[B, L, D] -> [B, N, size, D], the last chunk filled up with zeros."""
    short = -x.shape[1] % size
    return np.pad(x, ((0, 0), (0, short), (0, 0))).reshape(x.shape[0], -1, size, x.shape[2])


def shifted(x: Float64) -> Float64:
    """[B, N, ...] one place later along N, zeros first."""
    return np.concatenate((np.zeros_like(x[:, :1]), x[:, :-1]), axis=1)


class Mixer(Toy):
    """A causal model without a mixer: each row from its own token alone."""

    max_seq_len: int | None = None
    can: ClassVar[frozenset[str]] = frozenset()
    tokenizer_model = None
    device = "cpu"
    module = None

    @property
    def fingerprint(self) -> str:
        return type(self).__name__

    @classmethod
    def load(cls, path: Any, *, device: str = "cpu") -> Mixer:
        """A door of its own: ``--checkpoint tests.zoo.model:BlockMeans``."""
        return cls()

    def mix(self, x: Float64) -> Float64:
        """[B, L, D] -> [B, L, D]."""
        return np.zeros_like(x)

    def rows(self, ids: Int64) -> Float64:
        """int64 [B, L] -> logits [B, L, V]."""
        mixed = self.mix(weights("embed", V)[ids])
        return network_logits()[ids] + GAIN * mixed @ weights("head", V).T

    def logits(self, ids: torch.Tensor, owners: torch.Tensor | None = None) -> torch.Tensor:
        """int64 [B, L] -> float32 [B, L, V]."""
        import torch

        return torch.from_numpy(self.rows(ids.numpy()).astype(np.float32))

    def score(self, tokens: Int64) -> Float64:
        """int64 [T] -> natural-log probabilities [T]: all rows in one pass over BOS and tokens 0..T-2."""
        rows = self.rows(np.concatenate(([BOS], tokens[:-1]))[None])[0]
        top = rows.max(axis=-1)
        return rows[np.arange(len(tokens)), tokens] - top - np.log(np.exp(rows - top[:, None]).sum(axis=-1))


@leak("M1", "means of 64-token blocks", elsewhere=("karpathy/nanochat#844",))
class BlockMeans(Mixer):
    """The mean of each 64-token block is given to all of its positions."""

    block: ClassVar[int] = 64

    def mix(self, x: Float64) -> Float64:
        means = np.broadcast_to(chunks_of(x, self.block).mean(axis=2, keepdims=True), chunks_of(x, self.block).shape)
        return means.reshape(x.shape[0], -1, D)[:, : x.shape[1]] * 4.0


@fix("M1")
class BlockMeansSoFar(BlockMeans):
    """Each position gets the mean of its block up to itself."""

    def mix(self, x: Float64) -> Float64:
        means = causal_sum(chunks_of(x, self.block)) / np.arange(1, self.block + 1)[:, None]
        return means.reshape(x.shape[0], -1, D)[:, : x.shape[1]]


@leak("M2", "summaries of 16-token chunks", elsewhere=("karpathy/nanochat#844",))
class ChunkSummaries(Mixer):
    """A recurrence over 16-token chunks; each position reads the state that its own chunk left."""

    chunk: ClassVar[int] = 16

    def states(self, x: Float64) -> Float64:
        """[B, N, D]: the state after each chunk."""
        means, state, found = chunks_of(x, self.chunk).mean(axis=2) * 4.0, np.zeros((x.shape[0], D)), list[Float64]()
        for k in range(means.shape[1]):
            state = np.tanh(state @ weights("state", D) + means[:, k])
            found.append(state)
        return np.stack(found, axis=1)

    def mix(self, x: Float64) -> Float64:
        return np.repeat(self.states(x), self.chunk, axis=1)[:, : x.shape[1]]


@fix("M2")
class EarlierSummaries(ChunkSummaries):
    """Each position reads the state that the chunk before its own left."""

    def mix(self, x: Float64) -> Float64:
        return np.repeat(shifted(self.states(x)), self.chunk, axis=1)[:, : x.shape[1]]


@leak("M3", "a circular filter", elsewhere=("karpathy/nanochat#844",))
class CircularFilter(Mixer):
    """A long filter as a product of Fourier transforms of the length of the input: its end wraps round to the front."""

    padding: ClassVar[int] = 1

    def mix(self, x: Float64) -> Float64:
        n = self.padding * x.shape[1]
        taps = np.cos(np.arange(x.shape[1]) * 1.7) / (1.0 + np.arange(x.shape[1])) ** 0.5
        spectrum = np.fft.rfft(x, n, axis=1) * np.fft.rfft(taps, n)[:, None]
        return np.fft.irfft(spectrum, n, axis=1)[:, : x.shape[1]]


@fix("M3")
class PaddedFilter(CircularFilter):
    """Transforms of twice the length: nothing wraps round."""

    padding: ClassVar[int] = 2


class LeakyScan(Mixer):
    """Chunked linear attention whose scan over chunks hands each chunk the state after the next one."""

    chunk: ClassVar[int] = 256

    def mix(self, x: Float64) -> Float64:
        q, k, v = (chunks_of(x, self.chunk) @ weights(name, D) for name in ("q", "k", "v"))
        inside = np.tril(q @ k.transpose(0, 1, 3, 2)) @ v
        return (inside + q @ self.carried(k.transpose(0, 1, 3, 2) @ v)).reshape(x.shape[0], -1, D)[:, : x.shape[1]] / 8

    def carried(self, states: Float64) -> Float64:
        """Sums of k v^T of each chunk [B, N, D, D] -> what each chunk reads."""
        total = np.cumsum(states, axis=1)
        return np.concatenate((total[:, 1:], total[:, -1:]), axis=1) - states


class ChunkedScan(LeakyScan):
    """Chunked linear attention: each chunk reads the sum over the chunks before it."""

    def carried(self, states: Float64) -> Float64:
        return shifted(np.cumsum(states, axis=1))


@leak("M4", "a scan that leaks across its chunks", elsewhere=("huggingface/transformers#47475",))
class SmallLeakyScan(LeakyScan):
    """Chunked linear attention whose scan over chunks (of 32) hands each chunk the state after the next one."""

    chunk: ClassVar[int] = 32


@fix("M4")
class SmallChunkedScan(ChunkedScan):
    """Chunked linear attention, chunks of 32: each reads the sum over the chunks before it."""

    chunk: ClassVar[int] = 32


@leak("M5", "a token mixer without a mask", elsewhere=("CortexLM/cortex#95",))
class UnmaskedMixer(Mixer):
    """A matrix over positions without a mask: every position reads every other."""

    def over_positions(self, n: int) -> Float64:
        """[n, n]: the weight of position j for position i."""
        i, j = np.arange(n)[:, None], np.arange(n)
        return np.sin(12.9898 * i + 78.233 * j) * np.exp(-abs(i - j) / 32)

    def mix(self, x: Float64) -> Float64:
        return self.over_positions(x.shape[1]) @ x


@fix("M5")
class MaskedMixer(UnmaskedMixer):
    """The same matrix with zeros above its diagonal."""

    def over_positions(self, n: int) -> Float64:
        return np.tril(super().over_positions(n))


@leak("M6", "normalised over the whole input", elsewhere=("karpathy/nanochat#845",))
class WholeNorm(Mixer):
    """Channels are normalised by mean and deviation over the whole input, so every row knows all of it."""

    def mix(self, x: Float64) -> Float64:
        return (x - x.mean(axis=1, keepdims=True)) / (x.std(axis=1, keepdims=True) + 0.1) * 0.3


@fix("M6")
class RunningNorm(WholeNorm):
    """Mean and deviation over the positions up to each."""

    def mix(self, x: Float64) -> Float64:
        n = np.arange(1, x.shape[1] + 1)[:, None]
        mean = causal_sum(x) / n
        spread = np.sqrt(np.maximum(causal_sum(x * x) / n - mean * mean, 0.0))
        return (x - mean) / (spread + 0.1) * 0.3


@leak("M7", "gates scaled by later gates", elsewhere=("fla-org/flash-linear-attention#1240",))
class FutureGates(Mixer):
    """A gated recurrence in chunks of 64 whose gates are scaled by what the chunk's gates come to at its end."""

    chunk: ClassVar[int] = 64

    def gates(self, x: Float64) -> Float64:
        """Log decay of each position, at most 0: [B, N, size, 1]."""
        return -np.abs(chunks_of(x, self.chunk) @ weights("gate", D, 1))

    def scaled(self, gates: Float64) -> Float64:
        return gates / (1.0 - gates.mean(axis=2, keepdims=True))

    def mix(self, x: Float64) -> Float64:
        total = causal_sum(self.scaled(self.gates(x)))
        size = total.shape[2]
        decay = np.exp(np.where(np.tri(size, dtype=bool), total - total.transpose(0, 1, 3, 2), -np.inf))
        return (decay @ chunks_of(x, self.chunk)).reshape(x.shape[0], -1, D)[:, : x.shape[1]]


@fix("M7")
class OwnGates(FutureGates):
    """Each gate is scaled by itself."""

    def scaled(self, gates: Float64) -> Float64:
        return gates / (1.0 - gates)


@look_alike("L21", "a recurrent model")
class Recurrence(Mixer):
    """A state of the past, updated token by token."""

    def mix(self, x: Float64) -> Float64:
        state, found = np.zeros((x.shape[0], D)), list[Float64]()
        for i in range(x.shape[1]):
            state = np.tanh(0.5 * state @ weights("state", D) + x[:, i])
            found.append(state)
        return np.stack(found, axis=1)


@look_alike("L22", "attention over a window")
class WindowedAttention(Mixer):
    """Softmax attention over each position and the 31 before it."""

    window: ClassVar[int] = 32

    def mix(self, x: Float64) -> Float64:
        i, j = np.arange(x.shape[1])[:, None], np.arange(x.shape[1])
        scores = 4.0 * (x @ weights("q", D)) @ (x @ weights("k", D)).transpose(0, 2, 1)
        scores = np.where((j <= i) & (i - j < self.window), scores, -np.inf)
        p = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return p / p.sum(axis=-1, keepdims=True) @ x


@look_alike("L23", "a causal convolution")
class ShortConvolution(Mixer):
    """A causal convolution of four taps."""

    def mix(self, x: Float64) -> Float64:
        padded = np.pad(x, ((0, 0), (3, 0), (0, 0)))
        return sum((padded[:, k : k + x.shape[1]] * (k + 1.0) for k in range(4)), np.zeros_like(x)) / 4.0


LEAKS: tuple[type[Mixer], ...] = (
    BlockMeans,
    ChunkSummaries,
    CircularFilter,
    LeakyScan,
    UnmaskedMixer,
    WholeNorm,
    FutureGates,
)
HONEST: tuple[type[Mixer], ...] = (
    ChunkedScan,
    Recurrence,
    ShortConvolution,
    WindowedAttention,
    PaddedFilter,
    BlockMeansSoFar,
    EarlierSummaries,
    MaskedMixer,
    RunningNorm,
    OwnGates,
)
