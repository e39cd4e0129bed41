"""Learners: adapters on the chunk clock that change the model."""
