"""What becomes of a good file in careless or hostile hands?  Mutations by number, for tests and benches of the readers.

Raw mutations leave checksums as they are.  Sealed ones of an artifact make every checksum good again, so that what lies
behind them is reached: what someone would send who knows the format.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

PREFIX = 20
INTEGERS = (-(1 << 63), -1, 0, 1, 2, 255, 1 << 16, (1 << 31) - 1, 1 << 31, 1 << 40, (1 << 63) - 1, 1 << 80)
LEAVES = (*INTEGERS, 1e308, -1e-308, True, None, "", "x" * 5000, [], {}, [1] * 2000)
Rng = np.random.Generator
Header = dict[str, Any]


def flip(rng: Rng, data: bytes) -> bytes:
    """One to eight bits."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 9))):
        out[int(rng.integers(len(out)))] ^= 1 << int(rng.integers(8))
    return bytes(out)


def truncate(rng: Rng, data: bytes) -> bytes:
    return data[: int(rng.integers(len(data)))]


def extend(rng: Rng, data: bytes) -> bytes:
    return data + rng.bytes(int(rng.integers(1, 64)))


def _span(rng: Rng, size: int, longest: int = 4096) -> tuple[int, int]:
    at = int(rng.integers(size))
    return at, min(size, at + int(rng.integers(1, longest)))


def fill(rng: Rng, data: bytes) -> bytes:
    """A run of one byte."""
    lo, hi = _span(rng, len(data))
    return data[:lo] + bytes([int(rng.choice([0, 255, 65]))]) * (hi - lo) + data[hi:]


def splice(rng: Rng, data: bytes) -> bytes:
    """One part over another, the length kept."""
    lo, hi = _span(rng, len(data))
    source = int(rng.integers(len(data)))
    part = data[source : source + hi - lo]
    return data[:lo] + part + data[lo + len(part) :]


def delete(rng: Rng, data: bytes) -> bytes:
    lo, hi = _span(rng, len(data))
    return data[:lo] + data[hi:]


def insert(rng: Rng, data: bytes) -> bytes:
    lo, hi = _span(rng, len(data))
    return data[:hi] + data[lo:]


def word(rng: Rng, data: bytes) -> bytes:
    """An extreme 32-bit number in the first kilobyte, where lengths stand."""
    at = 4 * int(rng.integers(min(len(data), 1024) // 4 or 1))
    value = int(rng.choice([0, 1, 255, 65535, (1 << 31) - 1, 1 << 31, (1 << 32) - 1]))
    return data[:at] + value.to_bytes(4, "little") + data[at + 4 :]


RAW: dict[str, Callable[[Rng, bytes], bytes]] = {
    f.__name__: f for f in (flip, truncate, extend, fill, splice, delete, insert, word)
}


def sealed_header(rng: Rng, data: bytes) -> bytes:
    """One value of the header replaced, removed or doubled; all checksums good."""
    header, payload = _open(data)
    _change_leaf(rng, header)
    return _close(data, header, payload)


def sealed_section(rng: Rng, data: bytes) -> bytes:
    """One section's content changed, its length kept; all checksums good."""
    header, payload = _open(data)
    entry = _entry(rng, header)
    lo, hi = entry["offset"], entry["offset"] + entry["length"]
    change = (flip, fill, splice)[int(rng.integers(3))]
    payload = payload[:lo] + change(rng, payload[lo:hi])[: hi - lo] + payload[hi:]
    entry["crc32"] = zlib.crc32(payload[lo:hi])
    return _close(data, header, payload)


def sealed_length(rng: Rng, data: bytes) -> bytes:
    """One section shorter or longer, the later ones moved along; all checksums good."""
    header, payload = _open(data)
    entry = _entry(rng, header)
    lo, hi = entry["offset"], entry["offset"] + entry["length"]
    change = (truncate, extend, delete, insert)[int(rng.integers(4))]
    part = change(rng, payload[lo:hi])
    for other in (header["tokenizer"], *header["tensors"]):
        if other["offset"] > lo:
            other["offset"] += len(part) - (hi - lo)
    entry["length"], entry["crc32"] = len(part), zlib.crc32(part)
    return _close(data, header, payload[:lo] + part + payload[hi:])


def sealed_config(rng: Rng, data: bytes) -> bytes:
    """One field of the model's shape changed; all checksums good."""
    header, payload = _open(data)
    config = header["config"]
    name = str(rng.choice(sorted(config)))
    config[name] = LEAVES[int(rng.integers(len(LEAVES)))] if rng.random() < 0.5 else int(rng.integers(0, 600))
    return _close(data, header, payload)


SEALED: dict[str, Callable[[Rng, bytes], bytes]] = {
    f.__name__: f for f in (sealed_header, sealed_section, sealed_length, sealed_config)
}


def json_leaf(rng: Rng, data: bytes) -> bytes:
    """One value of a JSON file replaced, removed or doubled."""
    tree = json.loads(data)
    _change_leaf(rng, tree)
    return json.dumps(tree).encode()


def mutate(seed: int, number: int, data: bytes, kinds: dict[str, Callable[[Rng, bytes], bytes]]) -> tuple[str, bytes]:
    """(kind, changed file); the same for the same seed, number and file."""
    rng = np.random.default_rng((seed, number))
    name = sorted(kinds)[number % len(kinds)]
    return name, kinds[name](rng, data)


def _open(data: bytes) -> tuple[Header, bytes]:
    length = int.from_bytes(data[12:16], "little")
    return json.loads(data[PREFIX : PREFIX + length]), data[PREFIX + length : -32]


def _close(data: bytes, header: Header, payload: bytes) -> bytes:
    encoded = json.dumps(header, separators=(",", ":"), sort_keys=True).encode()
    numbers = len(encoded).to_bytes(4, "little") + zlib.crc32(encoded).to_bytes(4, "little")
    content = data[:12] + numbers + encoded + payload
    return content + hashlib.sha256(content).digest()


def _entry(rng: Rng, header: Header) -> Header:
    entries = [header["tokenizer"], *header["tensors"]]
    return entries[int(rng.integers(len(entries)))]


def _change_leaf(rng: Rng, tree: Any) -> None:
    """Walk down to a random place and change it."""
    while True:
        keys = sorted(tree) if isinstance(tree, dict) else list(range(len(tree)))
        if not keys:
            return
        key = keys[int(rng.integers(len(keys)))]
        if isinstance(tree[key], dict | list) and tree[key] and rng.random() < 0.9:
            tree = tree[key]
            continue
        how = int(rng.integers(6))
        if how == 0:
            del tree[key]
        elif how == 1 and isinstance(tree, list):
            tree.append(tree[key])
        elif how == 2 and isinstance(tree[key], int):
            tree[key] += int(rng.choice([-1, 1]))
        else:
            tree[key] = LEAVES[int(rng.integers(len(LEAVES)))]
        return
