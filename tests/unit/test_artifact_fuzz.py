"""Is every mutated artifact, shard and manifest refused in one line or loaded?  (10^4: python -m benches.artifact_fuzz)"""

from __future__ import annotations

import hashlib
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from evalkit.errors import InputError
from evalkit.models.ek import lqer
from evalkit.models.ek.config import GPTConfig, parameter_shapes
from evalkit.models.ek.container import read_artifact, write_artifact
from evalkit.models.ek.door import ArtifactDoor
from evalkit.models.ek.grid import Grid
from evalkit.models.ek.lqer import Corrected
from evalkit.models.ek.model import GPT
from evalkit.stream.manifest import manifest_path, read_manifest
from evalkit.stream.shard import read_shard
from evalkit.stream.text import Document
from evalkit.stream.tokenizer import ByteTokenizer, open_tokenizer
from evalkit.train import measure, tokenizer
from evalkit.train.data.write import write_shards
from evalkit.train.quant.plan import Coded, quantise
from evalkit.train.recipe import Export
from tests.kit import awake
from tests.mutate import RAW, SEALED, json_leaf, mutate

CONFIG = GPTConfig(vocab_size=285, layers=2, width=32, head_dim=16, rope_dims=8, gate_dims=6, max_seq_len=64)
JSON = RAW | {"json_leaf": json_leaf}


@pytest.fixture(scope="module")
def pieces() -> bytes:
    return tokenizer.train(["a small text, twice over, with 12 words in it"] * 20, 285, threads=1)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory, pieces: bytes) -> Path:
    """Of every kind of section: grids, half floats, and a grid with a low-rank correction."""
    path = tmp_path_factory.mktemp("fuzz") / "small.ek"
    coded = quantise(awake(CONFIG, 0, by=0.05), Export(embed_rank=2), {"embed.weight": np.diag(np.arange(1.0, 33.0))})
    assert isinstance(coded["embed.weight"], Corrected)
    write_artifact(path, CONFIG, coded, pieces, {"recipe": "fuzz"})
    return path


@pytest.mark.parametrize("kind", sorted(RAW | SEALED))
def test_a_mutated_artifact_is_refused_or_loads(kind: str, artifact: Path, tmp_path: Path) -> None:
    data, path, said = artifact.read_bytes(), tmp_path / "m.ek", list[str]()
    for number in range(25):
        changed = mutate(7, number, data, {kind: (RAW | SEALED)[kind]})[1]
        path.write_bytes(changed)
        try:
            model = ArtifactDoor.load(path)
            open_tokenizer(model.tokenizer_model)
        except InputError as error:
            said.append(str(error))
            continue
        assert kind in SEALED or changed == data, f"{kind} {number} passed the checksums"
        shapes = {n: tuple(p.shape) for n, p in model.module.named_parameters()}
        assert shapes == parameter_shapes(model.config)
        assert all(bool(p.isfinite().all()) for p in model.module.parameters())
    assert not [line for line in said if "\n" in line]


def test_coded_words_that_no_encoder_wrote_are_refused(artifact: Path, tmp_path: Path) -> None:
    """The fuzzer's first finding: the coder answered with an AssertionError."""
    data = artifact.read_bytes()
    length = int.from_bytes(data[12:16], "little")
    header, payload = json.loads(data[20 : 20 + length]), bytearray(data[20 + length : -32])
    entry = next(t for t in header["tensors"] if t["name"] == "embed.weight")
    lo, hi = entry["offset"], entry["offset"] + entry["length"]
    at = lo + lqer.packed_bytes(*entry["shape"], 2) + 2 * (entry["shape"][0] + entry["table"])
    payload[at:hi] = b"\xff" * (hi - at)
    entry["crc32"] = zlib.crc32(payload[lo:hi])
    (tmp_path / "m.ek").write_bytes(sealed(data, header, payload))
    with pytest.raises(InputError, match=r"coded bytes of tensor embed\.weight"):
        read_artifact(tmp_path / "m.ek")


def test_a_million_passes_over_a_thousand_layers_are_counted_not_built() -> None:
    with pytest.raises(InputError, match="1048576 times"):
        GPTConfig(layers=1024, loop_last=1023, loop_passes=1 << 20).check()


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    texts = [bytes(rng.integers(32, 127, 300, dtype=np.uint8)) for _ in range(12)]
    documents = (Document("x", i, f"x:{i}", t) for i, t in enumerate(texts))
    write_shards(documents, ByteTokenizer(), tmp_path, "train")
    return tmp_path / "train_000000.bin"


@pytest.mark.parametrize("kind", sorted(RAW))
def test_a_mutated_shard_is_refused_or_read(kind: str, shard: Path, tmp_path: Path) -> None:
    data, path, said = shard.read_bytes(), tmp_path / "m.bin", list[str]()
    for number in range(25):
        changed = mutate(8, number, data, {kind: RAW[kind]})[1]
        path.write_bytes(changed)
        try:
            tokens = read_shard(path)
        except InputError as error:
            said.append(str(error))
        else:
            assert 1024 + 2 * len(tokens) == len(changed)
    assert not [line for line in said if "\n" in line]


@pytest.mark.parametrize("kind", sorted(JSON))
def test_a_mutated_manifest_is_refused_or_read(kind: str, shard: Path, tmp_path: Path) -> None:
    data, path, said = manifest_path(shard).read_bytes(), tmp_path / "m.manifest.json", list[str]()
    for number in range(40):
        path.write_bytes(mutate(9, number, data, {kind: JSON[kind]})[1])
        try:
            columns = read_manifest(path).documents
        except InputError as error:
            said.append(str(error))
        else:
            assert len(columns.name) == len(columns.start) == len(columns.blake2b)
    assert not [line for line in said if "\n" in line]


def test_mutations_are_a_function_of_their_number(artifact: Path) -> None:
    data = artifact.read_bytes()
    assert [mutate(1, n, data, RAW) for n in range(30)] == [mutate(1, n, data, RAW) for n in range(30)]
    assert mutate(1, 3, data, RAW) != mutate(2, 3, data, RAW)


def dequantised(coded: Coded) -> GPT:
    """The model that the exporter means: its own grids, never written."""
    model = GPT(CONFIG)
    values = {n: c.astype(np.float32) if isinstance(c, np.ndarray) else c.dequantise() for n, c in coded.items()}
    model.load_state_dict({n: torch.from_numpy(v) for n, v in values.items()})
    return model


@pytest.mark.parametrize("bits", [5, 6, 8])
def test_round_trip_law(bits: int, pieces: bytes, tmp_path: Path) -> None:
    """Same weights, same bytes; and the loaded model scores as the exported one, bit for bit."""
    export, inputs = Export(matrix_bits=bits, embed_bits=bits), {"embed.weight": np.diag(np.arange(1.0, 33.0))}
    first, second = tmp_path / "a.ek", tmp_path / "b.ek"
    coded = quantise(awake(CONFIG, 3, by=0.05), export, inputs)
    write_artifact(first, CONFIG, coded, pieces, {"recipe": "law"})
    write_artifact(second, CONFIG, quantise(awake(CONFIG, 3, by=0.05), export, inputs), pieces, {"recipe": "law"})
    assert first.read_bytes() == second.read_bytes()
    loaded = ArtifactDoor.load(first).module
    tokens = np.random.default_rng(0).integers(4, 285, 500)
    nats = [measure.nats_of(m, tokens, 64, torch.device("cpu")) for m in (loaded, dequantised(coded).eval())]
    assert nats[0] == nats[1]
    again = {n: p.detach().numpy() for n, p in loaded.named_parameters()}
    assert {n: a.tobytes() for n, a in again.items()} == {
        n: a.tobytes() for n, a in read_artifact(second).tensors.items()
    }


def test_an_artifact_written_again_from_what_it_holds_is_the_same_file(artifact: Path, tmp_path: Path) -> None:
    """Grid weights lie on their grid, so coding them again by the file's own steps gives the file's symbols."""
    held = read_artifact(artifact)
    coded: Coded = {}
    for entry in held.header.tensors:
        values = held.tensors[entry.name]
        if entry.kind == "half":
            coded[entry.name] = values.astype(np.float16)
            continue
        section = _section(artifact, entry.name)
        correction, size = lqer.unpack(section, *entry.shape) if entry.kind == "lqer" else (None, 0)
        scale = np.frombuffer(section[size:], "<f2", entry.shape[0]).astype(np.float16)
        values = values if correction is None else values - correction.dense()
        symbols = np.rint(values / scale.astype(np.float32)[:, None]).astype(np.int32)
        grid = Grid(symbols, scale, entry.bits)
        coded[entry.name] = grid if correction is None else Corrected(grid, correction)
    write_artifact(tmp_path / "again.ek", held.config, coded, held.tokenizer_model, dict(held.header.notes))
    assert (tmp_path / "again.ek").read_bytes() == artifact.read_bytes()


def _section(path: Path, name: str) -> memoryview:
    data = path.read_bytes()
    length = int.from_bytes(data[12:16], "little")
    entry = next(t for t in json.loads(data[20 : 20 + length])["tensors"] if t["name"] == name)
    at = 20 + length + entry["offset"]
    return memoryview(data)[at : at + entry["length"]]


@pytest.mark.parametrize("rank", [0, 3, 65, 65535])
def test_a_correction_of_another_rank_is_refused(rank: int, artifact: Path, tmp_path: Path) -> None:
    data = bytearray(artifact.read_bytes())
    length = int.from_bytes(data[12:16], "little")
    header, payload = json.loads(data[20 : 20 + length]), data[20 + length : -32]
    entry = next(t for t in header["tensors"] if t["name"] == "embed.weight")
    lo, hi = entry["offset"], entry["offset"] + entry["length"]
    payload[lo : lo + 2] = rank.to_bytes(2, "little")
    entry["crc32"] = zlib.crc32(payload[lo:hi])
    (tmp_path / "m.ek").write_bytes(sealed(data, header, payload))
    with pytest.raises(InputError, match=r"embed\.weight"):
        read_artifact(tmp_path / "m.ek")


def sealed(data: bytes, header: dict, payload: bytes) -> bytes:
    encoded = json.dumps(header, separators=(",", ":"), sort_keys=True).encode()
    content = data[:12] + len(encoded).to_bytes(4, "little") + zlib.crc32(encoded).to_bytes(4, "little")
    content += encoded + bytes(payload)
    return content + hashlib.sha256(content).digest()
