"""Which tokens are scored, where do documents begin, and how many bytes is their text?"""

from evalkit.stream.stream import Stream, open_stream, open_texts, stream_of_tokens, write_shard
from evalkit.stream.tokenizer import Tokenizer, open_tokenizer

__all__ = ["Stream", "Tokenizer", "open_stream", "open_texts", "open_tokenizer", "stream_of_tokens", "write_shard"]
