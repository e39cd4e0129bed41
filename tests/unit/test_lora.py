"""Is the low-rank term what LoRA says, on every layer that was named, and readable by peft?"""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from evalkit.adapters.learners.heads import head_weight
from evalkit.adapters.learners.lora import LoraModel, find_targets, load_adapter, save_adapter
from evalkit.adapters.learners.weights import own_copy, sharing_copy
from evalkit.errors import InputError
from evalkit.models.golf import GolfGPT
from tests.kit import golf


def model(tied: bool = True) -> GolfGPT:
    made = golf(vocab=50, std=None, tied=tied)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return made.eval().requires_grad_(False)


def with_terms(base: GolfGPT, targets: list[str], rank: int = 3, scale: float = 0.5) -> LoraModel:
    lora = LoraModel(sharing_copy(base, "adapter lora_ttt"), "adapter lora_ttt")
    for name in find_targets(lora.module, targets, base.vocab_size, "adapter lora_ttt"):
        lora.add(name, rank, scale)
    lora.initialise(0)
    return lora


def merged(base: GolfGPT, lora: LoraModel) -> GolfGPT:
    """The plain model whose weights are W + scale B A (head apart)."""
    plain = own_copy(base, "adapter full_ttt")
    with torch.no_grad():
        for name, layer in lora.layers.items():
            if name != "head":
                plain.get_submodule(name).weight += layer.scale * layer.lora_B @ layer.lora_A
    return plain


@pytest.mark.parametrize("tied", [True, False])
def test_terms_are_zero_at_first_and_then_the_merged_weights(tied: bool) -> None:
    base = model(tied)
    lora = with_terms(base, ["q", "k", "v", "o", "mlp", "head"])
    ids = torch.randint(0, 50, (2, 12))
    with torch.no_grad():
        torch.testing.assert_close(lora.logits(ids, ids), base.logits(ids), atol=1e-5, rtol=0)
        for layer in lora.layers.values():
            layer.lora_B.copy_(torch.randn(layer.lora_B.shape) * 0.2)
        plain = merged(base, lora)
        hidden = plain.hidden(ids)
        weight = base.tok_emb.weight if tied else base.lm_head.weight  # type: ignore[union-attr]
        head = lora.layers["head"]
        weight = weight + head.scale * head.lora_B @ head.lora_A
        want = base.softcap * torch.tanh(F.linear(hidden, weight) / base.softcap)
        torch.testing.assert_close(lora.logits(ids, ids), want, atol=1e-5, rtol=1e-5)
        banded, _ = lora.banded(ids[0], ids[0], None, 64)
        torch.testing.assert_close(banded, want[0], atol=1e-4, rtol=1e-4)
        assert (lora.logits(ids, ids) - base.logits(ids)).abs().max() > 0.01


def test_a_sharing_copy_shares_weights_and_a_copy_does_not() -> None:
    base = model()
    state = copy.deepcopy(base.state_dict())
    shared, own = sharing_copy(base, "adapter lora_ttt"), own_copy(base, "adapter full_ttt")
    assert shared.tok_emb.weight is base.tok_emb.weight
    assert shared.blocks is not base.blocks
    assert own.tok_emb.weight is not base.tok_emb.weight
    lora = with_terms(base, ["q"])
    assert isinstance(base.get_submodule("blocks.0.attn.c_q"), nn.Linear)
    assert type(lora.module.get_submodule("blocks.0.attn.c_q")).__name__ == "LoraLinear"
    assert all(torch.equal(t, state[n]) for n, t in base.state_dict().items())


def test_roles_find_the_layers_of_each_family() -> None:
    names = {
        "golf": ["attn.c_q", "attn.c_k", "attn.c_v", "attn.proj", "mlp.fc", "mlp.proj"],
        "ours": ["attn.q", "attn.k", "attn.v", "attn.out", "mlp.up", "mlp.down"],
        "llama": [f"self_attn.{x}_proj" for x in "qkvo"] + ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"],
        "neox": ["attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h"],
    }
    for family, layers in names.items():
        root = nn.Module()
        for path in layers:
            parent, _, leaf = path.partition(".")
            if not hasattr(root, parent):
                setattr(root, parent, nn.Module())
            setattr(getattr(root, parent), leaf, nn.Linear(4, 4))
        root.lm_head = nn.Linear(4, 9)
        found = {r: find_targets(root, [r], 9, "x") for r in ("q", "k", "v", "o", "mlp", "head")}
        assert found["mlp"] == [n for n in layers if n.startswith("mlp.")], family
        assert found["head"] == ["head"]
        if family == "neox":
            assert found["q"] == found["k"] == found["v"] == ["attention.query_key_value"]
            assert found["o"] == ["attention.dense"]
        else:
            assert [found[r] for r in "qkvo"] == [[n] for n in layers[:4]], family
        assert find_targets(root, ["*"], 9, "x") == layers
    with pytest.raises(InputError, match=r"target 'lm_head' matches no linear layer.*did you mean"):
        find_targets(root, ["lm_head"], 9, "x")


@pytest.mark.parametrize("tied", [True, False])
def test_the_head_s_matrix_is_found_by_its_gradient(tied: bool) -> None:
    base = model(tied)
    owner, attribute = head_weight(base, "x")
    assert getattr(owner, attribute) is (base.tok_emb if tied else base.lm_head).weight  # type: ignore[union-attr]
    assert not any(p.requires_grad for p in base.parameters())


def test_adapters_go_to_disk_under_peft_s_names_and_come_back(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    base = model()
    lora = with_terms(base, ["q", "v", "head"])
    with torch.no_grad():
        for layer in lora.layers.values():
            layer.lora_B.normal_()
    path = tmp_path / "adapter_model.safetensors"
    save_adapter(path, lora)
    tensors = load_file(path)
    assert "base_model.model.blocks.0.attn.c_q.lora_A.weight" in tensors
    assert tensors["base_model.model.blocks.1.attn.c_v.lora_B.weight"].shape == (8, 3)
    assert tensors["base_model.model.lm_head.lora_B.weight"].shape == (50, 3)
    other = with_terms(base, ["q", "v", "head"])
    load_adapter(path, other)
    assert all(
        torch.equal(p, q) for p, q in zip(lora.named_params().values(), other.named_params().values(), strict=True)
    )
    with pytest.raises(InputError, match=r"has the unknown tensor .*lm_head"):
        load_adapter(path, with_terms(base, ["q", "v"]))
    with pytest.raises(InputError, match=r"is \(3, 16\), here \(2, 16\)"):
        load_adapter(path, with_terms(base, ["q", "v", "head"], rank=2))
    path.write_bytes(b"x" * 40)
    with pytest.raises(InputError, match="not a safetensors file"):
        load_adapter(path, lora)
    with pytest.raises(InputError, match="no such file"):
        load_adapter(tmp_path / "missing", lora)


def test_training_a_term_is_training_the_merged_weight() -> None:
    """d loss / d B = scale (d loss / d W) A^T, from the definition."""
    base = model()
    lora = with_terms(base, ["blocks.1.mlp.fc"])
    layer = lora.layers["blocks.1.mlp.fc"]
    ids = torch.randint(0, 50, (1, 10))
    layer.lora_B.requires_grad_(True)
    ours = torch.autograd.grad(F.cross_entropy(lora.logits(ids, ids)[0, :-1], ids[0, 1:]), layer.lora_B)[0]
    plain = own_copy(base, "adapter full_ttt")
    weight = plain.get_submodule("blocks.1.mlp.fc").weight.requires_grad_(True)
    theirs = torch.autograd.grad(F.cross_entropy(plain.logits(ids)[0, :-1], ids[0, 1:]), weight)[0]
    torch.testing.assert_close(ours, layer.scale * theirs @ layer.lora_A.T, atol=1e-6, rtol=1e-4)
