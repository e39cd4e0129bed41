"""How does a checkpoint become rows of logits?"""
