import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from ia_lib import prompts, replay, tuning

STEPS, NEW, OLD = 6, 4, 4
OPTIONS = {"steps": STEPS, "batch_size": NEW + OLD, "learning_rate": 1e-3, "log_steps": 1, "validate_steps": 3}


@pytest.fixture(scope="module")
def rows(tokenizer):
    """Training rows in batches that alternate; old answers are upper case, new ones lower case."""
    new = [(f"Text {i}: " + "kata " * (i % 7), "makanan bagus " * (1 + i % 3)) for i in range(STEPS * NEW)]
    old = [(f"Food {i}? ", "THE FOOD") for i in range(10)]
    encoded = {
        kind: prompts.encode(tokenizer, [p for p, _ in pairs], [a for _, a in pairs], 60)[0]
        for kind, pairs in (("new", new), ("old", old))
    }
    order = replay.interleave(len(new), len(old), STEPS, NEW, OLD, 1)
    return [encoded[kind][i] for kind, i in order]


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def copy(model):
    again = AutoModelForCausalLM.from_config(model.config)
    again.load_state_dict(model.state_dict())
    return again


def naive_loss(model, batch, loss, average):
    """One row at a time, all logits, with the definitions of the settings written out."""
    totals, counts = [], []
    for row in batch:
        ids = torch.tensor([row["input_ids"]])
        logprobs = model(ids).logits[0].float().log_softmax(-1)
        begin = max(1, row["answer_start"]) if loss == "answer" else 1
        losses = [-logprobs[i - 1, ids[0, i]] for i in range(begin, ids.shape[1])]
        totals.append(sum(losses))
        counts.append(len(losses))
    if average == "token":
        return sum(totals) / sum(counts)
    return sum(t / c for t, c in zip(totals, counts, strict=True)) / len(batch)


@pytest.mark.quick
@pytest.mark.parametrize("loss", ["answer", "all"])
@pytest.mark.parametrize("average", ["example", "token"])
def test_the_loss_is_the_naive_one(any_model, tokenizer, rows, tmp_path, loss, average):
    model = copy(any_model).eval()
    expected = [
        naive_loss(model, rows[i : i + NEW + OLD], loss, average).item() for i in range(0, len(rows), NEW + OLD)
    ]
    tuning.tune(
        model, tokenizer, rows, [], tmp_path, **{**OPTIONS, "learning_rate": 1e-12}, loss=loss, loss_average=average
    )
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    found = [record["loss"] for record in log if "loss" in record]
    np.testing.assert_allclose(found, expected, atol=2e-4)


@pytest.mark.quick
def test_the_fused_activation_is_blooms_own(model, tokenizer):
    ids = torch.randint(3, len(tokenizer), (2, 20))
    plain, fused = copy(model).train(), tuning.fuse_gelu(copy(model)).train()
    assert "BloomGelu" in str(plain)
    assert "BloomGelu" not in str(fused)
    for one in (plain, fused):
        one(ids, labels=ids).loss.backward()
    torch.testing.assert_close(plain(ids).logits, fused(ids).logits, atol=1e-5, rtol=1e-5)
    for a, b in zip(plain.parameters(), fused.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-6, rtol=1e-4)


@pytest.mark.quick
def test_weights_of_a_batch_sum_to_one(rows):
    for average in ("example", "token"):
        for loss in ("answer", "all"):
            weighed = tuning.weigh(rows, 8, loss, average)
            for i in range(0, len(weighed), 8):
                total = sum(r["weight"] * (len(r["input_ids"]) - r["first"]) for r in weighed[i : i + 8])
                assert total == pytest.approx(1)


@pytest.mark.quick
def test_the_batches_that_reach_the_model_alternate(model, tokenizer, rows, tmp_path):
    model = copy(model)
    seen = []

    def look(module, args, kwargs):
        if module.training:
            seen.append([tokenizer.decode(ids, skip_special_tokens=True) for ids in kwargs["input_ids"]])

    model.register_forward_pre_hook(look, with_kwargs=True)
    tuning.tune(model, tokenizer, rows, rows[:4], tmp_path, **OPTIONS, accumulation=2)
    assert len(seen) == STEPS * 2
    for batch in seen:
        assert [text.endswith("THE FOOD") for text in batch] == [True, False] * (len(batch) // 2)


@pytest.mark.quick
def test_accumulation_changes_nothing(model, tokenizer, rows, tmp_path):
    ends = []
    for accumulation in (1, 4):
        tuned = tuning.tune(
            copy(model), tokenizer, rows, [], tmp_path / str(accumulation), **OPTIONS, accumulation=accumulation
        )
        ends.append(weights(tuned))
    torch.testing.assert_close(*ends, atol=1e-5, rtol=1e-4)


@pytest.mark.quick
def test_a_killed_run_ends_with_the_weights_of_an_unbroken_one(model, tokenizer, rows, tmp_path):
    def killer(record):
        if record["step"] == 5:
            raise KeyboardInterrupt

    options = {**OPTIONS, "save_steps": 2}
    whole = tuning.tune(copy(model), tokenizer, rows, rows[:4], tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        tuning.tune(copy(model), tokenizer, rows, rows[:4], tmp_path / "broken", **options, on_log=killer)
    # a checkpoint that was being written when the machine went down
    half = tmp_path / "broken" / "checkpoints" / "checkpoint-5"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    resumed = tuning.tune(copy(model), tokenizer, rows, rows[:4], tmp_path / "broken", **options)
    torch.testing.assert_close(weights(resumed), weights(whole), atol=0, rtol=0)
    logs = [
        [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("whole", "broken")
    ]
    for log in logs:
        for record in log:
            record.pop("tokens_per_second", None)
    assert logs[0] == logs[1]


@pytest.mark.quick
def test_the_log_and_who_watches(model, tokenizer, rows, tmp_path):
    records, steps = [], []
    tuning.tune(
        copy(model), tokenizer, rows, rows[:4], tmp_path, **OPTIONS,
        on_log=records.append, on_progress=lambda step, of: steps.append((step, of)),
    )  # fmt: skip
    assert steps == [(i, STEPS) for i in range(1, STEPS + 1)]
    assert [r["step"] for r in records if "loss" in r] == list(range(1, STEPS + 1))
    assert [r["step"] for r in records if "validation_loss" in r] == [3, 6]
    rates = [r["learning_rate"] for r in records if "loss" in r]
    assert rates == sorted(rates, reverse=True)
    assert all(r["tokens_per_second"] > 0 for r in records if "loss" in r)


def test_eight_bit_models_load_on_the_cpu_and_agree_nearly(model, tokenizer, tmp_path):
    from ia_lib.scoring import label_logprobs

    model.save_pretrained(tmp_path)
    asked, labels = ["Makanan ini ", "Kamar itu sangat "], ["bagus", "buruk"]
    whole = label_logprobs(tuning.load_model(str(tmp_path)), tokenizer, asked, labels).label_logprob
    eight = label_logprobs(
        tuning.load_model(str(tmp_path), quantisation="int8"), tokenizer, asked, labels
    ).label_logprob
    assert not np.array_equal(whole, eight)
    np.testing.assert_allclose(whole, eight, rtol=0.02)
