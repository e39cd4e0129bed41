"""The command line: finds the verb, and turns every failure into one sentence on stderr and an exit code."""

from __future__ import annotations

import argparse
import errno
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence

from evalkit import __version__
from evalkit.errors import EvalkitError, nearest

VERBS = {
    "eval": "score a checkpoint on text, with adapters",
    "train": "train a base model and write its artifact",
    "tokenize": "turn text into a token shard",
    "corpus": "turn your own text into counts for ppm",
    "audit": "test whether a scorer is legal",
    "zoo": "list the specimens that the audit is tested on",
    "certify": "compress a slice with the stack in the loop, and decode it",
    "profile": "show where the seconds go, and whether a run fits its budget",
    "plan": "search the lowest BPB inside a budget, on text that is not scored",
    "compare": "compare two runs, paired by document",
    "ablate": "leave one adapter out at a time",
    "lm-eval": "run lm-evaluation-harness on a checkpoint with adapters",
    "adapters": "list the installed adapters, with settings and defaults",
    "doctor": "show what is missing here, and how to install it",
    "completion": "a script that completes verbs, flags and names in your shell",
}


GREETING = f"""evalkit {__version__}: bits per byte, with adapters that learn only from text already scored

  evalkit eval --text FILE         score the bundled model on your text; --checkpoint takes yours
  evalkit audit mine.py:factory    test whether a scorer is legal, with a counter-example if not
  evalkit profile --budget 600     where the seconds go, and whether a run fits its budget

'evalkit --help' lists every verb, 'evalkit VERB --help' shows examples, 'evalkit doctor' shows what is missing."""


class _Parser(argparse.ArgumentParser):
    """argparse with exit code 2 and one sentence."""

    def error(self, message: str) -> None:  # type: ignore[override]
        self.exit(2, f"{self.prog}: {message}; see '{self.prog} --help'\n")


def _installed(verb: str) -> bool:
    return importlib.util.find_spec(_module(verb)) is not None


def _module(verb: str) -> str:
    return f"evalkit.cli.{verb.replace('-', '_')}"


def build_parser(verb: str | None) -> argparse.ArgumentParser:
    """The parser with only the asked verb loaded; all of them by name when none is asked."""
    parser = _Parser(
        prog="evalkit", description="Score a language model in bits per byte while adapters learn, legally."
    )
    parser.add_argument("--version", action="version", version=f"evalkit {__version__}")
    subparsers = parser.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=_Parser)
    for name, summary in VERBS.items():
        if name == verb:
            importlib.import_module(_module(name)).add_parser(subparsers)
        elif _installed(name):
            subparsers.add_parser(name, help=summary, add_help=False)
    return parser


def verb_parser(verb: str) -> argparse.ArgumentParser:
    """The parser of one verb: what comes behind ``evalkit VERB``."""
    subparsers = next(a for a in build_parser(verb)._actions if isinstance(a, argparse._SubParsersAction))
    return subparsers.choices[verb]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.  Returns 0 good, 1 the answer is no, 2 the input is wrong, 3 internal fault."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments:
        print(GREETING)
        return 0
    verb = next((a for a in arguments if not a.startswith("-")), None)
    known = [v for v in VERBS if _installed(v)]
    if verb is not None and verb not in known:
        print(f"evalkit: no verb is called '{verb}'{nearest(verb, known)}", file=sys.stderr)
        return 2
    return guarded(lambda: _run(verb, arguments))


def _run(verb: str | None, arguments: list[str]) -> int:
    parsed = build_parser(verb).parse_args(arguments)
    at = arguments.index(parsed.verb)
    parsed.argv = arguments[:at] + arguments[at + 1 :]
    return importlib.import_module(_module(parsed.verb)).run(parsed)


def guarded(work: Callable[[], int]) -> int:
    """Do it; every failure leaves as one sentence on stderr and an exit code."""
    try:
        return work()
    except EvalkitError as fault:
        print(f"evalkit: {fault}", file=sys.stderr)
        return fault.exit_code
    except KeyboardInterrupt:
        print("evalkit: interrupted; the same command with the same --out goes on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as fault:
        print(f"evalkit: {_os_sentence(fault)}", file=sys.stderr)
        return 2
    except MemoryError:
        print("evalkit: out of memory; lower batch_tokens or the adapters' memory bounds", file=sys.stderr)
        return 2
    except Exception as fault:
        if type(fault).__name__ == "OutOfMemoryError":
            print("evalkit: the GPU is out of memory; lower --batch-tokens", file=sys.stderr)
            return 2
        return _internal(fault)


def _os_sentence(fault: OSError) -> str:
    place = f"{fault.filename}: " if fault.filename else ""
    if fault.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{place}the disk is full; free some space and run the same command again, it goes on from the journal"
    return f"{place}{fault.strerror or fault}"


def _internal(fault: Exception) -> int:
    """Exit code 3: one sentence; the traceback only when EVALKIT_TRACEBACK asks for it."""
    if os.environ.get("EVALKIT_TRACEBACK"):
        raise fault
    print(
        f"evalkit: internal fault, {type(fault).__name__}: {fault}; please report it with the output of "
        "the same command under EVALKIT_TRACEBACK=1",
        file=sys.stderr,
    )
    return 3


if __name__ == "__main__":
    sys.exit(main())
