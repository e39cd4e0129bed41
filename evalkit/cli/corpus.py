"""``evalkit corpus``: text of the user's own, counted before the first target."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from evalkit.cli.session import json_flag, tell

if TYPE_CHECKING:
    from evalkit.stream.corpus import Built

EXAMPLES = """examples:
  evalkit corpus build --text mine.jsonl.xz --out mine.ekc                     all of it, for the bundled checkpoint
  evalkit corpus build --text mine.jsonl.xz --bytes 14_000_000 --like web.jsonl --checkpoint model.ek --out web.ekc
  evalkit corpus build --text mine.jsonl.xz --trusts 200_000 --checkpoint model.ek --out mine.ekc     ppm starts with trusts
  evalkit corpus check mine.ekc --text val.jsonl.xz                            does it contain the scored text?
  evalkit eval --adapter ppm:corpus=mine.ekc
  evalkit corpus attach mine.ekc --checkpoint model.ek --out both.ek           one artifact; ppm finds the corpus in it
"""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "corpus",
        help="turn your own text into counts for ppm",
        description="A corpus is text that ppm counts before the first target: part of the artifact, never the scored text.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="what", metavar="build|check|attach", required=True)
    build = verbs.add_parser("build", help="write a corpus file", epilog=EXAMPLES)
    build.add_argument("--text", nargs="+", required=True, metavar="F", help=".txt or .jsonl, plain or xz, gz, zst")
    build.add_argument("--out", required=True, metavar="FILE.ekc")
    build.add_argument("--bytes", type=_number, metavar="N", help="largest size of the file (default: keep everything)")
    build.add_argument(
        "--like", nargs="+", default=[], metavar="F", help="with --bytes: keep the documents most like this text"
    )
    build.add_argument(
        "--trusts",
        type=_number,
        default=0,
        metavar="N",
        help="learn ppm's starting weights for the checkpoint on about N tokens of these documents (200_000 is good)",
    )
    build.add_argument("--force", action="store_true", help="replace the file if it exists")
    check = verbs.add_parser("check", help="compare a corpus with a text; exit 1 when they overlap", epilog=EXAMPLES)
    check.add_argument("corpus", metavar="FILE.ekc")
    check.add_argument("--text", nargs="+", required=True, metavar="F", help="the text to be scored")
    attach = verbs.add_parser("attach", help="put a corpus into an artifact (.ek)", epilog=EXAMPLES)
    attach.add_argument("corpus", metavar="FILE.ekc", help="a corpus file, or 'none' to remove the corpus")
    attach.add_argument("--out", required=True, metavar="FILE.ek")
    attach.add_argument("--force", action="store_true", help="replace the file if it exists")
    for each in (build, check, attach):
        each.add_argument("--checkpoint", metavar="C", help="whose tokenizer is used (default: the bundled one)")
        each.add_argument("--tokenizer", metavar="T", help="where the checkpoint carries none")
        json_flag(each)


def _number(text: str) -> int:
    return int(text.replace("_", "").replace(",", ""))


def run(args: argparse.Namespace) -> int:
    return {"build": _build, "check": _check, "attach": _attach}[args.what](args)


def _model(args: argparse.Namespace) -> tuple[Any, Any]:
    """The checkpoint and its tokenizer."""
    from evalkit.cli.session import choose_tokenizer, say
    from evalkit.models.registry import open_checkpoint

    model = open_checkpoint(args.checkpoint)
    tokenizer, note = choose_tokenizer(args.tokenizer, args.checkpoint, model)
    if note:
        say(note)
    return model, tokenizer


def _tokenizer(args: argparse.Namespace) -> Any:
    """The checkpoint's own; an artifact is read for it and not opened as a model."""
    from evalkit.cli.recipe import ASSETS
    from evalkit.models.ek.container import is_artifact, read_artifact
    from evalkit.stream import open_tokenizer

    path = Path(args.checkpoint or ASSETS / "tiny.ek")
    if args.tokenizer is None and is_artifact(path):
        return open_tokenizer(read_artifact(path).tokenizer_model)
    return _model(args)[1]


def _build(args: argparse.Namespace) -> int:
    import msgspec

    from evalkit.errors import InputError
    from evalkit.stream.corpus import build_corpus

    if args.trusts < 0:
        raise InputError(f"--trusts {args.trusts}: a number of tokens, such as 200_000")
    model, tokenizer = _model(args) if args.trusts else (None, _tokenizer(args))
    # What the trusts may take: of 120 V values, a byte each before packing, a quarter was the most that was seen.
    size = args.bytes if args.bytes is None or not args.trusts else args.bytes - 36 * tokenizer.vocab_size - 8192
    watch = _Watch()
    done = build_corpus(args.text, tokenizer, args.out, size=size, like=args.like, force=args.force, watch=watch.see)
    watch.end()
    if args.trusts:
        done.size = learn_trusts(args.out, model, tokenizer, args.trusts, args.bytes)
    words = (
        f"{args.out}: {done.kept_documents:,} of {done.documents:,} documents, {done.kept_tokens:,} of {done.tokens:,} "
        f"tokens, {done.kept_bytes:,} bytes of text in {done.size:,} bytes of file"
        + (", trusts with them" if args.trusts else "")
    )
    tell(args, msgspec.to_builtins(done) | {"seconds": round(watch.seconds, 3)}, lambda: print(words))
    return 0


def learn_trusts(path: str | Path, model: Any, tokenizer: Any, tokens: int, most_bytes: int | None = None) -> int:
    """Put into a corpus file the trusts that ``ppm`` learns behind the model; returns the file's bytes.

    They are learned on about ``tokens`` ids of the corpus, while all its other documents are counted; documents of which
    the others hold a near copy are left out, for there counts seem better than they are.  InputError when the file grows
    beyond ``most_bytes``.
    """
    import numpy as np

    from evalkit.adapters.experts.corpus import NEAR, open_corpus, shared_text
    from evalkit.adapters.experts.ppm import Ppm, PpmSettings
    from evalkit.adapters.info import stream_info
    from evalkit.cli.progress import Progress
    from evalkit.errors import InputError
    from evalkit.scoring.score import score
    from evalkit.stream.corpus import read_corpus, write_corpus, write_with_trusts
    from evalkit.stream.stream import stream_of_tokens

    corpus = read_corpus(path)
    drawn, others = corpus.split(tokens)
    header = corpus.header
    with TemporaryDirectory(dir=Path(path).parent) as folder:
        rest = Path(folder) / "others.ekc"
        write_corpus(
            rest,
            others,
            vocab_size=header.vocab_size,
            bos_id=header.bos_id,
            tokenizer=header.tokenizer,
            preset=0,  # the file lives for this run alone
        )
        stream = stream_of_tokens(drawn, tokenizer, str(path))
        exact, shares, _ = shared_text(open_corpus(rest), stream)
        copied = np.array([one or share >= NEAR for one, share in zip(exact, shares, strict=True)])
        kept = np.repeat(~copied, np.diff(np.append(stream.doc_start, len(drawn))))
        if not kept.any():
            raise InputError(
                f"{path}: near copies of every drawn document stand in it; trusts cannot be learned from it"
            )
        stream = stream_of_tokens(drawn[kept], tokenizer, str(path))
        ppm = Ppm(PpmSettings(corpus=str(rest), trusts="fresh"))
        with Progress(stream.n_targets) as progress:
            score(model, stream, [ppm], on_chunk=progress.chunk)
        trusts = ppm.learned_trusts(stream_info(stream, 0, model.vocab_size), stream.n_targets)
    size = write_with_trusts(path, path, trusts)
    if most_bytes is not None and size > most_bytes:
        raise InputError(
            f"{path}: {size:,} bytes with its trusts, --bytes is {most_bytes:,}; give more, or smaller --trusts"
        )
    return size


def _check(args: argparse.Namespace) -> int:
    import msgspec

    from evalkit.adapters.experts.corpus import open_corpus, overlap
    from evalkit.stream import open_stream

    corpus, tokenizer = open_corpus(args.corpus), _tokenizer(args)
    corpus.check_tokenizer(tokenizer.vocab_size, tokenizer.fingerprint)
    found = overlap(corpus, open_stream(args.text, tokenizer))
    tell(args, msgspec.to_builtins(found) | {"detail": found.sentence()}, lambda: print(found.sentence()))
    return 1 if found.exact or found.near else 0


def _attach(args: argparse.Namespace) -> int:
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
        tokenizer = _tokenizer(args)
        open_corpus(args.corpus).check_tokenizer(tokenizer.vocab_size, tokenizer.fingerprint)
        corpus = Path(args.corpus).read_bytes()
    size = add_corpus(source, corpus, out)
    words = f"{out}: {size:,} bytes, {len(corpus or b''):,} of them a corpus; the contest's limit is {CAP_BYTES:,}"
    tell(args, {"bytes": size, "corpus_bytes": len(corpus or b""), "cap_bytes": CAP_BYTES}, lambda: print(words))
    return 0


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
