"""Experts: adapters on the token clock that reshape a row."""
