"""A stranger's model as a plug-in: rwkv.cpp's file, its own bytes as ids, a state that is carried."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evalkit.cli.main import main
from evalkit.errors import InputError
from evalkit.models.base import Model
from evalkit.stream import open_tokenizer
from tests.kit import examples
from tests.twins.rwkv import naive_logits, naive_recurrence

PLUGIN = Path(__file__).resolve().parents[2] / "examples" / "rwkv_door"
WIDTH, HEADS, LAYERS, HIDDEN = 16, 2, 2, 24
TEXT = "the cat sat on the mat, and the dog saw it\n" * 6


def tensors(seed: int = 0) -> dict[str, np.ndarray]:
    """Random parameters by the file's names, in PyTorch's shapes."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * 0.4).astype(np.float32)

    found = {
        "emb.weight": normal(256, WIDTH),
        "blocks.0.ln0.weight": 1 + normal(WIDTH),
        "blocks.0.ln0.bias": normal(WIDTH),
    }
    for i in range(LAYERS):
        for name in ("ln1", "ln2", "att.ln_x"):
            found |= {f"blocks.{i}.{name}.weight": 1 + normal(WIDTH), f"blocks.{i}.{name}.bias": normal(WIDTH)}
        found |= {f"blocks.{i}.att.time_mix_{n}": normal(WIDTH) for n in "kvrg"}
        found |= {f"blocks.{i}.ffn.time_mix_{n}": normal(WIDTH) for n in "kr"}
        found[f"blocks.{i}.att.time_decay"] = rng.uniform(0.001, 0.99, (HEADS, WIDTH // HEADS, 1)).astype(np.float32)
        found[f"blocks.{i}.att.time_faaaa"] = normal(HEADS, WIDTH // HEADS, 1)
        names = ("key", "value", "receptance", "gate", "output")
        found |= {f"blocks.{i}.att.{n}.weight": normal(WIDTH, WIDTH) for n in names}
        found[f"blocks.{i}.ffn.key.weight"], found[f"blocks.{i}.ffn.value.weight"] = (
            normal(HIDDEN, WIDTH),
            normal(WIDTH, HIDDEN),
        )
        found[f"blocks.{i}.ffn.receptance.weight"] = normal(WIDTH, WIDTH)
    return found | {"ln_out.weight": 1 + normal(WIDTH), "ln_out.bias": normal(WIDTH), "head.weight": normal(256, WIDTH)}


def packed(parameters: dict[str, np.ndarray], **header: int) -> bytes:
    """The bytes of a file."""
    head = {"magic": 0x67676D66, "version": 101, "vocab": 256, "width": WIDTH, "layers": LAYERS, "kind": 0, **header}
    out = struct.pack("<6i", *head.values())
    for name, array in parameters.items():
        key = name.encode()
        out += struct.pack(f"<3i{array.ndim}i", array.ndim, len(key), 0, *array.shape[::-1]) + key + array.tobytes()
    return out


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The plug-in, installed by pip as a stranger's package, and found by its entry point."""
    copy, target = tmp_path_factory.mktemp("source") / "rwkv_door", tmp_path_factory.mktemp("site")
    shutil.copytree(PLUGIN, copy)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(target), str(copy)], check=True, capture_output=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(target))
        patch.setenv("PYTHONPATH", str(target))  # for ranks
        from evalkit.models.registry import doors

        assert doors()["rwkv"] == "rwkv_door:RwkvDoor"
        import rwkv_door  # pyright: ignore[reportMissingImports]

        assert Path(rwkv_door.__file__).parent == target
        yield rwkv_door


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rwkv") / "tiny.bin"
    path.write_bytes(packed(tensors()))
    return path


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in (TEXT, TEXT[7:90], TEXT[::-1])), encoding="utf-8")
    return path


@settings(max_examples=examples(20))
@given(length=st.integers(1, 100), seed=st.integers(0, 5), least=st.sampled_from([0.0, 1e-30, 1e-3, 0.3, 0.9]))
def test_pieces_of_the_recurrence_are_the_plain_loop(door: Any, length: int, seed: int, least: float) -> None:
    rng = np.random.default_rng(seed)
    r, k, v = rng.standard_normal((3, 1, 2, length, 4))
    w, u = least + (0.999 - least) * rng.random((2, 4)) ** 2, rng.standard_normal((2, 4))
    w[0, 0] = least
    state = rng.standard_normal((1, 2, 4, 4))
    y, after = door.recurrence(*(torch.tensor(x, dtype=torch.float32) for x in (r, k, v, w, u, state)))
    for h in range(2):
        expected, last = naive_recurrence(r[0, h], k[0, h], v[0, h], w[h], u[h], state[0, h])
        np.testing.assert_allclose(y[0, h], expected, rtol=2e-4, atol=2e-4)
        np.testing.assert_allclose(after[0, h], last, rtol=2e-4, atol=2e-4)


def test_logits_are_those_of_the_plain_equations(door: Any, file: Path) -> None:
    model = door.RwkvDoor.load(file)
    assert isinstance(model, Model)
    ids = list(TEXT[:70].encode())
    expected = naive_logits(tensors(), LAYERS, ids)
    with torch.no_grad():
        whole = model.logits(torch.tensor([ids, ids[::-1]]))
        np.testing.assert_allclose(whole[0], expected, atol=2e-4)
        np.testing.assert_allclose(whole[1], naive_logits(tensors(), LAYERS, ids[::-1]), atol=2e-4)
        rows, state = [], None
        for lo, hi in ((0, 1), (1, 3), (3, 50), (50, 70)):
            part, state = model.banded(torch.tensor(ids[lo:hi]), None, state, 512)
            rows.append(part)
        np.testing.assert_allclose(torch.cat(rows), expected, atol=2e-4)


def test_the_published_logits(door: Any, shared_data: Path) -> None:
    folder = shared_data / "checkpoints"
    model = door.RwkvDoor.load(folder / "tiny_rwkv5v2_730k_fp32.bin")
    expected = np.fromfile(folder / "tiny_rwkv5v2_730k.expected_logits.f32", "<f4")
    with torch.no_grad():
        found = model.logits(torch.tensor([list(b'"in')]))[0, -1].numpy()
    assert float(np.abs(found - expected).max()) < 1e-5


def evaluate(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    assert main(["eval", *map(str, arguments), "--json", "-"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_door_brings_its_tokenizer_and_a_run_is_resumed(
    door: Any, file: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["--checkpoint", file, "--text", text, "--adapter", "ppm", "--chunk-tokens", 128]
    run = evaluate(capsys, *base, "--out", tmp_path / "whole")
    assert run["settings"]["tokenizer"] == "bytes:separator=0"
    assert run["settings"]["plan"]["name"] == "banded"
    size = sum(len(json.loads(line)["text"]) for line in text.read_text().splitlines())
    assert (run["totals"]["bytes"], run["totals"]["targets"]) == (size, size + 2)
    ids = [0, *TEXT.encode(), 0, *TEXT[7:90].encode(), 0, *TEXT[::-1].encode()]
    logits = naive_logits(tensors(), LAYERS, ids[:127])
    logp = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    from evalkit.scoring.scores import read_scores

    booked = np.array(read_scores(tmp_path / "whole" / "scores.f64", 2))
    np.testing.assert_allclose(booked[:127, 0], -logp[np.arange(127), ids[1:128]], atol=1e-3)
    cut = shutil.copytree(tmp_path / "whole", tmp_path / "cut")  # as a kill leaves it: header, two chunks, half a line
    lines = (cut / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (cut / "journal.jsonl").write_bytes(b"".join(lines[:3]) + lines[3][:40])
    again = evaluate(capsys, *base, "--out", cut)
    assert again["resumed_chunks"] == 2
    assert again["totals"] == run["totals"]
    assert read_scores(cut / "scores.f64", 2).tobytes() == booked.tobytes()


def test_a_separator_of_the_users_choice(door: Any, file: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = evaluate(capsys, "--checkpoint", f"{file}:separator=255", "--text", text, "--adapter", "none")
    assert run["settings"]["tokenizer"] == "bytes:separator=255"
    assert main(["eval", "--checkpoint", f"{file}:separator=10", "--text", str(text)]) == 2
    assert "choose a separator that no document holds" in capsys.readouterr().err
    assert main(["eval", "--checkpoint", f"{file}:separator=256", "--text", str(text)]) == 2
    assert "a byte is 0 to 255" in capsys.readouterr().err


@pytest.mark.slow
def test_two_ranks_book_the_same_bits(
    door: Any, file: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from evalkit.scoring.scores import read_scores

    base = ["eval", "--checkpoint", str(file), "--text", str(text), "--threads", "1", "--chunk-tokens", "256"]
    plan = ["--plan", "banded:window=32,block=64,segment=128", "--adapter", "ppm"]
    for count in ("1", "2"):
        assert main([*base, *plan, "--nproc", count, "--out", str(tmp_path / count)]) == 0
    assert (
        read_scores(tmp_path / "1" / "scores.f64", 2).tobytes()
        == read_scores(tmp_path / "2" / "scores.f64", 2).tobytes()
    )


def test_a_certificate_is_decoded(door: Any, file: Path, text: Path, tmp_path: Path) -> None:
    arguments = ["--checkpoint", str(file), "--text", str(text), "--tokens", "150", "--adapter", "ppm"]
    assert main(["certify", *arguments, "--out", str(tmp_path / "c")]) == 0
    assert main(["certify", "--decode", str(tmp_path / "c")]) == 0


def test_a_run_is_audited(
    door: Any, file: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(capsys, "--checkpoint", file, "--text", text, "--adapter", "ppm", "--out", tmp_path / "r")
    assert main(["audit", str(tmp_path / "r"), "--probes", "60", "--json", str(tmp_path / "v.json")]) == 0
    assert json.loads((tmp_path / "v.json").read_text())["verdict"] == "legal"


def wreck(change: Callable[[dict[str, np.ndarray]], object]) -> bytes:
    parameters = tensors()
    change(parameters)
    return packed(parameters)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (packed(tensors())[:10], "ends at byte 10 inside the header"),
        (packed(tensors(), version=100), "version 100"),
        (packed(tensors(), kind=1), "data type 1"),
        (packed(tensors(), vocab=50277), "50277 ids"),
        (packed(tensors(), layers=3), "parameters are missing"),
        (packed(tensors(), layers=2**30), "do not go together"),
        (packed(tensors(), width=2**31 - 1), "a byte model has 256 ids"),
        (packed(tensors())[:-4], "does not fit the"),
        (packed(tensors()) + b"\0", "inside a parameter's head"),
        (packed(tensors()) + struct.pack("<3i", 9, 4, 0), "9 dimensions"),
        (packed(tensors()) + struct.pack("<4i", 1, 2**30, 0, 1), "key of 1073741824 bytes"),
        (packed(tensors()) + struct.pack("<5i", 2, 1, 0, -4, -4) + b"x", "does not fit"),
        (packed(tensors()) + struct.pack("<5i", 2, 1, 0, 2**30, 2**30) + b"x", "does not fit"),
        (packed(tensors()) + packed({"ln_out.bias": np.zeros(WIDTH, np.float32)})[24:], "comes twice"),
        (wreck(lambda p: p.update({"ln_out.bias": np.full(WIDTH, np.nan, np.float32)})), "not finite"),
        (wreck(lambda p: p.update({"extra": np.zeros(3, np.float32)})), "unknown or of another shape: extra"),
        (wreck(lambda p: p.pop("blocks.1.ln1.bias")), "are missing"),
        (wreck(lambda p: p["blocks.1.att.time_decay"].fill(1.5)), "must lie in"),
        (wreck(lambda p: p.pop("blocks.0.att.time_decay")), "no parameters of an RWKV-5.2 block"),
    ],
)
def test_other_files_are_refused_with_a_sentence(door: Any, data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(data)
    assert door.RwkvDoor.sniff(path)
    with pytest.raises(InputError, match=message):
        door.RwkvDoor.load(path)


def test_the_tokenizer_is_raw_bytes(door: Any, file: Path) -> None:
    tokenizer = open_tokenizer(door.RwkvDoor.load(file, separator="7").tokenizer_model)
    assert (tokenizer.vocab_size, tokenizer.bos_id) == (256, 7)
    assert not door.RwkvDoor.sniff(file.parent)
