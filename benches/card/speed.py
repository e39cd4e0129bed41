"""How fast is the device?  Forward passes against its peak, attention kernels, and the statistics of rows."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from benches.card.sheet import Absent, Card, Sheet
from benches.card.subjects import furthest, random_gpt, random_model, random_text, seconds_of, shapes
from evalkit.adapters.base import Needs
from evalkit.budget.hardware import Gpu, derive_from_work, known_gpu
from evalkit.budget.work import count_work
from evalkit.models.device import device_name
from evalkit.models.ek.parts.kernel import FLASH, share
from evalkit.models.forward import WindowForward
from evalkit.models.reduce import reduce, statistics
from evalkit.models.rows import Question
from evalkit.plan import parse_plan
from evalkit.train.flops import flops_per_token

FORMS = ("float32", "tf32", "bfloat16", "bfloat16, compiled")


def board(card: Card) -> Gpu | None:
    """The data sheet of this device; None where the list has none."""
    return known_gpu(device_name(card.device))


def peak_of(card: Card, form: str) -> float | None:
    """Operations per second by the data sheet; TF32 is half of bfloat16 on all boards of the list."""
    gpu = board(card)
    if gpu is None:
        return None
    return {"float32": gpu.float32, "tf32": gpu.bfloat16 / 2}.get(form, gpu.bfloat16)


@contextmanager
def precision(form: str) -> Iterator[torch.dtype]:
    """TF32 only where it is asked for; the weights' type."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if form == "tf32" else "highest")
    try:
        yield torch.bfloat16 if form.startswith("bfloat16") else torch.float32
    finally:
        torch.set_float32_matmul_precision(before)


def rate(card: Card, form: str, operations: float, seconds: float) -> dict[str, Any]:
    peak = peak_of(card, form)
    return {"tflops": operations / seconds / 1e12, "of_peak": operations / seconds / peak if peak else None}


# -- forward ------------------------------------------------------------------------------------------------------------------


def forward(card: Card, sheet: Sheet) -> None:
    gpu = board(card)
    sheet.note = f"peaks: data sheet of {gpu.name}" if gpu else "this board is not in the list of data sheets: no peaks"
    for form in FORMS[:3]:
        sheet.row(f"matrix product, {form}", lambda f=form: product(card, f))
    for name, config in shapes(card).items():
        for tokens in card.size(1, 0) * (8192, 65536) or (64,):
            length = min(1024, config.max_seq_len)
            for form in FORMS:
                key = f"{name}, {tokens // length} x {length}, {form}"
                sheet.row(key, lambda c=config, t=tokens, n=length, f=form: logits_rate(card, c, t // n, n, f))
    for plan in unit_plans(card):
        for name, config in shapes(card).items():
            sheet.row(f"unit of {plan}, {name}", lambda p=plan, c=config: unit(card, c, p))


def product(card: Card, form: str) -> dict[str, Any]:
    """What the board really gives: one product of 8192 x 8192."""
    n = card.size(8192, 128)
    with precision(form) as dtype:
        a, b = (torch.full((n, n), value, device=card.device, dtype=dtype) for value in (0.5, 0.25))
        took = seconds_of(card, lambda: a @ b)
    return {**took, **rate(card, form, 2.0 * n**3, took["seconds"])}


def compiled(card: Card, call: Callable[..., Any]) -> Callable[..., Any]:
    """By inductor; not in a smoke run, where loading the compiler would be a third of it."""
    return call if card.smoke else torch.compile(call, backend="inductor", dynamic=False)


@torch.no_grad()
def logits_rate(card: Card, config: Any, rows: int, length: int, form: str) -> dict[str, Any]:
    with precision(form) as dtype:
        module = random_gpt(config, card.device).to(dtype)
        ids = torch.randint(2, config.vocab_size, (rows, length), device=card.device)
        exact = random_gpt(config, card.device)(ids[:1]) if form != "float32" else None
        call = compiled(card, module) if form.endswith("compiled") else module
        took = seconds_of(card, lambda: call(ids))
        off = None if exact is None else furthest(exact, call(ids)[:1])
    tokens = rows * length
    operations = tokens * flops_per_token(config, length) / 3.0  # a step is three forwards
    found = {**took, "tokens_a_second": tokens / took["seconds"], "logits_off": off}
    return found | rate(card, form, operations, took["seconds"])


def unit_plans(card: Card) -> list[str]:
    if card.smoke:
        return ["banded:window=32,block=32,segment=64"]
    return [
        "banded:window=1024,block=2048,segment=0",
        "banded:window=512,block=512,segment=8192",
        "sliding:seq_len=1024,stride=64",
        "disjoint:seq_len=1024",
    ]


def unit(card: Card, config: Any, plan: str) -> dict[str, Any]:
    """One unit of a plan as the engine runs it, rows reduced, against what ``evalkit profile --target`` says of it."""
    batch, n = card.size(32768, 128), card.size(70_000, 256)
    model, text = random_model(card, card.device, config), random_text(config.vocab_size, n)
    needs = Needs(entropy=True, top=True)
    made = WindowForward(model, parse_plan(plan), text, needs, {}, batch)
    chunk = next(iter(made.plan.chunks(n + 1, text.doc_start, card.size(32768, 64))))
    windows = next(iter(made.plan.units(chunk, batch)))
    question = made.ask(chunk, windows[0].lo, windows[-1].hi)

    def once() -> None:
        made.restore(b"")
        for _ in made.run(windows, question):
            pass

    took = seconds_of(card, once)
    work = count_work(made, text, card.size(32768, 64))
    targets = windows[-1].hi - windows[0].lo
    found = {**took, "targets": targets, "tokens": work.tokens, "targets_a_second": targets / took["seconds"]}
    found |= {"kernels": work.kernels, **rate(card, "float32", work.operations, took["seconds"])}
    gpu = board(card)
    if gpu is None:
        return found
    said = derive_from_work(work, gpu)
    low, high = said.low * work.tokens, said.high * work.tokens
    return found | {"forecast_low": low, "forecast_high": high, "inside": low <= took["seconds"] <= high}


# -- attention ----------------------------------------------------------------------------------------------------------------

KERNELS = {
    "torch, cuDNN": SDPBackend.CUDNN_ATTENTION,
    "torch, FlashAttention": SDPBackend.FLASH_ATTENTION,
    "torch, memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
    "torch, plain": SDPBackend.MATH,
}


def attention(card: Card, sheet: Sheet) -> None:
    sheet.note = "causal, bfloat16, 8 query heads, 4 key heads of 64; 'both' is forward and backward"
    sizes = ((64, 1024), (32, 2048)) if not card.smoke else ((2, 32),)
    for batch, length in sizes:
        for name, kind in KERNELS.items():
            sheet.row(f"{batch} x {length}, {name}", lambda b=batch, n=length, k=kind: by_torch(card, b, n, k))
        for module, function, name in FLASH:
            key = f"{batch} x {length}, {name}"
            sheet.row(key, lambda b=batch, n=length, m=module, f=function: by_flash(card, b, n, m, f))
        sheet.row(f"{batch} x {length}, torch, FlexAttention", lambda b=batch, n=length: by_flex(card, b, n))


def inputs(card: Card, batch: int, length: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q [B, 8, L, 64], k and v [B, 4, L, 64], bfloat16, with gradients."""
    made = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(batch, h, length, 64, generator=made) for h in (8, 4, 4))
    return tuple(x.to(card.device, torch.bfloat16).requires_grad_() for x in (q, k, v))  # type: ignore[return-value]


def timed(card: Card, call: Callable[..., torch.Tensor], batch: int, length: int) -> dict[str, Any]:
    """``call(q, k, v)`` -> [B, 8, L, 64]: forward alone, both ways, and how far from plain float32."""
    q, k, v = inputs(card, batch, length)
    with torch.no_grad():
        exact = F.scaled_dot_product_attention(q[:1].float(), *share(k[:1].float(), v[:1].float(), 8), is_causal=True)
        off = furthest(exact, call(q, k, v)[:1])
        alone = seconds_of(card, lambda: call(q, k, v))
    both = seconds_of(card, lambda: call(q, k, v).backward(torch.ones_like(q)))
    operations = 2.0 * batch * 8 * length * length * 64  # two products of L x L x 64, half of it masked
    one = rate(card, "bfloat16", operations, alone["seconds"])
    two = rate(card, "bfloat16", 3.5 * operations, both["seconds"])
    found = {**alone, **one, "both_seconds": both["seconds"], "both_of_peak": two["of_peak"], "off": off}
    return {**found, "status": "ok" if off < 0.03 else "violated"}


def by_torch(card: Card, batch: int, length: int, kind: SDPBackend) -> dict[str, Any]:
    def call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        with sdpa_kernel(kind):
            return F.scaled_dot_product_attention(q, *share(k, v, 8), is_causal=True)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns why a kernel does not take these inputs, then raises
            return timed(card, call, batch, length)
    except RuntimeError as fault:
        if "No available kernel" in str(fault) or "No viable backend" in str(fault):
            raise Absent("this torch has no such kernel for these shapes on this device") from None
        raise


def by_flash(card: Card, batch: int, length: int, module: str, function: str) -> dict[str, Any]:
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, OSError) as fault:
        raise Absent(f"{module} is not installed ({type(fault).__name__})") from None
    if not card.device.startswith("cuda"):
        raise Absent("flash-attn runs on CUDA alone")

    def call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        out = found(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), causal=True)
        return (out[0] if isinstance(out, tuple) else out).transpose(1, 2)

    return timed(card, call, batch, length)


def by_flex(card: Card, batch: int, length: int) -> dict[str, Any]:
    """What ``--checkpoint FOLDER:attention=flex_attention`` gives a banded pass; here causal, as the other kernels are."""
    if not card.device.startswith("cuda"):
        raise Absent("FlexAttention's compiled kernel is for CUDA")
    mask = create_block_mask(lambda b, h, q, k: q >= k, None, None, length, length, device=card.device)
    kernel = torch.compile(flex_attention)
    return timed(card, lambda q, k, v: kernel(q, k, v, block_mask=mask, enable_gqa=True), batch, length)


# -- rows ---------------------------------------------------------------------------------------------------------------------


def rows(card: Card, sheet: Sheet) -> None:
    sheet.note = (
        "entropy, argmax, log p of four candidates; 'plain' and 'compiled' stay on the device, 'whole' ends on the host"
    )
    sizes = ((8192, 1024), (8192, 8192), (32768, 8192)) if not card.smoke else ((64, 260),)
    for n, vocab in sizes:
        for dtype in (torch.float32, torch.bfloat16):
            key = f"{n} x {vocab}, {str(dtype).removeprefix('torch.')}"
            sheet.row(key, lambda a=n, v=vocab, d=dtype: row_forms(card, a, v, d))


@torch.no_grad()
def row_forms(card: Card, n: int, vocab: int, dtype: torch.dtype) -> dict[str, Any]:
    """The plain twin, the compiled form, the engine's whole reduction, and the CPU's native pass on the same logits."""
    made = torch.Generator().manual_seed(0)
    host = (3.0 * torch.randn(n, vocab, generator=made)).to(dtype)
    there = host.to(card.device)

    def plain(x: torch.Tensor) -> dict[str, torch.Tensor]:
        return statistics(x, (), entropy=True, top=True)

    fused = compiled(card, plain)
    a, b = plain(there[:2048]), fused(there[:2048])
    off = max(furthest(a[name], b[name]) for name in a if name != "top_id")
    cands = np.random.default_rng(0).integers(0, vocab, (n, 4)).astype(np.int32)
    question, needs = Question(0, cands), Needs(entropy=True, top=True)
    answers = [reduce(x, question, needs, {}) for x in (host, there)]
    sides = [answer.side for answer in answers]
    tops = [np.asarray(side.top_id, np.int64) for side in sides]
    agree = max(float(np.abs(answers[0].logp - answers[1].logp).max()), *_gaps(*sides))
    named = [host.float().gather(1, torch.from_numpy(ids[:, None])) for ids in tops]
    once = seconds_of(card, lambda: [plain(part) for part in there.split(2048)])
    twin = seconds_of(card, lambda: [fused(part) for part in there.split(2048)])
    whole = seconds_of(card, lambda: reduce(there, question, needs, {}))
    size = there.numel() * there.element_size()
    gpu = board(card)
    return {
        "plain_seconds": once["seconds"],
        "compiled_seconds": twin["seconds"],
        "whole_seconds": whole["seconds"],
        "targets_a_second": n / whole["seconds"],
        "once_over_memory_seconds": size / gpu.bandwidth if gpu else None,
        "compiled_off": off,
        "cpu_off": agree,
        "same_top": bool(np.array_equal(tops[0], tops[1])),  # of equal logits either may be named
        "status": "ok" if off < 1e-9 and agree < 1e-6 and torch.equal(*named) else "violated",
    }


def _gaps(a: Any, b: Any) -> tuple[float, float]:
    return float(np.abs(a.entropy - b.entropy).max()), float(np.abs(a.top_p - b.top_p).max())
