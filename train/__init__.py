"""The making of the base model: text to tokenizer, shards, training run, quantised artifact."""
