"""Adapters: trained beside a frozen model, merged without a difference, taken by every later stage, exported."""

import json

import pytest
import torch
from test_own_language import OWN, data  # noqa: F401 (a fixture)
from test_trainer import NEW, OLD, OPTIONS, copy, rows, weights  # noqa: F401 (a fixture)
from transformers import AutoModelForCausalLM, AutoTokenizer

from ia_lib.models import adapters, load
from ia_lib.training import trainer
from ia_lib.workflow import work
from ia_lib.workflow.command_line import main
from ia_lib.workflow.graph import Table
from ia_lib.workflow.settings import SettingsError

KINDS = {"plain": {}, "dora": {"dora": True}, "rslora": {"rslora": True}, "embeddings": {"embeddings": True}}
ASKED = {"input_ids": torch.arange(5, 17)[None]}


def logits(model):
    with torch.inference_mode():
        return model.eval()(**ASKED).logits


@pytest.mark.quick
@pytest.mark.parametrize("kind", KINDS)
def test_merged_is_unmerged(any_model, kind, tmp_path):
    any_model.save_pretrained(tmp_path / "model")
    adapted = adapters.attach(copy(any_model), rank=4, alpha=8, **KINDS[kind])
    torch.testing.assert_close(logits(adapted), logits(any_model), rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        for parameter in (p for p in adapted.parameters() if p.requires_grad):
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    assert (logits(adapted) - logits(any_model)).abs().max() > 1e-3
    adapted.save_pretrained(tmp_path / "adapter")
    if kind == "embeddings" and any_model.config.tie_word_embeddings:
        inner = adapters.plain(adapted)
        copies = [end.modules_to_save["default"].weight for end in (inner.get_input_embeddings(), inner.lm_head)]
        assert copies[0] is copies[1]
    merged = load.load_model(str(tmp_path / "model"), adapters=[str(tmp_path / "adapter")])
    assert type(merged) is type(any_model)
    ends = merged.get_input_embeddings().weight, merged.get_output_embeddings().weight
    assert (ends[0] is ends[1]) == any_model.config.tie_word_embeddings
    torch.testing.assert_close(logits(merged), logits(adapted), rtol=1e-5, atol=1e-5)


@pytest.mark.quick
def test_a_quantised_model_keeps_it_beside(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    base = load.load_model(str(tmp_path / "model"), quantisation="int8")
    adapted = adapters.attach(base, rank=4, alpha=8)
    assert {p.dtype for p in adapted.parameters() if p.requires_grad} == {torch.float32}
    with torch.no_grad():
        for parameter in (p for p in adapted.parameters() if p.requires_grad):
            parameter += 0.05
    adapted.save_pretrained(tmp_path / "adapter")
    folder = [str(tmp_path / "adapter")]
    beside = load.load_model(str(tmp_path / "model"), adapters=folder, quantisation="int8")
    torch.testing.assert_close(logits(beside), logits(adapted))
    assert type(beside) is type(model)


@pytest.mark.quick
def test_its_first_weights_hang_on_the_seed_alone(model):
    torch.manual_seed(5)
    one = adapters.attach(copy(model), rank=4, alpha=8, seed=3)
    torch.manual_seed(6)
    second = copy(model)
    before = torch.random.get_rng_state()
    two = adapters.attach(second, rank=4, alpha=8, seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(weights(one), weights(two))
    assert not torch.equal(weights(one), weights(adapters.attach(copy(model), rank=4, alpha=8, seed=4)))


@pytest.mark.quick
@pytest.mark.parametrize("kind", ["plain", "embeddings"])
def test_training_changes_the_adapter_alone_and_goes_on_exactly(model, tokenizer, rows, tmp_path, kind):  # noqa: F811
    def adapted():
        return adapters.attach(copy(model), rank=4, alpha=8, dropout=0.1, **KINDS[kind])

    frozen = {name: p.clone() for name, p in adapted().named_parameters() if not p.requires_grad}
    options = {**OPTIONS, "save_steps": 2}
    whole = trainer.tune(adapted(), tokenizer, rows, rows[:6], tmp_path / "whole", **options)
    for name, parameter in whole.named_parameters():
        assert parameter.requires_grad != (name in frozen)
        assert parameter.requires_grad or torch.equal(parameter, frozen[name])
    assert not torch.equal(weights(whole), weights(adapted()))

    class Killed(Exception):
        pass

    def kill(step, of):
        if step == 5:
            raise Killed

    with pytest.raises(Killed):
        trainer.tune(adapted(), tokenizer, rows, rows[:6], tmp_path / "part", **options, on_progress=kill)
    again = trainer.tune(adapted(), tokenizer, rows, rows[:6], tmp_path / "part", **options)
    assert torch.equal(weights(again), weights(whole))
    names = {path.name for path in (tmp_path / "part/checkpoints/checkpoint-6").iterdir()}
    assert "adapter_model.safetensors" in names
    assert "model.safetensors" not in names
    trainer.save(again, tokenizer, tmp_path / "saved", "card")
    model.save_pretrained(tmp_path / "model")
    loaded = load.load_model(str(tmp_path / "model"), adapters=[str(tmp_path / "saved")])
    torch.testing.assert_close(logits(loaded), logits(again), rtol=1e-5, atol=1e-5)


def carried_out(table):
    for stage in table.stages():
        stage.open()
        if stage.name == "data":
            work.make_data(stage)
        elif stage.name == "tune":
            work.tune(stage, work.begin_tuning(stage))
        elif stage.name == "judge":
            work.judge(stage)
        else:
            work.evaluate(stage, work.begin_evaluation(stage))


def test_rows_with_adapters_from_tuning_to_export(data, tmp_path, capsys):  # noqa: F811
    path = tmp_path / "own.yaml"
    more = "\n  - {name: second, model: {run: taught}, objective: mt, replay: 0, past: null, new_epochs: 0.05, "
    more += "new_per_step: 4, adapter: {rank: 4, dora: true}}\n"
    more += "  - {name: eighth, model: {run: base}, objective: mt, replay: 0, past: null, new_epochs: 0.05, "
    more += "new_per_step: 4, adapter: {rank: 4, quantisation: int8}, quantisation: int8}\n"
    lora = "    adapter: {rank: 4, targets: [query_key_value]}\n    learning_rate: 0.01\n    validation_rows"
    path.write_text((OWN % {"data": data}).rstrip().replace("    validation_rows", lora) + more)
    table = Table(path, tmp_path / "outputs")
    table.check()
    carried_out(table)
    refused = path.with_name("refused.yaml")
    refused.write_text(path.read_text().replace("dora: true", "quantisation: nf4"))
    with pytest.raises(SettingsError, match=r"field 'adapter.quantisation': found 'nf4'; allowed: none, since"):
        Table(refused, tmp_path / "other").check()
    assert all(stage.done for stage in table.stages())
    made = table.stage("taught", "tune")
    assert not (made.folder / "model" / "model.safetensors").exists()
    assert str(tmp_path) not in (made.folder / "model" / "adapter_config.json").read_text()
    used = table.stage("second", "evaluate").inputs.tuned_model
    assert used.adapters == tuple(str(table.folder / run / "tune" / "model") for run in ("taught", "second"))
    names = {f"{stage.run.name} {stage.name}" for stage in table.stage("second", "evaluate").needs}
    assert names >= {"taught tune", "second tune"}

    scores = [(table.folder / run / "evaluate" / "scores.parquet").read_bytes() for run in ("base", "taught")]
    assert scores[0] != scores[1]
    command = ["export", str(path), "taught", str(tmp_path / "plain"), "--outputs", str(tmp_path / "outputs")]
    assert main(command) == 1
    assert "not on the Hub; allowed: the whole model (--merged)" in capsys.readouterr().err
    assert main([*command, "--merged"]) == 0
    folder = tmp_path / "plain"
    assert {"model.safetensors", "tokenizer.json", "README.md", "config.json"} <= {p.name for p in folder.iterdir()}
    whole = AutoModelForCausalLM.from_pretrained(folder)
    AutoTokenizer.from_pretrained(folder)
    torch.testing.assert_close(logits(whole), logits(load.load_model(*made.inputs.tuned_model)))
    assert "LoRA of rank 4)" in (folder / "README.md").read_text()
    card = (table.stage("eighth", "tune").folder / "model" / "README.md").read_text()
    assert "LoRA of rank 4 on the model in int8" in card
    assert main([*command, "--merged"]) == 1
    assert "allowed: a folder that is new or empty" in capsys.readouterr().err
    assert main(["export", str(path), "base", str(tmp_path / "x"), "--outputs", str(tmp_path / "outputs")]) == 1
    assert "trains on nothing" in capsys.readouterr().err


@pytest.mark.quick
def test_an_adapter_without_a_place_is_refused_before_work(data, tmp_path):  # noqa: F811
    path = tmp_path / "own.yaml"
    for adapter, said in {
        "{targets: [query_key]}": r"field 'adapter.targets': found 'query_key'; did you mean 'query_key_value'\?",
        "{rank: 0}": r"field 'adapter.rank': found 0; allowed: at least 1",
        "{quantisation: int4}": r"field 'adapter.quantisation': found 'int4'; did you mean 'int8'\?",
        "{quantisation: int8, dora: true}": r"field 'adapter.dora': found true; allowed: false, where quantisation is",
    }.items():
        path.write_text((OWN % {"data": data}).rstrip() + f"\n    adapter: {adapter}\n")
        with pytest.raises(SettingsError, match=said):
            Table(path, tmp_path / "outputs").check()


@pytest.mark.quick
def test_an_adapter_alone_names_its_model(model, tokenizer, tmp_path, monkeypatch):
    """What export writes for a model on the Hub, which here lies in the Hub's cache under a name."""
    from ia_lib.workflow.export import export

    adapted = adapters.attach(copy(model), rank=4, alpha=8)
    folder = tmp_path / "tune"
    trainer.save(adapted, tokenizer, folder / "model", "card")

    class Stage:
        done, status = True, "done"

        class inputs:
            tuned_model = ("some/model", "abc", (str(folder / "model"),))

    Stage.folder = folder
    from ia_lib.workflow.weights import Weights

    Stage.inputs.tuned_model = Weights(*Stage.inputs.tuned_model)

    path = tmp_path / "t.yaml"
    path.write_text("runs:\n  - {name: a, objective: tlm, model: {name: some/model}, adapter: {rank: 4}}\n")
    table = Table(path, tmp_path / "outputs")
    Stage.inputs.begins = table.run("a")
    monkeypatch.setattr(table, "stage", lambda *_: Stage)
    made = export(table, "a", tmp_path / "out")
    config = json.loads((made / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("some/model", "abc")
    assert (made / "tokenizer.json").is_file()
    assert (made / "README.md").read_text() == "card"
    with pytest.raises(SettingsError, match=r"--precision: found bfloat16; allowed: float32, as it"):
        export(table, "a", tmp_path / "half", precision="bfloat16")


@pytest.mark.quick
def test_a_new_models_layers_are_known_beforehand(data, tmp_path):  # noqa: F811
    path = tmp_path / "lab.yaml"
    new = "{name: base, recipe: instructions, past: {mixture: {mt: 100, rows: 300}}, model: {new: {}}, per_step: 8}"
    row = "{name: b, objective: mt, model: {run: base}, past: {run: base}, adapter: {targets: [q_proj]}}"
    path.write_text(f"runs:\n  - {new}\n  - {row}\n")
    with pytest.raises(SettingsError, match=r"'adapter.targets': found 'q_proj'; allowed: linear layers of the model"):
        Table(path, tmp_path / "outputs").check()


@pytest.mark.quick
def test_the_output_layer_gets_none_where_it_shares_its_weights(any_model, tmp_path):
    """Merged into it, what an adapter adds would change the embeddings, too."""
    model = copy(any_model)
    head = model.get_output_embeddings()
    (name,) = (name for name, module in model.named_modules() if module is head)
    shared = model.get_input_embeddings().weight is head.weight
    model.save_pretrained(tmp_path / "model")
    if shared:
        with pytest.raises(ValueError, match=f"adapter.targets: found '{name}'; allowed: other layers, since"):
            adapters.attach(model, rank=4, alpha=8, targets=[name])
    else:
        adapted = adapters.attach(model, rank=4, alpha=8, targets=[name])
        with torch.no_grad():
            for weight in (weight for weight in adapted.parameters() if weight.requires_grad):
                weight.normal_(0, 0.3)
        adapted.save_pretrained(tmp_path / "adapter")
        merged = load.load_model(str(tmp_path / "model"), adapters=[str(tmp_path / "adapter")])
        torch.testing.assert_close(logits(merged), logits(adapted), atol=1e-4, rtol=1e-4)


@pytest.mark.quick
def test_the_output_layer_is_refused_before_work(data, tmp_path):  # noqa: F811
    path = tmp_path / "own.yaml"
    path.write_text((OWN % {"data": data}).rstrip() + "\n    adapter: {targets: [query_key_value, lm_head]}\n")
    with pytest.raises(SettingsError, match=r"'adapter.targets': found 'lm_head'; allowed: other layers"):
        Table(path, tmp_path / "outputs").check()


@pytest.mark.quick
def test_a_4_bit_model_has_its_gradients_also_after_it_was_looked_through(any_model, tmp_path):
    """Of the very same numbers in full precision; some CPUs pack such layers at their first use without training."""
    import bitsandbytes

    any_model.save_pretrained(tmp_path)
    ids = torch.arange(3, 19)[None]

    def gradients(model):
        model.train()
        torch.nn.functional.cross_entropy(model(input_ids=ids, use_cache=False).logits[0, :-1], ids[0, 1:]).backward()
        return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}

    quantised = load.load_model(str(tmp_path), quantisation="nf4")
    whole = load.load_model(str(tmp_path))
    layers = {name: part for name, part in quantised.named_modules() if isinstance(part, bitsandbytes.nn.Linear4bit)}
    with torch.no_grad():
        for name, part in layers.items():
            state = part.weight.quant_state
            numbers = bitsandbytes.functional.dequantize_4bit(part.weight.data, state)
            numbers = numbers.reshape(part.out_features, part.in_features)
            layer = whole.get_submodule(name)
            # GPT-2's layers stand the other way round
            layer.weight.copy_(numbers if isinstance(layer, torch.nn.Linear) else numbers.T)
    # before training as well as behind it they compute with the same numbers
    torch.testing.assert_close(logits(quantised.eval()), logits(whole.eval()), rtol=1e-4, atol=1e-5)
    found = []
    for model in (quantised, whole):
        adapted = adapters.attach(model, rank=4, alpha=8, targets=sorted({name.rpartition(".")[2] for name in layers}))
        with torch.no_grad():
            for weight in (weight for name, weight in adapted.named_parameters() if "lora_B" in name):
                weight.fill_(0.05)
        adapted.eval()
        with torch.no_grad():
            adapted(input_ids=ids, use_cache=False)
        found.append(gradients(adapted))
    assert found[0]
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], atol=1e-5, rtol=2e-3)
