"""``evalkit tokenize``: text into a token shard."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evalkit.stream.manifest import Manifest

EPILOG = """examples:
  evalkit tokenize train.jsonl.xz --tokenizer fineweb_1024_bpe.model --out train.bin
  evalkit tokenize a.txt b.txt --tokenizer byte --out ab.bin
"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the verb to the ``evalkit`` parser."""
    parser = subparsers.add_parser(
        "tokenize",
        help="turn text into a token shard",
        description="Encode text files into one token shard (256 int32 header, uint16 ids, BOS before each document) "
        "and a manifest with the sha256 of the shard and a hash of every document.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("text", nargs="+", metavar="TEXT", help=".txt or .jsonl, plain or xz, gz, zst")
    parser.add_argument("--tokenizer", required=True, metavar="T", help="a SentencePiece .model, or: byte")
    parser.add_argument("--out", required=True, metavar="FILE.bin", help="the shard; FILE.manifest.json goes beside it")
    parser.add_argument("--force", action="store_true", help="replace files that exist")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Write shard and manifest; print documents, tokens and bytes per token.  Raises InputError."""
    from evalkit.stream.manifest import manifest_path, tokenize
    from evalkit.stream.tokenizer import open_tokenizer

    manifest = tokenize(args.text, open_tokenizer(args.tokenizer), args.out, force=args.force, watch=_progress)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    documents = len(manifest.documents.start)
    per_token = manifest.bytes / (manifest.tokens - documents)
    print(f"{args.out}: {documents:,} documents, {manifest.tokens:,} tokens, {manifest.bytes:,} bytes")
    print(f"bytes per token: {per_token:.4f} (BOS apart)")
    print(f"manifest: {manifest_path(args.out)}")
    return 0


def _progress(manifest: Manifest) -> None:
    """One line on stderr that overwrites itself; nothing where stderr is no terminal."""
    if sys.stderr.isatty():
        print(f"\r{manifest.bytes:,} bytes, {manifest.tokens:,} tokens ", end="", file=sys.stderr, flush=True)
