"""The cage of a stranger's scorer: its own process, session, clock and memory limit."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from evalkit.errors import InputError
from evalkit.legality import wire
from evalkit.legality.scorer import FACES, Facts, Float64, Int64, Meter, ScorerFault, check_scores, read_facts

GIB = 1 << 30


@dataclass(frozen=True)
class Limits:
    """What one black box may use.  ``call_seconds``: one call of score(); ``load_seconds``: import and factory."""

    call_seconds: float = 60.0
    load_seconds: float = 120.0
    memory_bytes: int = 8 * GIB


class Cage:
    """A scorer in a child process.  Everything it prints goes to a scratch file; it ends when we close."""

    def __init__(self, target: str, limits: Limits | None = None) -> None:
        self.target, self.limits, self.meter = target, limits or Limits(), Meter()
        self._spill = tempfile.TemporaryFile()  # noqa: SIM115  (closed in close())
        inbound, self._to = os.pipe()
        self._from, outbound = os.pipe()
        command = [sys.executable, "-m", "evalkit.legality.caged", target]
        self._child = subprocess.Popen(
            [*command, str(inbound), str(outbound), str(self.limits.memory_bytes)],
            stdin=subprocess.DEVNULL,
            stdout=self._spill,
            stderr=self._spill,
            pass_fds=(inbound, outbound),
            start_new_session=True,
            env=_environment(),
        )
        os.close(inbound)
        os.close(outbound)
        os.set_blocking(self._to, False)
        try:
            self.facts = self._facts()
        except BaseException:
            self.close()
            raise

    def score(self, tokens: Int64) -> Float64:
        return check_scores(self._ask("score", tokens), tokens.shape)

    def ask(self, face: str, argument: Any) -> Any:
        answer = self._ask(face, argument)
        return check_scores(answer, argument.shape) if face == "score_batch" else answer

    def renew(self) -> None:
        self._exchange({"renew": True}, [], self.limits.call_seconds)

    def elsewhere(self, tokens: Int64) -> Float64:
        fresh = Cage(self.target, self.limits)
        fresh.meter = self.meter
        try:
            return fresh.score(tokens)
        finally:
            fresh.close()

    def close(self) -> None:
        """End the child and everything it started."""
        for fd in (self._to, self._from):
            with contextlib.suppress(OSError):
                os.close(fd)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()
        self._spill.close()

    def _facts(self) -> Facts:
        try:
            header, _ = self._receive(self.limits.load_seconds, "import and factory")
        except ScorerFault as fault:
            if fault.kind == "load":
                raise InputError(f"{self.target} cannot be audited: {fault}") from None
            raise
        return read_said(header.get("facts"))

    def _ask(self, face: str, argument: Any) -> Any:
        array = np.frombuffer(argument, np.uint8) if isinstance(argument, bytes) else argument
        start, self.meter.last = time.perf_counter(), argument
        header, parts = self._exchange({"face": face}, [array], self.limits.call_seconds)
        self.meter.calls += 1
        self.meter.tokens += array.size
        self.meter.seconds += time.perf_counter() - start
        return _unpack(header.get("kind"), parts)

    def _exchange(self, header: dict[str, Any], arrays: list[Any], seconds: float) -> tuple[dict[str, Any], list[Any]]:
        doing = f"{header.get('face', 'factory')}()"
        try:
            wire.send(self._to, header, arrays, time.monotonic() + seconds)
        except wire.WireError:
            raise ScorerFault("timeout", f"{doing} did not read its tokens within {seconds:g} s (--timeout)") from None
        except OSError:
            raise self._ended() from None
        return self._receive(seconds, doing)

    def _receive(self, seconds: float, doing: str) -> tuple[dict[str, Any], list[Any]]:
        try:
            header, parts = wire.receive(self._from, time.monotonic() + seconds)
        except wire.WireError as fault:
            if fault.late:
                raise ScorerFault("timeout", f"{doing} did not answer within {seconds:g} s (--timeout)") from None
            if "closed" in str(fault):
                raise self._ended() from None
            raise ScorerFault("protocol", f"{doing} sent {fault}") from None
        if "fault" in header:
            raise ScorerFault(str(header["fault"]), str(header.get("message", "")))
        return header, parts

    def _ended(self) -> ScorerFault:
        """The child is gone: say how, with the last line it printed."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(timeout=5)
        code = self._child.returncode
        how = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
        if code in (-signal.SIGKILL, -signal.SIGSEGV, -signal.SIGABRT):
            how += f"; memory limit {self.limits.memory_bytes / GIB:g} GiB"
        return ScorerFault("exited", f"the scorer's process ended by itself ({how}){self._last_words()}")

    def _last_words(self) -> str:
        self._spill.seek(0, os.SEEK_END)
        self._spill.seek(max(0, self._spill.tell() - 500))
        lines = self._spill.read().decode(errors="replace").strip().splitlines()
        return f"; it last printed: {lines[-1][:200]}" if lines else ""


def read_said(said: Any) -> Facts:
    """The facts of a frame, checked as if the scorer were here."""
    if not isinstance(said, dict):
        raise ScorerFault("protocol", "the scorer's process did not say its facts")
    names = ("vocab_size", "bos_id", "document_isolation", "seq_len", "max_tokens", "precision")
    named = {name: said.get(name) for name in names}
    faces = {face: print for face in FACES if face in (said.get("faces") or ())}
    return read_facts(SimpleNamespace(score=print, **named, **faces))


def _unpack(kind: str | None, parts: list[Any]) -> Any:
    if kind == "tuple":
        return tuple(parts)
    if kind in ("array", "number", "bytes") and len(parts) == 1:
        return {"array": lambda a: a, "number": float, "bytes": lambda a: a.tobytes()}[kind](parts[0])
    raise ScorerFault("protocol", f"an answer of kind {kind!r} with {len(parts)} parts")


def _environment() -> dict[str, str]:
    """The child finds evalkit where we found it; its idle threads sleep (a spinning one slows each call on a busy machine)."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    path = os.environ.get("PYTHONPATH")
    found = {"PYTHONPATH": root + (os.pathsep + path if path else "")}
    return {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, **found}
