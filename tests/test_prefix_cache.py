"""Scoring with models and tokenizers of many kinds, each a tiny one, and what is refused by name."""

import numpy as np
import pytest
import torch
from conftest import adding
from test_scoring import LABELS, naive, naive_decoder, some_prompts

from ia_lib.evaluation import scoring
from ia_lib.evaluation.scoring import ScoringError, label_logprobs

pytestmark = pytest.mark.quick


def tiny(kind: str, size: int, **more):
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    torch.manual_seed(3)
    config = AutoConfig.for_model(kind, vocab_size=size, pad_token_id=2, bos_token_id=0, eos_token_id=1, **more)
    which = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    return which.from_config(config).eval()


HALVES = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
          "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "d_model": 16, "init_std": 0.5}  # fmt: skip


def test_other_families_are_right_or_refused_by_name(tokenizer, closing_tokenizer):
    asked, size = some_prompts(4, 20), len(tokenizer)
    model = tiny("m2m_100", size, **HALVES, decoder_start_token_id=1)
    found = label_logprobs(model, closing_tokenizer, asked, LABELS).label_logprob
    expected = [[naive_decoder(model, closing_tokenizer, p, label) for label in LABELS] for p in asked]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    with pytest.raises(ScoringError, match="MBartForConditionalGeneration without decoder_start_token_id"):
        label_logprobs(tiny("mbart", size, **HALVES), closing_tokenizer, asked, LABELS)
    narrow = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    # its positions begin behind the padding token
    model = tiny("roberta", size, **narrow, is_decoder=True, initializer_range=0.5)
    with pytest.raises(ScoringError, match="RobertaForCausalLM, which gives"):
        label_logprobs(model, tokenizer, asked, LABELS)


def test_a_model_is_trusted_only_when_it_has_gone_on(tokenizer, monkeypatch):
    from ia_lib.evaluation import prefix_cache

    model = tiny("gpt2", len(tokenizer), n_embd=16, n_layer=1, n_head=2, initializer_range=0.5)
    label_logprobs(model, tokenizer, ["the food "], ["a", "b"])
    # a family that goes on wrongly is found out by the first label of several tokens, whatever was scored before
    monkeypatch.setattr(prefix_cache, "_continue", lambda cache, rows: cache.layers[0].keys.mul_(-1))
    with pytest.raises(ScoringError, match="GPT2LMHeadModel, which gives"):
        label_logprobs(model, tokenizer, ["the food "], ["sangat tidak bagus"])


def test_adapters_are_scored_with_their_model(tokenizer):
    from peft import LoraConfig, get_peft_model

    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = get_peft_model(tiny("llama", len(tokenizer), **size), LoraConfig(init_lora_weights=False, r=2)).train()
    asked = some_prompts(3, 10)
    found = label_logprobs(model, tokenizer, asked, LABELS).label_logprob
    assert model.training
    model.eval()
    expected = [[naive(model, tokenizer, prompt, label) for label in LABELS] for prompt in asked]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_what_the_model_has_no_room_for(tokenizer):
    model = tiny("gpt2", len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=32)
    found = label_logprobs(model, tokenizer, ["makanan hotel " * 30], ["yes"])
    assert (found.prompt_tokens + found.label_tokens).tolist() == [[32]]
    assert found.cut_tokens[0, 0] > 0
    with pytest.raises(ScoringError, match="allowed: below 300, the tokens that the model knows"):
        label_logprobs(tiny("gpt2", 300, n_embd=16, n_layer=1, n_head=2), tokenizer, ["makanan hotel "], ["yes"])
    for given in (("the food", ["yes"]), (["the food "], "yes")):
        with pytest.raises(ValueError, match="allowed: a list"):
            label_logprobs(model, tokenizer, *given)


def test_a_decoder_scores_what_the_tokenizer_does_not_know():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate(["<s>", "</s>", "<pad>", "<unk>", "the", "food", "good"])}
    made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    fast = adding(PreTrainedTokenizerFast(tokenizer_object=made, **special), "$A </s>")
    size = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 2}
    # what stands in a label counts, though it be unknown; ByT5's tokens are bytes
    labels = ["good", "good 汉", "汉 good", "汉"]
    for tokenizer, counts in ((fast, [1, 2, 2, 1]), (ByT5Tokenizer(), [4, 8, 8, 3])):
        model = tiny("t5", len(tokenizer), **size)
        found = label_logprobs(model, tokenizer, ["the food"], [labels])
        assert found.label_tokens.tolist() == [counts]
        expected = [naive_decoder(model, tokenizer, "the food", label) for label in labels]
        np.testing.assert_allclose(found.label_logprob, [expected], atol=1e-4)


def test_an_encoder_keeps_the_token_that_marks_the_beginning(tokenizer):
    each = adding(tokenizer, "<s> $A </s>")
    model = tiny("bart", len(tokenizer), **HALVES, decoder_start_token_id=1)
    prompt, label = "makanan hotel sangat bagus " * 5, "yes indeed"
    said = each(label)["input_ids"][:-1]
    found = label_logprobs(model, each, [prompt], [label], max_length=12 + len(said))
    ids = each(prompt)["input_ids"]
    assert found.prompt_tokens.tolist() == [[12]]
    with torch.no_grad():
        read = torch.tensor([[ids[0], *ids[-11:]]])
        told = model(input_ids=read, decoder_input_ids=torch.tensor([[1, *said[:-1]]])).logits[0].log_softmax(-1)
    # the opening token of a label is read and does not count
    expected = told.gather(1, torch.tensor(said)[:, None])[1:].sum().item()
    assert found.label_logprob[0, 0] == pytest.approx(expected, abs=1e-4)
    # its opening and closing tokens are no prompt
    with pytest.raises(ScoringError, match="leaves no room"):
        label_logprobs(model, each, [prompt], [label], max_length=1 + len(said))


SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def test_a_score_that_is_no_number_is_refused(tokenizer):
    model, asked = tiny("llama", len(tokenizer), **SMALL).train(), ["the food was ", "hotel hotel "]
    label_logprobs(model, tokenizer, asked, LABELS)
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer(asked[1])["input_ids"][1]] = torch.nan
    fresh = tiny("llama", len(tokenizer), **SMALL)
    fresh.load_state_dict(model.state_dict())
    for one, texts in ((model, asked), (fresh, asked[1:])):
        with pytest.raises(ScoringError, match=r"the label '\w+' behind the prompt 'hotel hotel ' .*NaN"):
            label_logprobs(one, tokenizer, texts, LABELS)
    assert model.training


def test_minus_infinity_is_a_score(tokenizer):
    model, prompt, label = tiny("llama", len(tokenizer), **SMALL), "the food was ", "yes indeed"
    (_, own), (_, other) = scoring.tokens(tokenizer, prompt, [label, "no"])
    assert own[-1] not in other
    ruled_out = torch.tensor(tokenizer.convert_tokens_to_ids(own[-1:]))
    model.get_output_embeddings().register_forward_hook(lambda _, given, out: out.index_fill(-1, ruled_out, -torch.inf))
    found = label_logprobs(model, tokenizer, [prompt], [label, "no"]).scores()
    assert found[0, 0] == -np.inf
    assert np.isfinite(found[0, 1])


def test_a_window_of_one_is_refused_by_name(tokenizer):
    model = tiny("mistral", len(tokenizer), **SMALL, num_key_value_heads=2, sliding_window=1)
    with pytest.raises(ScoringError, match="MistralForCausalLM, which cannot go on from its cache"):
        label_logprobs(model, tokenizer, ["the food was "], ["yes indeed"])


def test_what_is_no_text_is_named(model, tokenizer, encoder_decoder, closing_tokenizer):
    for place, prompts, labels in (
        (r"prompts\[1\]", ["a ", None], ["x"]),
        (r"labels\[1\]", ["a "], ["x", None]),
        (r"labels\[0\]", ["a "], [None]),
        (r"labels\[1\]", ["a ", "b "], [["x"], None]),
        (r"labels\[1\]\[0\]", ["a ", "b "], [["x"], [None]]),
    ):
        with pytest.raises(TypeError, match=f"{place}: found None; allowed: a"):
            label_logprobs(model, tokenizer, prompts, labels)
    with pytest.raises(TypeError, match=r"content_free\[0\]: found None"):
        label_logprobs(model, tokenizer, ["a "], ["x"], content_free=[None])
    for labels in ([], [[]]):
        with pytest.raises(ValueError, match="labels: found none for 1 prompts; allowed: one or more"):
            label_logprobs(model, tokenizer, ["a "], labels)
    assert label_logprobs(model, tokenizer, [], []).label_logprob.shape == (0, 0)
    with pytest.raises(ValueError, match="encoder-decoder model, which reads the prompt and gives it no"):
        label_logprobs(encoder_decoder, closing_tokenizer, ["a "], ["x"], prompt_logprob=True)


@pytest.mark.parametrize("threshold", [6.0, 0.0])
def test_eight_bits_depend_on_the_batch_by_their_outliers(tokenizer, tmp_path, threshold):
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    tiny("llama", len(tokenizer), **size, initializer_range=0.4).save_pretrained(tmp_path)
    how = BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=threshold)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=how)
    asked = some_prompts(8, 20)
    found = label_logprobs(model, tokenizer, asked, LABELS).label_logprob
    alone = np.concatenate([label_logprobs(model, tokenizer, [prompt], LABELS).label_logprob for prompt in asked])
    most = np.abs(found - alone).max()
    assert most < 0.02 if threshold == 0 else most > 0.02
