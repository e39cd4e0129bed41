"""Certificates: a slice really compressed with the stack in the loop, and really decoded."""
