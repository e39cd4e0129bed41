"""The field's checkpoint files, opened without running anything inside them."""

from __future__ import annotations

import io
import json
import pickle
import zlib
from pathlib import Path
from typing import Any, ClassVar

from evalkit.errors import InputError

MAX_INFLATED = 1 << 30
"""An int8 artifact inflates to less than 64 MB in practice; a gibibyte bounds a hostile stream."""

# The sweep's author writes x for relu(fc(x)): only that reading gives the published score (4.4566 nats, else 9.5).
MLP_NAMES = {"proj(fc(x)**3)": "relu^3", "proj(fc(x)**2)": "relu^2"}


class GolfDoor:
    """Opens ``.int8.ptz`` artifacts and plain ``.pt`` state dicts of the baseline architecture."""

    name: ClassVar[str] = "golf"
    summary: ClassVar[str] = "Parameter Golf baseline: .int8.ptz artifact or state dict (.pt)"

    @staticmethod
    def sniff(path: Path) -> bool:
        """zlib header (ptz) or zip header (torch archive)."""
        if not path.is_file():
            return False
        with path.open("rb") as file:
            head = file.read(4)
        return head == b"PK\x03\x04" or (len(head) > 1 and head[0] == 0x78 and (head[0] * 256 + head[1]) % 31 == 0)

    @staticmethod
    def load(path: Path, *, device: str = "cpu", **options: Any) -> Any:
        """Read, dequantise, recognise, build.  ``options``: see GolfOptions."""
        from evalkit.models.golf import build

        raw = path.read_bytes()
        where = path.name
        archive = raw if raw[:4] == b"PK\x03\x04" else _inflate(raw, where)
        tensors = _dequantise(_load_archive(archive, where), where)
        settings = {**_beside(path), **options}
        return build(tensors, settings, where).to(device)


def _inflate(raw: bytes, where: str) -> bytes:
    engine = zlib.decompressobj()
    try:
        out = engine.decompress(raw, MAX_INFLATED)
    except zlib.error as fault:
        raise InputError(f"{where}: the zlib stream is damaged ({fault}); fetch the checkpoint again") from None
    if engine.unconsumed_tail:
        raise InputError(f"{where}: inflates beyond {MAX_INFLATED:,} bytes, refused as hostile")
    if not engine.eof:
        raise InputError(f"{where}: the zlib stream ends early after {len(raw):,} bytes; the file is truncated")
    return out


def _load_archive(archive: bytes, where: str) -> Any:
    import torch

    try:
        return torch.load(io.BytesIO(archive), map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, ValueError, TypeError, AttributeError) as fault:
        reason = str(fault).strip().splitlines()[0][:160] if str(fault).strip() else type(fault).__name__
        raise InputError(f"{where}: not a torch archive of plain tensors ({reason})") from None


def _dequantise(obj: Any, where: str) -> dict[str, Any]:
    """``int8_clean_per_row_v1`` -> float tensors; a plain dict of tensors passes through."""
    import torch

    if not isinstance(obj, dict):
        raise InputError(f"{where}: expected a dictionary of tensors, found {type(obj).__name__}")
    kind = obj.get("__quant_format__")
    if kind is None:
        if not obj or not all(isinstance(v, torch.Tensor) for v in obj.values()):
            raise InputError(f"{where}: expected a state dict of tensors; found other entries")
        return obj
    if kind != "int8_clean_per_row_v1":
        raise InputError(f"{where}: quantisation format {kind!r} is unknown, expected 'int8_clean_per_row_v1'")
    tensors = {name: t.float() for name, t in obj.get("passthrough", {}).items()}
    for name, q in obj.get("quantized", {}).items():
        scale = obj["scales"][name]
        per_row = obj.get("qmeta", {}).get(name, {}).get("scheme") == "per_row"
        if per_row and (not isinstance(scale, torch.Tensor) or scale.shape != (q.shape[0],)):
            raise InputError(f"{where}: tensor '{name}' has {q.shape[0]} rows and scales of another shape")
        factor = scale.float().view(-1, *[1] * (q.ndim - 1)) if per_row else float(scale)
        tensors[name] = _restored(q.float() * factor, obj.get("dtypes", {}).get(name, "float32"))
    return tensors


def _restored(tensor: Any, dtype: str) -> Any:
    """The trainer stored bfloat16 weights as such: rounding through the dtype keeps its numbers."""
    import torch

    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    return tensor.to(kinds.get(dtype, torch.float32)).float()


def _beside(path: Path) -> dict[str, Any]:
    """Settings from ``STEM.json`` beside the checkpoint, where its author wrote the architecture down."""
    sidecar = path.with_name(path.name.split(".")[0] + ".json")
    if not sidecar.is_file():
        return {}
    try:
        known = json.loads(sidecar.read_text(encoding="utf-8")).get("architecture", {})
    except (OSError, ValueError, AttributeError) as fault:
        raise InputError(
            f"{sidecar.name}: the description beside the checkpoint is not readable JSON ({fault})"
        ) from None
    found: dict[str, Any] = {}
    if "logit_softcap" in known:
        found["softcap"] = float(known["logit_softcap"])
    if "rope_base" in known:
        found["rope_base"] = float(known["rope_base"])
    if "mlp" in known:
        found["mlp"] = MLP_NAMES.get(known["mlp"], known["mlp"])
    return found
