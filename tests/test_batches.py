import pandas as pd
import pytest
import torch
from chats import CHATS

from ia_lib.models.encoding import encode
from ia_lib.training.batches import Collator, keeps_apart, lay_out, weigh
from ia_lib.training.streams import Stream

pytestmark = pytest.mark.quick
COLUMNS = ["stream", "role", "prompt", "answer", "split"]
STREAMS = [Stream("instructions", "new", 1), Stream("replay", "old", 1, passes=True)]


def examples(*rows):
    return pd.DataFrame(rows, columns=COLUMNS)


EXAMPLES = examples(
    ("replay", "old", "D? ", "d", "train"),
    ("replay", "old", "E? ", "e", "validation"),
    ("instructions", "new", "A? ", "a", "train"),
    ("instructions", "new", "B? ", "b", "train"),
    ("instructions", "new", "C? ", "c", "validation"),
)


@pytest.mark.parametrize("kind", ["plain", "chat", "encoder_decoder"])
def test_batches_are_laid_out_for_every_kind_of_model(kind, turns_tokenizer):
    turns_tokenizer.chat_template = CHATS["llama3"].template
    kinds = {} if kind == "plain" else {kind: True}
    rows, validation, _ = lay_out(EXAMPLES, STREAMS, turns_tokenizer, {"max_length": 100, **kinds}, 1)
    assert [(row["stream"], row["role"], row["example"]) for row in rows + validation] == [
        ("replay", "old", 0),
        ("instructions", "new", 2),
        ("replay", "old", 0),
        ("instructions", "new", 3),
        ("instructions", "new", 4),
        ("replay", "old", 1),
    ]
    expected, _ = encode(turns_tokenizer, [f"{c}? " for c in "DADBCE"], list("dadbce"), 100, **kinds)
    for row, alone in zip(rows + validation, expected, strict=True):
        assert {name: row[name] for name in alone} == alone


def test_the_number_of_steps_is_told_or_comes_from_what_is_read_once(tokenizer):
    alone = [Stream("replay", "old", 2, passes=True)]
    rows, *_ = lay_out(EXAMPLES[:2], alone, tokenizer, {"max_length": 50}, 1, steps=3)
    assert [row["example"] for row in rows] == [0] * 6
    with pytest.raises(ValueError, match="instructions: 2 examples do not make 1 batches of 1"):
        lay_out(EXAMPLES, STREAMS, tokenizer, {"max_length": 50}, 1, steps=1)


def test_training_rows_that_nothing_reads_are_refused(tokenizer):
    with pytest.raises(ValueError, match="stream: found examples of 'replay'; allowed: instructions"):
        lay_out(EXAMPLES, STREAMS[:1], tokenizer, {"max_length": 50}, 1)


def test_sorting_by_length_and_shuffling_keep_the_rows(tokenizer):
    new = [("instructions", "new", "kata " * (i * 7 % 30), "ya", "train") for i in range(40)]
    old = [("replay", "old", "kata " * (i * 5 % 13), "ya", "train") for i in range(10)]
    streams = [Stream("instructions", "new", 4), Stream("replay", "old", 4, passes=True)]
    given = (examples(*new, *old), streams, tokenizer, {"max_length": 60}, 1)
    plain, sorted_, shuffled = (
        lay_out(*given, window, how)[0] for window, how in ((1, "strict"), (5, "strict"), (1, "shuffled"))
    )

    def padding(rows):
        lengths = [[len(row["input_ids"]) for row in rows[i : i + 8]] for i in range(0, 80, 8)]
        return sum(max(batch) * 8 - sum(batch) for batch in lengths)

    for rows in (sorted_, shuffled):
        assert sorted(row["example"] for row in rows) == sorted(row["example"] for row in plain)
    assert [row["role"] for row in sorted_] == ["old", "new"] * 40 == [row["role"] for row in plain]
    assert [row["role"] for row in shuffled] != ["old", "new"] * 40
    assert padding(sorted_) < 0.7 * padding(plain)


def test_weights_of_a_batch_sum_to_one(tokenizer):
    new = [("instructions", "new", "kata " * i, "bagus " * (1 + i % 3), "train") for i in range(16)]
    rows, *_ = lay_out(examples(*new), [Stream("instructions", "new", 8)], tokenizer, {"max_length": 60}, 1)
    for average in ("example", "token"):
        for loss in ("answer", "all"):
            weighed = weigh(rows, 8, loss, average)
            for i in range(0, len(weighed), 8):
                total = sum(r["weight"] * (len(r["input_ids"]) - r["first"]) for r in weighed[i : i + 8])
                assert total == pytest.approx(1)


def test_all_that_a_batch_has_is_of_its_rows(tokenizer):
    rows, validation, _ = lay_out(EXAMPLES, STREAMS, tokenizer, {"max_length": 50}, 1)
    for start in (None, 2):
        batch = Collator(2, start)(weigh(rows + validation, 6))
        assert batch["weights"].sum() == pytest.approx(1)
        assert all(torch.is_tensor(value) and len(value) == 6 for value in batch.values())


def test_packed_rows_fit_beside_each_other_and_keep_all_that_is_theirs(tokenizer):
    texts = [("new", f"Kata {'x ' * (i * 7 % 23)}", "ya " * (1 + i % 4)) for i in range(40)]
    frame = pd.DataFrame(texts, columns=["role", "prompt", "answer"]).assign(stream="instructions", split="train")
    rows, *_ = lay_out(frame, [Stream("instructions", "new", 40)], tokenizer, {"max_length": 60}, 1)
    weighed = weigh(rows, 40)
    plain, packed = (Collator(tokenizer.pad_token_id, packing=packing)(weighed) for packing in (False, True))
    longest = max(len(row["input_ids"]) for row in rows)
    total = sum(len(row["input_ids"]) for row in rows)
    assert packed["input_ids"].shape[1] == longest
    assert "attention_mask" not in packed
    assert plain["input_ids"].numel() > 1.5 * total
    assert packed["input_ids"].numel() < 1.1 * total
    found = []
    for ids, places, weights in zip(
        *(packed[name].tolist() for name in ("input_ids", "position_ids", "weights")), strict=True
    ):
        begins = [i for i, place in enumerate(places) if place == 0]
        for begin, end in zip(begins, [*begins[1:], len(ids)], strict=True):
            found.append((ids[begin:end], sum(weights[begin:end])))
    whole = sorted((ids, round(weight, 6)) for ids, weight in found if weight)
    expected = ((row["input_ids"], round(row["weight"] * (len(row["input_ids"]) - row["first"]), 6)) for row in weighed)
    assert whole == sorted(expected)


def test_which_models_keep_packed_rows_apart(any_model):
    # BLOOM has no positions, Qwen 3.5 remembers in some layers what stood before
    assert keeps_apart(any_model) == (any_model.config.model_type in ("gpt2", "llama", "gemma3_text"))
