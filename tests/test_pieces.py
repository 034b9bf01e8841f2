"""The loss in pieces is the plain one: value and gradients, for any piece, layer and precision."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from ia_lib.training import pieces

pytestmark = pytest.mark.quick
TOKENS, SIZE, WORDS = 23, 12, 301


class Doubled(torch.nn.Linear):
    """A layer that does more than multiply."""

    def forward(self, hidden):
        return super().forward(hidden).tanh() * 2


def both(head, frozen=False, piece=None, scale=3.0, **autocast):
    draw = torch.Generator().manual_seed(1)
    hidden = torch.randn(TOKENS, SIZE, generator=draw)
    targets = torch.randint(0, WORDS, (TOKENS,), generator=draw)
    weights = torch.rand(TOKENS, generator=draw)
    head.requires_grad_(not frozen)
    found = []
    for way in ("plain", "pieces"):
        read = hidden.clone().requires_grad_()
        head.zero_grad()
        with torch.autocast("cpu", **({"enabled": False} | autocast)):
            if way == "plain":
                loss = (cross_entropy(head(read).float(), targets, reduction="none") * weights).sum()
            else:
                loss = pieces.weighted_cross_entropy(read, head, targets, weights, piece)
        (loss * scale).backward()
        of_head = [p.grad.clone() for p in head.parameters() if p.grad is not None]
        found.append((loss.detach(), read.grad, *of_head))
    return found


@pytest.mark.parametrize("piece", [1, 7, 23, 1000, None])
@pytest.mark.parametrize("kind", [torch.nn.Linear, Doubled])
@pytest.mark.parametrize(("bias", "frozen"), [(True, False), (False, False), (False, True)])
def test_loss_and_gradients_are_the_plain_ones(piece, kind, bias, frozen):
    torch.manual_seed(2)
    plain, ours = both(kind(SIZE, WORDS, bias=bias), frozen, piece)
    assert len(plain) == len(ours) == 2 + (not frozen) * (1 + bias)
    for a, b in zip(plain, ours, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_16_bits_they_agree_within_their_rounding(dtype):
    torch.manual_seed(2)
    plain, ours = both(torch.nn.Linear(SIZE, WORDS), piece=5, enabled=True, dtype=dtype)
    for a, b in zip(plain, ours, strict=True):
        assert (a - b).abs().max() <= 0.02 * a.abs().max()


def test_a_batch_without_tokens_that_count_has_no_loss():
    head = torch.nn.Linear(SIZE, WORDS)
    hidden = torch.randn(0, SIZE, requires_grad=True)
    loss = pieces.weighted_cross_entropy(hidden, head, torch.zeros(0, dtype=torch.long), torch.zeros(0))
    loss.backward()
    assert loss == 0


def test_the_head_is_found_where_logits_are_only_multiplied(any_model):
    read = {"input_ids": torch.tensor([[5, 6, 7]])}
    before = any_model(**read).logits
    head = pieces.output_layer(any_model, **read)
    assert head is any_model.get_output_embeddings()
    with pieces.without_head(head):
        hidden = any_model(**read).logits
    torch.testing.assert_close(head(hidden), before)
    torch.testing.assert_close(any_model(**read).logits, before)


def test_a_model_that_bends_its_logits_keeps_its_own_way():
    from transformers import Gemma2Config, Gemma2ForCausalLM

    sizes = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "head_dim": 8}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "final_logit_softcapping": 0.1}
    model = Gemma2ForCausalLM(Gemma2Config(**sizes, **heads))
    assert pieces.output_layer(model, input_ids=torch.tensor([[5, 6, 7]])) is None
