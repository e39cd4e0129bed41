"""Signatures of the compiled kernels.  Arrays must have exactly the dtype named and C order: nothing is converted."""

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Uint32 = npt.NDArray[np.uint32]
Uint64 = npt.NDArray[np.uint64]
Bool = npt.NDArray[np.bool_]
Logits = npt.NDArray[np.float32] | npt.NDArray[np.float16] | npt.NDArray[np.uint16]

def neg_log(p: Float64) -> Float64:
    """-log(p) by libm, one element at a time.  Nats."""

def exact_sums(x: Float64, edges: Int64) -> Float64:
    """x [.., n] and m + 1 rising edges within 0..n -> the sums between them [.., m], the bits of ``math.fsum``."""

def count_bands(row: Float64, *, edges: Float64, entries: Int64, expected: Float64, variance: Float64) -> None:
    """Add a row of probabilities [V] to counts [m + 1] of bands between rising edges [m], in place: how many entries lie in
    each, their sum P in order, and P (1 - P)."""

def keep_large_blocks() -> bool:
    """Freed blocks of up to a GiB stay with this process for the next batch.  False where the C library cannot."""

def row_isas() -> list[str]:
    """Vector instructions that this processor has, of "base", "avx2", "avx512".  No result depends on them."""

def row_sums(
    logits: Logits,
    *,
    groups: list[npt.NDArray[np.bool_]] = [],
    exponents: list[float] = [],
    weights: bool = False,
    threads: int = 1,
    isa: str = "",
) -> tuple[Float64, Float64, Int32, Float64, Float64, npt.NDArray[np.float32] | None, Float64 | None]:
    """One pass over logits [n, V] (uint16: bfloat16; rows any number of cells apart) -> lse float64 [n] in nats, entropy
    float64 [n] in nats, the lowest id of the largest logit int32 [n], the mass of each group float64 [G, n],
    log sum p^a for each exponent float64 [A, n] and, if asked for weights, exp(x - max) float32 [n, V] with the float64 [n]
    by which a row of them is to be multiplied to sum to 1 (both None else).

    lse is not finite where a row holds NaN or infinity.  Threads and ``isa`` ("" is the widest) change no bit.
    """

def row_pick(logits: Logits, lse: Float64, ids: Int32) -> Float64:
    """log p of ids int32 [n, K] (-1 reads token 0), nats float64 [n, K]."""

def weight_columns(weights: npt.NDArray[np.float32], factors: Float64, ids: Int32) -> Float64:
    """weights float32 [n, V] times factors [n] at ids int32 [n, K] (-1 reads token 0), float64 [n, K]."""

def row_probabilities(
    logits: Logits,
    lse: Float64,
    *,
    floor: float,
    threads: int = 1,
    isa: str = "",
) -> Float64:
    """max(exp(x - lse), floor), float64 [n, V]."""

def exp_values(x: Float64, *, isa: str = "") -> Float64:
    """e^x within 1 ulp for -708 <= x <= 709 (and as at the nearer bound outside); the same bits in any position."""

def smallest_table(vocab: int, max_order: int) -> int:
    """Smallest memory bound of a context table, bytes."""

class DirichletPpm:
    def __init__(
        self,
        *,
        vocab: int,
        orders: list[int],
        strength: list[float],
        min_count: int,
        bytes: int,
        expected_tokens: int,
    ) -> None: ...
    def begin(self, first_token: int) -> None: ...
    def score(self, tokens: Int32, cands: Int32 | None, p: Float64) -> Float64: ...
    def row(self, p: Float64) -> Float64: ...
    def observe(self, tokens: Int32) -> None: ...
    @property
    def bytes(self) -> int: ...
    @property
    def frozen_at(self) -> int: ...
    @property
    def grams(self) -> int: ...

def smallest_mixer() -> int:
    """Smallest memory bound of the counts of a Mixer, bytes."""

class Mixer:
    def __init__(
        self,
        *,
        vocab: int,
        orders: list[int],
        smoothing: str,
        discount: float,
        by: list[str],
        update: str,
        rate: float,
        share: float,
        prior: float,
        bytes: int,
    ) -> None: ...
    def begin(self, first_token: int) -> None: ...
    def score(
        self,
        tokens: Int32,
        cands: Int32 | None,
        p: Float64,
        history: list[Float64],
        entropy: Float64 | None,
        top_id: Int32 | None,
    ) -> Float64: ...
    def count(self, tokens: Int32, cands: Int32) -> None: ...
    def row(self, p: Float64, history: list[Float64], entropy: Float64 | None, top_id: Int32 | None) -> Float64: ...
    def observe(self, token: int) -> None:
        """Learn the target of the last row()."""
    def replay(self, tokens: Int32) -> None:
        """Count tokens without learning weights."""
    def state(self) -> Float64: ...
    def set_state(self, state: Float64) -> None: ...
    @property
    def bytes(self) -> int: ...
    @property
    def count_bytes(self) -> int:
        """Memory of the counts alone: what the bound is about."""
    @property
    def frozen_at(self) -> int: ...
    @property
    def grams(self) -> int: ...

class LogBias:
    def __init__(
        self,
        *,
        vocab: int,
        bos: int,
        stride: int,
        fisher: bool,
        rate: float,
        global_prior: float,
        document_prior: float,
        previous_prior: float,
        keep: float,
        bytes: int,
    ) -> None: ...
    def begin(self, first_token: int) -> None: ...
    def score(self, tokens: Int32, p: Float64) -> Float64: ...
    def score_columns(
        self,
        *,
        tokens: Int32,
        cands: Int32,
        rows: npt.NDArray[np.float32] | Float64,
        factors: Float64 | None,
        isa: str = "",
    ) -> Float64:
        """score() for the columns cands int32 [n, K] alone (0 where -1), float64 [n, K].

        rows: probabilities float64 [n, V] with factors None, or float32 weights [n, V] with factors [n]: p = weight * factor.
        """

    def row(self, p: Float64) -> Float64: ...
    def observe(self, token: int) -> None:
        """Learn the target of the last row()."""
    def state(self) -> Float64: ...
    def set_state(self, state: Float64) -> None: ...
    @property
    def bytes(self) -> int: ...
    @property
    def previous_rows(self) -> int:
        """Number of tokens with a bias of their own."""

class Temperature:
    def __init__(self, *, vocab: int, exponent: float, learn: bool, anchor: bool, prior: float) -> None: ...
    def begin(self, first_token: int) -> None: ...
    def score(self, tokens: Int32, p: Float64, model: Float64 | None, entropy: Float64 | None) -> Float64: ...
    def row(self, p: Float64, model: Float64 | None, entropy: Float64 | None) -> Float64: ...
    def observe(self, token: int) -> None:
        """Learn the target of the last row()."""
    def state(self) -> Float64: ...
    def set_state(self, state: Float64) -> None: ...
    @property
    def bytes(self) -> int: ...

class CountedCorpus:
    def __init__(self, *, tokens: Int32, vocab: int, max_order: int, bytes: int) -> None:
        """Counts tokens int32 [n], the first as context only; ValueError when memory does not hold the empty table."""

    @property
    def counted(self) -> int:
        """Tokens that were counted: n - 1, or fewer when memory was full."""

    @property
    def grams(self) -> int: ...
    @property
    def bytes(self) -> int: ...

def word_sequences(text: bytes) -> Uint64:
    """64-bit hashes of all sequences of 13 words, in order: uint64 [n]."""

class SequenceSet:
    def __init__(self, wanted: Uint64) -> None:
        """wanted: distinct hashes, uint64 [n]."""

    def read(self, text: bytes) -> None:
        """Take note of the sequences of one text."""

    def seen(self) -> Bool:
        """Which of ``wanted`` were in a text: bool [n]."""

class LearnedPpm:
    def __init__(
        self,
        *,
        vocab: int,
        bos: int,
        orders: list[int],
        document_orders: list[int],
        rate: float,
        side: bool,
        bytes: int,
        document_bytes: int,
        expected_tokens: int,
        fast: float = 0.0,
        discount: float = 0.0,
        corpus: CountedCorpus | None = None,
        corpus_orders: list[int] = ...,
        decide: float = 0.0,
    ) -> None:
        """fast: plain rate of the bias that forgets.  discount: 0 where counts are occurrences.

        decide: AdaGrad rate of the decision about the model's most probable id; above 0 only with side.

        corpus and corpus_orders come together; the corpus was counted for this vocabulary and at least these orders.
        """

    def begin(self, first_token: int) -> None: ...
    def score(
        self,
        tokens: Int32,
        cands: Int32 | None,
        p: Float64,
        entropy: Float64 | None,
        top: Int32 | None,
        own: int = 0,
    ) -> Float64:
        """entropy float64 [n] (nats) and top int32 [n] of the model's row are read only when ``side``.

        own: with ``decide`` and ``cands``, the column that holds ``top``.
        """

    def count(self, tokens: Int32, cands: Int32) -> None: ...
    def row(self, p: Float64, entropy: Float64 | None, top: Int32 | None) -> Float64: ...
    def observe(self, token: int) -> None: ...
    def replay(self, tokens: Int32) -> None: ...
    def weights(self) -> Float64: ...
    def set_weights(self, values: Float64) -> None: ...
    @property
    def lasting(self) -> int:
        """How many of the weights, from the first on, a corpus file may carry."""

    @property
    def bytes(self) -> int: ...
    @property
    def frozen_at(self) -> int: ...
    @property
    def grams(self) -> int: ...

class ContinuationPpm(LearnedPpm):
    """The same over continuation counts; another class of the module, not a subclass."""

count_buckets: int
"""Calibration buckets of a source that counts followers."""

match_buckets: int
"""Calibration buckets of a match."""

class _HintExpert:
    @property
    def hints(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def full_at(self) -> int:
        """Targets counted when the memory bound made a table refuse a context; -1: never."""

    def begin(self, first_token: int) -> None: ...
    def propose(self, tokens: Int32) -> Int32:
        """int32 [n] -> int32 [n, hints]; counts advance."""

    def score(self, tokens: Int32, cands: Int32 | None, own: int, p: Float64, start_mass: Float64 | None) -> Float64:
        """For targets that were proposed and not yet scored; ``own``: first column of the hints in ``cands``."""

    def row(self, p: Float64, start_mass: float) -> Float64: ...
    def observe(self, token: int) -> None:
        """RuntimeError when ``row`` was not called for this target."""

    def replay(self, tokens: Int32) -> None: ...
    def state(self) -> Float64: ...
    def set_state(self, state: Float64) -> None: ...

class Tilt(_HintExpert):
    def __init__(
        self,
        *,
        vocab: int,
        orders: list[int],
        min_share: list[float],
        min_count: list[int],
        fixed: float,
        theta: list[list[float]],
        bytes: int,
        expected_tokens: int,
    ) -> None: ...

class Match(_HintExpert):
    def __init__(
        self,
        *,
        vocab: int,
        min_length: int,
        max_length: int,
        misses: int,
        theta: list[list[float]],
        bytes: int,
        expected_tokens: int,
    ) -> None: ...

class Agree(_HintExpert):
    def __init__(
        self,
        *,
        vocab: int,
        orders: list[int],
        words: list[int],
        document_words: list[int],
        roles: npt.NDArray[np.uint8],
        bos: int,
        theta: list[list[float]],
        bytes: int,
        expected_tokens: int,
    ) -> None: ...
