"""lm-evaluation-harness with evalkit as its model: its own runs, its own Hugging Face class, and the same numbers.

Local tasks and folders only: nothing here asks the network.
"""

from __future__ import annotations

import json
import math
import sys
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval import evaluator
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows

from evalkit.cli.main import main
from evalkit.errors import InputError
from evalkit.integrations.lm_eval import EvalkitLM

transformers = pytest.importorskip("transformers")

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # the libraries' own
]
LENGTH = 48
SHORT = ["The cat sat on the mat.", "and the dog saw it", "caf\u00e9 \u65e5\u672c"]
LONG = "".join(f"The cat sat {i} times on mat {i * i}, and dog {97 * i % 89} saw it. " for i in range(12))
"""No two windows alike: where they are, the harness's cache of logits (0.4.13) books the later one wrongly."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama with a byte-level tokenizer, as transformers and the harness read it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    path = tmp_path_factory.mktemp("hf") / "llama"
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    special = {"num_key_value_heads": 1, "max_position_embeddings": LENGTH, "bos_token_id": 0, "eos_token_id": 0}
    config = transformers.LlamaConfig(vocab_size=320, **shape, **special)
    model = transformers.AutoModelForCausalLM.from_config(config)
    torch.manual_seed(0)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    model.save_pretrained(path)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    settings: dict[str, Any] = {"special_tokens": ["<s>"], "initial_alphabet": alphabet, "show_progress": False}
    tokenizer.train_from_iterator([LONG], trainers.BpeTrainer(vocab_size=300, **settings))
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="<s>")
    fast.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def theirs(folder: Path) -> HFLM:
    return HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=4)


@pytest.fixture(scope="module")
def ours(folder: Path) -> EvalkitLM:
    return EvalkitLM(checkpoint=str(folder), device="cpu")


def rolling(lm: Any, texts: list[str]) -> list[float]:
    return lm.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (t,), i) for i, t in enumerate(texts)])


def plain(module: Any, windows: list[tuple[list[int], list[int]]]) -> float:
    """Log-probability of the last tokens of each (inputs, predicted) by one plain forward a window."""
    total = 0.0
    for inputs, predicted in windows:
        with torch.no_grad():
            logp = module(torch.tensor([inputs])).logits[0].double().log_softmax(-1)
        rows = logp[-len(predicted) :]
        total += math.fsum(rows[torch.arange(len(predicted)), torch.tensor(predicted)].tolist())
    return total


def test_a_text_within_one_window_has_the_harness_own_value(theirs: HFLM, ours: EvalkitLM) -> None:
    assert theirs.max_length == LENGTH
    for a, b, text in zip(rolling(theirs, SHORT), rolling(ours, SHORT), SHORT, strict=True):
        assert len(ours.tok_encode(text)) < LENGTH
        assert ours.tok_encode(text) == theirs.tok_encode(text)
        assert b == pytest.approx(a, rel=1e-5)


def test_a_longer_text_differs_by_the_context_of_the_last_window(theirs: HFLM, ours: EvalkitLM) -> None:
    """Both cut windows side by side; the harness moves the last one back until it is full."""
    ids = ours.tok_encode(LONG)
    assert len(ids) > 2 * LENGTH
    assert len(ids) % LENGTH
    moved = list(get_rolling_token_windows(ids, 0, LENGTH, 1))
    cut = [([0, *ids][lo : lo + LENGTH][: len(ids) - lo], ids[lo : lo + LENGTH]) for lo in range(0, len(ids), LENGTH)]
    assert [p for _, p in moved] == [p for _, p in cut]
    assert [a == b for (a, _), (b, _) in zip(moved, cut, strict=True)] == [*[True] * (len(cut) - 1), False]
    expected = plain(theirs.model, moved), plain(theirs.model, cut)
    assert rolling(theirs, [LONG])[0] == pytest.approx(expected[0], rel=1e-5)
    assert rolling(ours, [LONG])[0] == pytest.approx(expected[1], rel=1e-5)
    assert abs(expected[0] - expected[1]) > 1e-3


def test_multiple_choice_has_the_harness_own_values_behind_a_bos(theirs: HFLM, ours: EvalkitLM) -> None:
    """evalkit puts a BOS before every context; the harness does so where the tokenizer does, or for an empty context."""
    pairs = [("The cat sat", " on mat 3"), ("and the dog", " saw it"), ("", "The cat")]
    asked = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
    encoded = [(None, [0, *theirs.tok_encode(a)], theirs.tok_encode(b)) for a, b in pairs]
    for (a, greedy_a), (b, greedy_b) in zip(
        theirs._loglikelihood_tokens(encoded), ours.loglikelihood(asked), strict=True
    ):
        assert b == pytest.approx(a, rel=1e-5)
        assert greedy_a == greedy_b


def local_tasks(folder: Path) -> Path:
    """A perplexity task and a multiple-choice task over two local files."""
    (folder / "pages.jsonl").write_text("".join(json.dumps({"page": t}) + "\n" for t in SHORT), encoding="utf-8")
    rows = [
        {"q": "The cat sat on the", "a": "mat", "b": "dog", "gold": 0},
        {"q": "The dog", "a": "mat", "b": "saw it", "gold": 1},
    ]
    (folder / "choices.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    head = "dataset_path: json\ntest_split: test\ndataset_kwargs:\n  data_files:\n    test: {}\n"
    (folder / "pages.yaml").write_text(
        "task: local_pages\noutput_type: loglikelihood_rolling\n"
        + head.format(folder / "pages.jsonl")
        + 'doc_to_text: ""\ndoc_to_target: page\nshould_decontaminate: false\nmetric_list:\n'
        + "".join(f"  - metric: {m}\n" for m in ("word_perplexity", "byte_perplexity", "bits_per_byte")),
        encoding="utf-8",
    )
    (folder / "choices.yaml").write_text(
        "task: local_choices\noutput_type: multiple_choice\n"
        + head.format(folder / "choices.jsonl")
        + 'doc_to_text: q\ndoc_to_target: gold\ndoc_to_choice: ["{{a}}", "{{b}}"]\nmetric_list:\n  - metric: acc\n',
        encoding="utf-8",
    )
    return folder


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The data library keeps its files here and asks no one."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    return local_tasks(tmp_path)


def test_both_classes_give_the_harness_the_same_table(offline: Path, theirs: HFLM, ours: EvalkitLM) -> None:
    def table(lm: Any) -> dict[str, Any]:
        tasks = TaskManager(include_path=str(offline), include_defaults=False)
        found = evaluator.simple_evaluate(
            model=lm, tasks=["local_pages", "local_choices"], task_manager=tasks, bootstrap_iters=0, log_samples=False
        )
        assert found is not None
        return found["results"]

    a, b = table(theirs), table(ours)
    for metric in ("word_perplexity,none", "byte_perplexity,none", "bits_per_byte,none"):
        assert b["local_pages"][metric] == pytest.approx(a["local_pages"][metric], rel=1e-5)
    assert b["local_choices"]["acc,none"] == a["local_choices"]["acc,none"]
    size = sum(len(t.encode()) for t in SHORT)
    nats = -math.fsum(rolling(ours, SHORT))
    assert b["local_pages"]["bits_per_byte,none"] == pytest.approx(nats / math.log(2) / size, rel=1e-12)


def test_the_verb_runs_the_harness(
    offline: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [])
    index = TaskManager.__init__  # its own 220 folders of tasks take seconds to look through
    monkeypatch.setattr(TaskManager, "__init__", partialmethod(index, include_defaults=False))
    arguments = ["--tasks", "local_pages", "--include_path", str(offline), "--model_args"]
    settings = f"checkpoint={folder},adapters=ppm"
    assert main(["lm-eval", *arguments, settings, "--output_path", str(offline / "out")]) == 0
    assert "local_pages" in capsys.readouterr().out
    (kept,) = (offline / "out").rglob("results*.json")
    results = json.loads(kept.read_text())
    adapted = EvalkitLM(checkpoint=str(folder), adapters="ppm", device="cpu")
    bits = -math.fsum(rolling(adapted, SHORT)) / math.log(2) / sum(len(t.encode()) for t in SHORT)
    assert results["results"]["local_pages"]["bits_per_byte,none"] == pytest.approx(bits, rel=1e-9)


def test_what_the_harness_may_not_ask(ours: EvalkitLM, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rolling(ours, [""]) == [0.0]
    with pytest.raises(InputError, match="does not write any"):
        ours.generate_until([])
    learning = EvalkitLM(checkpoint=str(folder), adapters="ppm", device="cpu", seed=3)
    assert learning.get_model_info()["adapters"] == [("ppm", {})]
    with pytest.raises(InputError, match="--use_cache keeps answers by text alone"):
        learning.set_cache_hook(type("Hook", (), {"dbdict": {}})())
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="several processes"):
        EvalkitLM()
