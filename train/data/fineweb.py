"""The benchmark's public shards: the data set of openai/parameter-golf, size and sha256 checked.

The data set lists each file with its size and, for large files, its sha256.  A file is downloaded to NAME.part, taken
up again where it broke off, hashed while it is written, and renamed only when size, sha256 and shard header agree.
"""

from __future__ import annotations

import hashlib
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.errors import InputError, nearest
from evalkit.stream.shard import read_shard

HOST = "https://huggingface.co"
REPO = "willdepueoai/parameter-golf"
ROOT = "datasets"
TOKENIZERS = {
    "sp1024": "fineweb_1024_bpe.model",
    "sp2048": "fineweb_2048_bpe.model",
    "sp4096": "fineweb_4096_bpe.model",
    "sp8192": "fineweb_8192_bpe.model",
}
"""Variants by name, with their tokenizers.  sp8192 and CaseOps shards are participants': give --repo for them."""
SLICE = 1 << 20
TRIES = 5
SMALL = 16 << 20
"""Bytes of the longest listing."""


@dataclass(frozen=True)
class Remote:
    """One file of the data set; ``sha256`` is "" for small files, which the listing gives none for."""

    path: str
    size: int
    sha256: str

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Source:
    """``host`` may be http(s):// or file://; a mirror has the same two paths, /api/datasets/.. and /datasets/.."""

    host: str = HOST
    repo: str = REPO
    root: str = ROOT

    def listing(self, folder: str) -> list[Remote]:
        """The files of ROOT/folder; raises InputError when there is no such folder or the answer is no listing."""
        url = f"{self.host}/api/datasets/{self.repo}/tree/main/{urllib.parse.quote(f'{self.root}/{folder}')}"
        try:
            with _open(url, 0) as answer:
                rows = json.loads(answer.read(SMALL))
            return [_remote(row) for row in rows if row["type"] == "file"]
        except (ValueError, KeyError, TypeError, AttributeError) as fault:
            raise InputError(f"{url}: this is not a listing of files ({fault}); check --host and --repo") from None

    def url(self, file: Remote) -> str:
        return f"{self.host}/datasets/{self.repo}/resolve/main/{urllib.parse.quote(file.path)}"


def _remote(row: dict[str, Any]) -> Remote:
    large = row.get("lfs") or {}
    path, size, digest = row["path"], large.get("size", row["size"]), large.get("oid", "")
    if not isinstance(path, str) or not isinstance(size, int) or not isinstance(digest, str) or size < 0:
        raise ValueError(f"entry {str(row)[:80]}")
    if "/" not in path or path.rsplit("/", 1)[1] in ("", ".", ".."):
        raise ValueError(f"path {path!r}")
    return Remote(path, size, digest.removeprefix("sha256:"))


def fetch(
    source: Source, variant: str, shards: int, out: Path, say: Callable[[str], None] = lambda line: None
) -> list[Path]:
    """Download all validation shards, the first ``shards`` training shards and the tokenizer into ``out``.

    Files that are there with the right size are kept.  Returns the paths.  Raises InputError in one sentence.
    """
    if variant not in TOKENIZERS:
        raise InputError(f"unknown variant '{variant}'{nearest(variant, TOKENIZERS)}")
    listed = sorted(source.listing(f"datasets/fineweb10B_{variant}"), key=lambda f: f.name)
    val = [f for f in listed if f.name.startswith("fineweb_val_") and f.name.endswith(".bin")]
    train = [f for f in listed if f.name.startswith("fineweb_train_") and f.name.endswith(".bin")]
    if not val or len(train) < shards:
        raise InputError(
            f"{source.repo} has {len(train)} training and {len(val)} validation shards of {variant}, {shards} training "
            "shards and one of validation are wanted; lower --shards or give another --variant"
        )
    model = [f for f in source.listing("tokenizers") if f.name == TOKENIZERS[variant]]
    if not model:
        raise InputError(f"{source.repo} has no tokenizer {TOKENIZERS[variant]}; give another --variant or --repo")
    out.mkdir(parents=True, exist_ok=True)
    files = [*model, *val, *train[:shards]]
    for number, file in enumerate(files, 1):
        say(f"{number}/{len(files)} {file.name} {file.size:,} bytes")
        download(source.url(file), file, out / file.name)
    return [out / file.name for file in files]


def download(url: str, file: Remote, path: Path, pause: Callable[[float], None] = time.sleep) -> None:
    """Fetch one file, continuing a part that is there; up to TRIES attempts where the connection breaks."""
    if path.exists():
        if path.stat().st_size == file.size:
            return
        raise InputError(
            f"{path} has {path.stat().st_size:,} bytes and the source's {file.size:,}; remove it and run the command again"
        )
    part, digest = path.with_name(path.name + ".part"), ""
    for attempt in range(TRIES):
        try:
            digest = _continue(url, file, part)
            break
        except (OSError, urllib.error.URLError) as fault:
            if isinstance(fault, urllib.error.HTTPError) and fault.code in (401, 403, 404):
                raise InputError(f"{url}: the server answers {fault.code}; check --repo and --variant") from None
            if attempt == TRIES - 1:
                reason = str(fault.reason if isinstance(fault, urllib.error.URLError) else fault)
                raise InputError(f"{url}: {TRIES} attempts failed ({reason}); run the command again to go on") from None
            pause(2.0**attempt)
    _accept(file, part, digest, path)


def _continue(url: str, file: Remote, part: Path) -> str:
    """Append what is missing; returns the sha256 of the whole part.  Raises OSError when the stream breaks off."""
    digest, have = hashlib.sha256(), 0
    if part.exists():
        for piece in _pieces(part):
            digest.update(piece)
            have += len(piece)
    if have >= file.size:
        return digest.hexdigest()
    with _open(url, have) as answer:
        if have and answer.status != 206 and not url.startswith("file:"):
            digest, have = hashlib.sha256(), 0  # this server starts again
        with part.open("ab" if have else "wb") as out:
            while have < file.size and (piece := answer.read(min(SLICE, file.size - have))):
                out.write(piece)
                digest.update(piece)
                have += len(piece)
    if have < file.size:
        raise OSError(f"{have:,} of {file.size:,} bytes came")
    return digest.hexdigest()


def _accept(file: Remote, part: Path, digest: str, path: Path) -> None:
    """Rename the part when it is what the source lists; raises InputError, and drops it, when it is not."""
    size = part.stat().st_size
    if size != file.size or (file.sha256 and digest != file.sha256):
        part.unlink()
        raise InputError(
            f"{path.name}: {size:,} bytes with sha256 {digest[:16]}, the source lists {file.size:,} with "
            f"{file.sha256[:16]}; the part is removed, run the command again"
        )
    if path.suffix == ".bin":
        read_shard(part)
    part.replace(path)


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from iter(lambda: file.read(SLICE), b"")


def _open(url: str, start: int) -> Any:
    """A readable answer from byte ``start``; only http, https and file URLs."""
    if urllib.parse.urlsplit(url).scheme not in ("http", "https", "file"):
        raise InputError(f"{url}: only http, https and file addresses are known; check --host")
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    answer = urllib.request.urlopen(request, timeout=60)
    if start and url.startswith("file:"):
        answer.seek(start)
    return answer
