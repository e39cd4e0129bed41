"""What this process may use and has used of the machine: processors and memory, on Linux and macOS."""

from __future__ import annotations

import os
import resource
import sys


def usable_cpus() -> int:
    """Processors that this process may run on; macOS does not say, so there it is all of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_memory_bytes() -> int:
    """Largest resident size of this process so far, bytes; Linux counts in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
