"""What does ``temperature`` compute?  The same arithmetic on Python lists: the twin the tests trust."""

from __future__ import annotations

import math

from evalkit.adapters.base import Float64, Side
from evalkit.adapters.experts.rows import TemperatureSettings
from tests.twins.log_bias import column_sum

FLOOR = 1e-300
WIDEST = 4.0


class NaiveTemperature:
    """The twin of ``temperature``."""

    def __init__(self, settings: TemperatureSettings) -> None:
        self.settings = settings
        first = 1.0 / settings.temperature
        self.exponents = [[first, 0.0] for _ in range(8)]
        self.scales = [[settings.prior, settings.prior] for _ in range(8)]

    def row(self, p: Float64, side: Side, history: tuple[Float64, ...] = ()) -> list[float]:
        s = self.settings
        self.bucket = 0 if not s.learn or side.entropy is None else min(7, int(max(0.0, side.entropy[0])))
        rows = [p, history[0]] if s.learn and s.anchor and history else [p]
        self.logs = [[math.log(max(float(x), FLOOR)) for x in row] for row in rows]
        a, c = self.exponents[self.bucket]
        bent = [a * x for x in self.logs[0]]
        if len(rows) == 2:
            bent = [b + c * x for b, x in zip(bent, self.logs[1], strict=True)]
        highest = max(bent)
        terms = [max(math.exp(b - highest), FLOOR) for b in bent]
        total = column_sum(terms)
        self.y = [t / total for t in terms]
        return self.y

    def observe(self, token: int) -> None:
        for i, logs in enumerate(self.logs if self.settings.learn else []):
            mean = column_sum([y * x for y, x in zip(self.y, logs, strict=True)])
            square = column_sum([y * (x * x) for y, x in zip(self.y, logs, strict=True)])
            scale = self.scales[self.bucket]
            scale[i] += max(square - mean * mean, 0.0)
            moved = self.exponents[self.bucket][i] + (logs[token] - mean) / scale[i]
            self.exponents[self.bucket][i] = min(WIDEST, max(-WIDEST, moved))
