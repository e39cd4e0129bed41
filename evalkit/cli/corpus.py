"""``evalkit corpus``: text of the user's own, counted before the first target."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evalkit.stream.corpus import Built

EXAMPLES = """examples:
  evalkit corpus build --text mine.jsonl.xz --out mine.ekc                     all of it, for the bundled checkpoint
  evalkit corpus build --text mine.jsonl.xz --bytes 14_000_000 --like web.jsonl --checkpoint model.ek --out web.ekc
  evalkit corpus check mine.ekc --text val.jsonl.xz                            does the scored text stand in it?
  evalkit eval --adapter ppm:corpus=mine.ekc
  evalkit corpus attach mine.ekc --checkpoint model.ek --out both.ek           one artifact; ppm finds the corpus in it
"""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "corpus",
        help="make text of your own into counts for ppm",
        description="A corpus is text that ppm counts before the first target: part of the artifact, never what is scored.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="what", metavar="build|check|attach", required=True)
    build = verbs.add_parser("build", help="write a corpus file", epilog=EXAMPLES)
    build.add_argument("--text", nargs="+", required=True, metavar="F", help=".txt or .jsonl, plain or xz, gz, zst")
    build.add_argument("--out", required=True, metavar="FILE.ekc")
    build.add_argument("--bytes", type=_number, metavar="N", help="size of the file at most (default: keep everything)")
    build.add_argument(
        "--like", nargs="+", default=[], metavar="F", help="with --bytes: keep the documents most like this text"
    )
    build.add_argument("--force", action="store_true", help="replace the file if it exists")
    check = verbs.add_parser("check", help="compare a corpus with a text; exit 1 when they overlap", epilog=EXAMPLES)
    check.add_argument("corpus", metavar="FILE.ekc")
    check.add_argument("--text", nargs="+", required=True, metavar="F", help="the text to be scored")
    attach = verbs.add_parser("attach", help="put a corpus into an artifact (.ek)", epilog=EXAMPLES)
    attach.add_argument("corpus", metavar="FILE.ekc", help="a corpus file, or 'none' to take out what is there")
    attach.add_argument("--out", required=True, metavar="FILE.ek")
    attach.add_argument("--force", action="store_true", help="replace the file if it exists")
    for each in (build, check, attach):
        each.add_argument("--checkpoint", metavar="C", help="whose tokenizer is used (default: the bundled one)")
        each.add_argument("--tokenizer", metavar="T", help="where the checkpoint carries none")
        each.add_argument("--json", metavar="FILE", help="write the numbers to FILE; '-' prints them")


def _number(text: str) -> int:
    return int(text.replace("_", "").replace(",", ""))


def run(args: argparse.Namespace) -> int:
    return {"build": _build, "check": _check, "attach": _attach}[args.what](args, _tokenizer(args))


def _tokenizer(args: argparse.Namespace) -> Any:
    """The checkpoint's own; an artifact is read for it and not opened as a model."""
    from evalkit.cli.recipe import ASSETS
    from evalkit.cli.session import choose_tokenizer, say
    from evalkit.models.ek.container import is_artifact, read_artifact
    from evalkit.models.registry import open_checkpoint
    from evalkit.stream import open_tokenizer

    path = Path(args.checkpoint or ASSETS / "tiny.ek")
    if args.tokenizer is None and is_artifact(path):
        return open_tokenizer(read_artifact(path).tokenizer_model)
    tokenizer, note = choose_tokenizer(args.tokenizer, args.checkpoint, open_checkpoint(args.checkpoint))
    if note:
        say(note)
    return tokenizer


def _build(args: argparse.Namespace, tokenizer: Any) -> int:
    import msgspec

    from evalkit.stream.corpus import build_corpus

    watch = _Watch()
    done = build_corpus(
        args.text, tokenizer, args.out, size=args.bytes, like=args.like, force=args.force, watch=watch.see
    )
    watch.end()
    _tell(args.json, msgspec.to_builtins(done) | {"seconds": round(watch.seconds, 3)})
    if args.json != "-":
        print(
            f"{args.out}: {done.kept_documents:,} of {done.documents:,} documents, {done.kept_tokens:,} of {done.tokens:,} "
            f"tokens, {done.kept_bytes:,} bytes of text in {done.size:,} bytes of file"
        )
    return 0


def _check(args: argparse.Namespace, tokenizer: Any) -> int:
    import msgspec

    from evalkit.adapters.experts.corpus import open_corpus, overlap
    from evalkit.stream import open_stream

    corpus = open_corpus(args.corpus)
    corpus.check_tokenizer(tokenizer.vocab_size, tokenizer.fingerprint)
    found = overlap(corpus, open_stream(args.text, tokenizer))
    _tell(args.json, msgspec.to_builtins(found) | {"detail": found.sentence()})
    if args.json != "-":
        print(found.sentence())
    return 1 if found.exact or found.near else 0


def _attach(args: argparse.Namespace, tokenizer: Any) -> int:
    from evalkit.adapters.experts.corpus import open_corpus
    from evalkit.cli.recipe import ASSETS
    from evalkit.errors import InputError
    from evalkit.models.ek.container import CAP_BYTES, add_corpus, is_artifact

    source, out = Path(args.checkpoint or ASSETS / "tiny.ek"), Path(args.out)
    if not is_artifact(source):
        raise InputError(
            f"{source}: not an artifact (.ek); use --adapter ppm:corpus={args.corpus} beside this checkpoint"
        )
    if out.exists() and not args.force:
        raise InputError(f"{out}: already exists; add --force to replace it")
    corpus = None
    if args.corpus != "none":
        open_corpus(args.corpus).check_tokenizer(tokenizer.vocab_size, tokenizer.fingerprint)
        corpus = Path(args.corpus).read_bytes()
    size = add_corpus(source, corpus, out)
    _tell(args.json, {"bytes": size, "corpus_bytes": len(corpus or b""), "cap_bytes": CAP_BYTES})
    if args.json != "-":
        print(f"{out}: {size:,} bytes, {len(corpus or b''):,} of them a corpus; the contest's limit is {CAP_BYTES:,}")
    return 0


def _tell(where: str | None, facts: dict[str, Any]) -> None:
    if where == "-":
        print(json.dumps(facts, indent=2))
    elif where:
        with open(where, "w", encoding="utf-8") as file:
            file.write(json.dumps(facts, indent=2) + "\n")


class _Watch:
    """Lines on stderr while a corpus is built."""

    def __init__(self) -> None:
        self._began = self._spoke = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._began

    def see(self, done: Built) -> None:
        if time.perf_counter() - self._spoke < (0.2 if sys.stderr.isatty() else 5.0):
            return
        self._spoke = time.perf_counter()
        end = "\r" if sys.stderr.isatty() else "\n"
        print(
            f"{self.seconds:.0f} s: {done.tokens:,} tokens read, {done.kept_tokens:,} packed into {done.packed_bytes:,} bytes",
            end=end,
            file=sys.stderr,
            flush=True,
        )

    def end(self) -> None:
        if sys.stderr.isatty():
            print(file=sys.stderr)
