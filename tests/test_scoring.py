import random

import numpy as np
import pytest
import torch

from ia_lib.scoring import ScoringError, label_logprobs

pytestmark = pytest.mark.quick
WORDS = ["makanan", "hotel", "sangat", "bagus", "tidak", "the", "food", "was", "not", "good", "___", "12", "%", "“é”"]
LABELS = ["negative", "neutral", "positive", "yes", "yes indeed", "sangat tidak bagus, sekali"]


def naive(model, tokenizer, prompt, label, special=True):
    """One text at a time, all logits: the sum over the tokens that hold a character of the label."""
    encoded = tokenizer(prompt + label, return_offsets_mapping=True, add_special_tokens=special)
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


def test_labels_stand_right_behind_the_assistants_header(chat_model, turns_tokenizer, chat):
    asked = some_prompts(6, 20)
    labels = [*LABELS, " good\n"]
    scores = label_logprobs(chat_model, turns_tokenizer, asked, labels, chat=True, batch_tokens=300)
    expected = [
        [
            naive(chat_model, turns_tokenizer, chat.before + p.strip() + chat.between, label.strip(), special=False)
            for label in labels
        ]
        for p in asked
    ]
    np.testing.assert_allclose(scores.label_logprob, expected, atol=1e-4)
    header = len(turns_tokenizer(chat.before + asked[0].strip() + chat.between, add_special_tokens=False)["input_ids"])
    assert (scores.prompt_tokens[0] == header).all()


def naive_decoder(model, tokenizer, prompt, label):
    """One text at a time: the decoder's log-probabilities of all the label's tokens."""
    read, said = (torch.tensor([tokenizer(text)["input_ids"]]) for text in (prompt, label))
    if said[0, -1] == tokenizer.eos_token_id:
        said = said[:, :-1]
    start = torch.tensor([[model.config.decoder_start_token_id]])
    with torch.no_grad():
        out = model(input_ids=read, decoder_input_ids=torch.cat([start, said[:, :-1]], 1))
    return out.logits[0].log_softmax(-1).gather(1, said.T).sum().item()


@pytest.mark.parametrize("batch_tokens", [1, 300, 100000])
def test_a_decoder_scores_labels_as_the_naive_one(encoder_decoder, tokenizer, closing_tokenizer, batch_tokens):
    prompts = some_prompts(15, 40)
    for each in (tokenizer, closing_tokenizer):
        scores = label_logprobs(encoder_decoder, each, prompts, LABELS, batch_tokens=batch_tokens)
        expected = [[naive_decoder(encoder_decoder, each, p, label) for label in LABELS] for p in prompts]
        np.testing.assert_allclose(scores.label_logprob, expected, atol=1e-4)
        assert scores.prompt_tokens[:, 0].tolist() == [len(each(p)["input_ids"]) for p in prompts]
        assert scores.label_tokens[0].tolist() == [len(tokenizer(label)["input_ids"]) for label in LABELS]
    single = label_logprobs(encoder_decoder, tokenizer, prompts[:2], [["a", "b"], ["c", "a"]])
    expected = [[naive_decoder(encoder_decoder, tokenizer, *pair) for pair in zip([p] * 2, row, strict=True)]
                for p, row in zip(prompts, [["a", "b"], ["c", "a"]], strict=False)]  # fmt: skip
    np.testing.assert_allclose(single.label_logprob, expected, atol=1e-4)


def test_an_encoder_reads_each_prompt_once(encoder_decoder, closing_tokenizer):
    read = []
    hook = encoder_decoder.get_encoder().register_forward_hook(lambda module, given, out: read.append(len(out[0])))
    label_logprobs(encoder_decoder, closing_tokenizer, some_prompts(10, 20), LABELS, batch_tokens=400)
    hook.remove()
    assert sum(read) == 10


def test_what_an_encoder_decoder_model_cannot_score_is_named(encoder_decoder, closing_tokenizer):
    asked = ["The food is "]
    with pytest.raises(ScoringError, match="the label '' has no token"):
        label_logprobs(encoder_decoder, closing_tokenizer, asked, ["good", ""])
    with pytest.raises(ScoringError, match="allowed: 5"):
        label_logprobs(encoder_decoder, closing_tokenizer, asked * 2, ["sangat tidak bagus sekali"], max_length=5)
    with pytest.raises(ValueError, match="no turns"):
        label_logprobs(encoder_decoder, closing_tokenizer, asked, ["good"], chat=True)
    assert label_logprobs(encoder_decoder, closing_tokenizer, [], ["a", "b"]).label_logprob.shape == (0, 2)


def test_a_model_without_a_cache_is_refused(tokenizer):
    from transformers import MambaConfig, MambaForCausalLM

    model = MambaForCausalLM(MambaConfig(vocab_size=len(tokenizer), hidden_size=8, num_hidden_layers=1, state_size=2))
    with pytest.raises(ScoringError, match="MambaForCausalLM"):
        label_logprobs(model, tokenizer, ["a "], ["b"])


def test_the_prompts_own_log_probability(any_model, tokenizer):
    asked = some_prompts(12, 40)
    for batch_tokens in (1, 100000):
        scores = label_logprobs(any_model, tokenizer, asked, LABELS, batch_tokens=batch_tokens, prompt_logprob=True)
        for prompt, joint, mean in zip(asked, scores.scores("joint"), scores.scores("mean_all"), strict=True):
            for label, found, found_mean in zip(LABELS, joint, mean, strict=True):
                ids = torch.tensor([tokenizer(prompt + label)["input_ids"]])
                with torch.no_grad():
                    logprobs = any_model(ids).logits[0].float().log_softmax(-1)
                whole = logprobs[:-1].gather(1, ids[0, 1:, None]).sum().item()
                assert found == pytest.approx(whole, abs=1e-3)
                assert found_mean == pytest.approx(whole / (ids.shape[1] - 1), abs=1e-4)


def test_rules_over_the_whole_text_need_the_prompts_scored(model, tokenizer):
    scores = label_logprobs(model, tokenizer, ["The food is "], ["good", "bad"])
    with pytest.raises(ValueError, match="prompts were not scored"):
        scores.scores("joint")
