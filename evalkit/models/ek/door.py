"""The door of artifacts: as for a stranger's model, sniff the file and load a Model."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from evalkit.errors import InputError, nearest

if TYPE_CHECKING:
    import torch

    from evalkit.models.ek.config import GPTConfig
    from evalkit.models.ek.container import Artifact
    from evalkit.models.ek.model import GPT
    from evalkit.stream.corpus import Corpus


class ArtifactModel:
    """The evalkit ``Model`` of an artifact; also BandedModel, HiddenModel, and CorpusModel when it carries a corpus.

    Weights are float32 on ``device``.

    Gradients are left to the caller: score under ``torch.inference_mode()`` or ``torch.no_grad()``.
    """

    def __init__(self, artifact: Artifact, module: GPT, device: torch.device) -> None:
        self.can = frozenset({"banded", "hidden", "split", "parameters"} | ({"corpus"} if artifact.corpus else set()))
        self.config = artifact.config
        self.vocab_size: int = artifact.config.vocab_size
        self.max_seq_len: int | None = artifact.config.max_seq_len
        self.bos_id = artifact.config.bos_id
        self.fingerprint = artifact.digest
        self.tokenizer_model: bytes | None = artifact.tokenizer_model
        self.size_bytes = artifact.size
        self.module, self.device = module, device
        self._packed_corpus = artifact.corpus

    @cached_property
    def corpus(self) -> Corpus:
        """Unpacked when it is first asked for; InputError when it is damaged."""
        from evalkit.stream.corpus import parse_corpus

        assert self._packed_corpus is not None, "can does not name a corpus"
        return parse_corpus(self._packed_corpus, "the checkpoint's corpus")

    def logits(self, ids: torch.Tensor, owners: torch.Tensor | None = None) -> torch.Tensor:
        """int64 [B, L] -> float32 [B, L, V]"""
        return self.module(ids)

    def hidden(self, ids: torch.Tensor, owners: torch.Tensor | None = None) -> torch.Tensor:
        """int64 [B, L] -> float32 [B, L, D]"""
        return self.module.hidden(ids)

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """[..., D] -> [..., V], softcap included"""
        return self.module.head(hidden)

    def banded(
        self, ids: torch.Tensor, owners: torch.Tensor | None, state: Any, window: int
    ) -> tuple[torch.Tensor, Any]:
        """int64 [L] continuing ``state`` -> (float32 [L, V], new state); see :meth:`evalkit.models.ek.model.GPT.banded`

        The state is a plain tuple, so that a run can keep it on disk: (window, kept, before, ids).
        """
        from evalkit.models.ek.model import BandState

        logits, after = self.module.banded(ids, BandState(*state) if state is not None else None, window)
        return logits, (after.window, after.kept, after.before, after.ids)


class ArtifactDoor:
    """Registered as the entry point ``artifact`` of the group ``evalkit.models``."""

    name: ClassVar[str] = "artifact"
    summary: ClassVar[str] = "our own artifact (.ek): config, tokenizer and range-coded weights in one file"

    @staticmethod
    def sniff(path: str | Path) -> bool:
        """True when the file starts with the artifact's magic."""
        from evalkit.models.ek.container import is_artifact

        return is_artifact(Path(path))

    @staticmethod
    def options() -> list[str]:
        """Names of the settings that :meth:`load` takes: none, an artifact says everything itself."""
        return []

    @staticmethod
    def load(path: str | Path, *, device: Any = "cpu", **options: Any) -> ArtifactModel:
        """Read, check and build; raises InputError on a file that is not exactly as written."""
        for option in options:
            raise InputError(f"an artifact has no setting '{option}'{nearest(option, ArtifactDoor.options())}")
        import torch

        from evalkit.models.ek.container import read_artifact

        artifact = read_artifact(Path(path))
        module = _unfilled(artifact.config)
        weights = {name: torch.from_numpy(array) for name, array in artifact.tensors.items()}
        module.load_state_dict(weights, assign=True)
        for parameter in module.parameters():
            parameter.requires_grad_(True)
        return ArtifactModel(artifact, module.to(device).eval(), torch.device(device))


def _unfilled(config: GPTConfig) -> GPT:
    """The network on the meta device, its weights neither allocated nor drawn.

    Drawing on the meta device would import torch._dynamo and sympy: 0.9 s of the 1.2 s that opening took.
    """
    import torch
    from torch.nn import init
    from torch.overrides import TorchFunctionMode

    from evalkit.models.ek.model import GPT

    class Undrawn(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func in (init.normal_, init.uniform_, init.kaiming_uniform_):
                return args[0] if args else kwargs["tensor"]
            return func(*args, **(kwargs or {}))

    with torch.device("meta"), Undrawn():
        return GPT(config)
