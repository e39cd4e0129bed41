"""Profiles of other hardware, and how a measurement here becomes seconds there.

Nothing here is measured on the target.  Two ways, each with its assumption in words:

* measured on a GPU of the list: device seconds scale between the ratio of arithmetic and the ratio of memory bandwidth;
* measured on a CPU: the forward's own count of operations over a share of the target's peak, and a floor for launching
  its kernels.

Peaks: vendors' data sheets (dense, SXM boards unless named otherwise).  Host work (experts, journal) is taken to cost
what it costs here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from evalkit.errors import InputError, nearest


@dataclass(frozen=True)
class Gpu:
    """Peak operations per second in float32 without tensor cores and in bfloat16, and bytes per second of memory."""

    name: str
    float32: float
    bfloat16: float
    bandwidth: float


GPUS = {  # the first whose name stands in the name that torch gives is taken
    "A100": Gpu("A100", 19.5e12, 312e12, 2.04e12),
    "H100 PCIe": Gpu("H100 PCIe", 51e12, 756e12, 2.0e12),
    "H100 NVL": Gpu("H100 NVL", 60e12, 835e12, 3.9e12),
    "H100": Gpu("H100", 67e12, 989.4e12, 3.35e12),
    "H200": Gpu("H200", 67e12, 989.4e12, 4.8e12),
    "B200": Gpu("B200", 75e12, 2250e12, 8.0e12),
}

UTILISATION = (0.15, 0.5)
"""Share of the float32 peak that a forward of small matrices reaches; bfloat16 reaches a third of that share."""

LAUNCH = 6e-6
"""Seconds to launch a kernel from Python."""

ROW_PASSES = 5
"""Times that the float64 reduction of a row reads or writes it."""


@dataclass(frozen=True)
class Target:
    """``count`` GPUs of one kind, one rank each."""

    count: int
    gpu: Gpu

    @property
    def name(self) -> str:
        return f"{self.count}x{self.gpu.name}"


def parse_target(text: str) -> Target:
    """``8xH100`` -> Target.  InputError names the kinds."""
    found = re.fullmatch(r"(?:(\d{1,4})x)?([A-Za-z]\w*)", text.strip())
    if not found or found[2].upper() not in GPUS or int(found[1] or 1) < 1:
        raise InputError(
            f"--target {text}: write COUNTxGPU, such as 8xH100{nearest(found[2] if found else text, GPUS)}"
        )
    return Target(int(found[1] or 1), GPUS[found[2].upper()])


@dataclass(frozen=True)
class Work:
    """One forward call as it was counted here: ``tokens`` in, floating-point operations, kernels, bytes of its rows."""

    tokens: int
    operations: float
    kernels: int
    row_bytes: float
    bfloat16: bool = False


@dataclass(frozen=True)
class Derived:
    """Device seconds an input token on the target: (low, high), and the assumption to print."""

    low: float
    high: float
    assumption: str


def derive_from_gpu(measured: float, here: Gpu, there: Gpu) -> Derived:
    """``measured`` seconds an input token on ``here``."""
    ratios = (here.float32 / there.float32, here.bandwidth / there.bandwidth)
    words = (
        f"device time measured on {here.name}, scaled to {there.name} by {min(ratios):.2f} to {max(ratios):.2f} "
        "(ratios of arithmetic and of memory bandwidth)"
    )
    return Derived(measured * min(ratios), measured * max(ratios), words)


def derive_from_work(work: Work, there: Gpu) -> Derived:
    """From counted operations alone."""
    peak, share = (there.bfloat16, 1.0 / 3.0) if work.bfloat16 else (there.float32, 1.0)
    rows = work.row_bytes * ROW_PASSES / there.bandwidth
    low, high = (
        (max(work.operations / (peak * share * use), work.kernels * LAUNCH) + rows) / work.tokens
        for use in reversed(UTILISATION)
    )
    words = (
        f"device time derived, not measured: {work.operations / work.tokens / 1e6:.1f} Mflop a token at "
        f"{100 * share * UTILISATION[0]:.0f} to {100 * share * UTILISATION[1]:.0f} % of {there.name}'s "
        f"{peak / 1e12:.0f} Tflop/s, at least {LAUNCH * 1e6:.0f} us for each of {work.kernels} kernels a call"
    )
    return Derived(low, high, words)


def known_gpu(device_name: str | None) -> Gpu | None:
    """The profile of the GPU that torch names, when there is one."""
    return next((gpu for key, gpu in GPUS.items() if device_name and key in device_name), None)
