"""What runs inside the cage: the stranger's factory, under limits, answering frames until its parent is gone."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.legality import wire
from evalkit.legality.scorer import LocalBox, ScorerFault


def load_factory(target: str) -> Callable[[], Any]:
    """``file.py:factory`` or ``package.module:factory`` -> the factory; ScorerFault("load") when there is none."""
    module_name, _, name = target.rpartition(":")
    if module_name.endswith(".py"):
        sys.path.insert(0, str(Path(module_name).resolve().parent))
        spec = importlib.util.spec_from_file_location(Path(module_name).stem, module_name)
        if spec is None or spec.loader is None:
            raise ScorerFault("load", f"{module_name} is no Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    else:
        sys.path.insert(0, os.getcwd())
        module = importlib.import_module(module_name)
    factory = getattr(module, name, None)
    if not callable(factory):
        offered = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise ScorerFault("load", f"{module_name} has no callable '{name}'; it has {', '.join(offered) or 'none'}")
    return factory


def scorer_factory(target: str) -> Callable[[], Any]:
    """The factory; an adapter class (it has no ``vocab_size``) becomes a factory of the adapter on the toy model."""
    factory = load_factory(target)
    if not isinstance(factory, type) or hasattr(factory, "vocab_size"):
        return factory
    from evalkit.adapters.base import Learner  # a quarter of the seconds that a child takes to start

    expert = all(hasattr(factory, method) for method in ("begin", "row", "observe"))
    if not expert and not issubclass(factory, Learner):
        return factory
    import torch

    from evalkit.legality.engine.toy import toy_scorer

    torch.set_num_threads(1)
    return lambda: toy_scorer([factory()])


def limit_memory(size: int) -> None:
    """Cap the private memory of this process at ``size`` bytes (0: no cap), and any file it writes at 1 GiB."""
    if size > 0:
        resource.setrlimit(resource.RLIMIT_DATA, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))


def serve(target: str, inbound: int, outbound: int, memory: int) -> None:
    """Load the target, send its facts, then answer until the pipe closes."""
    limit_memory(memory)
    try:
        box = LocalBox(scorer_factory(target))
    except ScorerFault as fault:
        return wire.send(outbound, {"fault": "load", "message": _plain_text(str(fault))})
    except MemoryError:
        return wire.send(outbound, {"fault": "memory", "message": "the factory ran out of memory"})
    except BaseException as fault:
        return wire.send(
            outbound, {"fault": "load", "message": _plain_text(f"{target} raised {type(fault).__name__}: {fault}")}
        )
    facts = {
        name: getattr(box.facts, name)
        for name in ("vocab_size", "bos_id", "document_isolation", "seq_len", "max_tokens")
    }
    more = {"faces": sorted(box.facts.faces), "precision": box.facts.precision}
    wire.send(outbound, {"facts": {**facts, **more}})
    with contextlib.suppress(wire.WireError):
        while True:
            header, arrays = wire.receive(inbound)
            wire.send(outbound, *answer(box, header, arrays))
    return None


def answer(box: LocalBox, header: dict[str, Any], arrays: list[Any]) -> tuple[dict[str, Any], list[Any]]:
    """One request: ``{"face": name}`` with one array (uint8 stands for bytes)."""
    if header.get("renew"):
        box.renew()
        return {"kind": "done"}, []
    given = arrays[0].tobytes() if arrays[0].dtype == np.uint8 else arrays[0]
    seconds = box.meter.seconds
    try:
        result = box.score(given) if header["face"] == "score" else box.ask(header["face"], given)
        kind, parts = pack(result)
    except ScorerFault as fault:
        return {"fault": fault.kind, "message": _plain_text(str(fault))}, []
    except MemoryError:
        return {"fault": "memory", "message": f"{header['face']}() ran out of memory"}, []
    except Exception as fault:
        said = _plain_text(f"{header['face']}() answered what cannot be read: {fault}")
        return {"fault": "shape", "message": said}, []
    return {"kind": kind, "seconds": box.meter.seconds - seconds}, parts


def _plain_text(words: str) -> str:
    """The beginning of what a stranger's exception says, as UTF-8 can carry it."""
    return words[:2000].encode("utf-8", "backslashreplace").decode()


def pack(result: Any) -> tuple[str, list[Any]]:
    """An answer as arrays that travel: bytes, one number, one array, or a tuple of arrays."""
    if isinstance(result, bytes | bytearray):
        return "bytes", [np.frombuffer(bytes(result), np.uint8)]
    if isinstance(result, tuple):
        return "tuple", [_plain(part) for part in result]
    array = _plain(result)
    return ("number" if array.ndim == 0 else "array"), [array]


def _plain(part: Any) -> Any:
    array = np.asarray(part)
    return array.astype(np.int64 if array.dtype.kind in "iub" else np.float64)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
