"""Streams: which tokens are scored, where documents begin, and how many bytes their text has."""

from evalkit.stream.stream import Stream, open_stream, open_texts, stream_of_tokens, write_shard
from evalkit.stream.tokenizer import Tokenizer, open_tokenizer

__all__ = ["Stream", "Tokenizer", "open_stream", "open_texts", "open_tokenizer", "stream_of_tokens", "write_shard"]
