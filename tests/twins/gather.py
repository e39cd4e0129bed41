"""What should the gather give?  The twin in numpy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from evalkit.stream.shard import UInt16 as Tokens

Int64 = npt.NDArray[np.int64]


def gather(shards: tuple[Tokens, ...], shard: Int64, start: Int64, out: Int64) -> None:
    """Same arguments and effect as the compiled :func:`evalkit.train.data._gather.gather`."""
    width = out.shape[1]
    for s, at in zip(shard, start, strict=True):
        if not (0 <= s < len(shards) and 0 <= at <= len(shards[s]) - width):
            raise IndexError(f"a row of {width} tokens does not lie in its shard")
    for i, (s, at) in enumerate(zip(shard, start, strict=True)):
        out[i] = shards[s][at : at + width]
