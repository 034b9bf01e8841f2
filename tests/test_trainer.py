import contextlib
import json
import signal
from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
import torch
from chats import CHATS
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from ia_lib.evaluation.generation import answers
from ia_lib.models.encoding import encode
from ia_lib.training import checkpoints, trainer
from ia_lib.training.batches import lay_out
from ia_lib.training.streams import Stream

STEPS, NEW, OLD = 6, 4, 4
OPTIONS = {"steps": STEPS, "batch_size": NEW + OLD, "learning_rate": 1e-3, "log_steps": 1, "validate_steps": 3}


def encoded(tokenizer, pairs, length=60, role="new", **how):
    rows, _ = encode(tokenizer, [p for p, _ in pairs], [a for _, a in pairs], length, **how)
    return [{**row, "stream": "rows", "role": role} for row in rows]


@pytest.fixture(scope="module")
def rows(tokenizer):
    """Training rows in batches that alternate; old answers are upper case, new ones lower case."""
    new = [("new", f"Text {i}: " + "kata " * (i % 7), "makanan bagus " * (1 + i % 3)) for i in range(STEPS * NEW)]
    old = [("old", f"Food {i}? ", "THE FOOD") for i in range(10)]
    examples = pd.DataFrame(new + old, columns=["role", "prompt", "answer"])
    examples = examples.assign(stream=examples["role"], split="train")
    streams = [Stream("new", "new", NEW), Stream("old", "old", OLD, passes=True)]
    return lay_out(examples, streams, tokenizer, {"max_length": 60}, 1)[0]


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
        if model.config.is_encoder_decoder:
            read, told = ids[:, : row["answer_start"]], ids[:, row["answer_start"] :]
            logprobs = model(input_ids=read, labels=told).logits[0].float().log_softmax(-1)
            losses = [-logprobs[i, token] for i, token in enumerate(told[0])]
        else:
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
@pytest.mark.parametrize("few", [0, 2**24])  # with all logits at once, or in pieces
def test_the_loss_is_the_naive_one(any_model, tokenizer, rows, tmp_path, loss, average, few, monkeypatch):
    monkeypatch.setattr(trainer.pieces, "FEW", few)
    model = copy(any_model).eval()
    expected = [
        naive_loss(model, rows[i : i + NEW + OLD], loss, average).item() for i in range(0, len(rows), NEW + OLD)
    ]
    trainer.tune(
        model, tokenizer, rows, [], tmp_path, **{**OPTIONS, "learning_rate": 1e-12}, loss=loss, loss_average=average
    )
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    found = [record["loss"] for record in log if "loss" in record]
    np.testing.assert_allclose(found, expected, atol=2e-4)


@pytest.fixture(scope="module")
def apart(tokenizer):
    """Training rows for an encoder and a decoder."""
    pairs = [(f"Text {i}: " + "kata " * (i % 7), "makanan bagus " * (1 + i % 3)) for i in range(STEPS * (NEW + OLD))]
    return encoded(tokenizer, pairs, encoder_decoder=True)


def logged(folder, name):
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [record[name] for record in records if name in record]


@pytest.mark.quick
@pytest.mark.parametrize("average", ["example", "token"])
def test_the_loss_of_an_encoder_decoder_model_is_the_naive_one(encoder_decoder, apart, tokenizer, tmp_path, average):
    config = deepcopy(encoder_decoder.config)
    config.dropout_rate = 0.0
    model = type(encoder_decoder)(config).eval()
    model.load_state_dict(encoder_decoder.state_dict())
    expected = [
        naive_loss(model, apart[i : i + NEW + OLD], "answer", average).item() for i in range(0, len(apart), NEW + OLD)
    ]
    options = {**OPTIONS, "learning_rate": 1e-12, "loss_average": average}
    for accumulation in (1, 4):
        folder = tmp_path / str(accumulation)
        trainer.tune(model, tokenizer, apart, [], folder, **options, accumulation=accumulation)
        np.testing.assert_allclose(logged(folder, "loss"), expected, atol=2e-4)
    with pytest.raises(ValueError, match="found 'all'; allowed: 'answer' for an encoder-decoder"):
        trainer.tune(model, tokenizer, apart, [], tmp_path / "all", **options, loss="all")


@pytest.mark.quick
def test_the_loss_of_a_conversation_is_that_of_the_assistants_turn(chat_model, turns_tokenizer, chat, tmp_path):
    asked, answers = ["A? ", "Kamar ini\n", "x", "y: "], ["good", "sangat bagus", "b", "tidak"]
    rows = encoded(turns_tokenizer, list(zip(asked, answers, strict=True)), 100, chat=True)
    losses = []
    for prompt, answer in zip(asked, answers, strict=True):
        begin, whole = (
            turns_tokenizer(chat.before + prompt.strip() + chat.between + end, add_special_tokens=False)["input_ids"]
            for end in ("", answer + chat.end)
        )
        logprobs = chat_model(torch.tensor([whole])).logits[0].log_softmax(-1)
        losses.append(np.mean([-logprobs[i - 1, whole[i]].item() for i in range(len(begin), len(whole))]))
    options = {"steps": 1, "batch_size": 4, "learning_rate": 1e-12, "log_steps": 1}
    trainer.tune(deepcopy(chat_model), turns_tokenizer, rows, [], tmp_path, **options)
    np.testing.assert_allclose(logged(tmp_path, "loss"), [np.mean(losses)], atol=2e-4)


@pytest.mark.quick
@pytest.mark.parametrize("average", ["example", "token"])
def test_the_validation_loss_is_the_mean_over_all_rows(model, tokenizer, rows, tmp_path, average):
    # answers of very different lengths, and a last batch that is smaller than the others
    held_out = [*sorted(rows, key=lambda row: len(row["input_ids"]) - row["answer_start"])[::4], rows[1]]
    assert len(held_out) % (NEW + OLD) not in (0, NEW + OLD)
    options = {**OPTIONS, "learning_rate": 1e-12, "loss_average": average}
    trainer.tune(copy(model), tokenizer, rows, held_out, tmp_path, **options)
    expected = naive_loss(model, held_out, "answer", average).item()
    np.testing.assert_allclose(logged(tmp_path, "validation_loss"), [expected] * 2, atol=1e-5)


@pytest.mark.quick
def test_one_process_uses_one_device(model, tokenizer, rows, tmp_path, monkeypatch):
    model, seen = copy(model), []
    model.register_forward_pre_hook(lambda module, args, given: seen.append(len(given["input_ids"])), with_kwargs=True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    trainer.tune(model, tokenizer, rows, [], tmp_path, **OPTIONS)
    # a single row, to see what its logits are made of, comes before the first step
    assert [rows for rows in seen if rows > 1] == [NEW + OLD] * STEPS


@pytest.mark.quick
def test_the_batches_that_reach_the_model_alternate(model, tokenizer, rows, tmp_path):
    model = copy(model)
    seen = []

    def look(module, args, kwargs):
        if module.training:
            seen.append([tokenizer.decode(ids, skip_special_tokens=True) for ids in kwargs["input_ids"]])

    model.register_forward_pre_hook(look, with_kwargs=True)
    trainer.tune(model, tokenizer, rows, rows[:4], tmp_path, **OPTIONS, accumulation=2)
    assert len(seen) == STEPS * 2
    for batch in seen:
        assert [text.endswith("THE FOOD") for text in batch] == [True, False] * (len(batch) // 2)


@pytest.mark.quick
@pytest.mark.parametrize("few", [0, 2**24])
def test_packing_changes_nothing_but_the_padding(any_model, tokenizer, rows, tmp_path, few, monkeypatch):
    monkeypatch.setattr(trainer.pieces, "FEW", few)
    if any_model.config.model_type not in ("gpt2", "llama", "gemma3_text"):
        with pytest.raises(ValueError, match="packing: found true; allowed: false, for a model that cannot tell"):
            trainer.tune(copy(any_model), tokenizer, rows, [], tmp_path / "no", **OPTIONS, packing=True)
        return
    ends = []
    for name, more in {"plain": {}, "packed": {"packing": True}, "parts": {"packing": True, "accumulation": 2}}.items():
        tuned = trainer.tune(copy(any_model), tokenizer, rows, rows[:5], tmp_path / name, **OPTIONS, **more)
        ends.append((weights(tuned), logged(tmp_path / name, "loss"), logged(tmp_path / name, "validation_loss")))
    for other in ends[1:]:
        np.testing.assert_allclose(other[1], ends[0][1], atol=1e-5)
        np.testing.assert_allclose(other[2], ends[0][2], atol=1e-5)
        torch.testing.assert_close(other[0], ends[0][0], atol=2e-5, rtol=1e-3)


@pytest.mark.quick
def test_accumulation_changes_nothing(model, tokenizer, rows, tmp_path):
    ends = []
    for accumulation in (1, 4):
        tuned = trainer.tune(
            copy(model), tokenizer, rows, [], tmp_path / str(accumulation), **OPTIONS, accumulation=accumulation
        )
        ends.append(weights(tuned))
    torch.testing.assert_close(*ends, atol=1e-5, rtol=1e-4)


@pytest.mark.quick
@pytest.mark.parametrize(("log_steps", "save_steps", "killed_at"), [(1, 2, 5), (2, 5, 6), (4, 3, 4), (3, 1, 5)])
def test_a_killed_run_ends_with_the_weights_of_an_unbroken_one(
    model, tokenizer, rows, tmp_path, log_steps, save_steps, killed_at
):
    def killer(record):
        if record["step"] == killed_at:
            raise KeyboardInterrupt

    def stopper(step, of):
        if step == killed_at:
            raise KeyboardInterrupt

    options = {**OPTIONS, "log_steps": log_steps, "save_steps": save_steps}
    cut = {"on_log": killer} if killed_at % log_steps == 0 else {"on_progress": stopper}
    whole = trainer.tune(copy(model), tokenizer, rows, rows[:4], tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        trainer.tune(copy(model), tokenizer, rows, rows[:4], tmp_path / "broken", **options, **cut)
    # a checkpoint that was being written when the machine went down
    half = tmp_path / "broken" / "checkpoints" / f"checkpoint-{killed_at}"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    resumed = trainer.tune(copy(model), tokenizer, rows, rows[:4], tmp_path / "broken", **options)
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
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_training_with_a_checkpoint_of_that_step(model, tokenizer, rows, tmp_path, number):
    options, before = {**OPTIONS, "save_steps": 4}, signal.getsignal(number)
    whole = trainer.tune(copy(model), tokenizer, rows, rows[:4], tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt, match="stopped behind step 3"):
        trainer.tune(
            *(copy(model), tokenizer, rows, rows[:4], tmp_path / "cut"),
            **{**options, "on_progress": lambda step, of: step == 3 and signal.raise_signal(number)},
        )
    assert signal.getsignal(number) == before
    assert [path.name for path in (tmp_path / "cut" / "checkpoints").iterdir()] == ["checkpoint-3"]
    resumed = trainer.tune(copy(model), tokenizer, rows, rows[:4], tmp_path / "cut", **options)
    torch.testing.assert_close(weights(resumed), weights(whole), atol=0, rtol=0)
    assert logged(tmp_path / "cut", "loss") == logged(tmp_path / "whole", "loss")


@pytest.mark.quick
def test_a_killed_encoder_decoder_run_ends_with_the_same_weights(encoder_decoder, apart, tokenizer, tmp_path):
    def killer(record):
        if record["step"] == 5:
            raise KeyboardInterrupt

    options = {**OPTIONS, "save_steps": 2}
    # its dropout goes on where it was
    whole = trainer.tune(deepcopy(encoder_decoder), tokenizer, apart, apart[:4], tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        trainer.tune(deepcopy(encoder_decoder), tokenizer, apart, apart[:4], tmp_path / "cut", **options, on_log=killer)
    resumed = trainer.tune(deepcopy(encoder_decoder), tokenizer, apart, apart[:4], tmp_path / "cut", **options)
    assert not torch.equal(weights(whole), weights(encoder_decoder))
    torch.testing.assert_close(weights(resumed), weights(whole), atol=0, rtol=0)
    assert logged(tmp_path / "cut", "loss") == logged(tmp_path / "whole", "loss")


@pytest.mark.quick
@pytest.mark.parametrize("kind", ["chat", "encoder_decoder"])
def test_what_was_learned_is_answered(kind, chat_model, encoder_decoder, tokenizer, turns_tokenizer, tmp_path):
    """The model learns two answers by heart, and stops where they end."""
    model = deepcopy(chat_model if kind == "chat" else encoder_decoder)
    each = turns_tokenizer if kind == "chat" else tokenizer
    turns_tokenizer.chat_template = CHATS["gemma3"].template
    rows = encoded(each, [("Makanan? ", "sangat bagus"), ("Kamar? ", "buruk")], **{kind: True})
    options = {"steps": 80, "batch_size": 2, "learning_rate": 2e-2, "log_steps": 80}
    tuned = trainer.tune(model, each, rows * 80, [], tmp_path, **options)
    told = answers(tuned.eval(), each, rows, tokens=12)
    assert told["model"].tolist() == told["answer"].tolist() == ["sangat bagus", "buruk"]
    assert ["Makanan?" in prompt for prompt in told["prompt"]] == [True, False]


@pytest.mark.quick
def test_a_model_is_saved_with_its_card(model, tokenizer, tmp_path):
    trainer.save(model, tokenizer, tmp_path, "# tlm\n\nBegan with nothing, bahasa “baru”.\n")
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == "# tlm\n\nBegan with nothing, bahasa “baru”.\n"
    assert AutoTokenizer.from_pretrained(tmp_path).get_vocab() == tokenizer.get_vocab()
    torch.testing.assert_close(weights(AutoModelForCausalLM.from_pretrained(tmp_path)), weights(model), atol=0, rtol=0)


@pytest.mark.quick
def test_the_log_and_who_watches(model, tokenizer, rows, tmp_path):
    records, steps = [], []
    trainer.tune(
        copy(model), tokenizer, rows, rows[:4], tmp_path, **OPTIONS,
        on_log=records.append, on_progress=lambda step, of: steps.append((step, of)),
    )  # fmt: skip
    assert steps == [(i, STEPS) for i in range(1, STEPS + 1)]
    assert [r["step"] for r in records if "loss" in r] == list(range(1, STEPS + 1))
    assert [r["step"] for r in records if "validation_loss" in r] == [3, 6]
    rates = [r["learning_rate"] for r in records if "loss" in r]
    assert rates == sorted(rates, reverse=True)
    assert all(r["tokens_per_second"] > 0 for r in records if "loss" in r)


@pytest.mark.quick
def test_rows_with_nothing_left_that_counts_cost_nothing(model, tokenizer, tmp_path):
    rows = encoded(tokenizer, [("word " * 30, "answer")] * 4, 16, cut="end")
    assert all(row["answer_start"] == len(row["input_ids"]) == 16 for row in rows)
    before = weights(model).clone()
    tuned = trainer.tune(copy(model), tokenizer, rows, [], tmp_path, **{**OPTIONS, "steps": 1, "batch_size": 4})
    torch.testing.assert_close(weights(tuned), before)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("options", "rate"),
    [
        ({}, lambda share: 1 - share),
        ({"schedule": "constant"}, lambda share: 1),
        ({"schedule": "cosine"}, lambda share: 0.5 * (1 + np.cos(np.pi * share))),
        ({"schedule": "cosine", "floor": 0.1}, lambda share: 0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * share))),
    ],
)
def test_the_learning_rate_is_the_formula(model, tokenizer, rows, tmp_path, options, rate):
    trainer.tune(copy(model), tokenizer, rows, [], tmp_path, **OPTIONS, warmup=1 / 3, **options)
    expected = [0, 0.5, *(rate(step / 4) for step in range(4))]
    np.testing.assert_allclose(np.array(logged(tmp_path, "learning_rate")) / 1e-3, expected, atol=1e-9)


@pytest.mark.quick
@pytest.mark.parametrize("options", [{"optimiser": "adafactor"}, {"gradient_checkpointing": True}])
def test_other_ways_to_save_memory(model, tokenizer, rows, tmp_path, options):
    plain = weights(trainer.tune(copy(model), tokenizer, rows, [], tmp_path / "plain", **OPTIONS))
    other = weights(trainer.tune(copy(model), tokenizer, rows, [], tmp_path / "other", **OPTIONS, **options))
    losses = [logged(tmp_path / name, "loss") for name in ("plain", "other")]
    assert losses[1][0] == pytest.approx(losses[0][0], abs=1e-5)
    if "optimiser" in options:
        assert not torch.allclose(plain, other)
        assert losses[1][-1] < losses[1][0]
    else:
        torch.testing.assert_close(other, plain, rtol=1e-4, atol=1e-6)


@pytest.mark.quick
def test_what_cannot_be_done_is_refused(model, tokenizer, rows, tmp_path):
    with pytest.raises(ValueError, match="keep: found 'best'; allowed: last, since there are no validation examples"):
        trainer.tune(copy(model), tokenizer, rows, [], tmp_path, **OPTIONS, keep="best")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="allowed: adamw or adafactor, where there is no GPU"):
            trainer.tune(copy(model), tokenizer, rows, [], tmp_path, **OPTIONS, optimiser="paged_adamw_8bit")
        with pytest.raises(ValueError, match="precision: found 'float16'; allowed: float32 or bfloat16"):
            trainer.tune(copy(model), tokenizer, rows, [], tmp_path, **OPTIONS, precision="float16")


@pytest.fixture(scope="module")
def worsening(rows):
    """Options and validation rows with which the second validation is the best one: the answers to be learnt later are
    others, and the learning rate is high."""
    held_out = [row for row in rows if row["role"] == "new"][:6]
    later = [{**row, "input_ids": row["input_ids"][: row["answer_start"]] + [9] * 5} for row in rows]
    mixed = [*rows[: 2 * (NEW + OLD)], *later[2 * (NEW + OLD) :]]
    return {**OPTIONS, "learning_rate": 0.1, "validate_steps": 1, "schedule": "constant"}, mixed, held_out


@pytest.mark.quick
def test_the_best_weights_are_kept_and_training_ends_early(model, tokenizer, worsening, tmp_path):
    options, mixed, held_out = worsening
    trainer.tune(copy(model), tokenizer, mixed, held_out, tmp_path / "last", **options)
    losses = logged(tmp_path / "last", "validation_loss")
    best = int(np.argmin(losses)) + 1
    assert 1 <= best < STEPS
    only = {**options, "steps": best}
    expected = trainer.tune(copy(model), tokenizer, mixed[: best * (NEW + OLD)], [], tmp_path / "only", **only)
    kept = trainer.tune(copy(model), tokenizer, mixed, held_out, tmp_path / "best", **options, keep="best")
    assert torch.equal(weights(kept), weights(expected))
    early = trainer.tune(
        copy(model), tokenizer, mixed, held_out, tmp_path / "early", **options, keep="best", patience=1
    )
    assert torch.equal(weights(early), weights(expected))
    assert len(logged(tmp_path / "early", "validation_loss")) == best + 1


@pytest.mark.quick
@pytest.mark.parametrize("damage", ["none", "last", "best", "moved"])
def test_the_best_is_found_again_after_a_kill(model, tokenizer, worsening, tmp_path, damage):
    options, mixed, held_out = worsening
    options = {**options, "keep": "best"}
    whole = trainer.tune(copy(model), tokenizer, mixed, held_out, tmp_path / "whole", **options)

    class Killed(Exception):
        pass

    def kill(step, of):
        if step == STEPS - 1:
            raise Killed

    with pytest.raises(Killed):
        trainer.tune(copy(model), tokenizer, mixed, held_out, tmp_path / "part", **options, on_progress=kill)
    state = json.loads((tmp_path / f"part/checkpoints/checkpoint-{STEPS - 2}/trainer_state.json").read_text())
    spoilt = {"last": f"checkpoint-{STEPS - 2}", "best": state["best_model_checkpoint"].rpartition("/")[2]}
    if damage in spoilt:
        file = tmp_path / "part/checkpoints" / spoilt[damage] / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-1] + b"x")
    folder, steps = tmp_path / "part", []
    if damage == "moved":
        folder = folder.rename(tmp_path / "elsewhere")
    more = {**options, "on_progress": lambda step, of: steps.append(step)}
    again = trainer.tune(copy(model), tokenizer, mixed, held_out, folder, **more)
    assert torch.equal(weights(again), weights(whole))
    assert logged(folder, "loss") == logged(tmp_path / "whole", "loss")
    if damage in ("none", "moved"):
        # nothing of it was thrown away
        assert steps[0] == STEPS - 1


@pytest.mark.quick
@pytest.mark.parametrize("killed", ["before the end", "behind it"])
def test_patience_ends_a_killed_run_where_it_ends_an_unbroken_one(model, tokenizer, worsening, tmp_path, killed):
    options, mixed, held_out = worsening
    mixed = [*mixed, *mixed[-(NEW + OLD) :]] * 2
    options = {**options, "keep": "best", "patience": 2, "steps": len(mixed) // (NEW + OLD)}
    whole = trainer.tune(copy(model), tokenizer, mixed, held_out, tmp_path / "whole", **options)
    end = len(logged(tmp_path / "whole", "loss"))
    assert end < options["steps"]

    class Killed(Exception):
        pass

    def kill(step, of):
        # the last but one validation was worse already
        if killed == "before the end" and step == end:
            raise Killed

    with contextlib.suppress(Killed):
        trainer.tune(copy(model), tokenizer, mixed, held_out, tmp_path / "part", **options, on_progress=kill)
    again = trainer.tune(copy(model), tokenizer, mixed, held_out, tmp_path / "part", **options)
    assert torch.equal(weights(again), weights(whole))
    for name in ("loss", "validation_loss"):
        assert logged(tmp_path / "part", name) == logged(tmp_path / "whole", name)


@pytest.mark.quick
def test_the_best_of_the_last_but_one_is_kept_until_the_last_is_sealed(tmp_path):
    """Should the last one be damaged, training goes on from the one before it, which needs its own best."""
    for step, best in {5: 5, 10: 5, 15: 5, 20: 20}.items():
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        state = {"best_model_checkpoint": f"/elsewhere/checkpoint-{best}"}
        (folder / "trainer_state.json").write_text(json.dumps(state))
    (tmp_path / "checkpoint-99").write_text("a file, and none of ours")
    (tmp_path / "checkpoint-6 (1)").mkdir()
    checkpoints.prune(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"checkpoint-5", "checkpoint-15", "checkpoint-20", "checkpoint-99", "checkpoint-6 (1)"}


@pytest.mark.quick
def test_a_link_to_a_damaged_checkpoint_is_passed_over(tmp_path, capsys):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "checkpoint-6").symlink_to(tmp_path / "elsewhere")
    assert checkpoints.last(tmp_path) is None
    assert "checkpoint-6 is not whole" in capsys.readouterr().out
    assert (tmp_path / "elsewhere").is_dir()


@pytest.mark.quick
def test_a_signal_to_one_of_several_processes_stops_all(model, tokenizer, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "_most", lambda number: signal.SIGTERM)  # another one was asked
    with pytest.raises(KeyboardInterrupt, match="stopped behind step 1"):
        trainer.tune(copy(model), tokenizer, rows, [], tmp_path, **OPTIONS)


@pytest.mark.quick
def test_validation_goes_on_in_parts_where_memory_is_too_small(model, tokenizer, rows, tmp_path, capsys):
    whole = copy(model)
    trainer.tune(whole, tokenizer, rows, rows[:12], tmp_path / "whole", **OPTIONS)
    small = copy(model)

    def full(_, given, named):
        if not torch.is_grad_enabled() and len(named["input_ids"]) > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    small.register_forward_pre_hook(full, with_kwargs=True)
    trainer.tune(small, tokenizer, rows, rows[:12], tmp_path / "small", **OPTIONS)
    assert "from now on 2, the batch stays the same" in capsys.readouterr().out
    found, expected = (logged(tmp_path / name, "validation_loss") for name in ("small", "whole"))
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.quick
def test_a_window_of_lengths_leaves_little_padding():
    from ia_lib.training.streams import interleave

    draw = np.random.default_rng(1)
    lengths = {name: draw.integers(30, 150, 1600).tolist() for name in ("new", "old")}
    streams = [Stream("new", "new", 8), Stream("old", "old", 8)]

    def padding(window):
        order = interleave(streams, {"new": 1600, "old": 1600}, 200, 1, lengths, window)
        sizes = np.array([lengths[name][index] for name, index in order]).reshape(200, 16)
        return 1 - sizes.sum() / (16 * sizes.max(1)).sum()

    assert padding(1) > 0.3
    assert padding(16) < 0.1


@pytest.mark.quick
@pytest.mark.parametrize("fails", ["forward", "backward"])
def test_a_step_that_memory_is_too_small_for_is_done_in_parts(any_model, tokenizer, rows, tmp_path, fails, capsys):
    """On whichever row it runs out, half of the gradients may be there already."""
    parts = trainer.tune(copy(any_model), tokenizer, rows, [], tmp_path / "parts", **OPTIONS, accumulation=4)
    small = copy(any_model)

    def check(found):
        if len(found) > 3:
            raise torch.OutOfMemoryError("too many rows")

    if fails == "forward":
        small.register_forward_pre_hook(lambda module, args, given: check(given["input_ids"]), with_kwargs=True)
    else:
        small.get_input_embeddings().register_full_backward_hook(lambda module, into, out: check(out[0]))
    found = trainer.tune(small, tokenizer, rows, [], tmp_path / "small", **OPTIONS)
    assert torch.equal(weights(found), weights(parts))
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if "memory" in line] == [
        f"memory is too small for {size} examples at once: from now on {size // 2}, the batch stays the same"
        for size in (8, 4)
    ]


@pytest.mark.quick
@pytest.mark.parametrize("file", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"])
def test_nothing_that_stands_in_a_checkpoint_is_run(model, tokenizer, rows, tmp_path, file):
    """Also where whoever has poisoned a file of it has written its list of hashes again."""

    class Poison:
        def __reduce__(self):
            return (tmp_path.joinpath("run").touch, ())

    def kill(step, of):
        if step == 5:
            raise KeyboardInterrupt

    options = {**OPTIONS, "save_steps": 2}
    with pytest.raises(KeyboardInterrupt):
        trainer.tune(copy(model), tokenizer, rows, [], tmp_path, **options, on_progress=kill)
    last = tmp_path / "checkpoints" / "checkpoint-4"
    torch.save({"state": Poison()}, last / file)
    checkpoints.seal(last)
    # a file that nothing is read from may be passed over; any other ends the work
    with contextlib.suppress(Exception):
        trainer.tune(copy(model), tokenizer, rows, [], tmp_path, **options)
    assert not (tmp_path / "run").exists()


@pytest.mark.quick
def test_the_vocabularys_layer_is_computed_in_the_runs_precision(model, tokenizer, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer.pieces, "FEW", 0)
    seen, whole = set(), trainer.pieces.weighted_cross_entropy

    def watched(*given):
        seen.add(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32)
        return whole(*given)

    monkeypatch.setattr(trainer.pieces, "weighted_cross_entropy", watched)
    init = trainer.TrainingArguments.__init__
    # transformers allows 16 bits on a CPU only where that is asked for
    monkeypatch.setattr(trainer.TrainingArguments, "__init__", lambda *a, **k: init(*a, **{**k, "use_cpu": True}))
    for precision, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        seen.clear()
        trainer.tune(copy(model), tokenizer, rows, rows[:3], tmp_path / precision, **OPTIONS, precision=precision)
        assert seen == {dtype}


@pytest.mark.quick
def test_of_a_model_that_also_reads_pictures_the_text_part_is_tuned(tokenizer, rows, tmp_path):
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    text = {"vocab_size": len(tokenizer), "num_hidden_layers": 2, "num_key_value_heads": 1, "head_dim": 8, **sizes}
    seen = {"num_hidden_layers": 1, "image_size": 28, "patch_size": 14, **sizes}
    config = AutoConfig.for_model("gemma3", text_config=text, vision_config=seen, mm_tokens_per_image=4)
    whole = AutoModelForCausalLM.from_config(config)
    before = {name: weight.clone() for name, weight in whole.named_parameters()}
    tuned = trainer.tune(whole, tokenizer, rows, [], tmp_path, **OPTIONS)
    changed = {name for name, weight in tuned.named_parameters() if not torch.equal(weight, before[name])}
    assert any("language_model" in name for name in changed)
    assert not any("vision" in name for name in changed)
