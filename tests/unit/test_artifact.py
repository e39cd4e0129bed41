"""Does an artifact come back bit for bit, and is every damaged or forged one refused in one sentence?"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evalkit.errors import InputError
from evalkit.models.base import Model
from evalkit.models.ek import container as artifact
from evalkit.models.ek.config import GPTConfig, parameter_shapes
from evalkit.models.ek.container import read_artifact, write_artifact
from evalkit.models.ek.door import ArtifactDoor
from evalkit.models.ek.grid import Grid
from evalkit.models.ek.model import GPT
from evalkit.train import tokenizer
from evalkit.train.quant.plan import Coded, quantise
from evalkit.train.recipe import Export
from tests.kit import awake, examples

CONFIG = GPTConfig(vocab_size=270, layers=2, width=32, head_dim=16, rope_dims=8, gate_dims=6, max_seq_len=64)


@pytest.fixture(scope="module")
def tokenizer_model() -> bytes:
    return tokenizer.train(["a small text, twice over, with 12 words in it"] * 20, 285, threads=1)


@pytest.fixture(scope="module")
def coded() -> Coded:
    return quantise(awake(CONFIG, by=0.05), Export(matrix_bits=6, embed_bits=8), None)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, coded: Coded, tokenizer_model: bytes) -> Path:
    path = tmp_path_factory.mktemp("artifact") / "model.ek"
    write_artifact(path, CONFIG, coded, tokenizer_model, {"recipe": "test"})
    return path


def test_it_comes_back_bit_for_bit(file: Path, coded: Coded, tokenizer_model: bytes) -> None:
    back = read_artifact(file)
    assert back.config == CONFIG
    assert back.tokenizer_model == tokenizer_model
    assert back.size == file.stat().st_size
    assert set(back.tensors) == {n for n, _ in awake(CONFIG, by=0.05).named_parameters()}
    for name, values in back.tensors.items():
        written = coded[name]
        expected = written.dequantise() if isinstance(written, Grid) else written.astype(np.float32)
        assert values.dtype == np.float32, name
        assert np.array_equal(values, expected), name


def test_the_file_is_a_function_of_its_content(
    file: Path, coded: Coded, tokenizer_model: bytes, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    write_artifact(tmp_path / "b.ek", CONFIG, dict(reversed(coded.items())), tokenizer_model, {"recipe": "test"})
    assert (tmp_path / "b.ek").read_bytes() == file.read_bytes()


def test_config_shapes_are_the_models() -> None:
    off = GPTConfig(vocab_size=40, layers=3, width=48, head_dim=16, kv_heads=3, rope_dims=8, smear=False,
                    head_gate=False, value_residual=False)  # fmt: skip
    for config in (CONFIG, off):
        assert parameter_shapes(config) == {n: tuple(p.shape) for n, p in GPT(config).named_parameters()}


def test_the_door_gives_a_model_that_scores_as_the_file_says(file: Path) -> None:
    assert ArtifactDoor.sniff(file)
    assert not ArtifactDoor.sniff(Path(__file__))
    model = ArtifactDoor.load(file)
    assert isinstance(model, Model)
    assert model.can == {"banded", "hidden", "parameters", "split"}
    assert model.vocab_size == 270
    assert model.max_seq_len == 64
    reference = GPT(CONFIG)
    reference.load_state_dict({n: torch.from_numpy(a) for n, a in read_artifact(file).tensors.items()})
    ids = torch.arange(30)[None] + 4
    with torch.no_grad():
        assert torch.equal(model.logits(ids), reference(ids))
        assert torch.equal(model.head(model.hidden(ids)), model.logits(ids))
        torch.testing.assert_close(model.banded(ids[0], None, None, 30)[0], model.logits(ids)[0], atol=1e-4, rtol=1e-4)
    assert all(p.requires_grad for p in model.module.parameters())
    assert model.fingerprint == ArtifactDoor.load(file).fingerprint
    assert len(model.fingerprint) == 64


def test_the_door_refuses_settings_it_does_not_have(file: Path) -> None:
    with pytest.raises(InputError, match="no setting 'head_dim'"):
        ArtifactDoor.load(file, head_dim=3)


def refused(tmp_path: Path, data: bytes) -> str:
    path = tmp_path / "bad.ek"
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_artifact(path)
    message = str(caught.value)
    assert "\n" not in message
    assert "bad.ek" in message
    return message


@given(at=st.integers(0, 10**9), bit=st.integers(0, 7))
@settings(max_examples=examples(150), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_one_flipped_bit_is_refused(file: Path, tmp_path: Path, at: int, bit: int) -> None:
    data = bytearray(file.read_bytes())
    data[at % len(data)] ^= 1 << bit
    refused(tmp_path, bytes(data))


@given(keep=st.integers(0, 10**9))
@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_truncated_file_is_refused(file: Path, tmp_path: Path, keep: int) -> None:
    data = file.read_bytes()
    refused(tmp_path, data[: keep % len(data)])


def test_wrong_magic_version_and_length_are_named(file: Path, tmp_path: Path) -> None:
    data = file.read_bytes()
    assert "wrong magic" in refused(tmp_path, b"PK" + data[2:])
    assert "version 7" in refused(tmp_path, data[:8] + b"\7\0\0\0" + data[12:])
    assert "cut short" in refused(tmp_path, data[:200])
    assert "sections of" in refused(tmp_path, data + b"\0")
    with pytest.raises(InputError, match="cannot read"):
        read_artifact(tmp_path / "absent.ek")


def forge(file: Path, change: Callable[[dict[str, Any]], object]) -> bytes:
    """The file with another header, all checksums of the outside made good again: what an attacker would do."""
    data = file.read_bytes()
    length = int.from_bytes(data[12:16], "little")
    header = json.loads(data[20 : 20 + length])
    change(header)
    encoded = json.dumps(header, separators=(",", ":"), sort_keys=True).encode()
    prefix = data[:12] + len(encoded).to_bytes(4, "little") + zlib.crc32(encoded).to_bytes(4, "little")
    content = prefix + encoded + data[20 + length : -32]
    return content + hashlib.sha256(content).digest()


def test_an_honest_forgery_loads(file: Path, tmp_path: Path) -> None:
    (tmp_path / "same.ek").write_bytes(forge(file, lambda header: None))
    assert read_artifact(tmp_path / "same.ek").config == CONFIG


def grid(header: dict[str, Any]) -> dict[str, Any]:
    return next(t for t in header["tensors"] if t["kind"] == "grid")


FORGERIES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "2^40 elements": (lambda h: grid(h).update(shape=[1 << 20, 1 << 20]), "1099511627776 elements"),
    "2^40 elements, config too": (lambda h: h["config"].update(vocab_size=1 << 20, width=1 << 20), "the limit is"),
    "layers without end": (lambda h: h["config"].update(layers=10**6), "at most 1024 layers"),
    "unknown field": (lambda h: h["config"].update(shell="rm"), "not understood"),
    "missing tensor": (lambda h: h["tensors"].pop(), "are not the config's"),
    "negative offset": (lambda h: grid(h).update(offset=-5), "section starts at"),
    "overlap": (lambda h: grid(h).update(offset=0), "section starts at"),
    "long section": (lambda h: grid(h).update(length=1 << 50), "section"),
    "huge bits": (lambda h: grid(h).update(bits=1 << 40), "symbols from"),
    "huge table": (lambda h: grid(h).update(table=1 << 40), "symbols from"),
    "kind swapped": (lambda h: grid(h).update(kind="half"), "do not fit its shape"),
    "tokenizer bomb": (lambda h: h["tokenizer"].update(bytes=1 << 50), "claims a tokenizer"),
    "other tokenizer": (lambda h: h["tokenizer"].update(sha256="0" * 64), "sha256 is not"),
    "infinite softcap": (lambda h: h["config"].update(softcap=0.0), "positive"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_header_is_refused_before_memory_is_taken(name: str, file: Path, tmp_path: Path) -> None:
    change, match = FORGERIES[name]
    assert match in refused(tmp_path, forge(file, change))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(
    value: float, coded: Coded, tokenizer_model: bytes, tmp_path: Path
) -> None:
    for name in ("embed.weight", "smear.lam"):
        bad = dict(coded)
        tensor = bad[name]
        if isinstance(tensor, Grid):
            scale = tensor.scale.copy()
            scale[3] = value
            bad[name] = Grid(tensor.symbols, scale, tensor.bits)
        else:
            bad[name] = np.full_like(tensor, value)
        write_artifact(tmp_path / "nan.ek", CONFIG, bad, tokenizer_model)
        with pytest.raises(InputError, match=f"tensor {name} has .* NaN or infinite"):
            read_artifact(tmp_path / "nan.ek")


def test_an_artifact_of_the_wrong_tensors_is_not_written(coded: Coded, tokenizer_model: bytes, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not those of the config"):
        write_artifact(tmp_path / "x.ek", CONFIG, {"embed.weight": coded["embed.weight"]}, tokenizer_model)
    assert artifact.CAP_BYTES == 16_000_000
    assert not list(tmp_path.iterdir())
