"""The parts of the base model, one file each; model.py puts them together."""
