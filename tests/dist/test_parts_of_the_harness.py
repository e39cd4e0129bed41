"""The small machines of the harness, one at a time: codec, meeting, heartbeat, blame, threads."""

from __future__ import annotations

import json
import os
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch.distributed
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from evalkit.adapters.learners.ranks import shares
from evalkit.errors import DivergenceError, EvalkitError, InputError, NoError
from evalkit.harness import faults, job, pulse
from evalkit.harness.faults import RankFailed, breaks_a_line, pack_fault, sentence, unpack_fault
from evalkit.harness.meet import Meeting
from evalkit.harness.pulse import Pulse, _Watch
from evalkit.harness.wire import Message, decode, encode


class DictStore:
    """The store's calls that we use, over a dict."""

    def __init__(self, held: dict[str, bytes] | None = None) -> None:
        self.held: dict[str, bytes] = {} if held is None else held

    def clone(self) -> DictStore:
        return DictStore(self.held)

    def set(self, key: str, value: str) -> None:
        self.held[key] = value.encode()

    def get(self, key: str) -> bytes:
        return self.held[key]

    def check(self, keys: list[str]) -> bool:
        return all(key in self.held for key in keys)


arrays = st.sampled_from(["<f8", "<f4", "<i4", "<i8", "|u1", "|b1"]).flatmap(
    lambda dtype: hnp.arrays(np.dtype(dtype), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
)
plain = st.one_of(st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False), st.text(max_size=5), st.none())


@given(st.text(max_size=8), st.dictionaries(st.text(max_size=4), plain), st.dictionaries(st.text(max_size=4), arrays))
def test_a_message_arrives_as_it_was_sent(kind: str, values: dict[str, Any], found: dict[str, np.ndarray]) -> None:
    back = decode(encode(Message(kind, values, found)))
    assert (back.kind, back.values) == (kind, values)
    assert list(back.arrays) == list(found)
    for name, array in found.items():
        assert back.arrays[name].dtype == array.dtype
        assert back.arrays[name].shape == array.shape
        assert back.arrays[name].tobytes() == array.tobytes()


def test_doubles_stand_where_doubles_may() -> None:
    """Whatever was sent before them: the kernels read them in place."""
    for odd in range(9):
        found = {"flags": np.zeros(odd, np.uint8), "logp": np.zeros(3)}
        assert decode(encode(Message("part", {}, found))).arrays["logp"].flags.aligned



def test_a_frame_that_promises_more_than_it_holds_is_refused() -> None:
    frame = encode(Message("part", {}, {"logp": np.zeros(100)}))
    with pytest.raises(EvalkitError, match="claims an array 'logp' that ends at"):
        decode(frame[:-8])
    with pytest.raises(EvalkitError, match="the wire takes"):
        encode(Message("part", {}, {"logp": np.zeros(2, np.float16)}))


@given(st.integers(0, 50), st.integers(1, 9))
def test_shares_are_contiguous_and_even(n: int, size: int) -> None:
    found = shares(n, size)
    assert [i for share in found for i in share] == list(range(n))
    assert max(map(len, found)) - min(map(len, found)) <= 1


def test_ranks_meet_under_a_word_that_no_earlier_attempt_knows() -> None:
    store = torch.distributed.TCPStore("127.0.0.1", 0, 1, True)
    store.set("evalkit/join/1", "old")
    store.set("evalkit/answer/1/old", "old-word")
    words: dict[int, str] = {}

    def join(rank: int) -> None:
        words[rank] = Meeting(store.clone(), rank, 3, timedelta(seconds=30)).word

    threads = [threading.Thread(target=join, args=(rank,)) for rank in (1, 2)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    assert words == {}
    first = Meeting(store.clone(), 0, 3, timedelta(seconds=30))
    for thread in threads:
        thread.join(30)
    first.over()
    assert words == {1: first.word, 2: first.word}
    assert first.word != "old-word"
    with pytest.raises(EvalkitError, match="rank 1 waited 0 s for rank 0 to start"):
        Meeting(store.clone(), 1, 3, timedelta(0))


def test_a_heart_is_stale_by_our_own_clock_and_not_when_we_slept() -> None:
    watch = _Watch(10.0)
    assert not watch.stale("1", 0.5)
    assert not watch.stale("1", 4.0)
    assert not watch.stale("2", 8.0)
    assert not watch.stale("2", 12.0)
    assert not watch.stale("2", 16.0)
    assert watch.stale("2", 20.0)
    asleep = _Watch(10.0)
    asleep.stale("1", 1.0)
    assert not asleep.stale("1", 40.0)
    assert not asleep.stale("1", 44.0)
    assert asleep.stale("1", 48.0) is False
    assert asleep.stale("1", 51.0)


@pytest.fixture
def deaths(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What would have been said by a process that ended itself; and nothing is killed."""
    said: list[str] = []
    monkeypatch.setattr(pulse, "leave", lambda message, code: said.append(message))
    monkeypatch.setattr(pulse, "last_words", lambda message, code: None)
    monkeypatch.setattr(pulse.os, "kill", lambda pid, number: said.append(f"killed {pid}"))
    return said


def until(done: Any) -> None:
    give_up = time.monotonic() + 30
    while not done():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def test_a_hung_rank_is_named_by_the_one_before_it_and_one_that_ended_is_not(deaths: list[str]) -> None:
    store = DictStore()
    beats = [Pulse(store, rank, 3, 1.5, 60.0).start() for rank in range(2)]
    store.set("pulse/2", f"7|{2**22}|{pulse.socket.gethostname()}|batch 5, in chunk 1")
    until(lambda: len(deaths) >= 2)
    assert deaths[0] == f"killed {2**22}"
    assert deaths[1].startswith("rank 2 has hung: no heartbeat for 1.5 s, it was last seen at: batch 5, in chunk 1")
    store.set("pulse/2", "ended")
    time.sleep(0.8)  # what was under way is said
    before = len(deaths)
    time.sleep(0.8)
    assert len(deaths) == before
    for beat in beats:
        beat.stop()
    assert store.get("pulse/0") == b"ended"


def test_a_rank_that_does_not_get_on_says_so_and_one_that_waits_does_not(deaths: list[str]) -> None:
    store = DictStore()
    waiting, busy = Pulse(store, 0, 2, 1.0, 0.2), Pulse(store, 1, 2, 1.0, 0.2)
    waiting.at("")
    busy.at("learning target 513 and after")
    for beat in (waiting, busy):
        beat.start()
    until(lambda: deaths)
    assert all(said.startswith("rank 1 has been at the same work for 0.2 s (learning target 513") for said in deaths)
    for beat in (waiting, busy):
        beat.stop()


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        (InputError("give another file"), 2, "give another file"),
        (DivergenceError("not finite"), 1, "not finite"),
        (MemoryError(), 2, "rank 3 ran out of memory (batch 7); lower --batch-tokens"),
        (ZeroDivisionError("division by zero"), 3, "rank 3 failed (batch 7) with ZeroDivisionError: division by zero"),
    ],
)
def test_a_fault_keeps_its_words_and_its_code_over_the_wire(fault: BaseException, code: int, words: str) -> None:
    assert sentence(fault, 3, "batch 7")[1] == code
    back = unpack_fault(decode(encode(Message("fault", pack_fault(fault, 3, "batch 7")))).values)
    assert words in str(back)
    assert back.exit_code == code
    assert isinstance(back, {1: NoError, 2: InputError, 3: RankFailed}[code])
    assert isinstance(back, DivergenceError) == isinstance(fault, DivergenceError)


def test_who_notices_is_not_who_is_to_blame() -> None:
    assert breaks_a_line(RuntimeError("[gloo/transport/tcp/pair.cc:537] Connection closed by peer [127.0.0.1]:18854"))
    assert not breaks_a_line(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not breaks_a_line(ConnectionError("connection"))


def test_the_first_last_words_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    faults.last_words("rank 1 ran out of memory", 2)
    faults.last_words("rank 0 is gone", 3)
    message = json.loads((tmp_path / "error.json").read_text())["message"]
    assert message["message"] == "rank 1 ran out of memory"
    assert message["extraInfo"]["code"] == 2
    assert os.listdir(tmp_path) == ["error.json"]


def test_threads_and_devices_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "usable_cpus", lambda: 16)
    assert [job.threads_per_rank(n) for n in (1, 2, 3, 8, 16, 40)] == [16, 8, 5, 2, 1, 1]
    monkeypatch.setattr(job.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(job.torch.cuda, "device_count", lambda: 2)
    assert [job.choose_device(wanted, 1) for wanted in ("auto", "cuda", "cpu", "cuda:0")] == [
        "cuda:1", "cuda:1", "cpu", "cuda:0"
    ]  # fmt: skip
    with pytest.raises(InputError, match="rank 2 of this node has no GPU: 2 found; use --nproc 2, or --device cpu"):
        job.choose_device("auto", 2)
    with pytest.raises(InputError, match="--device cuda:5: not available here"):
        job.choose_device("cuda:5", 0)
