"""Everything that a GPU can say of evalkit, in twenty minutes and without a network.

    python -m benches.card --out DIR [--data TRAIN...] [--text SCORED...] [--minutes 20]
    python -m benches.card --out DIR --smoke          the same paths at the smallest sizes on the CPU

Each section has a process, a share of the minutes and a file, DIR/SECTION.json, which has every row as soon as it is
measured; DIR/card.html shows them all.  The same command goes on where an earlier one was cut: rows that are there stay.
A row that fails is written with its reason and stops nothing; a section that hangs is ended when its time is over.
``--data``: text, or a folder of shards, to train on (default: the bundled sample, which is too small to learn from);
``--text``: text to score.  Exit code 1: some row of the parity section is out of tolerance or failed.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benches.card.sheet import Card, DeviceLost, Sheet, mark, read

SHARES = {
    "machine": 30.0,
    "parity": 240.0,
    "forward": 120.0,
    "attention": 60.0,
    "rows": 60.0,
    "forecast": 90.0,
    "learners": 90.0,
    "overlap": 45.0,
    "train": 0.0,
    "table": 150.0,
}
"""Sections in order, with the most seconds of 20 minutes that each may take; training takes what is left."""
GRACE = 30.0
"""Seconds after its time in which a section may finish the row that it is in."""
LOST = 75
"""Exit code of a section whose device is lost: it goes on in a new process."""
STARTS = 4


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benches.card", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", nargs="+", default=[], help="text or one folder of shards to train on")
    parser.add_argument("--text", nargs="+", default=[], help="text to score (default: the bundled sample)")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--device", help="default: cuda, and cpu for --smoke")
    parser.add_argument("--only", nargs="+", choices=list(SHARES), metavar="SECTION")
    parser.add_argument("--set", action="append", default=[], help="for evalkit train: TABLE.KEY=VALUE")
    parser.add_argument("--smoke", action="store_true", help="try every path on the CPU; nothing is measured")
    parser.add_argument("--began", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--section", choices=list(SHARES), help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    args.device = args.device or ("cpu" if args.smoke else "cuda")
    card = card_of(args)
    if args.section:
        return one_section(card, args.section)
    own = list(sys.argv[1:] if argv is None else argv)
    if not args.smoke and args.device != "cpu" and not _has_gpu(args.device):
        print(f"no GPU answers as '{args.device}' here; --smoke tries the same paths on the CPU", file=sys.stderr)
        return 2
    return everything(card, args.only or list(SHARES), own)


def card_of(args: argparse.Namespace) -> Card:
    began = args.began or time.time()
    data, text = (tuple(str(Path(p).resolve()) for p in names) for names in (args.data, args.text))
    until = args.until or began + 60.0 * args.minutes
    return Card(args.out.resolve(), args.device, args.smoke, args.minutes, began, until, data, text, tuple(args.set))


def _has_gpu(device: str) -> bool:
    """Asked in another process: what a failed start of CUDA leaves must not stay in this one."""
    code = f"import torch; torch.zeros(1, device={device!r}).item()"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def everything(card: Card, names: Sequence[str], own: Sequence[str]) -> int:
    from benches.card import page

    end = card.began + 60.0 * card.minutes
    for i, name in enumerate(names):
        scale = card.minutes / 20.0
        later = sum(SHARES[n] for n in names[i + 1 :]) * scale
        share = SHARES[name] * scale
        until = end - later if name == "train" else min(time.time() + share, end)
        here = replace(card, until=until)
        print(f"{name}: at most {max(0.0, until - time.time()):.0f} s", flush=True)
        if card.smoke:
            one_section(here, name)
        else:
            apart(here, name, own)
        page.write(card)
    rows = read(card.out / "parity.json").get("rows", [])
    wrong = [r["key"] for r in rows if r["status"] in ("violated", "failed")]
    print(f"{card.out / 'card.html'}", flush=True)
    for key in wrong:
        print(f"parity: {key}: out of tolerance or failed", file=sys.stderr)
    return 1 if wrong else 0


def apart(card: Card, name: str, own: Sequence[str]) -> None:
    """The section in a process of its own, again while it loses its device, ended when its time is over."""
    path = card.out / f"{name}.json"
    more = ["--section", name, "--until", str(card.until), "--began", str(card.began)]
    for _ in range(STARTS):
        process = subprocess.Popen([sys.executable, "-m", "benches.card", *own, *more], start_new_session=True)
        try:
            code = process.wait(max(GRACE, card.until + GRACE - time.time()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            mark(path, f"did not end in its time and {GRACE:.0f} s more")
            return
        mark(path, f"its process ended with {code}")
        if code in (0, 1, 2) or time.time() > card.until:
            return


def one_section(card: Card, name: str) -> int:
    """In this process.  1: the section itself, not one of its rows, failed."""
    sheet = Sheet(card, name)
    try:
        section_of(name)(card, sheet)
        sheet.write()
    except DeviceLost as fault:
        print(f"{name}: the device is lost ({fault}); going on in a new process", file=sys.stderr)
        return LOST
    except Exception as fault:  # one section's fault is not the others'
        why = f"{type(fault).__name__}: {fault}"
        print(f"{name}: {why}", file=sys.stderr)
        sheet.row("the section itself", lambda: {"status": "failed", "why": why})
        return 1
    return 0


def section_of(name: str) -> Any:
    """Imported here, so that one module that cannot be imported costs its own sections alone."""
    if name == "parity":
        from benches.card import parity

        return parity.run
    if name in ("forward", "attention", "rows"):
        from benches.card import speed

        return getattr(speed, name)
    if name == "train":
        from benches.card import training

        return training.run
    if name == "machine":
        return machine
    from benches.card import stacks

    return getattr(stacks, name)


def machine(card: Card, sheet: Sheet) -> None:
    sheet.row("machine", lambda: described(card))


def described(card: Card) -> dict[str, Any]:
    """Versions, the board, and what is installed or absent."""
    import importlib.util

    import torch

    from evalkit.models.ek.parts.kernel import FLASH, attention_path
    from evalkit.scoring.environment import environment

    found: dict[str, Any] = {"environment": environment(card.device), "cuda": torch.version.cuda}
    names = ("triton", "transformers", "flash_attn", "flash_attn_interface")
    found["installed"] = {n: importlib.util.find_spec(n) is not None for n in names}
    found["attention of training"] = attention_path(torch.device(card.device), "bf16")
    found["flash-attn wanted, in order"] = [name for _, _, name in FLASH]
    found["float32 products"] = torch.get_float32_matmul_precision()
    if card.device.startswith("cuda"):
        board = torch.cuda.get_device_properties(card.device)
        found["board"] = {
            "name": board.name,
            "memory_bytes": board.total_memory,
            "processors": board.multi_processor_count,
            "capability": f"{board.major}.{board.minor}",
            "cudnn": torch.backends.cudnn.version(),
        }
    return found


if __name__ == "__main__":
    sys.exit(main())
