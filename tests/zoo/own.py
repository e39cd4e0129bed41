"""Are our own adapters among the look-alikes?  SLOT, best_agree, Hedge and PPM in the forms that the engine ships.

Their first published forms are specimens that fail: B7 to B9, A10, A12, A2, A9, A14, A15.  Each is audited as a black
box around the engine's own loop, on the toy model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from evalkit.legality.target import Specimen

PUBLISHED = {
    "ppm": ("exact n-gram counts, published as A2", (1159, 1642)),
    "slot": ("SLOT from booked targets only, published as B7 to B9", (1084, 1176, 1306)),
    "best_agree": ("agreed hints with prefix gates, published as A10", (1145,)),
    "hedge": ("Hedge over whole rows, published as A12", (700,)),
    "tilt": ("token tilt in closed form, published as A10", (1420, 1514)),
    "match": ("match model", ()),
    "backoff": ("back-off that asks the context only, published as A5", (1605,)),
    "log_bias": ("online bias with a renormalised row, published as A16", (959, 241)),
    "full_ttt": ("score-first training of all weights", (549, 1413)),
    "lora_ttt": ("score-first low-rank training", (77, 1530)),
    "muon_ttt": ("score-first training with Muon", (1148,)),
    "phased_ttt": ("score-first training in phases", (1610, 1626)),
}


def own_specimens() -> list[Specimen]:
    """One for each of these adapters that is installed, with ids O-NAME."""
    from evalkit.adapters.registry import BUILT_IN

    return [
        Specimen(f"O-{name}", title, "", _factory(name), sources=sources)
        for name, (title, sources) in PUBLISHED.items()
        if name in BUILT_IN
    ]


def _factory(name: str) -> Callable[[], Any]:
    def build() -> Any:
        from evalkit.adapters.registry import make_adapter
        from evalkit.legality.engine.toy import toy_scorer

        return toy_scorer([make_adapter(name)])

    build.__doc__ = f"The adapter {name} with its defaults, on the toy model."
    return build
