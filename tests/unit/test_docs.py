"""The example in docs/adapter.md is a working adapter."""

from __future__ import annotations

import json
import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_example_adapter_runs(tmp_path: Path, capsys) -> None:
    from evalkit.cli.main import main

    page = (DOCS / "adapter.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert code is not None
    (tmp_path / "mine.py").write_text(code.group(1), encoding="utf-8")
    (tmp_path / "text.txt").write_text("the cat sat on the mat. " * 40, encoding="utf-8")
    import torch

    from evalkit.models.golf import GolfGPT, GolfOptions

    torch.manual_seed(0)
    shape = {"vocab": 260, "width": 16, "layers": 1, "heads": 2, "kv_heads": 1, "hidden": 16}
    torch.save(GolfGPT(shape, GolfOptions(), tied=True).state_dict(), tmp_path / "m.pt")
    common = [
        "eval",
        "--checkpoint",
        str(tmp_path / "m.pt"),
        "--text",
        str(tmp_path / "text.txt"),
        "--tokenizer",
        "byte",
    ]
    adapters = ["--adapter", "ppm", "--adapter", f"{tmp_path / 'mine.py'}:Mine:rate=0.05"]
    assert main([*common, *adapters, "--plan", "disjoint:seq_len=32", "--json", "-"]) == 0
    run = json.loads(capsys.readouterr().out)
    assert [s["adapter"] for s in run["stages"]] == ["ppm", "mine"]
    assert run["stages"][1]["settings"] == {"rate": 0.05}
    assert run["verdicts"]["sentinel"]["worst"] < 1e-12
