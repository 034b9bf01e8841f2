from copy import deepcopy

import numpy as np
import pytest
import torch

from ia_lib.models.load import fuse_gelu, is_encoder_decoder, load_model
from ia_lib.models.new import new_model, train_tokenizer


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.quick
def test_tokenizer_and_model_depend_on_their_seed_alone(parallel):
    texts = parallel["ind"][:] + parallel["jav"][:]
    first, second = (train_tokenizer(texts, 500) for _ in range(2))
    assert first.get_vocab() == second.get_vocab()
    assert first.decode(first("Ada “é” 😀?")["input_ids"]) == "Ada “é” 😀?"
    size = {"hidden": 16, "layers": 2, "heads": 4}
    torch.manual_seed(5)
    one = new_model(500, 1, **size)
    torch.manual_seed(6)
    two, other = new_model(500, 1, **size), new_model(500, 2, **size)
    assert torch.equal(one.lm_head.weight, two.lm_head.weight)
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)
    assert one.lm_head.weight is one.transformer.word_embeddings.weight


@pytest.mark.quick
def test_the_fused_activation_is_blooms_own(model, tokenizer):
    ids = torch.randint(3, len(tokenizer), (2, 20))
    plain, fused = deepcopy(model).train(), fuse_gelu(deepcopy(model)).train()
    assert "BloomGelu" in str(plain)
    assert "BloomGelu" not in str(fused)
    for one in (plain, fused):
        one(ids, labels=ids).loss.backward()
    torch.testing.assert_close(plain(ids).logits, fused(ids).logits, atol=1e-5, rtol=1e-5)
    for a, b in zip(plain.parameters(), fused.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-6, rtol=1e-4)


@pytest.mark.quick
def test_the_config_says_how_a_model_is_loaded(model, encoder_decoder, tmp_path):
    for each in (model, encoder_decoder):
        each.save_pretrained(tmp_path / each.config.model_type)
        loaded = load_model(str(tmp_path / each.config.model_type))
        assert type(loaded) is type(each)
        assert is_encoder_decoder(str(tmp_path / each.config.model_type)) == (each is encoder_decoder)
        torch.testing.assert_close(weights(loaded), weights(each), atol=0, rtol=0)


def test_eight_bit_models_load_on_the_cpu_and_agree_nearly(model, tokenizer, tmp_path):
    from ia_lib.evaluation.scoring import label_logprobs

    model.save_pretrained(tmp_path)
    asked, labels = ["Makanan ini ", "Kamar itu sangat "], ["bagus", "buruk"]
    whole = label_logprobs(load_model(str(tmp_path)), tokenizer, asked, labels).label_logprob
    eight = label_logprobs(load_model(str(tmp_path), quantisation="int8"), tokenizer, asked, labels).label_logprob
    assert not np.array_equal(whole, eight)
    np.testing.assert_allclose(whole, eight, rtol=0.02)
