"""The failures that evalkit tells apart, and the exit code of each."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EvalkitError(Exception):
    """An internal fault: ours to mend (exit code 3)."""

    exit_code = 3


class InputError(EvalkitError):
    """The input is wrong: one sentence that says what, where, both numbers, and the remedy (exit code 2)."""

    exit_code = 2


class NoError(EvalkitError):
    """The question was understood and the answer is no (exit code 1)."""

    exit_code = 1


class ByteCountError(InputError):
    """The byte table and the text disagree about a document."""


class LegalityError(NoError):
    """A law was broken while scoring; carries the law, the stream position and the evidence."""

    def __init__(self, law: str, position: int, message: str) -> None:
        super().__init__(message)
        self.law = law
        self.position = position


class DivergenceError(NoError):
    """A score or a weight stopped being a finite number."""


class BudgetError(NoError):
    """The declared budget of seconds or bytes was exceeded."""


class Stopped(EvalkitError):
    """This process was asked to stop (SIGTERM); what is booked stays booked."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` or the list of known names, for the end of an error sentence."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"; did you mean '{close[0]}'? (known: {', '.join(names)})"
    return f"; known: {', '.join(names)}"
