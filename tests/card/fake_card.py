"""A device that is not the host, on a machine without one: what lies on it may not be mixed with host tensors.

Values are computed by the CPU, but every tensor knows where it lies.  An operation over both places is refused, as CUDA
refuses it (index tensors, copies and scalars may cross), and ``numpy()`` wants the host.  So code that forgets a ``.to``
fails here as it would on a GPU.  What it cannot show: kernels, their speed and rounding, streams, memory.

It rests on torch's hook for devices written in Python (torch.utils.backend_registration, experimental).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = "fakecard"
AVAILABLE = hasattr(backend_registration, "_setup_privateuseone_for_python_backend")
KEEP: list[Any] = []
aten = torch.ops.aten
CROSSING = (
    aten.copy_.default,
    aten._to_copy.default,
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
)


class _Module(backend_registration._DummyBackendModule if AVAILABLE else object):  # type: ignore[misc]
    """What torch asks of a device's module."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


class CardTensor(torch.Tensor):
    """``host``: the values."""

    host: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, host: torch.Tensor) -> CardTensor:
        return torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            host.shape,
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            device=torch.device(NAME, 0),
        )

    def __init__(self, host: torch.Tensor) -> None:
        self.host = host

    @property
    def data(self) -> torch.Tensor:  # type: ignore[override]
        return self.detach()

    @data.setter
    def data(self, value: CardTensor) -> None:
        torch.Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        self.host = value.host

    def tolist(self) -> Any:
        return self.host.tolist()  # as CUDA's does; torch has it for no subclass

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    """Compute on the host; the result lies where the arguments do, or where ``device`` says."""
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    cards = [x for x in tensors if isinstance(x, CardTensor)]
    hosts = [x for x in tensors if not isinstance(x, CardTensor) and x.dim() > 0]
    if cards and hosts and func not in CROSSING:
        shapes = [[tuple(x.shape) for x in xs] for xs in (cards, hosts)]
        raise RuntimeError(f"{func} mixes tensors of {NAME} {shapes[0]} with tensors of the host {shapes[1]}")
    to_card = bool(cards)
    if kwargs.get("device") is not None:
        to_card = torch.device(kwargs["device"]).type == NAME
        kwargs = {name: value for name, value in kwargs.items() if name != "pin_memory"} | {"device": "cpu"}
    known = {id(x.host): x for x in cards}
    unwrapped = tree_map(lambda x: x.host if isinstance(x, CardTensor) else x, (args, kwargs))
    out = func(*unwrapped[0], **unwrapped[1])

    def wrap(x: Any) -> Any:
        return known[id(x)] if id(x) in known else CardTensor(x) if isinstance(x, torch.Tensor) else x

    return tree_map(wrap, out) if to_card else out


class _Card(TorchDispatchMode):
    """Sees the calls that make a tensor from nothing."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def register() -> None:
    """Make the device known.  Must come before the first backward of the process, which counts devices."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, _Module())  # type: ignore[attr-defined]
    library = torch.library.Library("_", "IMPL", "AutocastPrivateUse1")
    library.fallback(torch.library.fallthrough_kernel)  # autocast is allowed and casts nothing
    KEEP.append(library)


@contextmanager
def card() -> Iterator[torch.device]:
    """The device, usable inside."""
    only = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=NAME) comes through the mode too
    try:
        with _Card():
            yield torch.device(NAME, 0)
    finally:
        torch._C._set_only_lift_cpu_tensors(only)
