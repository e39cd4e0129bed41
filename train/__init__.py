"""How is the base model made?  Text to tokenizer, shards, training run, quantised artifact."""
