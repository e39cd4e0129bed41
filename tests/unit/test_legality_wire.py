"""Do frames survive the trip, and is everything that is no frame refused?"""

from __future__ import annotations

import json
import os
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

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


def frame(header: object, payload: bytes = b"", magic: bytes = b"EVB1") -> bytes:
    text = json.dumps(header).encode()
    return wire.PREFIX.pack(magic, len(text), len(payload)) + text + payload


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"EVB",
        frame({"parts": []}, magic=b"EVIL"),
        wire.PREFIX.pack(b"EVB1", 1 << 30, 0),
        wire.PREFIX.pack(b"EVB1", 2, 1 << 40) + b"{}",
        wire.PREFIX.pack(b"EVB1", 4, 0) + b"\xff\xfe{}",
        frame({}),
        frame([1, 2]),
        frame({"parts": [{"dtype": "|O8", "shape": [1]}]}, b"12345678"),
        frame({"parts": [{"dtype": "<f8", "shape": [1 << 40]}]}, b"12345678"),
        frame({"parts": [{"dtype": "<f8", "shape": [-1]}]}, b"12345678"),
        frame({"parts": [{"dtype": "<f8", "shape": [1]}]}, b"123456789"),
        frame({"parts": [{"dtype": "<f8", "shape": ["x"]}]}, b"12345678"),
    ],
)
def test_what_is_no_frame_is_refused(data: bytes):
    with pytest.raises(wire.WireError):
        receive_raw(data)


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
