"""How is a Hugging Face folder opened?  Its own model class, weights from safetensors, nothing of it executed.

The folder's Python is run only where the user writes ``trust_remote_code=true``; pickled weights are refused.  The hub
is asked only for ``hf:ORG/NAME``, and not at all under HF_HUB_OFFLINE=1.
"""

from __future__ import annotations

import contextlib
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import torch
from torch import Tensor

from evalkit.errors import InputError
from evalkit.models.fingerprint import state_fingerprint
from evalkit.settings import make_settings

INSTALL = "pip install 'evalkit[hf]'"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PROBE_TOKENS = 8


class HFOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``--checkpoint FOLDER:key=value,...``"""

    dtype: str = "float32"
    """Of weights and arithmetic; logits leave as float32."""
    max_seq_len: int | None = None
    """Longest window, tokens; default: max_position_embeddings of config.json."""
    bos_id: int | None = None
    """The id that separates documents; default: what the folder's files name."""
    trust_remote_code: bool = False
    """Run the Python that lies in the folder."""
    revision: str | None = None
    """Branch, tag or commit; hub ids only."""

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise InputError(f"option dtype: '{self.dtype}' is not one of {', '.join(DTYPES)}")
        if self.max_seq_len is not None and self.max_seq_len < 2:
            raise InputError(f"option max_seq_len must be at least 2 tokens, got {self.max_seq_len}")


class HuggingFaceDoor:
    """Opens folders with config.json and *.safetensors; ``hf:ORG/NAME`` fetches one from the hub first."""

    name: ClassVar[str] = "hf"
    summary: ClassVar[str] = "Hugging Face folder (config.json, *.safetensors), or hf:ORG/NAME from the hub"

    @staticmethod
    def sniff(path: Path) -> bool:
        """A folder with config.json."""
        return path.is_dir() and (path / "config.json").is_file()

    @staticmethod
    def load(path: str | Path, *, device: str = "cpu", **options: Any) -> HuggingFaceModel:
        """Folder, or "hf:ORG/NAME" -> model.  ``options``: see HFOptions.  Raises InputError."""
        settings = make_settings(HFOptions, options, "the hf door")
        require_transformers()
        folder = Path(str(path).removeprefix("hf:"))
        if str(path).startswith("hf:") and not folder.is_dir():
            folder = _fetch(str(folder), settings)
        return HuggingFaceModel(_load(folder, settings).to(device), folder, settings)


class HuggingFaceModel:
    """The Model protocol over a transformers module.  ``notes``: what was chosen, for the user to read."""

    def __init__(self, module: Any, folder: Path, settings: HFOptions) -> None:
        self.module = module.eval()
        text_config = module.config.get_text_config()
        self.vocab_size: int = int(module.get_output_embeddings().weight.shape[0])
        self.max_seq_len: int | None = settings.max_seq_len or _positions(text_config)
        self.device = next(module.parameters()).device
        self.can = frozenset({"parameters"})
        if _splits(self):
            self.can |= {"hidden"}
        config = json.dumps(module.config.to_dict(), sort_keys=True, default=str)
        self.fingerprint: str = state_fingerprint(module.state_dict(), f"{config} {settings.dtype}")
        self.tokenizer_model, told = _tokenizer(folder, settings)
        windows = f"windows up to {self.max_seq_len} tokens" if self.max_seq_len else "windows of any length"
        self.notes: tuple[str, ...] = (f"{type(module).__name__} in {settings.dtype}, {windows}; {told}",)

    def logits(self, ids: Tensor) -> Tensor:
        """int64 [B, L] -> float32 [B, L, V]."""
        return self.module(input_ids=ids, use_cache=False).logits.float()

    def hidden(self, ids: Tensor) -> Tensor:
        """int64 [B, L] -> [B, L, D], the input of :meth:`head`; only when ``can`` has "hidden"."""
        return self.module.base_model(input_ids=ids, use_cache=False).last_hidden_state

    def head(self, hidden: Tensor) -> Tensor:
        """[..., D] -> float32 logits [..., V]."""
        return self.module.get_output_embeddings()(hidden).float()


def require_transformers() -> None:
    """One sentence with the command when transformers is not installed."""
    try:
        importlib.import_module("transformers")
    except ImportError:
        raise InputError(f"transformers is not installed; Hugging Face checkpoints need it: {INSTALL}") from None


def _fetch(name: str, settings: HFOptions) -> Path:
    """Weights, configuration and tokenizer of a hub repository -> local folder."""
    hub = importlib.import_module("huggingface_hub")
    patterns = ["*.json", "*.safetensors", "tokenizer.model", *(["*.py"] if settings.trust_remote_code else [])]
    try:
        return Path(hub.snapshot_download(name, revision=settings.revision, allow_patterns=patterns))
    except Exception as fault:  # the hub client has a dozen kinds of failure, all of them the world's
        raise InputError(
            f"checkpoint hf:{name}: the hub did not give it ({_first_line(fault)}); a folder on this machine needs "
            f"no hub: --checkpoint FOLDER"
        ) from None


def _load(folder: Path, settings: HFOptions) -> Any:
    if not any(folder.glob("*.safetensors")):
        raise InputError(
            f"checkpoint {folder.name}: no *.safetensors in the folder, and pickled weights are not opened; "
            f"save it again with model.save_pretrained(FOLDER, safe_serialization=True)"
        )
    try:
        with _quiet():
            module, info = importlib.import_module("transformers").AutoModelForCausalLM.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=settings.trust_remote_code,
                output_loading_info=True,
                **{_dtype_argument(): DTYPES[settings.dtype]},
            )
    except Exception as fault:  # a stranger's files: transformers raises whatever it meets
        raise InputError(f"checkpoint {folder.name}: {_why(fault)}") from None
    for kind in ("missing_keys", "mismatched_keys"):
        wrong = sorted(str(k) for k in info.get(kind) or [])
        if wrong:
            raise InputError(
                f"checkpoint {folder.name}: {len(wrong)} {kind.replace('_', ' ')} ({', '.join(wrong[:3])}); transformers "
                f"would fill them with random numbers, so weights and config.json do not belong together"
            )
    return module


def _why(fault: Exception) -> str:
    text = _first_line(fault)
    if "trust_remote_code" in str(fault):
        return (
            "its model class is Python code in the folder; to run that code: --checkpoint FOLDER:trust_remote_code=true"
        )
    return f"transformers cannot open it as a causal language model ({type(fault).__name__}: {text})"


def _dtype_argument() -> str:
    """transformers 4.56 renamed it."""
    major, minor = (int(part) for part in importlib.import_module("transformers").__version__.split(".")[:2])
    return "dtype" if (major, minor) >= (4, 56) else "torch_dtype"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and warnings of the library in our conversation; left as they were afterwards."""
    logging = importlib.import_module("transformers.utils.logging")
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _positions(config: Any) -> int | None:
    found = getattr(config, "max_position_embeddings", None)
    return int(found) if isinstance(found, int) and found > 1 else None


@torch.no_grad()
def _splits(model: HuggingFaceModel) -> bool:
    """Is head(hidden(ids)) the logits, bit for bit?  Not so where a class scales or caps them outside its head."""
    ids = _probe(model)
    try:
        return torch.equal(model.head(model.hidden(ids)), model.logits(ids))
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError):
        return False


def _probe(model: HuggingFaceModel) -> Tensor:
    """Ids [1, 8] that any model takes."""
    return torch.arange(PROBE_TOKENS, device=model.device)[None] % model.vocab_size


def _tokenizer(folder: Path, settings: HFOptions) -> tuple[bytes | None, str]:
    """(bytes for open_tokenizer or None, what was chosen): tokenizer.model, else a tokenizer.json."""
    from evalkit.stream.hf_tokenizer import HuggingFaceTokenizer, parse_json, why_not_exact

    if (folder / "tokenizer.model").is_file():
        if settings.bos_id is not None:
            raise InputError(f"checkpoint {folder.name}: tokenizer.model names its own BOS; leave bos_id out")
        return (folder / "tokenizer.model").read_bytes(), "tokenizer.model, documents separated by its BOS"
    path = folder / "tokenizer.json"
    if not path.is_file():
        return None, "the folder has no tokenizer"
    fault = why_not_exact(parse_json(path.read_bytes(), str(path)))
    if fault:
        return None, f"tokenizer.json is not used: {fault}"
    tokenizer = HuggingFaceTokenizer.from_file(path, settings.bos_id)
    return tokenizer.model_bytes, f"tokenizer.json, documents separated by id {tokenizer.bos_id}"


def _first_line(fault: BaseException) -> str:
    return (str(fault).strip() or type(fault).__name__).splitlines()[0][:200]
