"""Does a Hugging Face folder open, score as transformers itself would, and refuse what cannot be scored?"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

transformers = pytest.importorskip("transformers")
pytest.importorskip("tokenizers")

import torch  # noqa: E402

from evalkit.errors import InputError  # noqa: E402
from evalkit.models.base import Model  # noqa: E402
from evalkit.models.hf import HuggingFaceDoor  # noqa: E402
from evalkit.models.registry import door_for, open_checkpoint  # noqa: E402
from evalkit.plan import parse_plan  # noqa: E402
from evalkit.stream import open_stream, open_tokenizer  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # the library's own
    pytest.mark.xdist_group("hf"),  # importing transformers takes seconds: once
]
VOCAB = 320
TEXTS = ["The cat sat on the mat, and the dog saw it. " * 6, "caf\u00e9 \u65e5\u672c " * 20]


def make_llama(**change: Any) -> Any:
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    more = {"num_key_value_heads": 1, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 0}
    config = transformers.LlamaConfig(vocab_size=VOCAB, **{**shape, **more, **change})
    return transformers.AutoModelForCausalLM.from_config(config)


def make_gpt2() -> Any:
    config = transformers.GPT2Config(
        vocab_size=VOCAB, n_positions=64, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    return transformers.AutoModelForCausalLM.from_config(config)


def write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))


def save(module: Any, folder: Path) -> Path:
    torch.manual_seed(0)
    for weight in module.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    module.save_pretrained(folder)
    write_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(make_llama(), tmp_path_factory.mktemp("hf") / "llama")


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(make_gpt2(), tmp_path_factory.mktemp("hf") / "gpt2")


@pytest.fixture
def broken(llama: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(llama, tmp_path / "broken"))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS))
    return path


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_folder_opens_as_the_protocol_says(name: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(name)
    assert door_for(folder) is HuggingFaceDoor
    model = open_checkpoint(folder)
    assert isinstance(model, Model)
    assert (model.vocab_size, model.max_seq_len) == (VOCAB, 64)
    assert model.can == {"parameters", "hidden"}
    ids = torch.arange(24).reshape(2, 12)
    logits = model.logits(ids)
    assert logits.shape == (2, 12, VOCAB)
    assert logits.dtype is torch.float32
    assert torch.equal(model.head(model.hidden(ids)), logits)
    assert "id 0" in model.notes[0]
    again = open_checkpoint(folder)
    assert again.fingerprint == model.fingerprint
    assert open_checkpoint(f"{folder}:dtype=bfloat16").fingerprint != model.fingerprint


def test_scores_equal_the_loss_of_transformers(llama: Path, text: Path) -> None:
    import evalkit

    model = open_checkpoint(llama)
    stream = open_stream([text], open_tokenizer(model.tokenizer_model))
    plan = parse_plan("document:seq_len=64,stride=64")
    result = evalkit.score(model, stream, [], plan)
    ids = torch.from_numpy(np.asarray(stream.tokens[: int(stream.doc_start[1]) + 1]).astype(np.int64))
    first = ids[:65]
    with torch.no_grad():
        out = transformers.AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)(first[None, :-1]).logits
    want = torch.nn.functional.cross_entropy(out[0].double(), first[1:], reduction="sum").item()
    short = evalkit.score(model, stream.head(64), [], plan)
    assert math.isclose(short.run["totals"]["nats"], want, rel_tol=1e-6)
    assert result.run["totals"]["bytes"] == sum(len(t.encode()) for t in TEXTS)


def test_the_command_line_scores_it_with_an_adapter(llama: Path, text: Path, capsys: Any) -> None:
    from evalkit.cli.main import main

    flags = ["--checkpoint", f"hf:{llama}", "--text", str(text), "--plan", "disjoint:seq_len=32", "--adapter", "ppm"]
    assert main(["eval", *flags, "--json", "-"]) == 0
    said = capsys.readouterr()
    run = json.loads(said.out)
    assert run["totals"]["bpb"] < run["totals"]["base_bpb"]
    assert "LlamaForCausalLM in float32, windows up to 64 tokens" in said.err
    assert run["bytes_from"] == "text"


def test_a_learner_can_train_a_copy(llama: Path) -> None:
    from evalkit.adapters.learners.ttt_clone import own_copy

    model = open_checkpoint(llama)
    copy = own_copy(model)
    ids = torch.arange(8)[None]
    before = model.logits(ids)
    with torch.no_grad():
        next(copy.module.parameters()).zero_()
    assert torch.equal(model.logits(ids), before)
    assert not torch.equal(copy.logits(ids), before)


def test_windows_longer_than_the_model_are_refused(llama: Path, text: Path, capsys: Any) -> None:
    from evalkit.cli.main import main

    flags = ["--checkpoint", str(llama), "--text", str(text), "--plan", "disjoint:seq_len=128"]
    assert main(["eval", *flags]) == 2
    assert "at most 64" in capsys.readouterr().err
    assert open_checkpoint(f"{llama}:max_seq_len=16").max_seq_len == 16


def test_a_logit_cap_outside_the_head_hides_the_split(tmp_path: Path) -> None:
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CohereConfig(vocab_size=VOCAB, logit_scale=0.5, bos_token_id=0, eos_token_id=0, **shape)
    folder = save(transformers.AutoModelForCausalLM.from_config(config), tmp_path / "scaled")
    assert open_checkpoint(folder).can == {"parameters"}


def test_a_bidirectional_model_is_refused(tmp_path: Path) -> None:
    config = transformers.BertConfig(
        vocab_size=VOCAB, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48
    )
    folder = save(transformers.BertLMHeadModel(config), tmp_path / "bert")
    with pytest.raises(InputError, match="is not causal"):
        open_checkpoint(f"{folder}:bos_id=0")


def test_sentencepiece_travels_as_bytes(broken: Path, miniature: Any) -> None:
    (broken / "tokenizer.model").write_bytes(miniature("lossless"))
    model = open_checkpoint(broken)
    assert model.tokenizer_model == miniature("lossless")
    with pytest.raises(InputError, match="leave bos_id out"):
        open_checkpoint(f"{broken}:bos_id=1")


def test_a_tokenizer_that_does_not_work_on_bytes_is_said(broken: Path) -> None:
    (broken / "tokenizer.json").write_text('{"model": {"type": "Unigram"}}')
    model = open_checkpoint(broken)
    assert model.tokenizer_model is None
    assert "its pieces show neither bytes" in model.notes[0]


def _truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def _edit(folder: Path, **change: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))


DAMAGES = {
    "truncated": (_truncate, "cannot open it"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), r"no \*.safetensors"),
    "pickle only": (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "pickled weights"),
    "config cut": (lambda f: (f / "config.json").write_text("{"), "cannot open it"),
    "unknown type": (lambda f: _edit(f, model_type="nonesuch"), "cannot open it"),
    "one layer more": (lambda f: _edit(f, num_hidden_layers=3), "missing keys"),
    "other width": (lambda f: _edit(f, hidden_size=64), "cannot open it|mismatched keys"),
    "its own code": (
        lambda f: _edit(f, model_type="nonesuch", auto_map={"AutoConfig": "c.C", "AutoModelForCausalLM": "c.M"}),
        "trust_remote_code=true",
    ),
    "bos outside": (lambda f: _edit(f, bos_token_id=317), "id 317 cannot separate documents"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_folders_are_one_sentence(damage: str, broken: Path, capsys: Any) -> None:
    from evalkit.cli.main import main

    change, message = DAMAGES[damage]
    change(broken)
    with pytest.raises(InputError, match=message):
        open_checkpoint(broken)
    assert main(["eval", "--checkpoint", str(broken)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_code_in_the_folder_is_not_run(broken: Path, tmp_path: Path) -> None:
    (broken / "c.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    DAMAGES["its own code"][0](broken)
    with pytest.raises(InputError):
        open_checkpoint(broken)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("option", "message"),
    [("dtype=int8", "not one of float32"), ("max_seq_len=1", "at least 2"), ("dtyp=float32", "did you mean 'dtype'")],
)
def test_options_are_checked(llama: Path, option: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_checkpoint(f"{llama}:{option}")


def test_the_hub_is_asked_only_by_name(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked = []

    def fetch(name: str, **options: Any) -> str:
        asked.append((name, options["revision"]))
        return str(llama)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert open_checkpoint("hf:someone/small:revision=v2").vocab_size == VOCAB
    assert asked == [("someone/small", "v2")]
    with pytest.raises(InputError, match="no such file"):
        open_checkpoint("someone/small")
    assert len(asked) == 1


def test_a_hub_that_does_not_answer_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def fail(*_: Any, **__: Any) -> str:
        raise ConnectionError("no route to the hub\nmore lines")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(InputError, match=r"did not give it \(no route to the hub\)"):
        open_checkpoint("hf:someone/small")


def test_a_missing_package_is_one_sentence(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(InputError, match=r"pip install 'evalkit\[hf\]'"):
        open_checkpoint(llama)
