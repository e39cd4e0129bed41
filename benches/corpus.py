"""What does a corpus bring behind ppm: by bytes, by text, behind which model, and what does it cost?

    pip install ./examples/rwkv_door
    python -m benches.corpus --train train.jsonl.xz --like web.jsonl --shared DATA

``--train``: text that the bundled checkpoint was trained on, and nothing that is scored.  ``--like``: text of the kind that
will be scored; here the documents of the group "fineweb" of the training text, 3.2 MB.  The corpora
were fixed before these texts were scored.  The form of the trusts was not: six scales of the sums of squares, nine roundings and
five lengths of learning were looked at on "head" and "wiki".  Nothing was looked at on "tail" and "mix".

"stack": recipes/experts.toml over the artifact, over the same weights without a corpus, and with all of the training text.
"sibling", "rwkv": other people's checkpoints with the text of --like ("web") and the whole training text ("all") as their corpus.

Each model runs once over each text (its default plan) and leaves the three columns that ppm reads: p of the target,
entropy and argmax of the row.  They are kept in ``--work``, as are the corpora; ppm is then scored on the columns.
Intervals are 95 %, paired by document, to ppm without a corpus.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from evalkit.adapters.base import Float64, Int32, Needs, Receipt, Settings, Side, StreamInfo, TokenChunk
from evalkit.adapters.experts.corpus import counted
from evalkit.adapters.info import stream_info
from evalkit.adapters.registry import parse_adapter
from evalkit.cli.main import main as main_of_evalkit
from evalkit.cli.recipe import ASSETS, Recipe, RunSettings
from evalkit.machine import peak_memory_bytes
from evalkit.report.compare import compare
from evalkit.scoring.environment import environment
from evalkit.scoring.statistics import paired_interval
from evalkit.stream.corpus import build_corpus, read_corpus, sample_corpus
from evalkit.stream.tokenizer import Tokenizer

HERE = Path(__file__).resolve().parent
COMMAND = "python -m benches.corpus --train train.jsonl.xz --like web.jsonl --shared DATA"
CAP = 16_000_000
TRUSTS = 1_000_000
"""Tokens of the corpus on which its trusts are learned, in the artifact."""
CURVE = (1_000_000, 2_000_000, 4_000_000, 8_000_000)
TEXTS = {
    "sample": (str(ASSETS / "sample.jsonl.xz"), None),
    "head": ("val_fineweb_head.jsonl.xz", 420_000),
    "tail": ("val_fineweb_tail.jsonl.xz", 100_000),
    "wiki": ("val_wiki.jsonl.xz", 100_000),
    "tech": ("val_tech.jsonl.xz", 100_000),
    "mix": ("val_mix.jsonl.xz", 100_000),
}
STACKS = {"head": 420_000, "tail": 100_000, "mix": 100_000, "wiki": 100_000}
"""Targets that the stack of experts is scored on."""
SHORT = ("val_fineweb_head.jsonl.xz", 65_536)
"""The text for checkpoints of other people, and its targets."""
SIBLING, RWKV = "base7x384_throughput.int8.ptz", "tiny_rwkv5v2_730k_fp32.bin"
LONGER = "[1,2,3,4,5,6,8]"
"""Orders for a model of bytes."""
WHAT = [*TEXTS, *(f"stack-{name}" for name in STACKS), "sibling", "rwkv"]


class Columns:
    """An expert that changes nothing and keeps what ppm would have read."""

    name: ClassVar[str] = "columns"
    Settings: ClassVar[type[Settings]] = Settings

    def __init__(self) -> None:
        self.settings = Settings()
        self.kept: list[tuple[Int32, Float64, Float64, Int32]] = []

    @property
    def needs(self) -> Needs:
        return Needs(entropy=True, top=True)

    def begin(self, info: StreamInfo) -> None:
        self.kept = []

    def score(self, chunk: TokenChunk, p: Float64) -> Float64:
        assert chunk.side.entropy is not None
        assert chunk.side.top_id is not None
        columns = (chunk.tokens, p[:, 0], chunk.side.entropy, chunk.side.top_id)
        self.kept.append(tuple(np.array(c) for c in columns))  # pyright: ignore[reportArgumentType]
        return p

    def row(self, p: Float64, side: Side, history: tuple[Float64, ...] = ()) -> Float64:
        return p

    def observe(self, receipt: Receipt) -> None: ...

    def snapshot(self) -> bytes:
        return b""

    def restore(self, state: bytes, tokens: Int32) -> None: ...

    def state_bytes(self) -> int:
        return 0


class Scored:
    """A model's columns of one text, and ppm on them."""

    def __init__(self, text: Path, limit: int | None, checkpoint: str | None, keep: Path) -> None:
        from evalkit.cli.session import open_parts
        from evalkit.scoring.score import score

        run = RunSettings(checkpoint=checkpoint, text=[str(text)], limit_tokens=limit, threads=1, device="cpu")
        model, self.stream, _, _ = open_parts(Recipe(run=run, adapters=[]))
        self.info = stream_info(self.stream, 0, model.vocab_size)
        if not keep.is_file():
            columns = Columns()
            score(model, self.stream, [columns])
            t, p, e, top = (np.concatenate(c) for c in zip(*columns.kept, strict=True))
            np.savez(keep, t=t, p=p, e=e, top=top)
        kept = np.load(keep)
        self.tokens, self.p, self.side = kept["t"], kept["p"], Side(entropy=kept["e"], top_id=kept["top"])
        if not np.array_equal(self.tokens, self.stream.tokens[1:]):
            raise SystemExit(f"{keep}: columns of another text; remove it")

    def ppm(self, spec: str) -> tuple[Float64, float]:
        """Nats of each document, and CPU nanoseconds per target."""
        expert, n = parse_adapter(spec), len(self.tokens)
        expert.begin(self.info)
        q, began = np.empty(n), time.process_time()
        for lo in range(0, n, 8192):
            s = slice(lo, min(n, lo + 8192))
            chunk = TokenChunk(self.tokens[s], self.tokens[s, None], self.side.cut(s.start, s.stop))
            q[s] = expert.score(chunk, self.p[s, None])[:, 0]
        return self.documents(-np.log(q)), 1e9 * (time.process_time() - began) / n

    def documents(self, nats: Float64) -> Float64:
        owner = self.stream.doc_of_target(1, self.stream.n_targets + 1)
        return np.bincount(owner, nats, len(self.stream.doc_start))

    def table(self, kept: dict[str, Path], settings: str = "", known: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
        """The base, ppm without a corpus, and with each of these; ``known`` rows are not made again."""
        sizes = self.stream.doc_bytes.astype(np.float64)
        per_bit = math.log(2) * float(sizes.sum())
        without, ns = self.ppm(f"ppm:corpus=none{settings}")
        rows = [
            _row("base", self.documents(-np.log(self.p)), without, sizes, 0.0),
            _row("ppm", without, without, sizes, ns),
        ]
        for name, path in kept.items():
            rows += [row for row in known if row["name"] == name] or [self.row(name, path, without, settings)]
        for row in rows:
            print(
                f"{row['name']:10s} {row['bpb']:.5f} {row['delta_bpb']:+.5f} {row['ns_per_target']:7.0f} ns", flush=True
            )
        return {
            "targets": self.stream.n_targets,
            "bytes": int(sizes.sum()),
            "documents": len(sizes),
            "base_bpb": math.fsum(-np.log(self.p)) / per_bit,
            "rows": rows,
        }

    def row(self, name: str, path: Path, without: Float64, settings: str = "") -> dict[str, Any]:
        """ppm with the corpus ``path``, against the nats of each document without it."""
        found = parse_adapter(f"ppm:corpus={path}").overlap(self.stream, self.info)
        found.check("the bench")
        nats, ns = self.ppm(f"ppm:corpus={path}{settings}")
        sizes = self.stream.doc_bytes.astype(np.float64)
        return _row(name, nats, without, sizes, ns) | {"overlap": found.sentence()}


def _row(name: str, nats: Float64, rival: Float64, sizes: Float64, ns: float) -> dict[str, Any]:
    interval, per_bit = paired_interval(nats - rival, sizes), math.log(2) * float(sizes.sum())
    return {
        "name": name,
        "bpb": math.fsum(nats) / per_bit,
        "delta_bpb": (math.fsum(nats) - math.fsum(rival)) / per_bit,
        "ci95": list(interval) if interval else None,
        "ns_per_target": round(ns, 1),
    }


def corpora(train: Sequence[str], like: Sequence[str], work: Path, found: dict[str, Any]) -> dict[str, Path]:
    """Corpora of all sizes for the bundled checkpoint, the whole last, with what it took to make and to open them."""
    from evalkit.models.ek.container import add_corpus, read_artifact
    from evalkit.stream import open_tokenizer

    weights = add_corpus(ASSETS / "tiny.ek", None, work / "plain.ek")
    tokenizer = open_tokenizer(read_artifact(work / "plain.ek").tokenizer_model)
    whole = work / "all.ekc"
    if not whole.is_file():
        began = time.process_time()
        done = build_corpus(train, tokenizer, whole)
        found["build"] = {
            "cpu_seconds": round(time.process_time() - began, 1),
            "peak_memory_bytes": peak_memory_bytes(),
            "tokens": done.tokens,
            "text_bytes": done.text_bytes,
            "bytes": done.size,
        }
    sizes = {f"{size // 1_000_000} MB": size for size in CURVE} | {"artifact": CAP - weights - 200}
    kept = {name: work / f"{size}.ekc" for name, size in sizes.items()}
    for name, size in sizes.items():
        if not kept[name].is_file():
            sample_corpus(kept[name], read_corpus(whole).ids, tokenizer, size, like)
    kept["artifact, trusts"] = work / "trusts.ekc"
    if not kept["artifact, trusts"].is_file():
        command = ["corpus", "build", "--checkpoint", str(work / "plain.ek"), "--text", *train, "--like", *like]
        command += ["--bytes", str(sizes["artifact"]), "--trusts", str(TRUSTS), "--out", str(kept["artifact, trusts"])]
        if main_of_evalkit(command):
            raise SystemExit(f"evalkit {' '.join(command)} failed")
    found["artifact_bytes"] = add_corpus(work / "plain.ek", kept["artifact, trusts"].read_bytes(), work / "artifact.ek")
    kept |= {"all": whole, "all, trusts": with_trusts(whole, work / "all_trusts.ekc", str(work / "plain.ek"), TRUSTS)}
    found["all_bytes"] = add_corpus(work / "plain.ek", kept["all, trusts"].read_bytes(), work / "all.ek")
    return kept


def theirs(checkpoint: str) -> tuple[Any, Tokenizer]:
    """The model of a checkpoint and its tokenizer."""
    from evalkit.cli.session import choose_tokenizer
    from evalkit.models.registry import open_checkpoint

    model = open_checkpoint(checkpoint)
    return model, choose_tokenizer(None, checkpoint, model)[0]


def with_trusts(corpus: Path, out: Path, checkpoint: str, tokens: int) -> Path:
    """The same corpus with trusts learned behind this checkpoint: what ``evalkit corpus build --trusts`` writes."""
    from evalkit.cli.corpus import learn_trusts

    if not out.is_file():
        partial = out.with_suffix(".partial")
        shutil.copy(corpus, partial)
        learn_trusts(partial, *theirs(checkpoint), tokens)
        partial.rename(out)
    return out


def stack(work: Path, text: Path, limit: int) -> dict[str, Any]:
    """The best stack of experts over the artifact, over the same weights without a corpus, and with the whole training text."""
    runs: dict[str, Any] = {}
    first = work / f"stack-{text.name.split('.')[0]}-without"
    for name in ("without", "artifact", "all") if limit > 100_000 else ("without", "artifact"):
        checkpoint = {"without": "plain.ek"}.get(name, f"{name}.ek")
        folder = first.with_name(first.name.replace("without", name))
        recipe = HERE.parent / "recipes" / "experts.toml"
        command = ["eval", str(recipe), "--checkpoint", str(work / checkpoint), "--text", str(text)]
        command += ["--limit-tokens", str(limit), "--threads", "1", "--out", str(folder)]
        if main_of_evalkit(command):
            raise SystemExit(f"evalkit {' '.join(command)} failed")
        run = json.loads((folder / "run.json").read_text("utf-8"))
        runs[name] = {"totals": run["totals"], "stages": run["stages"]}
        if folder != first:
            runs[name] |= {k: v for k, v in compare(first, folder).items() if k in ("delta_bpb", "ci95")}
    return runs


def of_others(file: str, texts: dict[str, Sequence[str]], work: Path, shared: Path) -> dict[str, Any]:
    """ppm behind a checkpoint of other people, with each of these texts as its corpus; for bytes with longer orders, too."""
    checkpoint, name = str(shared / "checkpoints" / file), Path(file).stem
    kept = {what: work / f"{name}.{what}.ekc" for what in texts}
    for what, path in kept.items():
        if not path.is_file():
            build_corpus(texts[what], theirs(checkpoint)[1], path)
    scored = Scored(shared / SHORT[0], SHORT[1], checkpoint, work / f"{name}.npz")
    found = {"checkpoint": file} | scored.table(kept) | {"corpora": {what: opened(path) for what, path in kept.items()}}
    if file == RWKV:
        longer = f",orders={LONGER},document={LONGER},corpus_orders={LONGER}"
        found["longer"] = {"settings": longer[1:], **scored.table(kept, longer)}
    return found


def opened(path: Path) -> dict[str, Any]:
    began = time.process_time()
    corpus = read_corpus(path)
    read = time.process_time()
    counts = counted(corpus, corpus.header.vocab_size, 6, 4096 << 20)
    done = time.process_time()
    return {
        "bytes": corpus.size,
        "tokens": corpus.header.tokens,
        "documents": corpus.header.documents,
        "grams": counts.grams,
        "memory_bytes": counts.bytes,
        "cpu_seconds_to_read": round(read - began, 2),
        "cpu_seconds_to_count": round(done - read, 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", nargs="+", required=True)
    parser.add_argument("--like", nargs="+", required=True)
    parser.add_argument("--shared", required=True, help="folder with the texts to score, and checkpoints/")
    parser.add_argument("--work", default="runs/corpus", help="columns and corpora; those that are there are used")
    parser.add_argument("--only", nargs="+", choices=WHAT, default=WHAT)
    parser.add_argument("--out", default=str(HERE / "results" / "corpus.json"))
    args = parser.parse_args()
    out, work, shared = Path(args.out), Path(args.work), Path(args.shared)
    work.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = json.loads(out.read_text("utf-8")) if out.is_file() else {}
    found |= {"command": COMMAND, "environment": environment("cpu")}
    kept = corpora(args.train, args.like, work, found)
    facts = found.setdefault("corpora", {})
    facts |= {name: opened(path) for name, path in kept.items() if name not in facts}
    _write(out, found)
    for name in args.only:
        print(name, flush=True)
        if name.startswith("stack-"):
            text = name.removeprefix("stack-")
            found.setdefault("stacks", {})[text] = stack(work, shared / TEXTS[text][0], STACKS[text])
        elif name in ("sibling", "rwkv"):
            texts = {"web": args.like} | ({"all": args.train} if name == "sibling" else {})
            found[name] = of_others({"sibling": SIBLING, "rwkv": RWKV}[name], texts, work, shared)
        else:
            text, limit = TEXTS[name]
            scored = Scored(shared / text, limit, None, work / f"{name}.npz")
            before = found.setdefault("texts", {}).get(name, {"rows": []})["rows"]
            found["texts"][name] = scored.table(kept, known=before)
        _write(out, found)
    return 0


def tables(found: dict[str, Any]) -> dict[str, str]:
    """The tables of docs/corpus.md, by the name of their comment."""

    def span(row: dict[str, Any]) -> str:
        return f"{row['ci95'][0]:+.4f} .. {row['ci95'][1]:+.4f}"

    def line(row: dict[str, Any]) -> str:
        if row["name"] == "base":
            return f"{row['bpb']:.4f} | | "
        return f"{row['bpb']:.4f} | {row['delta_bpb']:+.4f} | {span(row) if row['name'] != 'ppm' else ''}"

    curve = ["| corpus | bytes | tokens | BPB | to ppm | 95 % interval |", "|---|---|---|---|---|---|"]
    for row in found["texts"]["sample"]["rows"]:
        facts = found["corpora"].get(row["name"])
        sizes = f"{facts['bytes']:,} | {facts['tokens']:,}" if facts else " | "
        curve.append(f"| {row['name']} | {sizes} | {line(row)} |")
    names = ("base", "ppm", "artifact", "artifact, trusts")
    texts = [f"| text | targets | {' | '.join(names)} | to ppm | 95 % interval |", "|---|---|---|---|---|---|---|---|"]
    for name, scored in found["texts"].items():
        rows = {row["name"]: row for row in scored["rows"]}
        first = " | ".join(f"{rows[k]['bpb']:.4f}" for k in names[:-1])
        texts.append(f"| {name} | {scored['targets']:,} | {first} | {line(rows[names[-1]])} |")
    stacks = [
        "| text | targets | without | corpus | BPB | gain | 95 % interval |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, runs in found["stacks"].items():
        for which in [k for k in runs if k != "without"]:
            stacks.append(
                f"| {name} | {runs['without']['totals']['targets']:,} | {runs['without']['totals']['bpb']:.4f} | {which} | "
                f"{runs[which]['totals']['bpb']:.4f} | {runs[which]['delta_bpb']:+.4f} | {span(runs[which])} |"
            )
    others = ["| checkpoint | rows | BPB | to ppm | 95 % interval |", "|---|---|---|---|---|"]
    for other in [found[name] for name in ("sibling", "rwkv") if name in found]:
        rows = [(row, "") for row in other["rows"]]
        rows += [(row, ", orders to 8") for row in other.get("longer", {"rows": []})["rows"][1:]]
        others += [f"| {other['checkpoint']} | {row['name']}{more} | {line(row)} |" for row, more in rows]
    parts = {"curve": curve, "texts": texts, "stacks": stacks, "others": others}
    return {name: "\n".join(lines) for name, lines in parts.items()}


def _write(path: Path, found: dict[str, Any]) -> None:
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if "texts" in found:
        path.with_suffix(".svg").write_text(_picture(found), encoding="utf-8")


def _picture(found: dict[str, Any]) -> str:
    """BPB to ppm without a corpus against bytes of corpus, a line for each text."""
    from evalkit.report.svg import Series, line_file

    sizes = {"ppm": 0.0} | {
        name: facts["bytes"] / 1e6 for name, facts in found["corpora"].items() if "trusts" not in name
    }
    curves = []
    for name, scored in found["texts"].items():
        rows = {row["name"]: row["delta_bpb"] for row in scored["rows"]}
        curves.append(Series(name, list(sizes.values()), [rows[k] for k in sizes]))
    return line_file(curves, "MB of corpus", "BPB to ppm without it", level=0.0)


if __name__ == "__main__":
    sys.exit(main())
