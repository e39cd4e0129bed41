"""lm-evaluation-harness calls evalkit as a model named ``evalkit``; one process to the harness.

    evalkit lm-eval --tasks wikitext --model_args checkpoint=model.ek,adapters=ppm+match

``loglikelihood_rolling`` (perplexity tasks) scores the texts of a task as one stream in the order given, so adapters learn
from text to text; ``reset=true`` makes them forget between texts.  ``loglikelihood`` (multiple choice) resets for every
request.  The harness divides by the bytes that the *task* defines: its bits_per_byte is not evalkit's where a task rewrites
its text (wikitext does).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
from lm_eval.api.model import TemplateLM  # pyright: ignore[reportMissingImports]
from lm_eval.api.registry import register_model  # pyright: ignore[reportMissingImports]

from evalkit import __version__
from evalkit.cli.recipe import Recipe, RunSettings, read_recipe
from evalkit.cli.session import choose_device, choose_tokenizer, say
from evalkit.errors import InputError
from evalkit.integrations.requests import Requests, default_plan
from evalkit.models.registry import open_checkpoint
from evalkit.plan import parse_plan
from evalkit.settings import make_settings, split_spec


class ModelArgs(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The fields of [run] that mean something here."""

    checkpoint: str | None = None
    tokenizer: str | None = None
    lossy: bool = False
    plan: str | None = None
    seed: int = 0
    threads: int | None = None
    device: str = "auto"


FIELDS = tuple(f.name for f in msgspec.structs.fields(ModelArgs))


@register_model("evalkit")
class EvalkitLM(TemplateLM):
    """A checkpoint with adapters, as lm-eval sees it."""

    def __init__(
        self,
        recipe: str | None = None,
        adapters: str = "none",
        reset: bool | str = False,
        batch_size: Any = None,
        max_batch_size: Any = None,
        device: str | None = None,
        **settings: Any,
    ) -> None:
        """``recipe``: a TOML file, as for ``evalkit eval``.  ``adapters``: NAME+NAME, with their defaults.

        ``settings``: see ModelArgs; they win over the recipe.  The harness's batch sizes are not used.  Raises InputError.
        """
        super().__init__()
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise InputError("lm-eval with several processes would score texts twice; start it in one process")
        base = read_recipe(Path(recipe)) if recipe else Recipe(run=RunSettings(), adapters=[])
        names = [n for n in adapters.split("+") if n and n != "none"]
        chosen = [*base.adapters, *(split_spec(name) for name in names)]
        given = {**settings, **({"device": device} if device else {})}
        args = make_settings(ModelArgs, {**{f: getattr(base.run, f) for f in FIELDS}, **given}, "model_args")
        model = open_checkpoint(args.checkpoint, device=choose_device(args.device, args.threads))
        self.tokenizer_of_model, note = choose_tokenizer(args.tokenizer, args.checkpoint, model)
        plan = parse_plan(args.plan) if args.plan else default_plan(model)
        self.requests = Requests(model, self.tokenizer_of_model, chosen, plan, args.seed, args.lossy)
        self.reset = str(reset).lower() in ("true", "1", "yes")
        self._say(note)

    def _say(self, note: str) -> None:
        stack = " + ".join(name for name, _ in self.requests.adapters) or "no adapters"
        if note:
            say(note)
        say(f"evalkit {__version__}: {stack}, plan {self.requests.plan}, requests in the order given")

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes beside its results."""
        return {
            "evalkit": __version__,
            "model_sha256": self.requests.model.fingerprint,
            "tokenizer_sha256": self.tokenizer_of_model.fingerprint,
            "adapters": self.requests.adapters,
            "plan": str(self.requests.plan),
            "adapters_reset_between_texts": self.reset,
        }

    def set_cache_hook(self, cache_hook: Any) -> None:
        """InputError with --use_cache: an answer that depends on the texts before it cannot be looked up by text."""
        if self.requests.adapters and not self.reset and getattr(cache_hook, "dbdict", None) is not None:
            raise InputError(
                "--use_cache keeps answers by text alone, but adapters that learn answer by what came before; "
                "drop --use_cache, or give reset=true"
            )
        super().set_cache_hook(cache_hook)

    @property
    def tokenizer_name(self) -> str:
        return self.tokenizer_of_model.fingerprint

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer_of_model.bos_id

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        return self.tokenizer_of_model.encode(string).tolist()

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        """Natural-log probability of each text, negative, in order."""
        return [-nats for nats in self.requests.texts([r.args[0] for r in requests], alone=self.reset)]

    def _loglikelihood_tokens(self, requests: Any, disable_tqdm: bool = False, **kwargs: Any) -> list[Any]:
        answers = self.requests.pairs([(context, after) for _, context, after in requests])
        return [(-nats, greedy) for nats, greedy in answers]

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        raise InputError("evalkit scores text and does not write any; choose tasks without generate_until")
