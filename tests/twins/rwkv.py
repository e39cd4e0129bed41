"""The slow twin of ``examples/rwkv_door``: RWKV-5.2 token by token and head by head, in float64, from its equations."""

from __future__ import annotations

import numpy as np


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    return (x - x.mean()) / np.sqrt(x.var() + eps) * weight + bias


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def naive_recurrence(
    r: np.ndarray, k: np.ndarray, v: np.ndarray, w: np.ndarray, u: np.ndarray, state: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """One head.  r, k, v [L, N], w, u [N], state [N, N] -> y [L, N] and the state after."""
    out = np.zeros_like(v)
    for t in range(len(r)):
        added = np.outer(k[t], v[t])
        out[t] = r[t] @ (state + u[:, None] * added)
        state = w[:, None] * state + added
    return out, state


def naive_logits(tensors: dict[str, np.ndarray], layers: int, ids: list[int]) -> np.ndarray:
    """float64 [L, V] of one sequence from a fresh state.  ``tensors``: by the names of the file, in PyTorch's shapes."""
    p = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    width = p["emb.weight"].shape[1]
    heads = p["blocks.0.att.time_decay"].shape[0]
    size = width // heads
    shift = np.zeros((layers, 2, width))
    state = np.zeros((layers, heads, size, size))
    rows = []
    for token in ids:
        x = layer_norm(p["emb.weight"][token], p["blocks.0.ln0.weight"], p["blocks.0.ln0.bias"])
        for i in range(layers):
            att, ffn = f"blocks.{i}.att.", f"blocks.{i}.ffn."
            now = layer_norm(x, p[f"blocks.{i}.ln1.weight"], p[f"blocks.{i}.ln1.bias"])
            mixed = {n: now * p[f"{att}time_mix_{n}"] + shift[i, 0] * (1 - p[f"{att}time_mix_{n}"]) for n in "kvrg"}
            shift[i, 0] = now
            r, k, v = (
                p[att + "receptance.weight"] @ mixed["r"],
                p[att + "key.weight"] @ mixed["k"],
                p[att + "value.weight"] @ mixed["v"],
            )
            gate = p[att + "gate.weight"] @ mixed["g"]
            parts = []
            for h in range(heads):
                own = slice(h * size, (h + 1) * size)
                w, u = p[att + "time_decay"][h, :, 0], p[att + "time_faaaa"][h, :, 0]
                y, state[i, h] = naive_recurrence(r[None, own], k[None, own], v[None, own], w, u, state[i, h])
                parts.append((y[0] - y[0].mean()) / np.sqrt(y[0].var() + 1e-5))
            y = np.concatenate(parts) * p[att + "ln_x.weight"] + p[att + "ln_x.bias"]
            x = x + p[att + "output.weight"] @ (y * gate * sigmoid(gate))
            now = layer_norm(x, p[f"blocks.{i}.ln2.weight"], p[f"blocks.{i}.ln2.bias"])
            mixed = {n: now * p[f"{ffn}time_mix_{n}"] + shift[i, 1] * (1 - p[f"{ffn}time_mix_{n}"]) for n in "kr"}
            shift[i, 1] = now
            inner = np.maximum(p[ffn + "key.weight"] @ mixed["k"], 0.0) ** 2
            x = x + sigmoid(p[ffn + "receptance.weight"] @ mixed["r"]) * (p[ffn + "value.weight"] @ inner)
        rows.append(p["head.weight"] @ layer_norm(x, p["ln_out.weight"], p["ln_out.bias"]))
    return np.array(rows)
