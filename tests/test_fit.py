"""Model, tokenizer, labels and settings are looked at together before any work."""

import json
import shutil
import warnings

import pytest
import torch
from conftest import TABLE
from datasets import Dataset
from transformers import AutoConfig, AutoModelForCausalLM, BertConfig, BertForMaskedLM, Qwen2VLConfig

from ia_lib.data.files import CorpusWarning
from ia_lib.evaluation import tasks, translation
from ia_lib.instructions.cross_lingual import Plan
from ia_lib.models import load
from ia_lib.workflow import fit
from ia_lib.workflow.command_line import main
from ia_lib.workflow.graph import Table
from ia_lib.workflow.settings import SettingsError

pytestmark = pytest.mark.quick
OWN = (
    TABLE.split("runs:")[0] + "runs:\n  - {name: one, objective: tlm, replay: 0, past: null, model: {name: model}ROW}\n"
)


def small(tokenizer, **more):
    torch.manual_seed(1)
    sizes = {
        "vocab_size": len(tokenizer),
        "n_embd": 16,
        "n_layer": 1,
        "n_head": 2,
        "pad_token_id": 2,
        "eos_token_id": 1,
    }
    return AutoModelForCausalLM.from_config(
        AutoConfig.for_model("gpt2", **(sizes | {"n_positions": 256} | more))
    ).eval()


@pytest.fixture
def folder(tmp_path, tokenizer):
    small(tokenizer).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def checked(tmp_path, row="", model="model", objective="tlm"):
    path, text = tmp_path / "own.yaml", OWN.replace("ROW", row).replace("objective: tlm", f"objective: {objective}")
    path.write_text(text.replace("{name: model}", f"{{name: {model}}}"))
    Table(path, tmp_path / "outputs").check()


def test_a_model_that_fits_is_taken(folder, tmp_path):
    checked(tmp_path)


def edited(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def no_eos(folder, tokenizer):
    edited(folder / "tokenizer_config.json", eos_token=None)


def slow(folder, tokenizer):
    from transformers import ByT5Tokenizer

    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    ByT5Tokenizer().save_pretrained(folder)


SPOILT = {
    "adapter": (
        lambda f, t: [(f / "config.json").rename(f / "adapter_config.json")],
        "which holds an adapter and no whole model",
    ),
    "packed": (
        lambda f, t: [(f / "config.json").unlink(), (f / "q4.gguf").write_text("x")],
        "which holds a model in GGUF; allowed: that with the field gguf beside it: q4.gguf",
    ),
    "empty": (lambda f, t: [shutil.rmtree(f), f.mkdir()], "which has no config.json"),
    "no weights": (lambda f, t: (f / "model.safetensors").unlink(), "which holds no weights"),
    "unknown kind": (lambda f, t: edited(f / "config.json", model_type="nothing"), "whose config.json cannot be used"),
    "broken config": (lambda f, t: (f / "config.json").write_text("{"), "whose config.json cannot be used"),
    "another kind": (
        lambda f, t: BertForMaskedLM(
            BertConfig(vocab_size=len(t), hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
        ).save_pretrained(f),
        "a BertForMaskedLM, which answers no prompts",
    ),
    "pictures": (
        lambda f, t: Qwen2VLConfig(architectures=["Qwen2VLForConditionalGeneration"]).save_pretrained(f),
        "a Qwen2VL, which reads pictures and is no language model alone",
    ),
    "few embeddings": (lambda f, t: small(t, vocab_size=260).save_pretrained(f), "which knows 260 tokens, while its"),
    "no tokenizer": (
        lambda f, t: [(f / name).unlink() for name in ("tokenizer.json", "tokenizer_config.json")],
        "whose tokenizer",
    ),
    "slow tokenizer": (slow, "which does not tell a token's characters"),
    "no end": (no_eos, "whose tokenizer has no end-of-sequence token"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_model_that_does_not_fit_is_refused(folder, tokenizer, tmp_path, name):
    spoil, said = SPOILT[name]
    spoil(folder, tokenizer)
    with pytest.raises(SettingsError) as refusal:
        checked(tmp_path)
    text = str(refusal.value)
    assert "run 'one', field 'model.name': found 'model', " in text
    assert said in text
    assert "allowed: " in text
    assert "\n" not in text
    assert len(text) < 600


def test_positions_are_enough_for_the_longest_row(folder, tokenizer, tmp_path):
    small(tokenizer, n_positions=96).save_pretrained(folder)
    with pytest.raises(SettingsError, match=r"field 'max_length': found 256; allowed: 96 at most, the positions that"):
        checked(tmp_path)
    checked(tmp_path, ", max_length: 96")
    # a row that only is tested reads as much
    with pytest.raises(SettingsError, match=r"field 'max_length': found 256; allowed: 96 at most"):
        checked(tmp_path, ", held_out: true", objective="none")
    checked(tmp_path, objective="none")


def test_weights_that_are_not_there_are_not_made_up(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    gone = [name for name in weights if "attn" in name]
    kept = {name: weight for name, weight in weights.items() if name not in gone}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match=r"its files have no weights for transformer\.h\.0\.attn.* 1 more; a whole GPT2"
    ):
        load.load_model(str(folder))


@pytest.mark.parametrize("template", ["{{ 1 / 0 }}", "{{ messages[0]['content'] + messages[0].get('thinking') }}"])
def test_a_chat_template_that_fails_is_said(folder, tokenizer, tmp_path, template):
    edited(folder / "tokenizer_config.json", chat_template=template)
    with pytest.raises(SettingsError, match="the chat template refuses a user's turn with an assistant's answer"):
        checked(tmp_path, ", chat: true")


def test_what_a_field_asks_for_is_no_task_to_be_named(folder, tmp_path):
    for task, field in (("held_out", "held_out: true"), ("held_out_past", "past: {held_out: N}")):
        with pytest.raises(SettingsError, match=f"found '{task}'; allowed: the field {field} in its place"):
            checked(tmp_path, f", tasks: [{task}]")
    (tmp_path / "q.yaml").write_text("kind: answer\ndata: {held_out: true}\n")
    with pytest.raises(SettingsError, match=r"found 'q.yaml'; allowed: past: {held_out: N} beside it"):
        checked(tmp_path, ", tasks: [q.yaml]")


def test_a_gguf_file_goes_by_its_folder(tmp_path):
    (tmp_path / "q4.gguf").write_text("x")
    with pytest.raises(SettingsError, match=r"allowed: its folder, with the field gguf: q4.gguf beside it"):
        checked(tmp_path, model="q4.gguf")


def with_labels(tmp_path, labels, **more):
    (tmp_path / "own.csv").write_text(
        "text,label\n" + "".join(f"kalimat {i},{label}\n" for i, label in enumerate(labels))
    )
    given = json.dumps([{"file": "own.csv", "language": "sun", "labels": labels, "task": "own"}])
    return f", tests: {given}" + "".join(f", {name}: {value}" for name, value in more.items())


def test_labels_that_the_model_cannot_tell_apart_are_refused(folder, tokenizer, tmp_path):
    with pytest.raises(
        SettingsError, match=r"field 'tests': found 'fi'; allowed: labels of own that differ, since 'ﬁ'"
    ):
        checked(tmp_path, with_labels(tmp_path, ["ﬁ", "fi"]))
    # by a wording
    (tmp_path / "words.yaml").write_text('classification: ["[INPUT] [OPTIONS] [LABELS_CHOICE]"]\nlabels: {a: "x  y"}')
    with pytest.raises(SettingsError, match="labels of own that differ, since 'x  y' and 'x y' read the same"):
        checked(tmp_path, with_labels(tmp_path, ["a", "x y"], wordings="[words.yaml]"))


def test_labels_of_the_same_tokens_are_refused(folder, tokenizer, tmp_path):
    from tokenizers import normalizers

    again = type(tokenizer).from_pretrained(folder)
    again.backend_tokenizer.normalizer = normalizers.Lowercase()
    again.save_pretrained(folder)
    with pytest.raises(SettingsError, match="labels of own that differ, since 'Good' and 'good' have the same tokens"):
        checked(tmp_path, with_labels(tmp_path, ["Good", "good"]))


def test_a_label_that_begins_with_another_is_warned_of(folder, tokenizer, tmp_path):
    with pytest.warns(
        CorpusWarning, match="the label 'good food' of own begins with the tokens of 'good', and the rule"
    ):
        checked(tmp_path, with_labels(tmp_path, ["good", "good food"]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checked(tmp_path, with_labels(tmp_path, ["good", "good food"], scoring_rule="label_mean"))


def test_labels_of_a_new_model_are_looked_at_when_its_tokenizer_is_there(tmp_path, tokenizer, table):
    from tokenizers import normalizers

    (tmp_path / "own.csv").write_text("text,label\na,Good\nb,good\n")
    test = "{file: own.csv, language: sun, labels: [Good, good], task: own}"
    table.write_text(table.read_text().replace("objective: tlm", f"objective: tlm, tests: [{test}]"))
    inputs = Table(table, tmp_path / "outputs").stage("tlm", "evaluate").inputs
    fit.check_labels(inputs, tokenizer)
    tokenizer.save_pretrained(tmp_path / "t")
    again = type(tokenizer).from_pretrained(tmp_path / "t")
    again.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(fit.Refusal, match="have the same tokens"):
        fit.check_labels(inputs, again)


def test_a_sentence_that_is_too_long_is_cut_and_told(tokenizer):
    texts = {
        "sentence_id": list("1234"),
        "ind": ["satu", "dua", "tiga", "lima"],
        "bew": ["a", "b " * 1500, "c", "é" * 900],
    }
    plan = Plan("mt", ["ind"], ["bew"], 1, names={"bew": "Betawi"})
    how = {"max_length": 96, "end_of_sequence": True, "cut": "prompt", "chat": False, "encoder_decoder": False}
    model = small(tokenizer, n_positions=128)
    with pytest.warns(CorpusWarning, match=r"held_out, bew: 2 of 4 true answers are longer than 64 tokens"):
        said, counts = translation.translate(
            model, tokenizer, tasks.load("held_out"), Dataset.from_dict(texts), plan, how
        )
    assert len(said) == 8
    lost = counts[(counts["metric"] == "answer loss") & (counts["language"] == "bew")]
    assert max(tokens for _, tokens in lost["counts"]) <= 65


def test_what_needs_a_gpu_is_warned_of_where_there_is_none(folder, tmp_path, monkeypatch):
    for gpus, said in (("", True), ("0", False)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
        fit._gpus.cache_clear()
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            checked(tmp_path, ", optimiser: paged_adamw_8bit")
        assert any("the run one: optimiser: paged_adamw_8bit needs a GPU" in str(w.message) for w in found) == said
    fit._gpus.cache_clear()


def test_bfloat16_is_warned_of_where_the_gpu_has_none(folder, tmp_path, monkeypatch):
    for name in ("Tesla T4", ""):
        monkeypatch.setattr("ia_lib.workflow.devices.without_bfloat16", lambda name=name: name)
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            checked(tmp_path, ", precision: bfloat16, score_precision: bfloat16")
        said = [str(w.message) for w in found if "bfloat16" in str(w.message)]
        assert len(said) == (2 if name else 0)
        assert all("which this machine's Tesla T4 does not have" in line for line in said)


def test_plan_tells_what_languages_cost_by_the_texts_that_a_row_reads(folder, tmp_path, capsys):
    """Also of a row that only is tested, beside one that is trained on parallel text."""
    (tmp_path / "pairs.tsv").write_text("id\teng\tjav\n" + "".join(f"{i}\tText {i}\tTeks {i}\n" for i in range(40)))
    (tmp_path / "test.csv").write_text("text,label\n" + "".join(f"teks {i},{'ab'[i % 2]}\n" for i in range(10)))
    path = tmp_path / "own.yaml"
    path.write_text(
        "defaults: {corpus: own, known: [eng], taught: [jav], unseen: [], pivots: [eng], parallel: {file: pairs.tsv}, "
        "tests: [{file: test.csv, language: jav, labels: [a, b]}]}\n"
        "runs:\n  - {name: base, model: {name: model}}\n"
        "  - {name: taught, model: {run: base}, objective: mt, steps: 2, new_per_step: 2, validation_sentences: 5}\n"
    )
    assert main(["plan", str(path), "--outputs", str(tmp_path / "outputs")]) == 0
    assert "model, tokens a word: English " in capsys.readouterr().out
