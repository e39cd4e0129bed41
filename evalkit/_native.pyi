"""Signatures of the compiled kernels.  Arrays must have exactly the dtype named and C order: nothing is converted."""

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]

def exp(logp: Float64) -> Float64:
    """libm exp, one element at a time: the same bits whatever the shape.  Any number of dimensions."""

def neg_log(p: Float64) -> Float64:
    """-log(p) by libm, one element at a time.  Nats."""

def smallest_table(vocab: int, max_order: int) -> int:
    """Smallest memory bound of a context table, bytes."""

class DirichletPpm:
    def __init__(
        self,
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
    def pairs(self) -> int: ...
