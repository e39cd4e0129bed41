"""Slow, plain twins of the fast paths; the tests compare both."""
