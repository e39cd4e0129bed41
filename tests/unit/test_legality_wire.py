"""Do frames survive the trip, and is everything that is no frame refused?"""

from __future__ import annotations

import contextlib
import os
import time

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from evalkit import frames
from evalkit.legality import wire


def trip(header, parts):
    inbound, outbound = os.pipe()
    try:
        wire.send(outbound, header, parts)
        return wire.receive(inbound, time.monotonic() + 5)
    finally:
        os.close(inbound)
        os.close(outbound)


def receive_raw(data: bytes, *, limit: int = 1 << 20, deadline: float | None = None):
    inbound, outbound = os.pipe()
    try:
        os.write(outbound, data)
        os.close(outbound)
        return wire.receive(inbound, deadline, limit)
    finally:
        os.close(inbound)


@given(
    arrays(np.float64, st.integers(0, 50), elements=st.floats(allow_nan=False)),
    arrays(np.int64, st.tuples(st.integers(0, 4), st.integers(0, 5))),
)
def test_arrays_arrive_bit_for_bit(a, b):
    header, (c, d) = trip({"face": "score"}, [a, b])
    assert header["face"] == "score"
    assert c.tobytes() == a.tobytes()
    assert d.shape == b.shape
    assert np.array_equal(d, b)


def frame(values: object, table: object = (), payload: bytes = b"", magic: bytes = b"EVB2") -> bytes:
    head = msgspec.msgpack.encode((values, table))
    block = len(head).to_bytes(4, "little") + head + payload
    return wire.PREFIX.pack(magic, len(block)) + block


NUMBERS = b"12345678"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"EVB",
        frame({}, magic=b"EVIL"),
        wire.PREFIX.pack(b"EVB2", 1 << 40) + b"{}",
        wire.PREFIX.pack(b"EVB2", 2) + b"ab",
        wire.PREFIX.pack(b"EVB2", 6) + b"\xff\xff\xff\xff\x80\x80",
        wire.PREFIX.pack(b"EVB2", 6) + b"\x02\0\0\0\xff\xfe",
        frame([1, 2]),
        frame({}, [("a", "|O8", [1])], NUMBERS),
        frame({}, [("a", "<f8", [1 << 40])], NUMBERS),
        frame({}, [("a", "<f8", [1 << 32, 1 << 32])], NUMBERS),
        frame({}, [("a", "<f8", [-1])], NUMBERS),
        frame({}, [("a", "<f8", [1])], NUMBERS + b"9"),
        frame({}, [("a", "<f8", ["x"])], NUMBERS),
        frame({}, ["a"], NUMBERS),
    ],
)
def test_what_is_no_frame_is_refused(data: bytes):
    with pytest.raises(wire.WireError):
        receive_raw(data)


@given(st.binary(max_size=60), st.integers(0, 200), st.integers(0, 255))
def test_a_damaged_frame_is_refused_or_read_and_nothing_else(tail: bytes, at: int, value: int):
    data = bytearray(frames.encode({"face": "score"}, {"0": np.arange(4), "1": np.zeros((2, 3))}))
    data[at % len(data)] = value
    for block in (data, data[: at % len(data)], data + tail, tail):
        with contextlib.suppress(frames.FrameError):
            frames.decode(block)


def test_silence_ends_at_the_deadline():
    inbound, outbound = os.pipe()
    try:
        with pytest.raises(wire.WireError) as caught:
            wire.receive(inbound, time.monotonic() + 0.05)
        assert caught.value.late
    finally:
        os.close(inbound)
        os.close(outbound)


def test_a_reader_that_does_not_read_ends_at_the_deadline():
    inbound, outbound = os.pipe()
    os.set_blocking(outbound, False)
    try:
        with pytest.raises(wire.WireError) as caught:
            wire.send(outbound, {}, [np.zeros(1 << 20)], time.monotonic() + 0.05)
        assert caught.value.late
    finally:
        os.close(inbound)
        os.close(outbound)
