"""Does any file break the readers of artifacts, shards and manifests?  Ten thousand mutations, each in a guarded process.

    python -m benches.artifact_fuzz [--mutations 10000] [--seed 1] [--out benches/results/artifact_fuzz.json]

Every mutated file must give an InputError of one line or load; anything else is a finding: another exception, the death
of the process, more than 512 MiB taken, or an audit event that says code was compiled, run, imported or a file
written.  Artifacts: a small one (nine of ten) and the bundled tiny.ek.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.mutate import RAW, SEALED, json_leaf, mutate

ROOM = 512 << 20
SUSPECT = ("exec", "compile", "import", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "pickle.find_class",
           "ctypes.dlopen", "socket.connect")  # fmt: skip
BATCH = 2500
TINY = Path(__file__).resolve().parents[1] / "evalkit" / "assets" / "tiny.ek"


def load_artifact(path: Path) -> None:
    """All that scoring does before the first token: read, build the model, open the tokenizer."""
    from evalkit.models.ek.door import ArtifactDoor
    from evalkit.stream.tokenizer import open_tokenizer

    model = ArtifactDoor.load(path)
    open_tokenizer(model.tokenizer_model)


def load_shard(path: Path) -> None:
    from evalkit.stream.shard import read_shard

    tokens = read_shard(path)
    int(tokens[-1])


def load_manifest(path: Path) -> None:
    from evalkit.stream.manifest import read_manifest

    read_manifest(path)


READERS = {"artifact": load_artifact, "bundled": load_artifact, "shard": load_shard, "manifest": load_manifest}
KINDS = {"artifact": RAW | SEALED, "bundled": RAW | SEALED, "shard": RAW, "manifest": RAW | {"json_leaf": json_leaf}}
SUFFIX = {"artifact": ".ek", "bundled": ".ek", "shard": ".bin", "manifest": ".manifest.json"}


def attempt(reader: str, path: Path, watch: list[str]) -> str:
    """ "loaded", "refused", or what was found."""
    from evalkit.errors import InputError

    watch.clear()
    try:
        READERS[reader](path)
    except InputError as error:
        return "refused" if "\n" not in str(error) else f"an error of several lines: {str(error)[:200]!r}"
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    return f"audit event {watch[0]}" if watch else "loaded"


def worker(reader: str, source: Path, seed: int, numbers: range, pipe: Connection) -> None:
    """Send (number, kind, outcome) of each mutation, the number first, so that a death has an address."""
    data, watch, armed = source.read_bytes(), list[str](), [False]
    folder = Path(tempfile.mkdtemp(dir=source.parent))
    attempt(reader, source, watch)  # imports what is needed before the watch begins
    _arm(watch, armed)
    before = _memory()
    resource.setrlimit(resource.RLIMIT_AS, (before + ROOM, before + ROOM))
    for number in numbers:
        kind, mutated = mutate(seed, number, data, KINDS[reader])
        path = folder / f"m{SUFFIX[reader]}"
        path.write_bytes(mutated)
        pipe.send((number, kind, ""))
        armed[0] = True
        outcome = attempt(reader, path, watch)
        armed[0] = False
        pipe.send((number, kind, "unchanged" if mutated == data and outcome == "loaded" else outcome))
    pipe.close()


def _arm(watch: list[str], armed: list[bool]) -> None:
    """Note suspicious audit events; a hook cannot be taken off again, which the process outlives by nothing."""

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if armed[0] and (event in SUSPECT or (event == "open" and str(args[1] or "r")[0] in "wax")):
            watch.append(f"{event} {str(args)[:80]}")

    sys.addaudithook(hook)


def _memory() -> int:
    """Address space of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def batch(reader: str, source: Path, seed: int, numbers: range) -> list[tuple[int, str, str]]:
    """Run a worker over ``numbers``; a death is the outcome of the mutation it was at, and the rest goes on."""
    done: list[tuple[int, str, str]] = []
    while numbers:
        here, there = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.get_context("spawn").Process(
            target=worker, args=(reader, source, seed, numbers, there)
        )
        process.start()
        there.close()
        last = (numbers[0], "start", "")
        try:
            while True:
                last = here.recv()
                if last[2]:
                    done.append(last)
        except EOFError:
            process.join()
        if process.exitcode == 0:
            return done
        done.append((last[0], last[1], f"the process died with {process.exitcode}"))
        numbers = range(last[0] + 1, numbers.stop)
    return done


def sources(folder: Path) -> dict[str, Path]:
    """One good file for each reader."""
    import numpy as np
    import torch

    from evalkit.models.ek.config import GPTConfig
    from evalkit.models.ek.container import write_artifact
    from evalkit.models.ek.model import GPT
    from evalkit.stream.manifest import manifest_path
    from evalkit.stream.text import Document
    from evalkit.stream.tokenizer import ByteTokenizer
    from evalkit.train import tokenizer
    from evalkit.train.data.write import write_shards
    from evalkit.train.quant.plan import quantise
    from evalkit.train.recipe import Export

    torch.manual_seed(0)
    config = GPTConfig(vocab_size=285, layers=2, width=32, head_dim=16, rope_dims=8, gate_dims=6, max_seq_len=64)
    model = GPT(config)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    inputs = {"embed.weight": np.diag(np.arange(1.0, 33.0))}
    pieces = tokenizer.train(["a small text, twice over, with 12 words in it"] * 20, 285, threads=1)
    write_artifact(
        folder / "small.ek", config, quantise(model, Export(embed_rank=2), inputs), pieces, {"recipe": "fuzz"}
    )
    (folder / "bundled.ek").write_bytes(TINY.read_bytes())
    rng = np.random.default_rng(0)
    texts = [bytes(rng.integers(32, 127, 300, dtype=np.uint8)) for _ in range(20)]
    write_shards((Document("x", i, f"x:{i}", t) for i, t in enumerate(texts)), ByteTokenizer(), folder, "train")
    shard = folder / "train_000000.bin"
    return {
        "artifact": folder / "small.ek",
        "bundled": folder / "bundled.ek",
        "shard": shard,
        "manifest": manifest_path(shard),
    }


def run(mutations: int, seed: int) -> dict[str, Any]:
    """The result file's content."""
    shares = {
        "artifact": mutations * 9 // 10,
        "bundled": mutations // 10,
        "shard": mutations // 5,
        "manifest": mutations // 5,
    }
    results: dict[str, Any] = {}
    findings: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        for reader, source in sources(Path(name)).items():
            counts: dict[str, Counter[str]] = {}
            for at in range(0, shares[reader], BATCH):
                for number, kind, outcome in batch(reader, source, seed, range(at, min(at + BATCH, shares[reader]))):
                    known = outcome if outcome in ("loaded", "refused", "unchanged") else "finding"
                    counts.setdefault(kind, Counter())[known] += 1
                    if known == "finding":
                        findings.append({"reader": reader, "number": number, "kind": kind, "what": outcome})
            total = sum((c for c in counts.values()), Counter())
            results[reader] = {
                "mutations": total.total(),
                **total,
                "by_kind": {k: dict(c) for k, c in sorted(counts.items())},
            }
            print(reader, dict(total), flush=True)
    return {"seed": seed, "readers": results, "findings": findings}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benches.artifact_fuzz", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--mutations", type=int, default=10_000, help="of artifacts; shards and manifests get a fifth each"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "artifact_fuzz.json")
    args = parser.parse_args(argv)
    found = run(args.mutations, args.seed)
    from evalkit.scoring.environment import environment

    command = f"python -m benches.artifact_fuzz --mutations {args.mutations} --seed {args.seed}"
    head = {"schema": 1, "what": __doc__.splitlines()[0], "command": command}
    found = head | found | {"environment": environment("cpu")}
    args.out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    for finding in found["findings"][:10]:
        print(finding)
    return 1 if found["findings"] else 0


if __name__ == "__main__":
    sys.exit(main())
