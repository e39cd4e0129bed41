"""``evalkit lm-eval ARGS``: lm-evaluation-harness with evalkit as its model."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from typing import Any

from evalkit.errors import InputError

SUMMARY = "run lm-evaluation-harness on a checkpoint with adapters"
HELP = f"""usage: evalkit lm-eval ARGUMENTS

{SUMMARY}: everything after lm-eval goes to the harness, with --model evalkit added.

examples:
  evalkit lm-eval --tasks wikitext                                          the bundled checkpoint alone
  evalkit lm-eval --tasks wikitext --model_args checkpoint=model.ek,adapters=ppm+match
  evalkit lm-eval --tasks hellaswag --model_args recipe=recipe.toml --limit 100

model_args: recipe, checkpoint, tokenizer, adapters (NAME+NAME), plan, seed, threads, reset.  In perplexity tasks adapters
keep learning from one text to the next (reset=true: they forget); in the others they are reset for every request.
The harness's own options: lm-eval run --help"""


def add_parser(subparsers: Any) -> None:
    # a prefix that no argument begins with: the harness's options are not ours to parse
    parser = subparsers.add_parser("lm-eval", help=SUMMARY, add_help=False, prefix_chars="\0")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)


def run(args: argparse.Namespace) -> int:
    if args.arguments in ([], ["-h"], ["--help"]):
        print(HELP)
        return 0
    if importlib.util.find_spec("lm_eval") is None:
        raise InputError("lm-eval: the harness is not installed; pip install 'evalkit[lm-eval]'")
    from lm_eval.__main__ import cli_evaluate  # pyright: ignore[reportMissingImports]

    import evalkit.integrations.lm_eval  # noqa: F401  (registers the model)

    rest = list(args.arguments)
    rest = rest if rest[:1] == ["run"] else ["run", *rest]
    for option, ours in (("--model", "evalkit"), ("--device", "auto")):  # the harness's own device default is cuda:0
        if not any(word == option or word.startswith(f"{option}=") for word in rest):
            rest += [option, ours]
    sys.argv = ["lm-eval", *rest]
    cli_evaluate()
    return 0
