import random

import numpy as np
import pytest
import torch

from ia_lib.evaluation.rules import RULES
from ia_lib.evaluation.scoring import ScoringError, label_logprobs

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
    with pytest.raises(ScoringError, match=r"'sangat tidak.*allowed: 5 tokens"):
        label_logprobs(model, tokenizer, ["kata kata "], ["good", "sangat tidak bagus sekali"], max_length=5)
    with pytest.raises(ValueError, match="same length"):
        label_logprobs(model, tokenizer, ["a ", "b "], [["x"], ["y", "z"]])


def test_no_prompts(model, tokenizer):
    assert label_logprobs(model, tokenizer, [], ["a", "b"]).label_logprob.shape == (0, 2)


def test_progress_is_told(model, tokenizer):
    told = []
    label_logprobs(model, tokenizer, some_prompts(9, 20), LABELS, batch_tokens=50, progress=lambda *n: told.append(n))
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
    with pytest.raises(ScoringError, match="allowed: 5 tokens"):
        label_logprobs(encoder_decoder, closing_tokenizer, asked * 2, ["sangat tidak bagus sekali"], max_length=5)
    with pytest.raises(ValueError, match="encoder-decoder"):
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
        for prompt, joint, mean in zip(asked, scores.scores("joint"), scores.scores("mean"), strict=True):
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


SCRIPTS = [" yes", "yes", "yes indeed", "yesterday", "sangat bagus 😀👍🏽", "إيجابي", "เป็นบวก", "a b c d e f g h"]


def naive_rules(model, tokenizer, prompt, label, free):
    """Every rule from the logits of one whole text, and how many tokens are the label's."""

    def whole(before):
        encoded = tokenizer(before + label, return_offsets_mapping=True)
        ids = torch.tensor([encoded["input_ids"]])
        with torch.no_grad():
            logprobs = model(ids).logits[0].double().log_softmax(-1)[:-1].gather(1, ids[0, 1:, None])[:, 0].numpy()
        of_label = np.array([end > len(before) for _, end in encoded["offset_mapping"]])[1:]
        return logprobs, of_label

    told, of_label = whole(prompt)
    label_sum, empty = told[of_label].sum(), whole(free)
    return {
        "label_sum": label_sum,
        "label_mean": label_sum / of_label.sum(),
        "label_per_char": label_sum / len(label),
        "calibrated": label_sum - empty[0][empty[1]].sum(),
        "joint": told.sum(),
        "mean": told.mean(),
    }


@pytest.mark.parametrize("batch_tokens", [40, None])
def test_every_rule_in_every_script(any_model, world_tokenizer, batch_tokens):
    asked = ["the food was", "the food was ", "อาหารอร่อย", "الطعام ", "makanan 😀", "bagus\n\n", "not " * 30, "x "]
    free = [f"N/A{prompt[-1]}" for prompt in asked]
    found = label_logprobs(
        any_model, world_tokenizer, asked, SCRIPTS, prompt_logprob=True, content_free=free, batch_tokens=batch_tokens
    )
    assert (found.label_tokens > 0).all()
    assert len(set(found.label_tokens.ravel())) > 4
    for i, prompt in enumerate(asked):
        for j, label in enumerate(SCRIPTS):
            for rule, expected in naive_rules(any_model, world_tokenizer, prompt, label, free[i]).items():
                assert found.scores(rule)[i, j] == pytest.approx(expected, abs=1e-4, rel=0), (prompt, label, rule)


@pytest.mark.parametrize("longest", [1, 8, 300, 1100])
def test_prompts_of_any_length(any_model, tokenizer, longest):
    if longest > 250 and any_model.config.model_type == "gpt2":
        longest = 250 - 10  # as many positions as it has
    asked = [("makanan " * longest)[: 8 * (longest - back)] for back in range(0, min(3, longest))]
    labels = ["yes", "negative", "sangat tidak bagus sekali"]
    found = label_logprobs(any_model, tokenizer, asked, labels, prompt_logprob=True, content_free="x ", max_length=1300)
    assert found.cut_tokens.sum() == 0
    for i, prompt in enumerate(asked):
        for j, label in enumerate(labels):
            for rule, expected in naive_rules(any_model, tokenizer, prompt, label, "x ").items():
                assert found.scores(rule)[i, j] == pytest.approx(expected, abs=1e-4, rel=0), (len(prompt), rule)


def test_what_is_too_long_loses_its_beginning_and_no_label(model, tokenizer, turns_tokenizer):
    prompt, labels = "makanan hotel " * 20, ["yes", "sangat tidak bagus"]
    whole = label_logprobs(model, tokenizer, [prompt, "the "], labels)
    found = label_logprobs(model, tokenizer, [prompt, "the "], labels, max_length=20, prompt_logprob=True)
    np.testing.assert_array_equal(found.label_tokens, whole.label_tokens)
    ids = [tokenizer(prompt + label)["input_ids"] for label in labels]
    cut = max(map(len, ids)) - 20
    assert found.cut_tokens.tolist() == [[cut, cut], [0, 0]]
    np.testing.assert_array_equal(found.prompt_tokens[0], whole.prompt_tokens[0] - cut)
    for j, sequence in enumerate(ids):
        left = torch.tensor([sequence[cut:]])
        with torch.no_grad():
            told = model(left).logits[0].log_softmax(-1)[:-1].gather(1, left[0, 1:, None])
        assert found.label_logprob[0, j] == pytest.approx(told[-found.label_tokens[0, j] :].sum().item(), abs=1e-4)
        assert found.scores("joint")[0, j] == pytest.approx(told.sum().item(), abs=1e-4)
    # the token that marks the beginning stays
    from transformers import AutoModelForCausalLM, LlamaConfig

    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    other = AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=len(turns_tokenizer), **size)).eval()
    found = label_logprobs(other, turns_tokenizer, [prompt], ["yes"], max_length=12)
    ids = turns_tokenizer(prompt + "yes")["input_ids"]
    left = torch.tensor([[turns_tokenizer.bos_token_id, *ids[-11:]]])
    with torch.no_grad():
        told = other(left).logits[0].log_softmax(-1)[:-1].gather(1, left[0, 1:, None])
    expected = told[-found.label_tokens[0, 0] :].sum().item()
    assert found.label_logprob[0, 0] == pytest.approx(expected, abs=1e-4)


def test_the_vocabulary_is_computed_at_label_places_alone(model, tokenizer):
    rows = []
    hook = model.get_output_embeddings().register_forward_hook(
        lambda module, given, out: rows.append(given[0].numel() // given[0].shape[-1])
    )
    asked = some_prompts(30, 40)
    found = label_logprobs(model, tokenizer, asked, LABELS)
    hook.remove()
    # a prompt's last place serves the first token of all its labels
    assert sum(rows) <= 30 + found.label_tokens.sum()


def with_room_for(rows: int, model, monkeypatch) -> list[int]:
    """Let memory run out above so many rows; returns the numbers of rows that were tried."""
    forward, seen = model.forward, []

    def small(input_ids=None, past_key_values=None, use_cache=None, attention_mask=None, logits_to_keep=0):
        seen.append(input_ids.shape[0])
        if input_ids.shape[0] > rows:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20 GiB")
        return forward(
            input_ids, past_key_values=past_key_values, use_cache=use_cache, attention_mask=attention_mask,
            logits_to_keep=logits_to_keep,
        )  # fmt: skip

    monkeypatch.setattr(model, "forward", small)
    return seen


def test_less_memory_makes_smaller_batches(model, tokenizer, monkeypatch):
    asked = some_prompts(30, 40)
    expected = label_logprobs(model, tokenizer, asked, LABELS).label_logprob
    seen = with_room_for(20, model, monkeypatch)
    found = label_logprobs(model, tokenizer, asked, LABELS)
    np.testing.assert_allclose(found.label_logprob, expected, atol=1e-5)
    assert max(seen) > 20 >= seen[-1]
    # what does not fit even alone is an error, and so is anything else
    monkeypatch.setattr(model, "forward", lambda past_key_values=None, **_: torch.zeros(2, 3) @ torch.zeros(2, 3))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        label_logprobs(model, tokenizer, asked, LABELS)


def test_labels_that_share_no_first_token_are_scored_apart(model, world_tokenizer):
    # "ye" + "s..." is one token with some labels and several with others
    labels = ["s", "sterday", "l", "x"]
    for prompt in ("\nye", "x\nye", "x ye"):
        found = label_logprobs(model, world_tokenizer, [prompt], labels)
        expected = [naive(model, world_tokenizer, prompt, label) for label in labels]
        np.testing.assert_allclose(found.label_logprob[0], expected, atol=1e-4)


def test_numbers_that_stay():
    """A model whose weights are a formula: the same on every machine and in every version."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BloomConfig, BloomForCausalLM, PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate(["<pad>", "the", "food", "was", "good", "bad", "not", "very", "so"])}
    made = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>")
    model = BloomForCausalLM(BloomConfig(vocab_size=len(words), hidden_size=8, n_layer=1, n_head=2)).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(torch.sin(3.0 * torch.arange(value.numel(), dtype=torch.double) + 1).view_as(value))
    found = label_logprobs(
        model, tokenizer, ["the food was ", "so not "], ["good", "very bad"], prompt_logprob=True, content_free="was "
    )
    pinned = {rule: found.scores(rule).round(4).tolist() for rule in RULES}
    assert pinned == {
        "label_sum": [[-2.1118, -7.3823], [-2.2638, -7.7831]],
        "label_mean": [[-2.1118, -3.6911], [-2.2638, -3.8915]],
        "label_per_char": [[-0.5279, -0.9228], [-0.5659, -0.9729]],
        "calibrated": [[0.0017, -0.0032], [-0.1503, -0.404]],
        "joint": [[-16.3111, -21.5816], [-5.3636, -10.8829]],
        "mean": [[-5.437, -5.3954], [-2.6818, -3.6276]],
    }


def test_equal_to_lm_evaluation_harness(any_model, world_tokenizer):
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    lm = HFLM(pretrained=any_model, tokenizer=world_tokenizer, batch_size=4, device="cpu", max_length=256)
    asked = ["the food was", "makanan 😀", "الطعام جيد", "อาหารอร่อย", "yes\n\nnot bad:", "bagus " * 20 + "the"]
    labels = [" yes", " sangat bagus 😀", " not good", " เป็นบวก"]
    pairs = [(prompt, label) for prompt in asked for label in labels]
    theirs = lm.loglikelihood(
        [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)], disable_tqdm=True
    )
    ours = label_logprobs(any_model, world_tokenizer, asked, labels, progress=False).label_logprob.ravel()
    compared = 0
    for pair, (their, _), our in zip(pairs, theirs, ours, strict=True):
        context, whole = (world_tokenizer(text)["input_ids"] for text in (pair[0], "".join(pair)))
        if whole[: len(context)] == context and lm.tok_encode("".join(pair)) == whole:
            assert our == pytest.approx(their, abs=1e-4), pair
            compared += 1
    assert compared > 12


def test_many_labels_of_one_prompt_are_split_when_memory_runs_out(model, tokenizer, monkeypatch):
    labels = [f"label number {i}" for i in range(20)]
    expected = label_logprobs(model, tokenizer, ["the food is "], labels).label_logprob
    with_room_for(8, model, monkeypatch)
    found = label_logprobs(model, tokenizer, ["the food is "], labels).label_logprob
    np.testing.assert_allclose(found, expected, atol=1e-5)
