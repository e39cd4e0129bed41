"""Models: checkpoints become rows of logits."""
