"""evalkit: score a language model in bits per byte while adapters learn, legally, from text already scored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from evalkit.adapters.registry import make_adapter as make_adapter
    from evalkit.legality import audit as audit
    from evalkit.models.registry import open_checkpoint as open_checkpoint
    from evalkit.plan import parse_plan as parse_plan
    from evalkit.scoring.score import ScoreOptions as ScoreOptions
    from evalkit.scoring.score import score as score
    from evalkit.stream import open_stream as open_stream
    from evalkit.stream import open_texts as open_texts
    from evalkit.stream import open_tokenizer as open_tokenizer

_PUBLIC = {
    "score": "evalkit.scoring.score",
    "ScoreOptions": "evalkit.scoring.score",
    "audit": "evalkit.legality",
    "open_checkpoint": "evalkit.models.registry",
    "open_stream": "evalkit.stream",
    "open_texts": "evalkit.stream",
    "open_tokenizer": "evalkit.stream",
    "parse_plan": "evalkit.plan",
    "make_adapter": "evalkit.adapters.registry",
}

__all__ = [
    "ScoreOptions",
    "__version__",
    "audit",
    "make_adapter",
    "open_checkpoint",
    "open_stream",
    "open_texts",
    "open_tokenizer",
    "parse_plan",
    "score",
]


def __getattr__(name: str) -> Any:
    """Public names are imported on first use: ``import evalkit`` loads neither torch nor numpy."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'evalkit' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(_PUBLIC[name]), name)
