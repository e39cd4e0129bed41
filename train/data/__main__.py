"""``python -m evalkit.train.data tokenise | fineweb | check``: shards made, fetched and checked."""

from __future__ import annotations

import argparse
import sys
import urllib.error
from pathlib import Path

from evalkit.errors import InputError

EPILOG = """examples:
  python -m evalkit.train.data tokenise --data train.jsonl.xz --tokenizer sp4096.model --out shards
  python -m evalkit.train.data fineweb --variant sp1024 --shards 10 --out fineweb10B_sp1024
  python -m evalkit.train.data check --train shards/train_*.manifest.json --val val.jsonl.xz
  python -m evalkit.train.data check fineweb10B_sp1024
"""


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m evalkit.train.data",
        description="Make, fetch and check token shards.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = p.add_subparsers(dest="verb", required=True, metavar="VERB")
    made = verbs.add_parser("tokenise", help="text to shards with manifests, a part of the documents held out")
    made.add_argument("--data", nargs="+", required=True, type=Path, help="text: .txt or .jsonl, plain or packed")
    made.add_argument("--tokenizer", required=True, type=Path, help="a SentencePiece .model")
    made.add_argument("--out", required=True, type=Path, help="folder for the shards; must not hold any")
    made.add_argument("--held-out", type=int, default=4, help="documents of 1000 kept out of training (default 4)")
    made.add_argument("--shard-tokens", type=int, default=100_000_000, help="tokens of a shard (default 100,000,000)")
    got = verbs.add_parser("fineweb", help="download the benchmark's public shards")
    got.add_argument("--variant", default="sp1024", help="sp1024 (default), sp2048, sp4096 or sp8192")
    got.add_argument("--shards", type=int, default=1, help="training shards of 100,000,000 tokens (default 1)")
    got.add_argument("--out", required=True, type=Path, help="folder; an interrupted download goes on there")
    got.add_argument("--host", help="another server, or a mirror as http://.. or file://..")
    got.add_argument("--repo", help="another data set on that server")
    got.add_argument("--root", help="folder of the export within the data set")
    check = verbs.add_parser("check", help="refuse validation text that stands in the training text")
    check.add_argument("folder", nargs="?", type=Path, help="a folder of shards: compared as tokens, all of them")
    check.add_argument("--train", nargs="+", default=[], help="training texts or .manifest.json files")
    check.add_argument("--val", nargs="+", default=[], help="validation texts or .manifest.json files")
    return p


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        {"tokenise": tokenise, "fineweb": fineweb, "check": check}[args.verb](args)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except urllib.error.URLError as error:
        who = error.url if isinstance(error, urllib.error.HTTPError) else "the server"
        print(f"error: {who}: {error.reason}; check --host", file=sys.stderr)
        return InputError.exit_code
    except OSError as error:
        print(f"error: cannot read or write {error.filename}: {error.strerror}", file=sys.stderr)
        return InputError.exit_code
    return 0


def tokenise(args: argparse.Namespace) -> None:
    """Training and held-out documents into ``train_*.bin`` and ``val_*.bin``, with the tokenizer beside them."""
    from evalkit.stream.files import write_atomic
    from evalkit.stream.text import Document
    from evalkit.stream.tokenizer import open_tokenizer
    from evalkit.train.data.write import write_shards
    from evalkit.train.text import is_held_out_bytes, read

    opened = open_tokenizer(args.tokenizer)
    args.out.mkdir(parents=True, exist_ok=True)
    if found := sorted(args.out.glob("*.bin")):
        raise InputError(f"{args.out}: {found[0].name} is there already; give an empty --out")
    if args.shard_tokens < 1:
        raise InputError(f"--shard-tokens {args.shard_tokens} must be positive; 100000000 is the field's")

    def part(held_out: bool):
        for path in args.data:
            for document in read(path):
                if is_held_out_bytes(document.data, args.held_out) == held_out:
                    yield Document(document.source, document.index, document.name, document.data)

    for stem, held_out in (("train", False), ("val", True)):
        manifests = write_shards(part(held_out), opened, args.out, stem, args.shard_tokens)
        documents = sum(len(m.documents.start) for m in manifests)
        if not documents:
            raise InputError(
                f"no document of {len(args.data)} files is {'held out' if held_out else 'left to train on'} at "
                f"{args.held_out} of 1000; change --held-out or give more documents"
            )
        tokens, size = sum(m.tokens for m in manifests), sum(m.bytes for m in manifests)
        print(f"{stem}: {len(manifests)} shards, {documents:,} documents, {tokens:,} tokens, {size:,} bytes")
    write_atomic(args.out / "tokenizer.model", opened.model_bytes)


def fineweb(args: argparse.Namespace) -> None:
    """Download; progress on stderr, the paths on stdout."""
    from evalkit.train.data.fineweb import Source, fetch

    if args.shards < 0:
        raise InputError(f"--shards {args.shards} must not be negative; 80 is the benchmark's default")
    given = {name: getattr(args, name) for name in ("host", "repo", "root") if getattr(args, name)}
    for path in fetch(Source(**given), args.variant, args.shards, args.out, lambda line: print(line, file=sys.stderr)):
        print(path)


def check(args: argparse.Namespace) -> None:
    """Print what was compared; InputError on overlap."""
    from evalkit.stream.files import read_small
    from evalkit.stream.pieces import MODEL_LIMIT
    from evalkit.stream.tokenizer import open_tokenizer
    from evalkit.train.data.corpus import only_model, shard_paths
    from evalkit.train.data.overlap import refuse, refuse_shards

    if args.folder:
        bos = open_tokenizer(read_small(only_model(args.folder), MODEL_LIMIT, "a tokenizer model")).bos_id
        said = refuse_shards(shard_paths(args.folder, "train"), shard_paths(args.folder, "val"), 0, bos)
    elif args.train and args.val:
        said = refuse(args.train, args.val)
    else:
        raise InputError("nothing to compare; give a folder of shards, or --train FILES --val FILES")
    print("\n".join(said))


if __name__ == "__main__":
    sys.exit(main())
