"""The tokens that a training step sees: text becomes shards once; a block number decides every batch after that."""

from evalkit.train.data.blocks import Blocks, Loader, epoch_order
from evalkit.train.data.coprime import Coprime
from evalkit.train.data.corpus import Corpus, open_corpus, prepare
from evalkit.train.data.prefetch import Prefetch

__all__ = ["Blocks", "Coprime", "Corpus", "Loader", "Prefetch", "epoch_order", "loader", "open_corpus", "prepare"]


def loader(corpus: Corpus, kind: str, block_len: int, seed: int) -> Loader:
    """ "blocks" (one shard, shuffled) or "coprime" (any number of shards); raises InputError for another name."""
    from evalkit.errors import InputError, nearest

    if kind == "blocks":
        return Blocks(corpus.train, block_len, seed)
    if kind == "coprime":
        return Coprime(corpus.shards, block_len, seed)
    raise InputError(f"unknown loader '{kind}'{nearest(kind, ('blocks', 'coprime'))}")
