"""Which parts is the base model built of?  One file per part; model.py puts them together."""
