"""The gain by document length, by document, and by class of token."""

from __future__ import annotations

import numpy as np

from evalkit.report.digest import Digest
from evalkit.report.elements import interval, note, signed, table
from evalkit.report.svg import bar_plot, dot_plot
from evalkit.scoring.result import DocumentTable, Result
from evalkit.scoring.statistics import paired_interval
from evalkit.units import LN2

DOTS = 1500
GROUPS = 5
LARGEST = 5


def by_length(table_: DocumentTable, seed: int) -> str:
    """Fifths of the documents by length, with intervals, and one dot a document."""
    order = np.argsort(table_.bytes, kind="stable")
    order = order[table_.bytes[order] > 0]
    if len(order) < 2:
        return ""
    size, delta = table_.bytes[order], (table_.nats[order, -1] - table_.nats[order, 0]) / LN2
    rows = []
    for part in np.array_split(np.arange(len(order)), min(GROUPS, len(order))):
        total, base = int(size[part].sum()), float(table_.nats[order[part], 0].sum()) / LN2
        span = paired_interval(delta[part] * LN2, size[part].astype(np.float64), seed)
        lengths = f"{size[part[0]]:,} .. {size[part[-1]]:,}"
        step = float(delta[part].sum()) / total
        rows.append([lengths, f"{len(part):,}", f"{base / total:.4f}", signed(step), interval(span)])
    head = ["bytes of the document", "documents", "base BPB", "adapted - base", "95 % interval"]
    pick = np.unique(np.linspace(0, len(order) - 1, min(len(order), DOTS)).astype(int))
    dots = dot_plot(size[pick].tolist(), (delta / size)[pick].tolist(), "bytes of the document", "BPB against base")
    some = note(f"{len(pick):,} of {len(order):,} documents are drawn.") if len(pick) < len(order) else ""
    return table(head, rows) + dots + some


def by_document(result: Result, names: list[str]) -> str:
    """The documents that gained and lost most, in bits."""
    docs = result.documents
    delta = (docs.nats[:, -1] - docs.nats[:, 0]) / LN2
    order = np.argsort(delta, kind="stable")
    if len(result.stage_names) < 2 or len(order) < 2:
        return ""
    least, most = order[:LARGEST], order[LARGEST:][::-1][:LARGEST][::-1]
    rows = []
    for i in (*least, *most):
        size = int(docs.bytes[i])
        rate = signed(float(delta[i]) / size) if size else ""
        rows.append([names[docs.doc[i]][:80], f"{docs.doc[i]:,}", f"{size:,}", f"{delta[i]:+,.0f}", rate])
    return table(["document", "number", "bytes", "bits, adapted - base", "BPB"], rows)


def by_class(found: Digest) -> str:
    """Mean nats by class of the target, and each class's share of the whole difference."""
    rows, names, steps = [], [], []
    total, targets = float((found.class_nats[:, -1] - found.class_nats[:, 0]).sum()), int(found.class_targets.sum())
    for name, n, nats in zip(found.classes, found.class_targets.tolist(), found.class_nats, strict=True):
        if not n:
            continue
        step = float(nats[-1] - nats[0])
        share = f"{100 * step / total + 0.0:.1f} %" if total else ""
        base, last = nats[0] / n, nats[-1] / n
        rows.append([name, f"{100 * n / targets:.1f} %", f"{base:.4f}", f"{last:.4f}", signed(step / n), share])
        names.append(name)
        steps.append(step / n)
    head = ["class of the target", "share", "base, nats/token", "adapted", "difference", "of the whole"]
    adapted = found.class_nats.shape[1] > 1
    plot = bar_plot(names, steps, "adapted - base, nats per token of the class", signed=True) if adapted else ""
    return table(head, rows) + plot
