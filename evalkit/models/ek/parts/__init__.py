"""Which parts is the base model built of?  One file per part; train/model.py puts them together."""
