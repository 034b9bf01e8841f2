"""Each method against forgetting beside a naive one, written out weight by weight from its paper."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TABLE
from test_trainer import copy, logged, naive_loss, weights
from transformers import GPT2Config, GPT2LMHeadModel, get_linear_schedule_with_warmup

from ia_lib.models import adapters, load
from ia_lib.recipes import fields
from ia_lib.report import results
from ia_lib.training import retention, trainer
from ia_lib.training.batches import lay_out
from ia_lib.training.streams import Stream
from ia_lib.workflow import scheduler, tables
from ia_lib.workflow.export import export
from ia_lib.workflow.graph import Table
from ia_lib.workflow.settings import SettingsError
from ia_lib.workflow.weights import Weights

STEPS, NEW, OLD, RATE = 5, 4, 4, 1e-3
OPTIONS = {"batch_size": NEW + OLD, "learning_rate": RATE, "log_steps": 1}


@pytest.fixture(scope="module")
def given(tokenizer):
    """Batches of both roles, and old rows that no step reads."""
    new = [("new", "train", f"Text {i}: " + "kata " * (i % 7), "makanan bagus") for i in range(STEPS * NEW)]
    old = [("old", "train", f"Food {i}? ", "THE FOOD " * (1 + i % 3)) for i in range(10)]
    kept = [("old", "kept", f"Room {i}? ", "THE ROOM " * (1 + i % 2)) for i in range(6)]
    examples = pd.DataFrame([*new, *old, *kept], columns=["role", "split", "prompt", "answer"])
    streams = [Stream("new", "new", NEW), Stream("old", "old", OLD, passes=True)]
    rows, validation, kept = lay_out(
        examples.assign(stream=examples["role"]), streams, tokenizer, {"max_length": 60}, 1
    )
    assert len(kept) == 6
    assert not validation
    assert len(rows) == STEPS * (NEW + OLD)
    return rows, kept


@pytest.fixture
def gpt2(tokenizer):
    """A model whose layers hold their weights the other way round."""
    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": len(tokenizer)}
    none = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    return GPT2LMHeadModel(GPT2Config(**sizes, **none))


def gradients(model, loss):
    return torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)


def log_probability(model, row):
    ids = torch.tensor([row["input_ids"]])
    logprobs = model(ids).logits[0].log_softmax(-1)
    return sum(logprobs[i - 1, ids[0, i]] for i in range(row["answer_start"], ids.shape[1]))


def naive_ewc(model, kept, strength):
    beginning = [weight.detach().clone() for weight in model.parameters()]
    fisher = [sum(parts) / len(kept) for parts in zip(
        *([g**2 for g in gradients(model, log_probability(model, row))] for row in kept), strict=True)]  # fmt: skip

    def of_step(batch):
        loss = naive_loss(model, batch, "answer", "example")
        for weight, begun, important in zip(model.parameters(), beginning, fisher, strict=True):
            loss = loss + strength / 2 * (important * (weight - begun) ** 2).sum()
        return loss, gradients(model, loss)

    return of_step


def naive_agem(model, kept):
    def of_step(batch):
        new, old = ([row for row in batch if row["role"] == role] for role in ("new", "old"))
        loss = naive_loss(model, new, "answer", "example")
        g, r = (
            torch.cat([part.flatten() for part in gradients(model, one)])
            for one in (loss, naive_loss(model, old, "answer", "example"))
        )
        if g @ r < 0:
            g = g - (g @ r) / (r @ r) * r
        sizes = [weight.numel() for weight in model.parameters()]
        return loss, [part.view_as(w) for part, w in zip(g.split(sizes), model.parameters(), strict=True)]

    return of_step


def naive_ssu(model, kept, share):
    # every input of every linear layer but the last, token by token
    inputs, frozen = {}, {}
    layers = {n: m for n, m in model.named_modules() if n != "lm_head" and type(m).__name__ in ("Linear", "Conv1D")}
    hooks = [
        layer.register_forward_hook(lambda _, read, __, name=name: inputs.setdefault(name, []).extend(read[0][0]))
        for name, layer in layers.items()
    ]
    with torch.no_grad():
        for row in kept:
            model(torch.tensor([row["input_ids"]]))
    for hook in hooks:
        hook.remove()
    for name, layer in layers.items():
        matrix = layer.weight.T if type(layer).__name__ == "Conv1D" else layer.weight  # [out, in]
        norms = torch.stack(inputs[name]).norm(dim=0)
        scores = [sum(abs(w) * norms[j] for w in matrix[:, j]).item() for j in range(matrix.shape[1])]
        frozen[name] = sorted(range(len(scores)), key=scores.__getitem__)[-round(share * len(scores)) :]

    def of_step(batch):
        loss = naive_loss(model, batch, "answer", "example")
        found = [g.clone() for g in gradients(model, loss)]
        for (name, _), gradient in zip(model.named_parameters(), found, strict=True):
            if name.endswith(".weight") and (layer := name.removesuffix(".weight")) in frozen:
                for j in frozen[layer]:
                    (gradient if type(layers[layer]).__name__ == "Conv1D" else gradient.T)[j] = 0
        return loss, found

    return of_step


def train_naively(model, rows, of_step):
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
    schedule = get_linear_schedule_with_warmup(optimiser, 0, STEPS)
    losses = []
    for begin in range(0, len(rows), NEW + OLD):
        loss, found = of_step(rows[begin : begin + NEW + OLD])
        for weight, gradient in zip(model.parameters(), found, strict=True):
            weight.grad = gradient
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
    return losses


METHODS = {
    "ewc": (lambda: retention.Elastic(50.0), lambda model, kept: naive_ewc(model, kept, 50.0)),
    "agem": (retention.AveragedGem, naive_agem),
    "ssu": (lambda: retention.Shield(0.3), lambda model, kept: naive_ssu(model, kept, 0.3)),
}


@pytest.mark.quick
@pytest.mark.parametrize("shape", ["bloom", "gpt2"])
@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_the_naive_one(name, shape, model, gpt2, tokenizer, given, tmp_path):
    rows, kept = given
    start = model if shape == "bloom" else gpt2
    naive, ours, plain = copy(start).eval(), copy(start).eval(), copy(start).eval()
    make, naively = METHODS[name]
    expected = train_naively(naive, rows, naively(naive, kept))
    options = {**OPTIONS, "steps": STEPS, "loss_average": "example"}
    trainer.tune(ours, tokenizer, rows, [], tmp_path / "ours", **options, retention=make(), kept=kept)
    np.testing.assert_allclose(logged(tmp_path / "ours", "loss"), expected, atol=2e-4)
    np.testing.assert_allclose(weights(ours), weights(naive), atol=3e-5)
    trainer.tune(plain, tokenizer, rows, [], tmp_path / "plain", **options)
    # the method does something, and more than rounding
    assert (weights(ours) - weights(plain)).abs().max() > 3e-4


@pytest.mark.quick
@pytest.mark.parametrize("name", METHODS)
def test_a_method_goes_on_exactly_and_in_parts(name, model, tokenizer, given, tmp_path):
    rows, kept = given
    whole, cut, parts = copy(model), copy(model), copy(model)
    options = {**OPTIONS, "loss_average": "token", "save_steps": 2, "kept": kept, "steps": STEPS}
    make = METHODS[name][0]
    trainer.tune(whole, tokenizer, rows, [], tmp_path / "whole", **options, retention=make())

    def stop(step, _):
        if step == 3:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        trainer.tune(cut, tokenizer, rows, [], tmp_path / "cut", **options, retention=make(), on_progress=stop)
    cut = trainer.tune(copy(model), tokenizer, rows, [], tmp_path / "cut", **options, retention=make())
    assert torch.equal(weights(whole), weights(cut))
    trainer.tune(parts, tokenizer, rows, [], tmp_path / "parts", **options, retention=make(), accumulation=2)
    np.testing.assert_allclose(weights(parts), weights(whole), atol=2e-5)


@pytest.mark.quick
def test_what_is_shielded_stays_bit_for_bit(model, tokenizer, given, tmp_path):
    rows, kept = given
    tuned, shield = copy(model), retention.Shield(0.5)
    trainer.tune(tuned, tokenizer, rows, [], tmp_path, **OPTIONS, steps=STEPS, retention=shield, kept=kept)
    before, after = dict(model.named_parameters()), dict(tuned.named_parameters())
    names = {id(weight): name for name, weight in after.items()}
    assert len(shield.frozen) == 8  # four layers of each of the two blocks
    for weight, columns in shield.frozen:
        name, same = names[id(weight)], torch.zeros_like(weight, dtype=torch.bool)
        same[columns] = True
        assert torch.equal(before[name][same], after[name][same])
        assert (before[name][~same] != after[name][~same]).float().mean() > 0.5
        assert abs(same.float().mean().item() - 0.5) < 0.02


@pytest.mark.quick
def test_what_a_method_cannot_honour_is_refused(tmp_path):
    row = "runs: [{name: a, model: {name: m}, past: {file: p.jsonl}, objective: tlm, replay: 10, steps: 2, %s}]"
    for text, said in {
        "retention: {method: ewc, share: 0.3}": "found 0.3; allowed: nothing, where the method is ewc",
        "retention: {method: agem, strength: 2}": "found 2.0; allowed: nothing, where the method is agem",
        "replay: 0, retention: {method: agem}": "found 0; allowed: a number of old instructions, by which agem",
        "retention: {method: ssu}, adapter: {}": "allowed: nothing, where retention is ssu",
        "retention: {method: ssu}, weight_decay: 0.1": "allowed: 0, where retention is ssu",
        "retention: {method: gem}": "found 'gem'",
        "retention: {method: agem}, alternation: shuffled": "allowed: strict, where retention is agem",
    }.items():
        table = tmp_path / "t.yaml"
        table.write_text(row.replace("replay: 10, ", "" if "replay" in text else "replay: 10, ") % text)
        with pytest.raises(SettingsError, match=said.replace("(", r"\(")):
            tables.load(table)


def test_a_rows_fields_give_its_method():
    assert type(retention.method(None)) is retention.Retention
    assert retention.method(fields.Retention(method="ewc", strength=3)).strength == 3
    assert retention.method(fields.Retention(method="ssu", share=0.2)).share == 0.2
    assert retention.method(fields.Retention(method="agem")).apart


@pytest.mark.quick
@pytest.mark.parametrize("adapter", [False, True])
def test_weights_between_two_models(adapter, model, tokenizer, given, tmp_path):
    rows, _ = given
    model.save_pretrained(tmp_path / "start")
    tuned = adapters.attach(copy(model), rank=4, alpha=8) if adapter else copy(model)
    trainer.tune(tuned, tokenizer, rows, [], tmp_path / "tune", **{**OPTIONS, "learning_rate": 1e-2}, steps=STEPS)
    trainer.save(tuned, tokenizer, tmp_path / "end", "")
    start, end = str(tmp_path / "start"), str(tmp_path / "end")
    whole = Weights(start, None, (end,)) if adapter else Weights(end)
    ends = [weights(load.load_model(*one)) for one in (Weights(start), whole)]
    assert (ends[1] - ends[0]).abs().max() > 1e-3
    for share in (0.0, 0.3, 1.0):
        between = load.load_model(*whole._replace(beginning=Weights(start), share=share))
        torch.testing.assert_close(weights(between), ends[0] + share * (ends[1] - ends[0]), atol=1e-6, rtol=0)


def test_a_row_between_two_models_is_scored_compared_and_exported(tmp_path):
    table = tmp_path / "t.yaml"
    between = "- {name: half, objective: none, replay: 0, model: {run: tlm, interpolate: 0.5}}"
    table.write_text(TABLE + f"  {between}\n")
    made = Table(table, tmp_path / "o")
    before = {str(stage): stage.key for stage in made.stages()}
    table.write_text(TABLE + f"  {between}\n".replace("0.5", "0.25"))
    after = {str(stage): stage.key for stage in Table(table, tmp_path / "o").stages()}
    assert [name for name in before if before[name] != after[name]] == ["half: evaluate"]
    assert not scheduler.execute(Table(table, tmp_path / "o"))
    found = results.read(tmp_path / "o" / "t" / "report").query("language == 'all' and row == 'half'")
    assert set(found["retention"]) == {"interpolation 0.25"}
    # its difference is to the model that tlm began with
    base = results.read(tmp_path / "o" / "t" / "report").query("language == 'all' and row == 'base'")
    for column in ("group", "prompt", "dataset", "task", "metric"):
        assert list(found[column].fillna("")) == list(base[column].fillna(""))
    difference = found["difference"].to_numpy()
    told = ~np.isnan(difference)
    assert told.sum() >= 3
    expected = (found["value"].to_numpy() - base["value"].to_numpy())[told]
    np.testing.assert_allclose(difference[told], expected, atol=2e-4)
    folder = export(Table(table, tmp_path / "o"), "half", tmp_path / "half")
    ends = [weights(load.load_model(str(tmp_path / "o" / "t" / run / "tune" / "model"))) for run in ("base", "tlm")]
    torch.testing.assert_close(weights(load.load_model(str(folder))), torch.lerp(*ends, 0.25), atol=1e-6, rtol=0)
    assert "0.25 of the way" in (folder / "README.md").read_text()


@pytest.mark.quick
def test_rows_that_were_only_looked_at_are_nobodys_past(tmp_path):
    table = tmp_path / "t.yaml"
    row = "{name: e, objective: tlm, retention: {method: %s}}"
    further = "{name: f, objective: tlm, past: {run: e}, replay: 5}"
    for method in ("ewc", "agem"):
        table.write_text(TABLE + f"  - {row % method}\n  - {further}\n")
        if method == "agem":
            assert len(tables.load(table)) == 4
            continue
        with pytest.raises(
            SettingsError, match=r"'past.run': found 'e'; allowed: a run that is trained on old instructions"
        ):
            tables.load(table)
