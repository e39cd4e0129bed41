"""``evalkit train``: train a base model and export its artifact.  The long form is ``python -m evalkit.train``."""

from __future__ import annotations

import argparse
from typing import Any


def add_parser(subparsers: Any) -> None:
    from evalkit.train.__main__ import DESCRIPTION, EPILOGUE, add_arguments

    add_arguments(
        subparsers.add_parser(
            "train", description=DESCRIPTION, epilog=EPILOGUE, formatter_class=argparse.RawDescriptionHelpFormatter
        )
    )


def run(args: argparse.Namespace) -> int:
    from evalkit.train.__main__ import run_arguments

    return run_arguments(args)
