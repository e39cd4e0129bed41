"""Plans: which tokens are context and which are scored, in which forward pass."""

from evalkit.plan.parse import PLANS, parse_plan
from evalkit.plan.plan import Banded, Chunk, Disjoint, Document, Plan, Sliding, Window, owners

__all__ = ["PLANS", "Banded", "Chunk", "Disjoint", "Document", "Plan", "Sliding", "Window", "owners", "parse_plan"]
