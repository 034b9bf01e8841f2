import random

import numpy as np
import pytest
import torch

from ia_lib.scoring import ScoringError, label_logprobs

pytestmark = pytest.mark.quick
WORDS = ["makanan", "hotel", "sangat", "bagus", "tidak", "the", "food", "was", "not", "good", "___", "12", "%", "“é”"]
LABELS = ["negative", "neutral", "positive", "yes", "yes indeed", "sangat tidak bagus, sekali"]


def naive(model, tokenizer, prompt, label):
    """One text at a time, all logits: the sum over the tokens that hold a character of the label."""
    encoded = tokenizer(prompt + label, return_offsets_mapping=True)
    ids = torch.tensor([encoded["input_ids"]])
    with torch.no_grad():
        logprobs = model(ids).logits[0].float().log_softmax(-1)
    return sum(
        logprobs[i - 1, ids[0, i]].item() for i, (_, end) in enumerate(encoded["offset_mapping"]) if end > len(prompt)
    )


def some_prompts(count, longest):
    rng = random.Random(1)
    ends = [" ", "\n", ": ", "? "]
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, longest))) + rng.choice(ends) for _ in range(count)]


@pytest.mark.parametrize("batch_tokens", [1, 300, 100000])
def test_equal_to_the_naive_reference(any_model, tokenizer, batch_tokens):
    prompts = some_prompts(20, 40)
    scores = label_logprobs(any_model, tokenizer, prompts, LABELS, batch_tokens=batch_tokens)
    expected = [[naive(any_model, tokenizer, prompt, label) for label in LABELS] for prompt in prompts]
    np.testing.assert_allclose(scores.label_logprob, expected, atol=1e-4)


def test_single_token_labels_and_labels_per_prompt(any_model, tokenizer):
    prompts = some_prompts(6, 10)
    labels = [["a", "b"], ["yes", "no"]] * 3
    scores = label_logprobs(any_model, tokenizer, prompts, labels)
    expected = [
        [naive(any_model, tokenizer, p, label) for label in row] for p, row in zip(prompts, labels, strict=True)
    ]
    np.testing.assert_allclose(scores.label_logprob, expected, atol=1e-4)


def test_order_and_padding_side_do_not_matter(model, tokenizer):
    prompts = some_prompts(15, 30)
    scores = label_logprobs(model, tokenizer, prompts, LABELS).label_logprob
    tokenizer.padding_side = "left"
    try:
        backwards = label_logprobs(model, tokenizer, prompts[::-1], LABELS).label_logprob
    finally:
        tokenizer.padding_side = "right"
    np.testing.assert_allclose(scores, backwards[::-1], atol=1e-5)


def test_counts(model, tokenizer):
    asked, labels = ["The food is ", "Kami\n"], ["good", "yes indeed"]
    scores = label_logprobs(model, tokenizer, asked, labels)
    assert scores.label_chars.tolist() == [[4, 10], [4, 10]]
    whole = [
        [len(tokenizer(p + label)["input_ids"]) for label in ("good", "yes indeed")] for p in ("The food is ", "Kami\n")
    ]
    assert (scores.label_tokens + scores.prompt_tokens).tolist() == whole
    assert (scores.label_tokens > 0).all()


def test_rules(model, tokenizer):
    scores = label_logprobs(model, tokenizer, ["The food is "], ["good", "yes indeed"])
    np.testing.assert_array_equal(scores.scores(), scores.label_logprob)
    np.testing.assert_allclose(scores.scores("label_mean") * scores.label_tokens, scores.label_logprob)
    np.testing.assert_allclose(scores.scores("label_per_char") * scores.label_chars, scores.label_logprob)
    with pytest.raises(ValueError, match="allowed"):
        scores.scores("best")


def test_what_cannot_be_scored_is_named(model, tokenizer):
    with pytest.raises(ScoringError, match=r"the label '' has no token.*'The food is '"):
        label_logprobs(model, tokenizer, ["The food is "], ["good", ""])
    with pytest.raises(ScoringError, match="nothing before it"):
        label_logprobs(model, tokenizer, [""], ["good"])
    with pytest.raises(ScoringError, match="allowed: 5"):
        label_logprobs(model, tokenizer, ["kata kata kata kata kata kata kata "], ["good"], max_length=5)
    with pytest.raises(ValueError, match="same length"):
        label_logprobs(model, tokenizer, ["a ", "b "], [["x"], ["y", "z"]])


def test_no_prompts(model, tokenizer):
    assert label_logprobs(model, tokenizer, [], ["a", "b"]).label_logprob.shape == (0, 2)


def test_progress_is_told(model, tokenizer):
    told = []
    label_logprobs(
        model, tokenizer, some_prompts(9, 20), LABELS, batch_tokens=50, on_progress=lambda *n: told.append(n)
    )
    assert told[-1] == (9, 9)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
