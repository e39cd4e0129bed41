"""One writer for each run directory: a lock that ends with the process that holds it.

``flock`` on a file in the directory: the kernel lets go when the process ends, ``kill -9`` included; Linux carries it over
NFS, too.  Where a file system has none (some Lustre and FUSE mounts) a file that must not exist yet takes its place, with a
heartbeat: it is taken over when its process is gone from this host, or when no heart has beaten for a while on another.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import platform
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evalkit.errors import InputError

LOCK, HELD = "writer.lock", "writer.held"
BEAT_SECONDS = 10.0
DEAD_SECONDS = 60.0
"""Without a heartbeat for so long the writer on another host counts as gone."""
UNSUPPORTED = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL}


@contextmanager
def one_writer(folder: Path) -> Iterator[None]:
    """Be the only process that writes this run directory.  InputError, with host and process, when another one is."""
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _refused(folder, os.pread(handle, 1000, 0)) from None
        except OSError as fault:
            if fault.errno not in UNSUPPORTED:
                raise
            with _held(folder):
                yield
            return
        os.ftruncate(handle, 0)
        os.pwrite(handle, _who(), 0)
        yield
        os.ftruncate(handle, 0)
    finally:
        os.close(handle)


def _who() -> bytes:
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    return json.dumps({"host": platform.node(), "pid": os.getpid(), "since": since}).encode()


def _read(said: bytes) -> dict[str, str | int]:
    """Host, pid and since; empty when the file does not say (its writer is just about to)."""
    with contextlib.suppress(ValueError):
        found = json.loads(said)
        if isinstance(found, dict) and isinstance(found.get("pid"), int):
            return {key: found[key] for key in ("host", "pid", "since") if isinstance(found.get(key), (str, int))}
    return {}


def _refused(folder: Path, said: bytes) -> InputError:
    who = _read(said)
    writer = f"process {who['pid']} on {who.get('host')}, since {who.get('since')}," if who else "another process"
    return InputError(
        f"--out {folder}: {writer} is writing this run; wait for it to end or stop it (the same command then goes on from "
        "what is booked), or give another --out"
    )


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """The stand-in for ``flock``: a file that only one process can create."""
    path = folder / HELD
    print(f"evalkit: {folder} lies on a file system without locks; {HELD} keeps other writers away", file=sys.stderr)
    _take_over(path)
    try:
        with path.open("xb") as file:
            file.write(_who())
    except FileExistsError:
        raise _refused(folder, path.read_bytes() if path.exists() else b"") from None
    ended = threading.Event()
    heart = threading.Thread(target=_beat, args=(path, ended), name="heartbeat", daemon=True)
    heart.start()
    try:
        yield
    finally:
        ended.set()
        heart.join()
        path.unlink(missing_ok=True)


def _beat(path: Path, ended: threading.Event) -> None:
    while not ended.wait(BEAT_SECONDS):
        with contextlib.suppress(OSError):
            os.utime(path)


def _take_over(path: Path) -> None:
    """Put away what a dead process left; nothing when there is none, or its writer may be alive."""
    aside = path.with_name(f"{HELD}.{platform.node()}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        said, age = path.read_bytes(), _now(path.parent) - path.stat().st_mtime
        who = _read(said)
        if _alive(int(who["pid"])) if who.get("host") == platform.node() else age <= DEAD_SECONDS:
            return
        path.rename(aside)
        if aside.read_bytes() == said:
            aside.unlink()
        else:  # another process took it over before us: give its file back
            aside.rename(path)


def _now(folder: Path) -> float:
    """The clock of the file system, which may not be this host's."""
    probe = folder / f"{HELD}.clock.{platform.node()}.{os.getpid()}"
    probe.write_bytes(b"")
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    return True
