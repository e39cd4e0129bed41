"""Hugging Face folders: their own model class, weights from safetensors, nothing of them executed.

The folder's Python is run only where the user writes ``trust_remote_code=true``; pickled weights are refused.  The hub
is asked only for ``hf:ORG/NAME``, and not at all under HF_HUB_OFFLINE=1.

BOS before each window: models that were trained with BOS in front of every window lose nats per token on windows that
begin inside a document (EleutherAI/lm-evaluation-harness #1465, huggingface/transformers #40524), so where the tokenizer
says that it adds one, every window gets it as one more token of context, which is never booked; a window that begins
with BOS gets no second one (lm-evaluation-harness #3333).
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
from torch.nn.attention.flex_attention import create_block_mask

from evalkit.errors import InputError
from evalkit.models.causality import FORMS
from evalkit.models.fingerprint import state_fingerprint
from evalkit.settings import make_settings

INSTALL = "pip install 'evalkit[hf]'"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PROBE_TOKENS = 64
BOS_CONVENTIONS = ("window", "document")
SINK_GROUP = 64
"""Queries of a banded pass that share a copy of the sinks."""
ADDS_BOS = ("Llama", "CodeLlama", "Gemma")
"""Tokenizer classes of transformers that add a BOS unless told otherwise."""
ATTENTION = ("sdpa", "eager", "flex_attention", "flash_attention_2")
"""Kernels of transformers, by its own names."""
MOVING_ROPE = ("dynamic", "longrope")
"""Rotary scalings whose angles depend on the length of the input."""


class HFOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``--checkpoint FOLDER:key=value,...``"""

    dtype: str = "float32"
    """Of weights and arithmetic; logits leave as float32."""
    max_seq_len: int | None = None
    """Longest window, tokens; default: max_position_embeddings of config.json."""
    bos_id: int | None = None
    """The id that separates documents; default: what the folder's files name."""
    bos: str | None = None
    """ "window": BOS before each window that does not begin with one; "document": where documents begin, as the stream
    has it.  Default: "window" where the tokenizer says that it adds one."""
    sinks: int = 4
    """Banded pass: tokens that stand in front of every window, BOS first, else those that the pass began with.  Models
    with full attention fail when what they rest on leaves the window (StreamingLLM, arXiv 2309.17453)."""
    banded: bool = True
    """Offer the banded pass where the model's attention allows it."""
    attention: str | None = None
    """Which of transformers' kernels computes attention; default: its own choice.  "flex_attention" gives the banded pass a
    kernel that skips what the band hides (GPUs); "flash_attention_2" takes no mask, so it has no banded pass."""
    trust_remote_code: bool = False
    """Run the Python that lies in the folder."""
    revision: str | None = None
    """Branch, tag or commit; hub ids only."""

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise InputError(f"option dtype: '{self.dtype}' is not one of {', '.join(DTYPES)}")
        if self.max_seq_len is not None and self.max_seq_len < 2:
            raise InputError(f"option max_seq_len must be at least 2 tokens, got {self.max_seq_len}")
        if self.bos is not None and self.bos not in BOS_CONVENTIONS:
            raise InputError(f"option bos: '{self.bos}' is not one of {', '.join(BOS_CONVENTIONS)}")
        if self.attention not in (None, *ATTENTION):
            raise InputError(f"option attention: '{self.attention}' is not one of {', '.join(ATTENTION)}")
        if self.sinks < 0:
            raise InputError(f"option sinks must be at least 0 tokens, got {self.sinks}")


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
        module = _load(folder, settings).to(device).eval()
        if settings.attention is not None:
            _require_attention(module, folder, settings.attention)
        return HuggingFaceModel(module, folder, settings)


class HuggingFaceModel:
    """The Model protocol over a transformers module.  ``notes``: what was chosen, for the user to read."""

    def __init__(self, module: Any, folder: Path, settings: HFOptions) -> None:
        self.module, self.sinks = module, settings.sinks
        text_config = module.config.get_text_config()
        self.vocab_size: int = int(module.get_output_embeddings().weight.shape[0])
        self.device = next(module.parameters()).device
        self.can = frozenset({"parameters"})
        self.tokenizer_model, told = _tokenizer(folder, settings)
        self.bos_id, said = _bos(folder, settings, self.tokenizer_model)
        """The id that stands before each window, or None."""
        self.bos: str = "document" if self.bos_id is None else "window"
        positions = _positions(text_config)
        room = positions and positions - (self.bos_id is not None)
        self.max_seq_len: int | None = min(filter(None, (settings.max_seq_len, room)), default=None)
        self._positions = positions
        if self.bos_id is not None and self.bos_id >= self.vocab_size:
            raise InputError(f"checkpoint {folder.name}: BOS is id {self.bos_id}, the model has {self.vocab_size} ids")
        if _splits(self):
            self.can |= {"hidden", "split"}
        why = "switched off by banded=false" if not settings.banded else _why_not_banded(self, text_config)
        if not why:
            self.can |= {"banded"}
        config = json.dumps(module.config.to_dict(), sort_keys=True, default=str)
        added = [settings.dtype, self.bos_id, self.sinks, *filter(None, [settings.attention])]
        self.fingerprint: str = state_fingerprint(module.state_dict(), f"{config} {added}")
        windows = f"windows up to {self.max_seq_len} tokens" if self.max_seq_len else "windows of any length"
        self.notes: tuple[str, ...] = (
            f"{type(module).__name__} in {settings.dtype}, {windows}; {told}; {said}",
            f"no banded pass: {why}" if why else f"banded pass with {self.sinks} sinks",
        )

    def logits(self, ids: Tensor, owners: Tensor | None = None) -> Tensor:
        """int64 [B, L] -> float32 [B, L, V]."""
        fed, at = self._with_bos(ids)
        return _rows(self.module(input_ids=fed, use_cache=False).logits, at, ids.size(1)).float()

    def hidden(self, ids: Tensor, owners: Tensor | None = None) -> Tensor:
        """int64 [B, L] -> [B, L, D], the input of :meth:`head`; only when ``can`` has "hidden"."""
        fed, at = self._with_bos(ids)
        return _rows(self.module.base_model(input_ids=fed, use_cache=False).last_hidden_state, at, ids.size(1))

    def head(self, hidden: Tensor) -> Tensor:
        """[..., D] -> float32 logits [..., V]."""
        return self.module.get_output_embeddings()(hidden).float()

    def banded(self, ids: Tensor, owners: Tensor | None, state: Any, window: int) -> tuple[Tensor, Any]:
        """int64 [L] continuing ``state`` -> (float32 [L, V], new state); only when ``can`` has "banded".

        The state is the last ``window`` ids.  They are computed again in front of the new ones under a band mask, which
        costs 1 + window / L of a plain pass and keeps positions small.  So every row has its full window; rows beyond
        the first window depend on where calls begin, through what deeper layers saw.
        """
        past = state[0] if state is not None else ids[:0]
        piece = len(ids) if self._positions is None else max(window, self._positions - window - self.sinks)
        rows = list[Tensor]()
        for new in ids.split(piece):
            past = torch.cat((past, new))
            fed = self._banded_input(past, window)
            if "hidden" in self.can:
                hidden = self.module.base_model(**fed, use_cache=False).last_hidden_state
                rows.append(self.head(hidden[0, -len(new) :]))
            else:
                rows.append(self.module(**fed, use_cache=False).logits[0, -len(new) :].float())
            past = past[-window:]
        return (rows[0] if len(rows) == 1 else torch.cat(rows)), (past,)

    def _banded_input(self, ids: Tensor, window: int) -> dict[str, Tensor]:
        """int64 [n] -> arguments of a forward: BOS if it is added, copies of the sinks, the ids.

        Rows that see all of the pass see nothing else.  From row ``window`` on, each ``SINK_GROUP`` queries have their own
        copy of the sinks, in front of the window of the last of them, and only they see it.  Sinks that stay where the
        pass begins are further away than any token was in training: 2.2127 BPB where copies give 2.1786 and
        sliding:512/64 2.1769 (model and text of benches/hf.py).
        """
        device, n = ids.device, len(ids)
        bos = ids[:0] if self.bos_id is None or int(ids[0]) == self.bos_id else ids.new_tensor([self.bos_id])
        sinks = torch.cat((bos, ids))[: min(self.sinks, window)]
        width, front = len(sinks), max(len(sinks), len(bos))  # id 0 stands at place ``front``
        some = window < n and width > 0
        group = torch.arange(window // SINK_GROUP, -(-n // SINK_GROUP), device=device) if some else ids[:0]
        first = (group + 1) * SINK_GROUP - window + front - width
        token, slot = torch.arange(n, device=device), torch.arange(width, device=device)
        copies = len(group) * width
        fed = torch.cat((bos, sinks.repeat(len(group)), ids))
        begin, ahead = len(bos), len(bos) + copies
        places = torch.cat((token[:begin] + front - begin, (first[:, None] + slot).flatten(), token + front))
        of, at = group.repeat_interleave(width), slot.repeat(len(group))
        seen = torch.zeros(len(fed), len(fed), dtype=torch.bool, device=device)
        seen[:begin, :begin] = True
        seen[begin:ahead, begin:ahead] = (of[:, None] == of) & (at[:, None] >= at)
        seen[ahead:, :begin] = (token < window)[:, None]
        seen[ahead:, begin:ahead] = ((token // SINK_GROUP)[:, None] == of) & (token >= window)[:, None]
        seen[ahead:, ahead:] = (token[:, None] >= token) & (token[:, None] - token < window)
        return {"input_ids": fed[None], "position_ids": places[None], "attention_mask": self._mask(seen)}

    def _with_bos(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """(ids to feed, int64 [B]: where each row of ids [B, L] begins in them).

        In a batch of both kinds, rows that begin with BOS are filled up at their end, where nothing earlier sees it.
        """
        none = ids.new_zeros(ids.size(0))
        if self.bos_id is None or bool((ids[:, 0] == self.bos_id).all()):
            return ids, none
        has = ids[:, 0] == self.bos_id
        extra = torch.full_like(ids[:, :1], self.bos_id)
        fed = torch.where(has[:, None], torch.cat((ids, extra), 1), torch.cat((extra, ids), 1))
        return fed, none + (~has).long()

    def _mask(self, seen: Tensor) -> Any:
        """bool [n, n] (True: row attends to column) -> [1, 1, n, n] as this model's attention takes it."""
        kernel = self.module.config._attn_implementation
        if kernel == "flex_attention":
            n = len(seen)
            return create_block_mask(lambda b, h, q, k: seen[q, k], None, None, n, n, device=str(seen.device))
        if kernel != "eager":
            return seen[None, None]
        dtype = self.module.dtype
        hidden = torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)
        return hidden[None, None]


def _rows(found: Tensor, at: Tensor, length: int) -> Tensor:
    """[B, L or L + 1, ...] -> [B, L, ...], row b from ``at[b]`` on."""
    if found.size(1) == length:
        return found
    if bool(at.all()):
        return found[:, 1:]
    return torch.where(at[:, None, None].bool(), found[:, 1:], found[:, :-1])


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
                **({"attn_implementation": settings.attention} if settings.attention else {}),
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


@torch.no_grad()
def _require_attention(module: Any, folder: Path, kernel: str) -> None:
    """InputError where the kernel that the user asked for does not run: another device, compiler or number type."""
    try:
        module(input_ids=torch.zeros(1, PROBE_TOKENS, dtype=torch.int64, device=module.device), use_cache=False)
    except Exception as fault:  # a compiler's and a kernel's own exceptions
        raise InputError(
            f"checkpoint {folder.name}: attention={kernel} does not run on {module.device} in {module.dtype} "
            f"({type(fault).__name__}: {_first_line(fault)}); attention=sdpa runs everywhere"
        ) from None


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
    ids = _probe(model)[:, :8]
    try:
        return torch.equal(model.head(model.hidden(ids)), model.logits(ids))
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError):
        return False


@torch.no_grad()
def _why_not_banded(model: HuggingFaceModel, config: Any) -> str:
    """Why this model keeps ``sliding``, or "" when a band mask through its own attention means what it says.

    Its rows must not know absolute positions, must follow the mask in every layer (under a band of one token each row is
    that of its own token), and must be the plain ones where the band hides nothing.
    """
    if model.module.config._attn_implementation == "flash_attention_2":
        return "attention=flash_attention_2 takes no mask; flex_attention does"
    said = json.dumps(config.to_dict(), default=str)
    kinds = set(config.to_dict().get("layer_types") or []) - {"full_attention"}
    if kinds or (config.to_dict().get("sliding_window") and config.to_dict().get("use_sliding_window", True)):
        return "its layers have windows of their own"
    if any(f'"{kind}"' in said for kind in MOVING_ROPE):
        return "its rotary angles depend on the length of the input"
    ids, module = _probe(model), model.module
    n = ids.size(1)
    places, all_seen = torch.arange(n, device=ids.device), torch.ones(n, n, dtype=torch.bool, device=ids.device)
    try:
        plain = module(input_ids=ids, use_cache=False).logits.float()
        shifted = module(input_ids=ids, position_ids=places[None] + n // 2, use_cache=False).logits.float()
        whole = module(input_ids=ids, attention_mask=model._mask(all_seen.tril()), use_cache=False).logits.float()
        apart = model._mask(torch.eye(n, dtype=torch.bool, device=ids.device))
        alone = module(input_ids=ids, attention_mask=apart, use_cache=False).logits.float()
        own = module(input_ids=ids.T, use_cache=False).logits.float()[:, 0]
    except Exception as fault:  # a stranger's forward: whatever it raises, it cannot be given a mask or positions
        return f"its forward takes no mask or positions ({type(fault).__name__}: {_first_line(fault)[:80]})"
    limit = FORMS[module.dtype] * float((plain - plain.mean(-1, keepdim=True)).abs().max())
    if float((plain - shifted).abs().max()) > limit:
        return "it knows absolute positions"
    if float((plain - whole).abs().max()) > limit or float((alone[0] - own).abs().max()) > limit:
        return "its layers do not follow an attention mask"
    return ""


def _probe(model: HuggingFaceModel) -> Tensor:
    """Ids [1, 64], or half of what the model takes where that is fewer."""
    n = min(PROBE_TOKENS, (model.max_seq_len or 2 * PROBE_TOKENS) // 2)
    return (torch.arange(n, device=model.device)[None] * 7919 + 1) % model.vocab_size


def _bos(folder: Path, settings: HFOptions, tokenizer_model: bytes | None) -> tuple[int | None, str]:
    """(the id to stand before each window or None, what was chosen).

    tokenizer_config.json's add_bos_token decides; else the template of tokenizer.json; else the tokenizer's class.
    """
    from evalkit.stream import open_tokenizer

    if settings.bos == "document":
        return None, "BOS where documents begin"
    if tokenizer_model is None:
        if settings.bos is None or settings.bos_id is None:
            if settings.bos is not None:
                raise InputError(f"checkpoint {folder.name}: bos=window, but no file names a BOS; add bos_id=N")
            return None, "BOS where documents begin"
        bos_id = settings.bos_id
    else:
        bos_id = open_tokenizer(tokenizer_model).bos_id
    if settings.bos is None and not _adds_bos(folder, bos_id):
        return None, "BOS where documents begin"
    return bos_id, f"BOS (id {bos_id}) before each window"


def _adds_bos(folder: Path, bos_id: int) -> bool:
    """Does the tokenizer that the files describe put this id before what it encodes?"""
    from evalkit.stream.hf_tokenizer import parse_json

    def read(name: str) -> dict[str, Any]:
        path = folder / name
        return parse_json(path.read_bytes(), str(path)) if path.is_file() else {}

    words, spec = read("tokenizer_config.json"), read("tokenizer.json")
    if isinstance(words.get("add_bos_token"), bool):
        return words["add_bos_token"]
    top = spec.get("post_processor")
    if isinstance(top, dict):
        steps = top.get("processors", []) if top.get("type") == "Sequence" else [top]
        for step in (s for s in steps if isinstance(s, dict) and s.get("type") == "TemplateProcessing"):
            with contextlib.suppress(KeyError, IndexError, TypeError):
                return bos_id in step["special_tokens"][step["single"][0]["SpecialToken"]["id"]]["ids"]
        return False
    kind = words.get("tokenizer_class")
    return not spec and isinstance(kind, str) and kind.removesuffix("Fast").removesuffix("Tokenizer") in ADDS_BOS


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
