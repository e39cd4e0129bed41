"""``trace.json``, where the time went second by second: Chrome trace events, one process per rank.

Open it in https://ui.perfetto.dev or chrome://tracing.  Span names are the verbs of the scoring loop.
Format: "Trace Event Format", complete events (ph X), times in microseconds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

Span = tuple[str, float, float]
"""(verb, begin, end) in seconds since the run began."""

MOST = 200_000
"""Events kept per track: about 20 MB of file."""


def trace_events(tracks: Mapping[tuple[int, str], Sequence[Span]]) -> list[dict[str, object]]:
    """(rank, track name) -> spans, as events; processes are ranks, threads are tracks."""
    events: list[dict[str, object]] = []
    for number, ((rank, track), spans) in enumerate(tracks.items(), start=1):
        place = {"pid": rank, "tid": number}
        events.append({"ph": "M", "name": "process_name", **place, "args": {"name": f"rank {rank}"}})
        events.append({"ph": "M", "name": "thread_name", **place, "args": {"name": track}})
        for verb, begin, end in spans[:MOST]:
            microseconds = {"ts": round(begin * 1e6, 1), "dur": round((end - begin) * 1e6, 1)}
            events.append({"ph": "X", "name": verb, "cat": track, **place, **microseconds})
    return events


def write_trace(path: Path, tracks: Mapping[tuple[int, str], Sequence[Span]]) -> None:
    """One file for the run; says how many events were left out of a track that is too long."""
    left_out = {
        f"rank {rank} {track}": len(spans) - MOST for (rank, track), spans in tracks.items() if len(spans) > MOST
    }
    with path.open("w", encoding="utf-8") as file:
        json.dump({"traceEvents": trace_events(tracks), "otherData": {"left_out": left_out}}, file)
