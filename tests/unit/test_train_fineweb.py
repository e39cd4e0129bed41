"""Are shards fetched whole, taken up where they broke off, and refused when they are not what the source lists?"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evalkit.errors import InputError
from evalkit.stream.shard import MAGIC, read_shard, write_shard
from evalkit.train.data.__main__ import main
from evalkit.train.data.fineweb import Remote, download

REPO = "someone/golf"


def mirror(folder: Path, shards: int = 2) -> Path:
    """The tree of a server as files: two listings and what they list."""
    files = folder / "datasets" / REPO / "resolve" / "main" / "datasets"
    data, models = files / "datasets" / "fineweb10B_sp1024", files / "tokenizers"
    data.mkdir(parents=True)
    models.mkdir()
    rng = np.random.default_rng(0)
    for name in [*(f"train_{i:06d}" for i in range(shards)), "val_000000", "val_bytes_000000"]:
        write_shard(data / f"fineweb_{name}.bin", rng.integers(0, 1024, 5000, dtype=np.uint16))
    (models / "fineweb_1024_bpe.model").write_bytes(b"a model")
    tree = folder / "api" / "datasets" / REPO / "tree" / "main" / "datasets"
    for where in (data, models):
        listing = tree / where.relative_to(files)
        listing.parent.mkdir(parents=True, exist_ok=True)
        listing.write_text(json.dumps([row(p, files.parent) for p in sorted(where.iterdir())]))
    return folder


def row(path: Path, root: Path) -> dict[str, Any]:
    content = path.read_bytes()
    entry = {"type": "file", "oid": "0" * 40, "size": len(content), "path": str(path.relative_to(root))}
    large = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content)}
    return entry | ({"lfs": large} if path.suffix == ".bin" else {})


class Server(ThreadingHTTPServer):
    root: Path
    cut: int = 0
    """Break the connection once after so many bytes."""
    ranges: bool = True
    asked: list[str]


class Answer(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        path = self.server.root / self.path.lstrip("/")
        self.server.asked.append(f"{path.name} {self.headers.get('Range', '')}".strip())
        if not path.is_file():
            self.send_error(404)
            return
        content, start = path.read_bytes(), 0
        if self.server.ranges and (wanted := self.headers.get("Range")):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = len(content)
        if self.server.cut and path.suffix == ".bin":
            end, self.server.cut = min(end, start + self.server.cut), 0
        self.wfile.write(content[start:end])

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Answer) as running:
        running.root, running.asked = mirror(tmp_path / "mirror"), []
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield running
        running.shutdown()


def command(host: str, out: Path, *more: str) -> list[str]:
    return ["fineweb", "--host", host, "--repo", REPO, "--out", str(out), *more]


def test_a_folder_serves_as_a_mirror(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = mirror(tmp_path / "mirror")
    assert main(command(f"file://{root}", tmp_path / "out", "--shards", "2")) == 0
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == ["fineweb_1024_bpe.model", "fineweb_train_000000.bin", "fineweb_train_000001.bin",
                     "fineweb_val_000000.bin", "fineweb_val_bytes_000000.bin"]  # fmt: skip
    assert len(read_shard(tmp_path / "out" / "fineweb_train_000001.bin")) == 5000
    assert len(capsys.readouterr().out.strip().splitlines()) == 5


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_download_goes_on(
    server: Server, tmp_path: Path, ranges: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evalkit.train.data.fineweb.time.sleep", lambda seconds: None)
    monkeypatch.setattr("evalkit.train.data.fineweb.download.__defaults__", (lambda seconds: None,))
    server.cut, server.ranges = 3000, ranges
    host = f"http://127.0.0.1:{server.server_address[1]}"
    assert main(command(host, tmp_path / "out")) == 0
    for path in (tmp_path / "out").glob("*.bin"):
        theirs = next(server.root.rglob(path.name)).read_bytes()
        assert path.read_bytes() == theirs
    assert any("bytes=3000-" in a for a in server.asked)
    assert not list((tmp_path / "out").glob("*.part"))
    before = len(server.asked)
    assert main(command(host, tmp_path / "out")) == 0
    assert len(server.asked) == before + 2, "a second run asks for the two listings only"


def test_an_interrupted_part_is_continued(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.bin", np.arange(900, dtype=np.uint16))
    content = (tmp_path / "a.bin").read_bytes()
    file = Remote("x/b.bin", len(content), hashlib.sha256(content).hexdigest())
    (tmp_path / "b.bin.part").write_bytes(content[:1111])
    download(f"file://{tmp_path}/a.bin", file, tmp_path / "b.bin")
    assert (tmp_path / "b.bin").read_bytes() == content


def test_what_the_source_does_not_list_is_refused(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.bin", np.arange(900, dtype=np.uint16))
    content = (tmp_path / "a.bin").read_bytes()
    wrong = Remote("x/b.bin", len(content), "0" * 64)
    with pytest.raises(InputError, match="the part is removed"):
        download(f"file://{tmp_path}/a.bin", wrong, tmp_path / "b.bin")
    junk = tmp_path / "junk"
    junk.write_bytes(b"x" * 2000)
    with pytest.raises(InputError, match=f"not with the shard magic {MAGIC}"):
        download(f"file://{junk}", Remote("x/b.bin", 2000, ""), tmp_path / "b.bin")
    (tmp_path / "b.bin").write_bytes(b"short")
    with pytest.raises(InputError, match="has 5 bytes"):
        download(f"file://{tmp_path}/a.bin", wrong, tmp_path / "b.bin")
    longer = Remote("x/c.bin", len(content) + 1, "")
    with pytest.raises(InputError, match="5 attempts failed"):
        download(f"file://{tmp_path}/a.bin", longer, tmp_path / "c.bin", pause=lambda seconds: None)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--variant", "sp1025"], "did you mean 'sp1024'"),
        (["--shards", "3"], "has 2 training and"),
        (["--shards", "-1"], "must not be negative"),
        (["--repo", "no/body"], "check --host"),
        (["--host", "ftp://x"], "only http, https and file"),
    ],
)
def test_a_wrong_wish_is_one_sentence(
    more: list[str], says: str, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host = f"http://127.0.0.1:{server.server_address[1]}"
    assert main(command(host, tmp_path / "out", *more)) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert says in error


def test_a_listing_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = mirror(tmp_path / "mirror")
    listing = root / "api" / "datasets" / REPO / "tree" / "main" / "datasets" / "datasets" / "fineweb10B_sp1024"
    for content in ("<html>", '{"error": "gone"}', '[{"type": "file", "path": "../../etc/..", "size": 1}]', "[3]"):
        listing.write_text(content)
        assert main(command(f"file://{root}", tmp_path / "out")) == 2
        assert "not a listing" in capsys.readouterr().err
