"""Does each architecture switch keep the laws: causal, documents apart, quiet at the start, saved and loaded alike?"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import msgspec
import pytest
import torch
import torch.nn.functional as F

from evalkit.adapters.learners.heads import head_weight
from evalkit.errors import InputError
from evalkit.models.ek.config import GPTConfig, parameter_count, parameter_shapes
from evalkit.models.ek.container import read_artifact, write_artifact
from evalkit.models.ek.door import ArtifactDoor
from evalkit.models.ek.model import GPT
from evalkit.models.ek.switches.neighbours import NOTHING, neighbours
from evalkit.train import tokenizer
from evalkit.train.quant.plan import quantise
from evalkit.train.recipe import Export
from tests.kit import awake, random_ids
from tests.twins.banded import banded_naive

BOS = 1
BASE = GPTConfig(vocab_size=270, layers=4, width=32, head_dim=8, rope_dims=4, gate_dims=6, kv_heads=2, max_seq_len=64)

SWITCHES: dict[str, dict[str, object]] = {
    "one kv head": {"kv_heads": 1},
    "a kv head for each": {"kv_heads": 4},
    "all dims rotated": {"rope_dims": 8},
    "no q/k norm": {"qk_norm": False, "qk_gain": 1.0},
    "relu squared": {"mlp_slope": 0.0},
    "no xsa": {"xsa": False},
    "xsa on the last two": {"xsa_last": 2},
    "no layer scale": {"norm_scale": False},
    "no residual mix": {"resid_mix": False},
    "residual lambdas": {"resid_lambdas": True},
    "no value residual": {"value_residual": False},
    "no smear": {"smear": False},
    "no head gate": {"head_gate": False},
    "untied": {"tied": False},
    "no softcap": {"cap_logits": False},
    "u-net": {"unet": True},
    "two lanes": {"parallel": "lanes", "parallel_from": 2},
    "side by side": {"parallel": "sum", "parallel_from": 1},
    "recurrence": {"loop_first": 1, "loop_last": 2, "loop_passes": 3},
    "value embeddings": {"value_embeds": 2, "value_embed_dim": 12},
    "bigram hash": {"bigram_buckets": 50, "bigram_dim": 12},
    "skip-gram hash": {"skipgram_buckets": 50, "skipgram_dim": 12},
    "engram": {"engram_buckets": 40, "engram_dim": 6},
    "all": {
        "xsa_last": 3,
        "resid_lambdas": True,
        "tied": False,
        "unet": True,
        "parallel": "lanes",
        "parallel_from": 3,
        "loop_first": 1,
        "loop_last": 2,
        "loop_passes": 2,
        "value_embeds": 2,
        "value_embed_dim": 12,
        "bigram_buckets": 50,
        "skipgram_buckets": 40,
        "engram_buckets": 30,
        "engram_dim": 6,
    },
}
# Switches whose two positions give the same logits before the first step, because a factor starts at zero.
QUIET = ("xsa on the last two", "no xsa", "no value residual", "no smear", "no head gate", "residual lambdas",
         "value embeddings", "bigram hash", "skip-gram hash", "engram", "relu squared", "side by side")  # fmt: skip


def config_of(name: str) -> GPTConfig:
    return msgspec.structs.replace(BASE, **SWITCHES[name])


stream = partial(random_ids, vocab=BASE.vocab_size)


@pytest.mark.parametrize("name", SWITCHES)
def test_shapes_are_known_without_building_it(name: str) -> None:
    config = config_of(name)
    model = GPT(config)
    assert parameter_shapes(config) == {n: tuple(p.shape) for n, p in model.named_parameters()}
    assert parameter_count(config) == sum(p.numel() for p in model.parameters())
    assert model(stream(9)[None]).shape == (1, 9, BASE.vocab_size)


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize("at", [0, 13, 29])
def test_a_changed_suffix_changes_no_earlier_logit(name: str, at: int) -> None:
    model, ids = awake(config_of(name)), stream(30)
    other = ids.clone()
    other[at:] = 4 + (other[at:] + 7) % 250
    with torch.no_grad():
        a, b = model(ids[None])[0], model(other[None])[0]
        c, d = model.banded(ids, None, 7)[0], model.banded(other, None, 7)[0]
    assert torch.equal(a[:at], b[:at])
    assert not torch.allclose(a[at:], b[at:])
    torch.testing.assert_close(c[:at], d[:at], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", SWITCHES)
def test_a_banded_pass_in_calls_is_its_dense_twin(name: str) -> None:
    model, ids = awake(config_of(name)), stream(31)
    with torch.no_grad():
        state, parts = None, []
        for lo, hi in ((0, 1), (1, 2), (2, 20), (20, 31)):
            rows, state = model.banded(ids[lo:hi], state, 6)
            parts.append(rows)
        torch.testing.assert_close(torch.cat(parts), banded_naive(model, ids, 6), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(model.banded(ids, None, 40)[0], model(ids[None])[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", SWITCHES)
def test_it_is_saved_and_loaded_with_the_same_logits(name: str, tokenizer_model: bytes, tmp_path: Path) -> None:
    config, ids = config_of(name), stream(20)[None]
    path = tmp_path / "model.ek"
    write_artifact(path, config, quantise(awake(config), Export(), None), tokenizer_model)
    reference = GPT(config)
    reference.load_state_dict({n: torch.from_numpy(a) for n, a in read_artifact(path).tensors.items()})
    loaded = ArtifactDoor.load(path)
    with torch.no_grad():
        assert torch.equal(loaded.logits(ids), reference(ids))
        rows, state = loaded.banded(ids[0, :11], None, None, 5)
        rest, _ = loaded.banded(ids[0, 11:], None, state, 5)
        torch.testing.assert_close(
            torch.cat((rows, rest)), banded_naive(reference, ids[0], 5), atol=1e-4, rtol=1e-4
        )  # fmt: skip


@pytest.mark.parametrize(("name", "owner"), [("value embeddings", "embed"), ("all", "lm_head")])
def test_learners_find_the_head_among_other_tables(
    name: str, owner: str, tokenizer_model: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "model.ek"
    write_artifact(path, config_of(name), quantise(awake(config_of(name)), Export(), None), tokenizer_model)
    model = ArtifactDoor.load(path)
    assert head_weight(model, "a learner") == (model.module.get_submodule(owner), "weight")


@pytest.mark.parametrize("name", QUIET)
def test_it_changes_no_logit_at_the_start(name: str) -> None:
    base = awake(BASE)
    on = GPT(config_of(name))
    # the shared weights are equal and the branches still closed: only the switch's own parts could speak
    shared = {n: p for n, p in GPT(BASE).state_dict().items() if n in on.state_dict()}
    on.load_state_dict(shared, strict=False)
    off = GPT(BASE)
    off.load_state_dict(shared, strict=False)
    ids = stream(30)[None]
    assert torch.equal(on(ids), off(ids))
    assert not torch.equal(base(ids), off(ids))


@pytest.mark.parametrize("name", SWITCHES)
def test_every_parameter_has_a_gradient_within_two_steps(name: str) -> None:
    torch.manual_seed(0)
    model, ids = GPT(config_of(name)), stream(200)[None]
    seen: set[str] = set()
    for _ in range(3):
        F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).backward()
        for n, p in model.named_parameters():
            assert p.grad is not None, n
            if p.grad.abs().max() > 0:
                seen.add(n)
            p.data.add_(p.grad, alpha=-1.0)
        model.zero_grad()
    assert seen == {n for n, _ in model.named_parameters()}


def test_a_document_does_not_reach_into_the_next_through_its_neighbours() -> None:
    ids = torch.tensor([[7, 8, BOS, 5, 6, BOS, BOS, 9]])
    one, two = neighbours(ids, None, 2, BOS)
    n = NOTHING
    assert one.tolist() == [[n, 7, n, BOS, 5, n, n, BOS]]
    assert two.tolist() == [[n, n, n, n, BOS, n, n, n]]
    for cut in range(1, 8):
        rest = neighbours(ids[:, cut:], ids[:, max(0, cut - 2) : cut], 2, BOS)
        assert [part.tolist() for part in rest] == [part[:, cut:].tolist() for part in (one, two)]


@pytest.mark.parametrize("name", ["bigram hash", "skip-gram hash", "engram"])
def test_hashed_parts_forget_the_document_before_bos(name: str) -> None:
    model = awake(config_of(name))
    part = next(iter(model.switches.hashes.values()))
    ids = torch.tensor([[10, 11, 12, BOS, 13, 14]])
    other = torch.tensor([[20, 21, 22, BOS, 13, 14]])
    x = torch.randn(1, 6, BASE.width)
    with torch.no_grad():
        a, b = part(x, ids, None), part(x, other, None)
        assert torch.equal(a[:, 3:], b[:, 3:])
        assert not torch.equal(a[:, :3], b[:, :3])


def test_recurrence_turned_off_is_the_model_without_it() -> None:
    looped = awake(config_of("recurrence"))
    plain = GPT(BASE)
    plain.load_state_dict(looped.state_dict())
    ids = stream(20)[None]
    with torch.no_grad():
        assert not torch.allclose(looped(ids), plain(ids))
        looped.looping = False
        assert torch.equal(looped(ids), plain(ids))


def test_the_records_order_of_layers() -> None:
    config = GPTConfig(layers=11, loop_first=3, loop_last=5, loop_passes=3)
    assert config.order() == [0, 1, 2, 3, 4, 5, 3, 4, 5, 3, 4, 5, 6, 7, 8, 9, 10]
    assert config.order(looping=False) == list(range(11))


@pytest.mark.parametrize("field", ["bigram_dim", "skipgram_dim", "engram_dim", "value_embed_dim", "parallel_from"])
def test_settings_of_a_switch_that_is_off_change_no_bit(field: str) -> None:
    ids = stream(20)[None]
    torch.manual_seed(0)
    a = GPT(BASE)(ids)
    torch.manual_seed(0)
    assert torch.equal(a, GPT(msgspec.structs.replace(BASE, **{field: 3}))(ids))


@pytest.mark.parametrize(
    "change",
    [
        {"loop_last": 4, "loop_passes": 2},
        {"loop_first": 2, "loop_last": 1},
        {"loop_passes": 1 << 12, "loop_last": 3},
        {"layers": 1024, "loop_passes": 1 << 20, "loop_last": 1023},
        {"parallel": "lanes", "parallel_from": 2, "loop_first": 1, "loop_last": 2, "loop_passes": 2},
        {"parallel": "sum", "parallel_from": 4},
        {"value_embeds": 5},
        {"xsa_last": -1},
        {"bigram_buckets": 1},
        {"engram_buckets": 1 << 40},
        {"mlp_slope": 2.0},
    ],
)
def test_a_switch_that_cannot_be_built_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(InputError):
        msgspec.structs.replace(BASE, **change).check()


@pytest.fixture(scope="module")
def tokenizer_model() -> bytes:
    return tokenizer.train(["a small text, twice over, with 12 words in it"] * 20, 285, threads=1)
