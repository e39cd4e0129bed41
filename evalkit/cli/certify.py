"""``evalkit certify``: compress a slice with the stack in the loop, and decode it."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.cli.session import json_flag, tell
from evalkit.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

EXAMPLES = """examples:
  evalkit certify --tokens 4096 --out cert           the bundled checkpoint and text with the default adapters
  evalkit certify recipe.toml --tokens 2000 --out c  a recipe; --adapter, --plan, --text ... as in evalkit eval
  evalkit certify --decode cert                      rebuild the text from bitstream and artifact alone

exit code: 0 the file has the booked size, or the decoded text is right; 1 it is not; 2 wrong input
"""
TOKENS = 4096


def add_parser(subparsers: Any) -> None:
    from evalkit.cli.eval import add_run_flags

    parser = subparsers.add_parser(
        "certify",
        help="compress a slice with the stack in the loop, and decode it",
        description="Compress a slice of text with model and adapters in the loop, then decode it without the text.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_run_flags(parser)
    parser.add_argument("--tokens", type=int, metavar="N", help=f"encode the first N targets (default {TOKENS})")
    parser.add_argument("--out", metavar="DIR", help="folder of the certificate")
    parser.add_argument("--decode", metavar="DIR", help="decode the certificate in DIR")
    json_flag(parser)


def run(args: argparse.Namespace) -> int:
    if args.decode:
        if args.out or args.recipe:
            raise InputError("--decode DIR stands alone: recipe and output are in the certificate")
        return _decode(args)
    if not args.out:
        raise InputError("give --out DIR to write a certificate, or --decode DIR to check one")
    return _encode(args)


def _encode(args: argparse.Namespace) -> int:
    from evalkit.cli.eval import resolve
    from evalkit.cli.opening import bare_settings, open_resolved
    from evalkit.legality.certificate.certify import make

    args.limit_tokens = args.tokens if args.tokens is not None else args.limit_tokens or TOKENS
    if args.limit_tokens < 1:
        raise InputError(f"--tokens must be at least 1, got {args.limit_tokens}")
    recipe = resolve(args)
    recipe.run.threads = recipe.run.threads or 1  # one token a call: more threads only wait for each other
    artifact, options = _artifact(recipe.run.checkpoint)
    setup, stream = open_resolved(recipe)
    if setup.model.vocab_size > 1 << 16:
        raise InputError(f"certificates hold 16-bit tokens, this vocabulary has {setup.model.vocab_size:,}")
    settings = {**bare_settings(recipe, setup), "options": options}
    start = time.perf_counter()
    account = make(setup, stream, Path(args.out), settings, artifact, _progress("encoded", stream.n_targets))
    seconds = time.perf_counter() - start
    said = {**vars(account), "holds": account.holds, "seconds": seconds, "folder": args.out}
    tell(args, said, lambda: print("\n".join(_sizes(account, args.out))))
    return 0 if account.holds else 1


def _artifact(checkpoint: str | None) -> tuple[Path, str]:
    """The checkpoint's one file, and the options after it."""
    from evalkit.models.registry import BUNDLED
    from evalkit.settings import split_spec

    if checkpoint is None:
        return BUNDLED, ""
    name = split_spec(checkpoint)[0]
    path = Path(name).expanduser()
    if not path.is_file():
        raise InputError(f"checkpoint {name}: a certificate carries its artifact, so it must be one file")
    return path, checkpoint[len(name) :].lstrip(":")


def _sizes(account: Any, folder: str) -> list[str]:
    gap = account.file_bits - account.booked_bits
    lines = [
        f"{account.targets:,} targets, {account.text_bytes:,} bytes of text -> {account.file_bits // 8:,} bytes of bitstream",
        f"file {account.file_bits:,} bits, booked {account.booked_bits:,.1f} (fast path), strict {account.strict_bits:,.1f}: "
        f"{gap:+.1f} bits, {gap / account.booked_bits:+.4%}",
        f"{account.file_bits / account.text_bytes:.4f} bits per byte, artifact {account.artifact_bytes:,} bytes, "
        f"manifest {account.manifest_bytes:,} bytes",
        f"strict and fast rows differ by at most {account.worst_nats:.2g} nats, at target {account.worst_at}",
    ]
    if not account.holds:
        where = f"target {account.parts_at}" if account.parts_at else f"target {account.worst_at} most of all"
        lines.append(
            f"the certificate does not hold: at most 0.1 % and 64 bits are allowed; the two paths part at {where}"
        )
    return [*lines, f"kept in {folder}; check it with: evalkit certify --decode {folder}"]


def _decode(args: argparse.Namespace) -> int:
    from evalkit.cli.opening import open_bare
    from evalkit.legality.certificate import bundle
    from evalkit.legality.certificate.certify import check

    folder = Path(args.decode)
    (folder / bundle.DECODED).unlink(missing_ok=True)
    manifest, bitstream = bundle.read(folder)
    artifact = bundle.check_artifact(folder, manifest)
    options = manifest.settings.get("options")
    own = (folder / bundle.TOKENIZER).read_bytes() if manifest.tokenizer_sha256 else None
    setup, tokenizer = open_bare(manifest.settings, f"{artifact}:{options}" if options else str(artifact), own)
    _warn(manifest, setup)
    start = time.perf_counter()
    out = check(setup, tokenizer, folder, manifest, bitstream, _progress("decoded", manifest.targets))
    seconds = time.perf_counter() - start
    said = {
        "targets": manifest.targets,
        "text_bytes": manifest.text_bytes,
        "file_bits": 8 * manifest.bitstream_bytes,
        "booked_bits": manifest.booked_bits,
        "text_sha256": manifest.text_sha256,
        "decoded": str(out),
        "seconds": seconds,
    }
    words = (
        f"decoded {manifest.targets:,} targets, {manifest.text_bytes:,} bytes, from {manifest.bitstream_bytes:,} bytes of "
        f"bitstream: identical (sha256 {manifest.text_sha256[:16]})\ntokens in {out}; {seconds:.1f} s"
    )
    tell(args, said, lambda: print(words))
    return 0


def _warn(manifest: Any, setup: Any) -> None:
    """Other code or another machine may compute other last digits: say so before it shows."""
    from evalkit.scoring.environment import environment

    here = environment(str(setup.model.device))
    differs = [k for k in ("processor", "threads", "device_name") if here.get(k) != manifest.environment.get(k)]
    differs += ["torch"] if here["packages"].get("torch") != manifest.environment["packages"].get("torch") else []
    differs += ["evalkit's code"] if setup.code_fingerprint() != manifest.fingerprint.get("code") else []
    if differs:
        print(f"other than at the encoder: {', '.join(differs)}; the decoder may part from it", file=sys.stderr)


def _progress(word: str, total: int) -> Callable[[int], None]:
    """A line on stderr every five seconds."""
    spoke = [time.perf_counter()]

    def tell(done: int) -> None:
        now = time.perf_counter()
        if now - spoke[0] >= 5.0:
            spoke[0] = now
            print(f"{word} {done:,} of {total:,} targets", file=sys.stderr, flush=True)

    return tell
