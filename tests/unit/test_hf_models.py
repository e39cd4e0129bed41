"""Does a Hugging Face folder open, score as transformers itself would, and refuse what cannot be scored?"""

from __future__ import annotations

import itertools
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
    assert model.can == {"parameters", "hidden", "split"} | ({"banded"} if name == "llama" else set())
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
    from evalkit.adapters.learners.weights import own_copy

    model = open_checkpoint(llama)
    copy = own_copy(model, "adapter full_ttt")
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
    assert open_checkpoint(folder).can == {"parameters", "banded"}


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
    [
        ("dtype=int8", "not one of float32"),
        ("max_seq_len=1", "at least 2"),
        ("dtyp=float32", "did you mean 'dtype'"),
        ("bos=none", "not one of window, document"),
        ("sinks=-1", "at least 0"),
    ],
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


def add_template(folder: Path) -> None:
    """A tokenizer that says it puts <s> first."""
    from tokenizers import Tokenizer, processors

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.save(str(folder / "tokenizer.json"))


def make_sink(folder: Path, texts: list[str]) -> Path:
    """A bigram model whose attention rests on BOS, as Gemma's does: where it finds none, it spreads over the window and
    adds noise.  One layer; channels: one for each id, one that is 1 in all ids, one that is 1 in BOS."""
    from tokenizers import Tokenizer

    folder.mkdir()
    write_tokenizer(folder)
    add_template(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    counts = torch.full((VOCAB, VOCAB), 0.01)
    for text in texts:
        ids = tokenizer.encode(text).ids
        for a, b in itertools.pairwise(ids):
            counts[a, b] += 1.0
    width = VOCAB + 8
    module = make_llama(
        hidden_size=width,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        head_dim=32,
        rms_norm_eps=0.0,
        max_position_embeddings=512,
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in module.parameters():
            weight.zero_()
        model, layer = module.model, module.model.layers[0]
        model.embed_tokens.weight[:, :VOCAB] = torch.eye(VOCAB)
        model.embed_tokens.weight[:, VOCAB] = 1.0
        model.embed_tokens.weight[0, VOCAB + 1] = 2.0
        for norm in (layer.input_layernorm, layer.post_attention_layernorm, model.norm):
            norm.weight.fill_((2.0 / width) ** 0.5)
        layer.self_attn.q_proj.weight[15, VOCAB] = 30.0  # channel 15 turns slowest: 0.0002 a position
        layer.self_attn.k_proj.weight[15, VOCAB + 1] = 30.0
        layer.self_attn.v_proj.weight[:, 1:VOCAB] = torch.randn(32, VOCAB - 1, generator=generator)
        layer.self_attn.o_proj.weight[:VOCAB] = 3.0 * torch.randn(VOCAB, 32, generator=generator)
        module.lm_head.weight[:, :VOCAB] = (counts / counts.sum(1, keepdim=True)).log().T
    module.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sink(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sink(tmp_path_factory.mktemp("hf") / "sink", TEXTS)


def nats_per_token(folder: Path, options: str, plan: str, text: Path) -> float:
    import evalkit

    model = open_checkpoint(f"{folder}{options}")
    stream = open_stream([text], open_tokenizer(model.tokenizer_model))
    result = evalkit.score(model, stream, [], parse_plan(plan))
    return result.run["totals"]["nats"] / stream.n_targets


def test_a_model_that_rests_on_bos_collapses_without_it(sink: Path, text: Path) -> None:
    plain = nats_per_token(sink, "", "document:seq_len=256,stride=256", text)
    assert plain < 1.5
    for plan in ("disjoint:seq_len=32", "sliding:seq_len=32,stride=8", "document:seq_len=32,stride=8"):
        assert nats_per_token(sink, "", plan, text) == pytest.approx(plain, abs=1e-3)
        assert nats_per_token(sink, ":bos=document", plan, text) > plain + 2.0


def test_a_banded_pass_keeps_what_the_model_rests_on(sink: Path, text: Path) -> None:
    plain = nats_per_token(sink, "", "document:seq_len=256,stride=256", text)
    for plan in ("banded:window=32,block=32", "banded:window=20,block=64"):
        assert nats_per_token(sink, "", plan, text) == pytest.approx(plain, abs=1e-3)
        assert nats_per_token(sink, ":sinks=0", plan, text) > plain + 2.0


def test_bos_is_added_once_and_said_in_run_json(sink: Path, text: Path, capsys: Any) -> None:
    from evalkit.cli.main import main

    model = open_checkpoint(sink)
    assert (model.bos, model.bos_id, model.max_seq_len) == ("window", 0, 511)
    tokens = torch.tensor([[0, 5, 6, 7], [9, 5, 6, 7]])
    with torch.no_grad():
        both, first, second = (model.logits(ids) for ids in (tokens, tokens[:1], tokens[1:]))
        fed = model.module(input_ids=torch.tensor([[0, 9, 5, 6, 7]])).logits[0, 1:]
        as_is = model.module(input_ids=tokens[:1]).logits
    assert torch.equal(first, as_is)
    assert torch.allclose(second[0], fed, atol=1e-4)
    assert torch.allclose(both, torch.cat((first, second)), atol=1e-4)
    flags = ["eval", "--checkpoint", str(sink), "--text", str(text), "--adapter", "none", "--json", "-"]
    for option, want in (("", "window"), (":bos=document", "document")):
        flags[2] = f"{sink}{option}"
        assert main(flags) == 0
        assert json.loads(capsys.readouterr().out)["settings"]["bos"] == want


@pytest.mark.parametrize(
    ("words", "template", "want"),
    [
        ({}, False, "document"),
        ({}, True, "window"),
        ({"add_bos_token": False}, True, "document"),
        ({"add_bos_token": True}, False, "window"),
    ],
)
def test_the_tokenizer_says_whether_bos_is_added(
    words: dict[str, bool], template: bool, want: str, broken: Path
) -> None:
    (broken / "tokenizer_config.json").write_text(json.dumps(words))
    if template:
        add_template(broken)
    model = open_checkpoint(broken)
    assert model.bos == want
    assert open_checkpoint(f"{broken}:bos=window").bos_id == 0
    assert open_checkpoint(f"{broken}:bos=document").bos_id is None


def naive_band(model: Any, ids: torch.Tensor, window: int) -> torch.Tensor:
    """One layer: row t by a plain pass over what it may see, the sinks directly in front."""
    rows = []
    for t in range(len(ids)):
        seen = ids[max(0, t - window + 1) : t + 1]
        if t >= window:
            seen = torch.cat((ids[: model.sinks], seen))
        rows.append(model.module(input_ids=seen[None]).logits[0, -1])
    return torch.stack(rows)


@pytest.mark.parametrize("sinks", [0, 3])
def test_one_layer_of_the_band_is_a_window_of_its_own(
    sinks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With groups of one query the sinks stand right in front of each window, as if it had been run alone."""
    from evalkit.models import hf

    monkeypatch.setattr(hf, "SINK_GROUP", 1)
    model = open_checkpoint(f"{save(make_llama(num_hidden_layers=1), tmp_path / 'one')}:sinks={sinks}")
    ids = torch.arange(40) * 7 % VOCAB
    with torch.no_grad():
        got, state = model.banded(ids[:25], None, None, 8)
        more, _ = model.banded(ids[25:], None, state, 8)
        want = naive_band(model, ids, 8)
    assert torch.allclose(got, want[:25], atol=1e-4)
    assert torch.allclose(more[:, :], naive_band(model, ids[17:], 8)[8:], atol=1e-4)


@pytest.mark.parametrize("kernel", ["eager", "flex_attention"])
def test_every_kernel_that_takes_a_mask_gives_the_same_rows(kernel: str, llama: Path) -> None:
    """flex_attention runs uncompiled here: torch 2.13's compiler for CPUs reads past the end of a mask of 64 tokens."""
    ids = torch.arange(50) * 7 % VOCAB
    plain = open_checkpoint(llama)
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        model = open_checkpoint(f"{llama}:attention={kernel}")
        assert model.module.config._attn_implementation == kernel
        assert model.can == plain.can
        assert model.fingerprint != plain.fingerprint
        assert torch.allclose(model.logits(ids[None]), plain.logits(ids[None]), atol=1e-4)
        state, begin = [None, None], 0
        for length in (25, 25):
            new = ids[begin : begin + length]
            (got, state[0]), (want, state[1]) = (
                m.banded(new, None, s, 8) for m, s in zip((model, plain), state, strict=True)
            )
            assert torch.allclose(got, want, atol=1e-4)
            begin += length


def test_a_kernel_that_does_not_run_here_is_one_sentence(
    llama: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from evalkit.cli.main import main
    from evalkit.models import hf

    def fails(module: Any, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no kernel for this device\nmore lines")

    monkeypatch.setattr(type(make_llama()), "forward", fails)
    with pytest.raises(hf.InputError, match=r"attention=flex_attention does not run on cpu .* attention=sdpa"):
        open_checkpoint(f"{llama}:attention=flex_attention")
    monkeypatch.undo()
    assert main(["eval", "--checkpoint", f"{llama}:attention=fast", "--limit-tokens", "10"]) == 2
    assert "option attention: 'fast' is not one of sdpa, eager" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ("GPT2", "absolute positions"),
        ("Mistral", "windows of their own"),
        ("Bloom", "takes no mask or positions"),
        ("Dynamic", "depend on the length"),
    ],
)
def test_models_that_keep_sliding_say_why(config: str, why: str, tmp_path: Path) -> None:
    shape = {"vocab_size": VOCAB, "hidden_size": 32, "bos_token_id": 0, "eos_token_id": 0}
    if config == "GPT2":
        module = make_gpt2()
    elif config == "Mistral":
        more = {"intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
        module = transformers.AutoModelForCausalLM.from_config(
            transformers.MistralConfig(sliding_window=16, **shape, **more)
        )
    elif config == "Bloom":
        module = transformers.AutoModelForCausalLM.from_config(transformers.BloomConfig(n_layer=1, n_head=2, **shape))
    else:
        module = make_llama(rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0})
    model = open_checkpoint(save(module, tmp_path / "m"))
    assert "banded" not in model.can
    assert why in model.notes[1]


@pytest.mark.parametrize(
    "plan", ["sliding:seq_len=32,stride=8", "disjoint:seq_len=32", "document:seq_len=32,stride=16"]
)
def test_the_head_runs_where_a_target_is_booked(
    plan: str, llama: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import evalkit

    model = open_checkpoint(llama)
    stream = open_stream([text], open_tokenizer(model.tokenizer_model))
    seen, head = list[int](), model.head
    monkeypatch.setattr(model, "head", lambda hidden: seen.append(hidden.numel() // hidden.size(-1)) or head(hidden))
    apart = evalkit.score(model, stream, [], parse_plan(plan)).run["totals"]["nats"]
    assert sum(seen) == stream.n_targets
    model.can -= {"split"}
    whole = evalkit.score(model, stream, [], parse_plan(plan)).run["totals"]["nats"]
    assert sum(seen) == stream.n_targets
    assert math.isclose(apart, whole, rel_tol=1e-7)
